"""A detector's extra stages and heads, laid out behind the rows of its table.

Names count from 1, as the blocks do: `extra_1_squeeze`, `extra_1_depthwise`, `extra_1_project`; for every map
`boxes_1_depthwise`, `boxes_1`, `scores_1_depthwise`, `scores_1`. Extra stages follow the width multiplier as in the
TensorFlow Object Detection API: times the width, rounded down, at least 16 channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilenets.arch.detector import COORDINATES, Detector, Extra
from mobilenets.errors import InputError

if TYPE_CHECKING:
    from mobilenets.arch.plan import Layout

LEAST_CHANNELS = 16
HEAD_KERNEL = 3


def add_heads(layout: Layout, detector: Detector) -> tuple[str, ...]:
    """Append extra stages and heads; return the outputs: for every map its boxes, then its scores.

    Raises:
        InputError: a tap that is not an operation of the table, or the last of them not its last.
    """
    maps = list(detector.taps)
    known = {op.name for op in layout.ops}
    for tap in maps:
        if tap not in known:
            raise InputError(f"{layout.arch.name}: no operation is called {tap!r}, so no detector can look at its map")
    if maps[-1] != layout.last:
        raise InputError(f"{layout.arch.name}: the last tap must be {layout.last!r}, the end of the table")
    row = len(layout.arch.rows)
    for number, extra in enumerate(detector.extras, 1):
        _add_extra(layout, detector, extra, number, row)
        maps.append(layout.last)
        row += 1
    outputs: list[str] = []
    for number, (name, anchors) in enumerate(zip(maps, detector.anchors.counts, strict=True), 1):
        for head, values in (("boxes", COORDINATES), ("scores", layout.classes + 1)):
            layout.look_at(name)
            _add_head(layout, detector, f"{head}_{number}", anchors * values, row)
            outputs.append(layout.last)
        row += 1
    return tuple(outputs)


def _add_extra(layout: Layout, detector: Detector, extra: Extra, number: int, row: int) -> None:
    """Append a stage: squeeze to half of its channels, then spatial and out to all of them."""
    inner, out = (max(LEAST_CHANNELS, int(c * layout.width)) for c in (extra.c // 2, extra.c))
    block, activation = f"extra_{number}", detector.activation
    layout.conv(f"{block}_squeeze", inner, row, activation=activation, block=block)
    if detector.heads == "ssd":
        layout.conv(f"{block}_conv", out, row, kernel=extra.kernel, stride=extra.s, activation=activation, block=block)
        return
    name = f"{block}_depthwise"
    layout.conv(name, inner, row, kernel=extra.kernel, stride=extra.s, groups=inner, activation=activation, block=block)
    layout.conv(f"{block}_project", out, row, activation=activation, block=block)


def _add_head(layout: Layout, detector: Detector, name: str, channels: int, row: int) -> None:
    """Append one head: its last convolution has a bias, and neither BatchNorm nor activation."""
    kernel = HEAD_KERNEL
    if detector.heads == "ssdlite":
        c = layout.shape[0]
        layout.conv(f"{name}_depthwise", c, row, kernel=kernel, groups=c, activation=detector.activation)
        kernel = 1
    layout.conv(name, channels, row, kernel=kernel, activation=None, bias=True)
