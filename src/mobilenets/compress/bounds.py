"""Between which numbers every channel stays, whatever the picture: interval arithmetic through a plan.

Each value is known by its lowest and highest possible value. A picture's pixels lie between black and white; a
convolution adds up, for each of its weights, whichever end is lower (higher); ReLU6 brings everything back to 0..6. The
bounds hold for every picture of every size. They are wide, since they let every channel take its worst value at once,
so what they prove is proved, and what they do not prove may be true all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.arch.mobilenet import Activation
from mobilenets.arch.plan import Op
from mobilenets.engine.folding import Layer, folded
from mobilenets.engine.quantized import activated
from mobilenets.image.preprocess import scale_and_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint

_LOWEST_SWISH = -1.5
"""Where h-swish, x ReLU6(x + 3) / 6, has its minimum; it falls before and rises after."""


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The lowest and the highest value of every channel, float64 (C,) each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def take(self, channels: NDArray[np.int64]) -> Bounds:
        """Return the bounds of these channels."""
        return Bounds(self.low[channels], self.high[channels])


def bounds(checkpoint: Checkpoint) -> dict[str, Bounds]:
    """Return the bounds of "input" and of every operation's output, after its activation.

    Raises:
        CheckpointError: the checkpoint is not float32.
    """
    layers = folded(checkpoint)
    known = {"input": _of_pictures(checkpoint)}
    with np.errstate(over="ignore", invalid="ignore"):  # inf and nan prove nothing, and are compared as such
        for op in checkpoint.card.plan.ops:
            known[op.name] = _of(op, layers.get(op.name), [known[source] for source in op.sources])
    return known


def _of_pictures(checkpoint: Checkpoint) -> Bounds:
    """Return the bounds of normalized pictures: those of black and of white, in each channel."""
    scale, shift = (np.asarray(each, np.float64) for each in scale_and_shift(checkpoint.card.preprocess))
    return Bounds(shift, shift + 255 * scale)


def _of(op: Op, layer: Layer | None, sources: list[Bounds]) -> Bounds:
    first = sources[0]
    if op.kind == "pool":
        return first
    if op.kind == "add":
        sums = Bounds(first.low + sources[1].low, first.high + sources[1].high)
        return _activated(sums, op.activation)
    if op.kind == "scale":
        ends = [a * b for a in (first.low, first.high) for b in (sources[1].low, sources[1].high)]
        return _activated(Bounds(np.minimum.reduce(ends), np.maximum.reduce(ends)), op.activation)
    assert layer is not None
    return _activated(_of_products(op, layer, first), op.activation)


def _of_products(op: Op, layer: Layer, source: Bounds) -> Bounds:
    """Return the bounds of a convolution or fully connected layer before its activation."""
    weight = layer.weight.astype(np.float64).reshape(op.groups, op.out[0] // op.groups, -1, op.kernel**2)
    up, down = np.maximum(weight, 0).sum(3), np.minimum(weight, 0).sum(3)  # (groups, out / groups, in / groups)
    low, high = source.low, source.high
    if op.kernel > 1:  # at the border some weights meet padding, which is 0
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    low, high = low.reshape(op.groups, -1, 1), high.reshape(op.groups, -1, 1)
    least, most = up @ low + down @ high, up @ high + down @ low
    return Bounds(least.ravel() + layer.bias, most.ravel() + layer.bias)


def _activated(before: Bounds, activation: Activation | None) -> Bounds:
    """Return the bounds after an activation: all of them rise everywhere, but h-swish, which falls at first."""
    ends = activated(before.low, activation), activated(before.high, activation)
    low = np.minimum(*ends)
    if activation == "hard_swish":
        inside = (before.low < _LOWEST_SWISH) & (before.high > _LOWEST_SWISH)
        low = np.where(inside, activated(np.asarray(_LOWEST_SWISH), activation), low)
    return Bounds(low.astype(np.float64), np.maximum(*ends).astype(np.float64))
