"""What values a float32 network computes on pictures: ranges, histograms and means, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenets.arch import Op
from mobilenets.checkpoint import CLIPS, Card
from mobilenets.compress.arithmetic import FloatArithmetic, run, split
from mobilenets.engine.folding import Layer
from mobilenets.image.preprocess import normalize

BINS = 2048
"""Of a histogram: eight for every 8-bit code."""

Pictures = NDArray[np.uint8]
"""As `image.fit` leaves them, uint8 (N, H, W, C)."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """The values of one tensor over all pictures: counts int64 (BINS,) of equal bins from low to high."""

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of every bin, float64 (BINS,)."""
        width = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + width * (np.arange(len(self.counts)) + 0.5), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What was seen.

    values: by name: `input`, operations (after the activation), and `NAME.before` where the activation is no clip.
    """

    values: Mapping[str, Values]


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """What was seen of the values before the activation, channel by channel: each float64 (c,).

    `largest` is the largest value, `magnitude` the largest absolute value.
    """

    largest: NDArray[np.float64]
    magnitude: NDArray[np.float64]


def observe(card: Card, layers: Mapping[str, Layer], pictures: Pictures) -> Statistics:
    """Run the network twice over the pictures: for the ranges, then for the histograms."""
    arithmetic = FloatArithmetic(card, layers)
    ranges: dict[str, tuple[float, float]] = {}

    def widen(name: str, value: Tensor) -> None:
        low, high = (float(end) for end in torch.aminmax(value))
        known = ranges.get(name, (low, high))
        ranges[name] = (min(low, known[0]), max(high, known[1]))

    counts: dict[str, Tensor] = {}

    def count(name: str, value: Tensor) -> None:
        low, high = ranges[name]
        if high > low:
            found = torch.histc(value.float(), BINS, low, high).to(torch.int64)
            counts[name] = found if name not in counts else counts[name] + found

    for see in (widen, count):

        def watch(op: Op, before: Tensor, out: Tensor, see: object = see) -> None:
            assert callable(see)
            see(op.name, out)
            if op.activation not in CLIPS:
                see(f"{op.name}.before", before)

        for part in split(pictures):
            batch = normalize(part, card.preprocess)
            see("input", torch.from_numpy(batch))
            run(card.plan, arithmetic, batch, watch)
    empty = torch.zeros(BINS, dtype=torch.int64)
    return Statistics(
        {name: Values(low, high, counts.get(name, empty).numpy()) for name, (low, high) in ranges.items()}
    )


def observe_channels(card: Card, layers: Mapping[str, Layer], pictures: Pictures) -> dict[str, Channels]:
    """Return the largest values before the activation, by operation and channel."""
    arithmetic = FloatArithmetic(card, layers)
    seen: dict[str, Channels] = {}

    def watch(op: Op, before: Tensor, _out: Tensor) -> None:
        if op.kind not in ("conv", "linear", "scale"):
            return
        largest, smallest = before.amax((0, 2, 3)).double().numpy(), before.amin((0, 2, 3)).double().numpy()
        found = Channels(largest, np.maximum(largest, -smallest))
        known = seen.get(op.name, found)
        seen[op.name] = Channels(np.maximum(known.largest, found.largest), np.maximum(known.magnitude, found.magnitude))

    for part in split(pictures):
        run(card.plan, arithmetic, normalize(part, card.preprocess), watch)
    return seen


def observe_means(card: Card, layers: Mapping[str, Layer], pictures: Pictures) -> dict[str, NDArray[np.float64]]:
    """Return the mean before the activation of every convolution's and fully connected layer's channels, (c,)."""
    arithmetic = FloatArithmetic(card, layers)
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}

    def watch(op: Op, before: Tensor, _out: Tensor) -> None:
        if op.kind not in ("conv", "linear"):
            return
        found = before.sum((0, 2, 3), dtype=torch.float64).numpy()
        sums[op.name] = sums.get(op.name, 0) + found
        counts[op.name] = counts.get(op.name, 0) + before.numel() // before.shape[1]

    for part in split(pictures):
        run(card.plan, arithmetic, normalize(part, card.preprocess), watch)
    return {name: total / counts[name] for name, total in sums.items()}
