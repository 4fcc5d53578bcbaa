"""From values that were seen to the ranges that 8 bits cover.

A wide range loses nothing and is coarse; a narrow one clips its outliers and is fine. Which is better differs from
network to network, so that there are several rules, and they are chosen among by what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from mobilenets.arch.mobilenet import Activation
from mobilenets.checkpoint import Card
from mobilenets.compress.statistics import Statistics, Values
from mobilenets.engine.quantized import LEVELS, Quantization, quantization
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import normalize

Rule = Literal["minmax", "percentile-99.99", "percentile-99.9", "mse"]
"""Cover everything; all but a hundredth or a tenth of a per cent at either end; or the range of least squared error."""

RULES: tuple[Rule, ...] = ("minmax", "percentile-99.99", "percentile-99.9", "mse")

FLAT_BELOW: Mapping[Activation, float] = {"hard_swish": -3.0, "hard_sigmoid": -3.0, "sigmoid": -6.3}
FLAT_ABOVE: Mapping[Activation, float] = {"hard_sigmoid": 3.0, "sigmoid": 6.3}
"""Beyond these, the activation's output no longer changes: exactly, or for the sigmoid by less than half an 8-bit step
(sigmoid(-6.3) = 0.0018). No code before the activation is spent there."""


def ranges(card: Card, statistics: Statistics, rule: Rule) -> dict[str, Quantization]:
    """Return what the 8-bit values of every tensor stand for.

    The pictures and the outputs keep their whole range: pictures from black to white, whatever was seen, and outputs
    because the largest of them are the answer.
    """
    layout = card.plan
    whole = {f"{name}{part}" for name in layout.outputs for part in ("", ".before")}
    activations = {f"{op.name}.before": op.activation for op in layout.ops}
    found: dict[str, Quantization] = {}
    for name, values in statistics.values.items():
        low, high = covered(values, "minmax" if name in whole else rule)
        activation = activations.get(name)
        if activation is not None:
            low = max(low, FLAT_BELOW.get(activation, low))
            high = min(high, FLAT_ABOVE.get(activation, high))
        found[name] = quantization(low, high)
    found["input"] = quantization(*picture_range(card.preprocess))
    return found


def picture_range(preprocess: Preprocess) -> tuple[float, float]:
    """Return the lowest and the highest value that a normalized picture can have.

    >>> picture_range(Preprocess(32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    (-1.0, 1.0)
    """
    black_and_white = np.zeros((1, 1, 2, preprocess.channels), np.uint8)
    black_and_white[:, :, 1] = 255
    ends = normalize(black_and_white, preprocess)
    return float(ends.min()), float(ends.max())


def covered(values: Values, rule: Rule) -> tuple[float, float]:
    """Return the range of values that a rule covers.

    >>> even = Values(0.0, 1.0, np.ones(2048, np.int64))
    >>> covered(even, "minmax")
    (0.0, 1.0)
    """
    if not values.counts.any():
        return values.low, values.high
    match rule:
        case "minmax":
            return values.low, values.high
        case "percentile-99.99":
            return _percentile(values, 1e-4)
        case "percentile-99.9":
            return _percentile(values, 1e-3)
        case "mse":
            return _least_error(values)


def _percentile(values: Values, tail: float) -> tuple[float, float]:
    """Cut off at most this share of the values at either end."""
    edges = np.linspace(values.low, values.high, len(values.counts) + 1)
    allowed = tail * values.counts.sum()
    below = np.cumsum(values.counts)
    above = np.cumsum(values.counts[::-1])
    first = int(np.searchsorted(below, allowed, side="right"))
    last = len(values.counts) - int(np.searchsorted(above, allowed, side="right"))
    return float(edges[first]), float(edges[last])


def _least_error(values: Values) -> tuple[float, float]:
    """Search both ends for the least sum of rounding and clipping errors.

    A value inside the range is off by a step's twelfth squared in the mean, one outside by its distance. Zeros, which
    most of a ReLU's outputs are, have a code of their own and are never off.
    """
    centres, counts = values.centres, values.counts.astype(np.float64)
    width = (values.high - values.low) / len(counts)
    counts = np.where(np.abs(centres) <= width / 2, 0.0, counts)
    best, least = (values.low, values.high), np.inf
    for low in np.linspace(1.0, 0.4, 13) * values.low if values.low < 0 else (values.low,):
        for high in np.linspace(1.0, 0.2, 41) * values.high if values.high > 0 else (values.high,):
            step = (max(high, 0.0) - min(low, 0.0)) / (LEVELS - 1)
            off = np.maximum(0.0, np.maximum(low - centres, centres - high))
            error = float((counts * np.where(off > 0, off**2, step**2 / 12)).sum())
            if error < least:
                best, least = (float(low), float(high)), error
    return best
