"""The published numbers of whole networks, as printed, each with its source: `published.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources

from mobilenets.arch import ARCHITECTURES, Arch, Cost, Plan, cost, plan
from mobilenets.arch.mobilenet import Conv, Dense, Row, Separable
from mobilenets.reproduce import outcome

UNITS = {
    "params_m": "M parameters",
    "madds_m": "M multiply-adds",
    "top1": "% top-1",
    "pixel1_ms": "ms, Pixel 1",
    "pixel2_ms": "ms, Pixel 2",
    "pixel3_ms": "ms, Pixel 3",
}


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

    def row(self) -> outcome.Row:
        """Return the number beside ours: counted where it is a count, else as published."""
        unit = UNITS[self.quantity]
        if self.arch and self.quantity in ("params_m", "madds_m"):
            total = counted(self.arch, float(self.width), self.resolution, self.classes)
            ours = (total.parameters if self.quantity == "params_m" else total.multiply_adds) / 1e6
            return outcome.compared(self.model, ours, self.printed, unit, section=self.section, note=self.note)
        return outcome.Row(self.model, None, self.printed, unit, self.note, section=self.section)


def printed_on(page: str) -> list[Printed]:
    """Return the published numbers of one page, in the order of its table."""
    return [line for line in _lines() if line.page == page]


@cache
def _lines() -> tuple[Printed, ...]:
    text = resources.files(__package__).joinpath("published.csv").read_text(encoding="utf-8")
    header, *lines = csv.reader(text.splitlines())
    assert header == [field.name for field in fields(Printed)]
    return tuple(
        Printed(page, section, model, arch, width, int(resolution), int(classes), quantity, printed, source, note)
        for page, section, model, arch, width, resolution, classes, quantity, printed, source, note in lines
    )


def network(name: str) -> Arch:
    """Return a table by name: the architectures', and the papers' variants of them."""
    match name:
        case "mobilenet_v1_full":  # V1 Table 4: full convolutions in place of depthwise separable ones
            v1 = ARCHITECTURES["mobilenet_v1"]
            return replace(v1, name=name, rows=tuple(row for line in v1.rows for row in _full(line)))
        case "mobilenet_v1_shallow":  # V1 Table 5: the five layers of 14x14x512 are removed
            v1 = ARCHITECTURES["mobilenet_v1"]
            kept = tuple(line for line in v1.rows if not (isinstance(line, Separable) and line.n == 5))
            return replace(v1, name=name, rows=kept)
        case "mobilenet_v3_small_1280":  # V3 Table 2 as printed, with 1280 channels before the classifier
            small = ARCHITECTURES["mobilenet_v3_small"]
            rows = tuple(replace(line, c=1280) if isinstance(line, Dense) else line for line in small.rows)
            return replace(small, name=name, rows=rows)
    return ARCHITECTURES[name]


def _full(line: Row) -> list[Row]:
    if not isinstance(line, Separable):
        return [line]
    return [Conv(line.c, line.s if repeat == 0 else 1) for repeat in range(line.n)]


def counted(name: str, width: float, resolution: int, classes: int = 1000) -> Cost:
    """Count a network as the papers do: BatchNorm's numbers are no parameters."""
    layout = plan(network(name), width=width, resolution=resolution, classes=classes)
    total = cost(layout)
    return replace(total, parameters=total.parameters - batch_norm_parameters(layout))


def batch_norm_parameters(layout: Plan) -> int:
    """Count BatchNorm's scales and shifts, which the papers leave out: at inference they are folded away."""
    return sum(2 * op.out[0] for op in layout.ops if op.batch_norm)
