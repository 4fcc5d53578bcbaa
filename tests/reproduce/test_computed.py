"""The arithmetic behind the computed pages, on numbers worked out elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mobilenets.reproduce import COMPUTED, NAMES, reproduce
from mobilenets.reproduce.detectors import detector_parts
from mobilenets.reproduce.memory import kilobytes
from mobilenets.reproduce.residual import blocks

PAGES = Path(__file__).parents[2] / "docs" / "papers"


def test_ssd_heads_by_hand() -> None:
    """A map of 10x10x1280 with 6 anchors and 80 classes, and the stage that makes 5x5x512 of it."""
    ssd = {part.name: part for part in detector_parts("ssdlite_mobilenet_v2", lite=False)}
    lite = {part.name: part for part in detector_parts("ssdlite_mobilenet_v2")}
    outputs = 6 * (4 + 81)
    assert ssd["head 10x10x1280"].parameters == 9 * 1280 * outputs
    assert ssd["head 10x10x1280"].multiply_adds == 100 * 9 * 1280 * outputs
    assert lite["head 10x10x1280"].parameters == 2 * 9 * 1280 + 1280 * outputs
    assert lite["head 10x10x1280"].biases == ssd["head 10x10x1280"].biases == outputs
    assert ssd["extra 5x5x512"].multiply_adds == 100 * 1280 * 256 + 25 * 9 * 256 * 512
    assert lite["extra 5x5x512"].parameters == 1280 * 256 + 9 * 256 + 256 * 512
    assert lite["extra 5x5x512"].biases == 0
    assert lite["backbone"] == ssd["backbone"]


def test_ssdlite_on_v2_taps_what_the_paper_says() -> None:
    parts = detector_parts("ssdlite_mobilenet_v2")
    assert [part.name for part in parts][:3] == ["backbone", "head 20x20x576", "head 10x10x1280"]
    assert len(parts) == 1 + 6 + 4


def test_reduced_tail_halves_channels_behind_the_tap() -> None:
    whole, reduced = (detector_parts(f"ssdlite_mobilenet_v3_large{tail}") for tail in ("_full", ""))
    assert [part.name for part in whole][1:3] == ["head 20x20x672", "head 10x10x960"]
    assert [part.name for part in reduced][1:3] == ["head 20x20x672", "head 10x10x480"]
    assert reduced[0].parameters < whole[0].parameters


def test_kilobytes() -> None:
    assert kilobytes(64, 112) == pytest.approx(1605.632)


def test_blocks_cost_what_they_cost() -> None:
    inverted, same_ends, same_cost = blocks()
    assert inverted.parameters == 64 * 384 + 9 * 384 + 384 * 64
    assert same_ends.parameters == 64 * 16 + 9 * 16 * 16 + 16 * 64
    assert same_cost.parameters == pytest.approx(inverted.parameters, rel=0.03)
    assert inverted.peak_kilobytes == (64 + 2 * 384) * 28 * 28 * 4 / 1000  # source, expanded, filtered
    assert same_ends.kept_kilobytes == inverted.kept_kilobytes


@pytest.mark.parametrize("name", COMPUTED)
def test_committed_pages_are_current(name: str, tmp_path: Path) -> None:
    """Text and rows; pictures differ by a pixel between versions of Matplotlib."""
    reproduce(name, out=tmp_path)
    for suffix in (".md", ".json"):
        committed = (PAGES / f"{name}{suffix}").read_text(encoding="utf-8")
        assert (tmp_path / f"{name}{suffix}").read_text(encoding="utf-8") == committed, "run: python docs/papers.py"
    assert (tmp_path / f"{name}.png").exists() == (PAGES / f"{name}.png").exists()


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.json")), ids=lambda path: path.stem)
def test_every_number_beside_a_published_one_is_it_or_says_why(path: Path) -> None:
    """In what was computed and in what was measured: nobody is left to wonder about two numbers."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    numbers = [
        row for row in rows if isinstance(row["published"], int | float) and isinstance(row["ours"], int | float)
    ]
    assert [row for row in numbers if not row["agrees"] and not row["note"]] == []
    assert [row for row in rows if row["agrees"] is False and isinstance(row["published"], int | float)] == [
        row for row in numbers if row["agrees"] is False
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COMPUTED and name != "all"])
def test_measured_pages_say_where_and_when(name: str) -> None:
    document = json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8"))
    assert {"processor", "date"} <= set(document["measured"])
    assert document["rows"]
