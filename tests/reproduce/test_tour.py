"""docs/papers.md: its tables are the pages', it leads to all of them, and the numbers in its text are theirs."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Separable
from mobilenets.reproduce import NAMES
from mobilenets.reproduce.ablations import VARIANTS
from mobilenets.reproduce.residual import blocks
from mobilenets.reproduce.spiral import SEEDS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "papers"
TOUR = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
PROSE = " ".join(re.sub(r"<!--.*?<!-- end -->", "", TOUR, flags=re.DOTALL).split())


def rows(name: str) -> dict[str, dict[str, Any]]:
    document = json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8"))
    return {f"{row['section']} / {row['what']}": row for row in document["rows"]}


def test_tour_has_the_tables_of_the_pages() -> None:
    assert runpy.run_path(str(ROOT / "docs" / "papers.py"))["generated"](TOUR) == TOUR, "run: python docs/papers.py"
    assert "generated -->\n<!-- end" not in TOUR


def test_tour_leads_to_every_page() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")}
    assert pages >= {*NAMES} - {"all"}
    assert [name for name in sorted(pages) if f"(papers/{name}.md)" not in TOUR] == []


def test_laws_in_the_text() -> None:
    found = rows("cost")
    beyond = {
        model: max(row["ours"] / row["published"] - 1 for name, row in found.items() if f"/ {model}, width" in name)
        for model in ("mobilenet_v1", "mobilenet_v2")
    }
    assert f"up to {100 * beyond['mobilenet_v1']:.0f} % more than α² says in V1" in PROSE
    assert 0.6 < beyond["mobilenet_v2"] < 0.7
    assert "two thirds more in V2 at width 0.35" in PROSE
    pairs = sum(row.n for row in ARCHITECTURES["mobilenet_v1"].rows if isinstance(row, Separable))
    assert pairs == 13
    assert "V1's thirteen such pairs" in PROSE


def test_blocks_and_spiral_in_the_text() -> None:
    inverted, _, same_cost = blocks()
    assert f"ends {same_cost.ends / inverted.ends:.1f} times as wide" in PROSE
    median = {n: row["ours"].split(" %")[0] for n, row in rows("relu").items() if n.startswith("Collapsed")}
    section = "Collapsed: the share that cannot be rebuilt"
    assert f"In 2 dimensions {median[f'{section} / n = 2']} % of the spiral collapse" in PROSE
    assert f"the median of {SEEDS} random embeddings" in PROSE
    assert median[f"{section} / n = 15"] == "0"


def test_ablations_in_the_text() -> None:
    found = rows("ablations")
    points = {
        name.split(" / ")[1].removesuffix(": top-1"): row["ours"].split(" ± ")
        for name, row in found.items()
        if name.startswith("Differences") and name.endswith("top-1")
    }
    assert f"linear is {points['linear - ReLU6'][0]} points better" in PROSE
    assert f"a network without shortcuts {points['between bottlenecks - none'][0]} points worse" in PROSE
    decided = {name: float(mean) > float(half) for name, (mean, half) in points.items()}
    assert decided.pop("between bottlenecks - between expansions") is False, "the text says that it is not decided"
    assert all(decided.values())
    assert len(VARIANTS) == 13
    assert "Thirteen networks" in PROSE


def test_times_in_the_text() -> None:
    whole, found = "The whole network", rows("v1-vs-v2")
    on_the_phone = found[whole + " / V2's sum, of V1's"]["printed"]
    assert f"V2 takes {on_the_phone} of V1's time" in PROSE
    spent = {
        (model, kind): float(found[f"{model}, by kind of operator / {kind}"]["ours"].split(" ms")[0])
        for model in ("MobileNetV1", "MobileNetV2")
        for kind in ("1x1", "3x3 depthwise")
    }
    saved = found[f"{whole} / MobileNetV1: sum of its operators"]["ours"]
    saved -= found[f"{whole} / MobileNetV2: sum of its operators"]["ours"]
    assert spent["MobileNetV1", "1x1"] - spent["MobileNetV2", "1x1"] >= saved > 0
    assert spent["MobileNetV2", "3x3 depthwise"] > spent["MobileNetV1", "3x3 depthwise"]
    assert "The whole saving is in the 1x1 convolutions; the depthwise ones take longer than V1's." in PROSE
    split = rows("t-split")
    fastest = [row["ours"] for name, row in split.items() if name.startswith("The fastest t")]
    assert fastest[0] > 1
    assert fastest[-1] == 1


def test_counts_in_the_text() -> None:
    table4 = rows("v2-table4")["Table 4 / MobileNetV2 (1.4)"]
    table5 = rows("v2-table5")
    assert {"6.1", "6.9"} <= set(re.findall(r"\d\.\d", PROSE[PROSE.index("V2-1.4 has") :][:60])), table4
    ratio = 0.35 / table5["Table 5 / SSDLite"]["ours"]
    assert 1.95 < ratio < 2.05
    assert "The fourth is twice what it should be" in PROSE
