"""Published numbers of whole networks beside what their tables count."""

from __future__ import annotations

from dataclasses import replace

from mobilenets.arch import ARCHITECTURES, Arch, Cost, Plan, cost, plan
from mobilenets.arch.mobilenet import Conv, Dense, Row, Separable
from mobilenets.arch.published import Printed, printed
from mobilenets.reproduce import outcome

UNITS = {
    "params_m": "M parameters",
    "madds_m": "M multiply-adds",
    "top1": "% top-1",
    "pixel1_ms": "ms, Pixel 1",
    "pixel2_ms": "ms, Pixel 2",
    "pixel3_ms": "ms, Pixel 3",
}


def beside(line: Printed) -> outcome.Row:
    """Return a number beside ours: counted where it is a count, else as published."""
    unit = UNITS[line.quantity]
    if line.arch and line.quantity in ("params_m", "madds_m"):
        total = counted(line.arch, float(line.width), line.resolution, line.classes)
        ours = (total.parameters if line.quantity == "params_m" else total.multiply_adds) / 1e6
        return outcome.compared(line.model, ours, line.printed, unit, section=line.section, note=line.note)
    return outcome.Row(line.model, None, line.printed, unit, line.note, section=line.section)


def printed_on(page: str) -> list[Printed]:
    """Return the published numbers of one page, in the order of its table."""
    return [line for line in printed() if line.page == page]


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
