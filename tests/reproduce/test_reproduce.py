"""What `reproduce` promises for every name, and the published data behind it."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mobilenets.errors import InputError, MissingExtraError
from mobilenets.reproduce import COMPUTED, NAMES, ReproduceResult, reproduce
from mobilenets.reproduce.outcome import Reproduction, Row, as_printed, compared, number, plain
from mobilenets.reproduce.pages import markdown, page, write
from mobilenets.reproduce.published import network, printed_on

GOLDEN = Path(__file__).parents[1] / "golden" / "published_counts.csv"


@pytest.fixture(scope="module")
def computed() -> dict[str, ReproduceResult]:
    return {name: reproduce(name) for name in COMPUTED}


def test_names_are_the_promised_ones() -> None:
    assert set(NAMES) == {
        *("cost", "v1-tables", "v2-table2", "v2-table3", "v2-table4", "v2-table5", "v2-table6", "v3-tables"),
        *("resnet-block", "relu", "ablations", "v1-vs-v2", "t-split", "all"),
    }


@pytest.mark.parametrize("name", COMPUTED)
def test_every_disagreement_has_its_reason(computed: dict[str, ReproduceResult], name: str) -> None:
    """A count is the published one to its printed digits, or a note says why it is not."""
    rows = computed[name].rows
    assert rows
    assert [row for row in rows if row.agrees is False and not row.note] == []


@pytest.mark.parametrize("name", COMPUTED)
def test_result_is_printable_and_json(computed: dict[str, ReproduceResult], name: str) -> None:
    result = computed[name]
    assert str(result).startswith(f"{name}: ")
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["name"] == name
    assert all({"ours", "published", "note"} <= set(row) for row in document["rows"])
    item = result.items[0]
    assert item.picture is None or item.picture.startswith(b"\x89PNG")


def test_disagreements_are_the_known_ones(computed: dict[str, ReproduceResult]) -> None:
    """A change of any count, and any new disagreement, is seen here."""
    found = {name: sum(row.agrees is False for row in result.rows) for name, result in computed.items()}
    assert found == {
        "cost": 0,
        "v1-tables": 10,
        "v2-table2": 2,
        "v2-table3": 11,
        "v2-table4": 4,
        "v2-table5": 1,
        "v2-table6": 0,
        "v3-tables": 6,
        "resnet-block": 0,
        "relu": 0,
    }


def test_unknown_name_and_bad_values() -> None:
    with pytest.raises(InputError, match="'table9' cannot be reproduced: there are cost, "):
        reproduce("table9")
    with pytest.raises(InputError, match="--seeds must be 1 or more"):
        reproduce("ablations", seeds=0)
    with pytest.raises(InputError, match="--seeds must be at most 10"):
        reproduce("ablations", seeds=11)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mobilenets.reproduce.splitting", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"torch is needed here .* pip install 'mobilenets\[train\]'"):
        reproduce("t-split")


def test_published_numbers_are_those_of_the_golden_table() -> None:
    """Two tables of published numbers, typed from the same papers for two purposes, say the same."""
    golden: dict[tuple[str, float, int], set[tuple[str, str]]] = {}
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row["system"], float(row["width"]), int(row["resolution"]))
            golden.setdefault(key, set()).update({("params_m", row["params_m"]), ("madds_m", row["madds_m"])})
    systems = {"v1-tables": "MobileNetV1", "v2-table4": "MobileNetV2", "v3-tables": "MobileNetV3"}
    compared_cells = 0
    for name, system in systems.items():
        for line in printed_on(name):
            if line.quantity not in ("params_m", "madds_m") or not line.arch or line.section.startswith("Section 4"):
                continue
            of = "tf-slim" if line.section.startswith("The authors' own grid") else f"paper:{system}"
            numbers = {(what, plain(text)) for what, text in golden[of, float(line.width), line.resolution] if text}
            assert (line.quantity, line.printed) in numbers, line
            compared_cells += 1
    assert compared_cells > 80


@pytest.mark.parametrize(
    ("value", "printed", "same"),
    [
        (290.73, "290", True),  # cut
        (290.73, "291", True),  # rounded
        (290.73, "292", False),
        (3.4708, "3.4", True),
        (3.4708, "3.5", True),
        (3.4708, "3.3", False),
        (1605.6, "160e1", True),
        (150.5, "20e1", False),
        (0.0, "0.1", False),
    ],
)
def test_agreement_is_to_the_last_printed_digit(value: float, printed: str, *, same: bool) -> None:
    assert compared("x", value, printed, "").agrees is same
    assert (plain(printed) in as_printed(value, printed)) is same


def test_numbers_are_readable() -> None:
    assert [number(value) for value in (None, "words", 0.111111, 300.774, 6108776)] == [
        "",
        "words",
        "0.1111",
        "300.8",
        "6,108,776",
    ]


def test_table_leaves_out_empty_columns_and_escapes_bars() -> None:
    rows = [Row("a|b", 1.5, note="n"), Row("c", 2)]
    header = ["", "ours", "published", "unit", "same", "note"]
    assert markdown(rows, header).splitlines() == [
        "|  | ours | note |",
        "| --- | --- | --- |",
        "| a\\|b | 1.5 | n |",
        "| c | 2 |  |",
    ]


def test_files_are_written(tmp_path: Path) -> None:
    item = Reproduction("x", "Title", "Says.", (Row("a", 1, "2", agrees=False, note="why"),), ("n1",), b"PNG", "Seen")
    files = write(item, tmp_path)
    assert [path.name for path in files] == ["x.md", "x.png", "x.json"]
    text = files[0].read_text(encoding="utf-8")
    assert text == page(item)
    for part in ("# Title", "Says.", "![Seen](x.png)", "| a | 1 | 2 | no | why |", "- n1"):
        assert part in text
    assert (tmp_path / "x.png").read_bytes() == b"PNG"
    assert "png" not in page(replace(item, picture=None))


def test_out_writes_a_page(tmp_path: Path) -> None:
    result = reproduce("v2-table6", out=tmp_path)
    assert [path.name for path in result.files] == ["v2-table6.md", "v2-table6.json"]
    assert "| MNet V2 + SSDLite | 0.7888 | 0.8 | B multiply-adds | yes |" in result.files[0].read_text(encoding="utf-8")


def test_variants_are_what_the_paper_says() -> None:
    full, shallow = network("mobilenet_v1_full"), network("mobilenet_v1_shallow")
    assert sum(type(row).__name__ == "Conv" for row in full.rows) == 14
    assert sum(getattr(row, "n", 0) for row in shallow.rows) == 8
