"""docs/diagnose.md says what was measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "diagnose.md"
RESULTS = ROOT / "benchmarks" / "results" / "diagnosis.json"


def test_the_page_has_the_measured_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert runpy.run_path(str(PAGE.with_suffix(".py")))["generated"](text) == text, "run: python docs/diagnose.py"
    assert "generated -->\n<!-- end" not in text


def test_the_page_says_what_the_figures_say() -> None:
    """Its words, one by one: what died, where, and what that costs."""
    details = json.loads(RESULTS.read_text(encoding="utf-8"))["details"]
    networks = details["networks"]
    assert len(networks) == 4
    lost = {name: found["totals"]["dead_depthwise_kernels"] for name, found in networks.items()}
    assert lost == {name: int(name == "V2 1.0, 224, uint8") for name in networks}
    for found in networks.values():
        without, of = found["without_weights"]["stem"]
        assert without / of == 0.25
        assert found["proved"]["max_abs_error"] < 1e-5
        assert found["proved"]["top1_agreement"] == 1.0
        assert found["most_saturated"]["share"] < 0.1
        assert found["bits_lost_to_dead"]["bits"] > 3
    silent = sorted(found["silent"]["silent"] for found in networks.values())
    assert silent == [0, 0, 0, 2], "in three of the four nothing"
    float32, naive, pruned = (row["top1"] for row in details["rounded"])
    assert float32 - pruned < 0.3 * (float32 - naive), "for the most part"
