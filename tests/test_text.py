from __future__ import annotations

import pytest
from rich.cells import cell_len

from mobilenets.text import duration, percent, printable, table


def test_tables_align_wide_characters() -> None:
    lines = table(["class", "n"], [["蚂蚁", "1"], ["ant", "1,000"], ["🐝", "10"]]).splitlines()
    assert {cell_len(line) for line in lines} == {cell_len("class") + 2 + len("1,000")}
    assert all(line.isascii() or line[-1].isdigit() for line in lines)


def test_names_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("bière 蚁") == "bière 蚁"
    assert "\x1b" not in table(["class"], [["\x1b[31mred"]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (9.5, "9.50 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (90000, "25 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert percent(1) == "100.00 %"
