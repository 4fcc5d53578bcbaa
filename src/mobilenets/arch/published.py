"""The published numbers of whole networks, as printed, each with its source: `published.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Printed:
    """A line of `published.csv`: one number of one network. `arch` is empty for networks we have no table of."""

    page: str
    section: str
    model: str
    arch: str
    width: str
    resolution: int
    classes: int
    quantity: str
    printed: str
    source: str
    note: str


@cache
def printed() -> tuple[Printed, ...]:
    """Return all published numbers, in the order of their tables."""
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    header, *lines = csv.reader(text.splitlines())
    assert header == [field.name for field in fields(Printed)]
    return tuple(
        Printed(page, section, model, arch, width, int(resolution), int(classes), quantity, number, source, note)
        for page, section, model, arch, width, resolution, classes, quantity, number, source, note in lines
    )
