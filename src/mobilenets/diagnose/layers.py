"""What one layer's weights and outputs say about it: dead, saturated, duplicate, unlike in range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Op
from mobilenets.arch.mobilenet import Activation
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.activity import Activity
from mobilenets.compress.bounds import bounds
from mobilenets.compress.dead import TOLERANCE, removable
from mobilenets.engine.folding import Layer, folded

DEAD_SHARE = 0.01
"""A kernel is dead whose largest folded weight is below this share of the median kernel's."""
NEGLIGIBLE_SHARE = 1e-3
"""Kernels below this share of the layer's largest do not count for that median: most of a layer may be dead."""
ALIKE = 0.999
"""Cosine above which two filters, bias included, are duplicates."""
STILL_SHARE = 1e-6
"""A channel is constant whose values stay within this share of the layer's range: float32's rounding."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the live channels of a tensor differ in range, which is what one 8-bit scale for all costs them.

    A scale made for the widest channel leaves a narrower one log2(widest / narrower) of its bits unused.
    """

    widest: float
    median: float
    narrowest: float

    @property
    def bits_lost(self) -> float:
        """Bits that the median channel loses."""
        return log2(self.widest / self.median)

    @property
    def most_bits_lost(self) -> float:
        """Bits that the narrowest channel loses."""
        return log2(self.widest / self.narrowest)

    def to_json(self) -> dict[str, float]:
        """Return the three ranges, and what they cost."""
        return {
            "widest": self.widest,
            "median": self.median,
            "narrowest": self.narrowest,
            "bits_lost": self.bits_lost,
            "most_bits_lost": self.most_bits_lost,
        }


@dataclass(frozen=True, slots=True, eq=False)
class LayerFacts:
    """One convolution or fully connected layer, its BatchNorm folded in. Channel numbers count from 0.

    dead: never away from zero on the pictures, behind an activation that can do so. constant: another single value.
    dead_kernels: without weights worth the name. removable: proved to say nothing, which `prune --dead` takes out.
    saturated: share of all values at ReLU6's 6; None behind another activation. firing: share above zero.
    duplicates: (channel, the earlier one it is like). bits_lost_to_dead: how far channels that are dead or constant
    on the pictures widen the range of the weights of those that are not. Ranges are float64 (C,): the largest absolute
    weight, and from the lowest to the highest value on the pictures, zero included.
    """

    name: str
    kind: str
    channels: int
    activation: Activation | None
    dead: tuple[int, ...]
    constant: tuple[int, ...]
    dead_kernels: tuple[int, ...]
    removable: int
    saturated: float | None
    firing: float
    duplicates: tuple[tuple[int, int], ...]
    weights: Spread | None
    activations: Spread | None
    bits_lost_to_dead: float
    weight_ranges: NDArray[np.float64]
    activation_ranges: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Return an item of `layers`: counts, the channels behind them, and `range` of weights and activations."""
        spreads = {"weights": self.weights, "activations": self.activations}
        return {
            "name": self.name,
            "kind": self.kind,
            "channels": self.channels,
            "activation": self.activation,
            "dead": len(self.dead),
            "dead_channels": list(self.dead),
            "constant": len(self.constant),
            "constant_channels": list(self.constant),
            "dead_kernels": len(self.dead_kernels),
            "dead_kernel_channels": list(self.dead_kernels),
            "removable": self.removable,
            "saturated": self.saturated,
            "firing": self.firing,
            "duplicates": len(self.duplicates),
            "duplicate_channels": [list(pair) for pair in self.duplicates],
            "bits_lost_to_dead": self.bits_lost_to_dead,
            "range": {name: None if spread is None else spread.to_json() for name, spread in spreads.items()},
        }


def examine(checkpoint: Checkpoint, activities: Mapping[str, Activity]) -> tuple[LayerFacts, ...]:
    """Return the facts of every layer with weights, in the order they run.

    Args:
        checkpoint: float32.
        activities: what every operation put out on some pictures.
    """
    layers = folded(checkpoint)
    going: dict[str, int] = {}
    for removal in removable(checkpoint, bounds(checkpoint), TOLERANCE).values():
        going |= dict.fromkeys(removal.group.members, len(removal.channels))
    return tuple(
        _facts(op, layers[op.name], activities[op.name], going.get(op.name, 0))
        for op in checkpoint.card.plan.ops
        if op.name in layers
    )


def _facts(op: Op, layer: Layer, activity: Activity, going: int) -> LayerFacts:
    weight_ranges = np.abs(layer.weight.astype(np.float64)).reshape(op.out[0], -1).max(1)
    dead_kernels = _dead_kernels(weight_ranges)
    ranges = np.maximum(activity.high, 0) - np.minimum(activity.low, 0)
    still = activity.high - activity.low <= STILL_SHARE * ranges.max(initial=0)
    zero = (activity.low == 0) & (activity.high == 0) & (op.activation in ("relu", "relu6", "hard_swish"))
    return LayerFacts(
        name=op.name,
        kind=_kind(op),
        channels=op.out[0],
        activation=op.activation,
        dead=_places(zero),
        constant=_places(still & ~zero),
        dead_kernels=_places(dead_kernels),
        removable=going,
        saturated=float(activity.saturated.mean()) if op.activation == "relu6" else None,
        firing=float(activity.firing.mean()),
        duplicates=() if op.depthwise else _duplicates(layer, ~dead_kernels),
        weights=_spread(weight_ranges[~dead_kernels]),
        activations=_spread(ranges[~still]),
        bits_lost_to_dead=_bits_between(weight_ranges, ~still),
        weight_ranges=weight_ranges,
        activation_ranges=ranges,
    )


def _kind(op: Op) -> str:
    if op.kind == "linear":
        return "linear"
    if op.depthwise:
        return "depthwise"
    return "pointwise" if op.kernel == 1 else "convolution"


def _places(which: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())


def _dead_kernels(ranges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which channels have no weights to speak of, given the largest absolute weight of each."""
    counting = ranges[ranges > NEGLIGIBLE_SHARE * ranges.max(initial=0)]
    if not len(counting):
        return np.ones(len(ranges), np.bool_)
    return np.asarray(ranges < DEAD_SHARE * np.median(counting))


def _spread(ranges: NDArray[np.float64]) -> Spread | None:
    """Return how live channels differ; None where there are none."""
    ranges = ranges[ranges > 0]
    if not len(ranges):
        return None
    return Spread(float(ranges.max()), float(np.median(ranges)), float(ranges.min()))


def _bits_between(ranges: NDArray[np.float64], alive: NDArray[np.bool_]) -> float:
    """Return how many bits wider the range of all is than that of the living."""
    widest = ranges[alive].max(initial=0)
    return 0.0 if widest == 0 else log2(float(ranges.max()) / float(widest))


def _duplicates(layer: Layer, alive: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """Return (channel, the first channel that it is a multiple of), bias included.

    The weights alone must be alike too, or any two filters of large bias would be. Depthwise kernels are not asked:
    two equal ones still read two channels.
    """
    weights = layer.weight.reshape(len(layer.bias), -1)[alive].astype(np.float64)
    with_bias = np.concatenate([weights, layer.bias[alive, np.newaxis]], axis=1)
    earlier = np.tril((_cosines(weights) > ALIKE) & (_cosines(with_bias) > ALIKE), -1)
    names = np.flatnonzero(alive)
    alike = np.flatnonzero(earlier.any(1))
    return tuple((int(names[channel]), int(names[earlier[channel].argmax()])) for channel in alike)


def _cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of every two vectors (N, D), float64 (N, N)."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    return np.asarray(units @ units.T)
