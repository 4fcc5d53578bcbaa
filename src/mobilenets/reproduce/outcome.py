"""What a reproduction is: rows of ours beside published, notes, a picture, and the page they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from mobilenets.results import file_lines, json_number
from mobilenets.text import duration, table

Value = float | str | None


@dataclass(frozen=True)
class Row:
    """One value of ours beside the published one, both in `unit`.

    `published` is as the source prints it, digit by digit, and may be words. `agrees` is None where there is nothing
    to compare: what is published only, or measured only. `section` is the heading it stands under.
    """

    what: str
    ours: Value
    published: str | None = None
    unit: str = ""
    note: str = ""
    agrees: bool | None = None
    section: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return an item of `rows`; a published number is a number, `printed` has its digits."""
        return {
            "section": self.section,
            "what": self.what,
            "ours": json_number(self.ours) if isinstance(self.ours, int | float) else self.ours,
            "published": _as_number(self.published),
            "printed": self.published,
            "unit": self.unit,
            "agrees": self.agrees,
            "note": self.note,
        }

    def cells(self) -> list[str]:
        """Return what, ours, published, unit, whether they agree, and the note, as text."""
        same = "" if self.agrees is None else "yes" if self.agrees else "no"
        return [self.what, number(self.ours), plain(self.published), self.unit, same, self.note]


def row_from_json(document: Mapping[str, Any]) -> Row:
    """Read what `Row.to_json` wrote.

    >>> row = Row("bottlenecks", 17, "19", agrees=False)
    >>> row_from_json(row.to_json()) == row
    True
    """
    names = ("what", "ours", "unit", "note", "agrees", "section")
    return Row(published=document["printed"], **{name: document[name] for name in names})


SHORT_NOTE = 26
"""Longer notes stand below the printed tables, under a number."""
HEADER = ["", "ours", "published", "unit", "same", "note"]


@dataclass(frozen=True)
class Reproduction:
    """A table or figure of the papers, done again.

    `says` is what the paper says, in our words, and where. `measured` says on what machine and day the numbers were
    taken, and is empty where everything is computed: then the page is the same on every machine. `picture` is a PNG.
    """

    name: str
    title: str
    says: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    picture: bytes | None = None
    caption: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = tuple(HEADER)  # HEADER, or other words for its six columns
    command: str = ""  # what makes it, where `mobilenets reproduce NAME --out DIR` does not

    def sections(self) -> dict[str, list[Row]]:
        """Return the rows by their headings, in order."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.section, []).append(row)
        return grouped

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.title}\n{self.says}"]
        remarks: list[str] = []
        for section, rows in self.sections().items():
            lines = []
            for row in rows:
                *cells, note = row.cells()
                if len(note) > SHORT_NOTE:
                    if note not in remarks:
                        remarks.append(note)
                    note = f"[{remarks.index(note) + 1}]"
                lines.append([*cells, note])
            used = [index for index in range(len(lines[0])) if index == 0 or any(line[index] for line in lines)]
            header = [*self.columns[:-1], ""]
            printed = table([header[index] for index in used], [[line[index] for index in used] for line in lines])
            parts.append(f"{section}\n{printed}" if section else printed)
        parts += [f"[{index}] {remark}" for index, remark in enumerate(remarks, 1)]
        parts += [f"note: {note}" for note in self.notes]
        if self.measured:
            parts.append("measured on " + ", ".join(self.measured.values()))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the picture."""
        return {
            "name": self.name,
            "title": self.title,
            "says": self.says,
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "measured": dict(self.measured),
        }


@dataclass(frozen=True)
class ReproduceResult:
    """Hold what was reproduced, the seconds that each took, and the files that were written."""

    items: tuple[Reproduction, ...]
    seconds: tuple[float, ...]
    files: tuple[Path, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all reproductions."""
        return tuple(row for item in self.items for row in item.rows)

    def __str__(self) -> str:
        parts = [str(item) for item in self.items]
        met, compared = self.met(self.rows)
        if len(self.items) > 1:
            parts.append(self._summary())
        elif compared:
            parts.append(f"{met} of {compared} published values are met to their printed digits")
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n\n".join(parts)

    @staticmethod
    def met(rows: Iterable[Row]) -> tuple[int, int]:
        """Count the published values that are met to their printed digits, and those that were compared."""
        compared = [row.agrees for row in rows if row.agrees is not None]
        return sum(compared), len(compared)

    def _summary(self) -> str:
        """Return a table with a line for each reproduction: how much of it is met, and what it took."""
        lines = []
        for item, seconds in zip(self.items, self.seconds, strict=True):
            met, compared = self.met(item.rows)
            lines.append([item.name, f"{met} of {compared}" if compared else "", duration(seconds)])
        met, compared = self.met(self.rows)
        lines.append(["all", f"{met} of {compared}", duration(sum(self.seconds))])
        return table(["", "as published", "took"], lines)

    def to_json(self) -> dict[str, Any]:
        """Return `rows` of everything, and the reproductions one by one as `items`, each with its `seconds`."""
        return {
            "name": self.items[0].name if len(self.items) == 1 else "all",
            "rows": [{"name": item.name, **row.to_json()} for item in self.items for row in item.rows],
            "items": [
                {**item.to_json(), "seconds": json_number(seconds)}
                for item, seconds in zip(self.items, self.seconds, strict=True)
            ],
            "seconds": json_number(sum(self.seconds)),
            "files": [str(path) for path in self.files],
        }


@dataclass(frozen=True)
class Settings:
    """What `reproduce` was asked for, beyond the name."""

    out: Path | None = None
    data: str = "digits"
    root: Path | None = None
    epochs: int | None = None
    seeds: int | None = None
    threads: int = 1
    pictures: int | None = None


def compared(what: str, ours: float, printed: str, unit: str, *, section: str = "", note: str = "") -> Row:
    """Return a row that compares a computed value with a printed one, to its last printed digit, rounded or cut."""
    return Row(what, ours, printed, unit, note, agrees=plain(printed) in as_printed(ours, printed), section=section)


def as_printed(value: float, printed: str) -> set[str]:
    """Return the ways to print `value` with as many digits as `printed`; papers round one number and cut the next.

    >>> sorted(as_printed(290.73, "290")), as_printed(1605.6, "16e2")
    (['290', '291'], {'1600'})
    """
    digit = Decimal(1).scaleb(int(Decimal(printed).as_tuple().exponent))
    return {f"{Decimal(repr(float(value))).quantize(digit, mode):f}" for mode in (ROUND_HALF_UP, ROUND_DOWN)}


def plain(printed: str | None) -> str:
    """Write a printed number out: `16e2`, 1,600 known to the nearest hundred, becomes 1600; words stay."""
    if printed is None:
        return ""
    return f"{Decimal(printed):f}" if isinstance(_as_number(printed), float) and "e" in printed else printed


def number(value: Value) -> str:
    """Print one of our values: four digits, or all before the point.

    >>> number(568.740352), number(6108776), number(0.111)
    ('568.7', '6,108,776', '0.111')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _as_number(printed: str | None) -> float | str | None:
    """Return what is published as a number where it is one."""
    if printed is None:
        return None
    try:
        return float(printed)
    except ValueError:
        return printed
