"""Cross-layer equalization: channels of like size, so that one weight scale can serve them all.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.1:
where the activation f between two layers has f(t x) = t f(x) for t > 0, the channel between them may be multiplied by
any t in the first and divided by it in the second. t = sqrt(r2 / r1) gives both channels the same range.

ReLU6 has that property only while it does not clip. There are three ways out:

- *exact*: ReLU6 stays, and a channel is scaled only as far as its largest value, seen on pictures, stays below 6.
  Channels that are clipped stay as they are.
- *loose*: ReLU6 stays, and channels that are clipped may be scaled down: they are then clipped at 6 / t, later than
  they were, but the range of the tensor stays 0 to 6.
- *relu*, the paper's: ReLU6 is replaced by ReLU. All channels can be scaled freely, none is clipped any more, and
  values spread further.

In all, no channel grows beyond the largest of its tensor (6 where ReLU6 stays), so that the range of the activations,
which is quantized too, does not widen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Arch, Detector, Op, Plan
from mobilenets.arch.mobilenet import Row
from mobilenets.checkpoint import Card
from mobilenets.compress.statistics import Channels
from mobilenets.engine.folding import Layer

Table = TypeVar("Table", bound=Arch | Row | Detector)
Equalization = Literal["off", "exact", "loose", "relu"]

ROUNDS = 40
"""Passes over all pairs; V2's factors change by less than a tenth of a per cent after 20."""
HEADROOM = 1.1
"""Values up to this much larger than those seen may come: they too stay below the clip."""
_SMALLEST, _LARGEST = 1 / 4096, 4096.0
"""Factors stay within these."""
_NOTHING = 1e-12
"""A share of the largest channel's range: nothing that 8 bits can hold."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer and the layers that read its channels, and it alone, through operations that keep channels apart."""

    first: str
    readers: tuple[str, ...]
    activation: Literal["relu", "relu6"] | None


def with_relu(arch: Arch) -> Arch:
    """Return the network with every ReLU6 replaced by ReLU."""
    detector = None if arch.detector is None else _with_relu(arch.detector)
    return replace(_with_relu(arch), rows=tuple(_with_relu(row) for row in arch.rows), detector=detector)


def _with_relu(table: Table) -> Table:
    values: dict[str, Any] = {field.name: "relu" for field in fields(table) if getattr(table, field.name) == "relu6"}
    return replace(table, **values)


def pairs(layout: Plan) -> tuple[Pair, ...]:
    """Return the layers whose output channels can be scaled, in the order they run.

    Not among them: what a shortcut adds up (its other half would have to follow), and what passes h-swish or a gate.
    """
    found = []
    for op in layout.ops:
        if op.kind not in ("conv", "linear") or op.activation not in (None, "relu", "relu6"):
            continue
        readers = _readers(layout, op.name)
        if readers:
            found.append(Pair(op.name, readers, op.activation))
    return tuple(found)


def _readers(layout: Plan, name: str) -> tuple[str, ...]:
    """Return the layers that read a value, directly or through poolings and the first side of a multiplication."""
    found: list[str] = []
    for op in layout.ops:
        if name not in op.sources:
            continue
        if op.kind in ("conv", "linear"):
            found.append(op.name)
            continue
        homogeneous = op.activation in (None, "relu") and op.kind in ("pool", "scale") and op.sources.index(name) == 0
        behind = _readers(layout, op.name) if homogeneous else ()
        if not behind:
            return ()
        found += behind
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Equalized:
    """Layers whose channels have like ranges, and what their outputs were multiplied by: float64 (c,), by operation."""

    layers: Mapping[str, Layer]
    factors: Mapping[str, NDArray[np.float64]]


def equalized(
    card: Card, layers: Mapping[str, Layer], seen: Mapping[str, Channels], *, loose: bool = False
) -> Equalized:
    """Scale channels and undo it where they are read.

    Args:
        card: of the network as it is to run: where it has ReLU6, scaled with regard to its clip; with ReLU freely.
        layers: weights and biases by operation.
        seen: the largest values on pictures, of this very network.
        loose: let channels that ReLU6 clips be scaled down.
    """
    layout = card.plan
    weights = {name: layer.weight.astype(np.float64) for name, layer in layers.items()}
    biases = {name: layer.bias.astype(np.float64) for name, layer in layers.items()}
    chain = pairs(layout)
    grown = {pair.first: np.ones(layout.op(pair.first).out[0]) for pair in chain}
    for _ in range(ROUNDS):
        change = 0.0
        for pair in chain:
            wanted = _factors(pair, layout, weights)
            lowest, highest = _limits(pair, seen[pair.first], loose=loose)
            total = np.clip(wanted * grown[pair.first], lowest, highest)
            factor = total / grown[pair.first]
            grown[pair.first] = total
            _scale(pair, layout, weights, biases, factor)
            change = max(change, float(np.abs(np.log(factor)).max()))
        if change < 1e-3:
            break
    scaled = {name: Layer(weights[name].astype(np.float32), biases[name].astype(np.float32)) for name in layers}
    return Equalized(scaled, grown)


def _factors(pair: Pair, layout: Plan, weights: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return sqrt(r2 / r1) by channel, each range relative to the largest of its layer.

    A channel that the first layer leaves constant, its weights 0 and its bias all there is, can have the largest
    weights of all behind it, which then are the layer's scale: its factor is as large as the limits allow.
    """
    first = weights[pair.first]
    out_range = np.abs(first).reshape(len(first), -1).max(axis=1)
    in_range = np.zeros(len(first))
    for name in pair.readers:
        in_range = np.maximum(in_range, _input_range(layout.op(name), weights[name]))
    shares = [np.maximum(each / max(each.max(), _NOTHING), _NOTHING) for each in (in_range, out_range)]
    factors: NDArray[np.float64] = np.sqrt(shares[0] / shares[1])
    return factors


def _input_range(op: Op, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest weight that reads each channel, (c_in,)."""
    magnitude = np.abs(weight)
    if op.depthwise:
        return np.asarray(magnitude.reshape(len(weight), -1).max(axis=1))
    return np.asarray(magnitude.reshape(*weight.shape[:2], -1).max(axis=(0, 2)))


def _limits(pair: Pair, seen: Channels, *, loose: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the largest factor of every channel."""
    values = seen.magnitude if pair.activation is None else seen.largest
    ones = np.ones(len(values))
    if pair.activation == "relu6":
        room = np.clip(6 / (HEADROOM * np.maximum(values, _NOTHING)), 1.0, _LARGEST)
        clips = values >= 6
        return np.where(clips & (not loose), ones, _SMALLEST), np.where(clips, ones, room)
    room = np.clip(values.max() / np.maximum(values, _NOTHING), 1.0, _LARGEST)
    return _SMALLEST * ones, room


def _scale(
    pair: Pair,
    layout: Plan,
    weights: dict[str, NDArray[np.float64]],
    biases: dict[str, NDArray[np.float64]],
    factor: NDArray[np.float64],
) -> None:
    """Multiply the channels where they come out, divide them where they are read."""
    first = weights[pair.first]
    weights[pair.first] = first * factor.reshape(-1, *(1,) * (first.ndim - 1))
    biases[pair.first] = biases[pair.first] * factor
    for name in pair.readers:
        weight = weights[name]
        leading = () if layout.op(name).depthwise else (1,)
        weights[name] = weight / factor.reshape(*leading, -1, *(1,) * (weight.ndim - 1 - len(leading)))
