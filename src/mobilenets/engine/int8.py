"""From float layers and the ranges of their values to an int8 checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mobilenets.checkpoint import CLIPS, Card, Checkpoint
from mobilenets.engine.quantized import Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.engine.folding import Layer

Granularity = Literal["channel", "tensor"]
"""Whether every output channel of a layer has a weight scale of its own, or all share one."""

SIGMOID = Quantization(1 / 256, 0)
"""The only codes that TFLite's int8 sigmoid (LOGISTIC) writes."""
LARGEST_WEIGHT = 127
LARGEST_BIAS = 2**30  # half of int32: what sums of products add has room
_SMALLEST_SCALE = 1e-12


def weight_scales(
    layer: Layer, granularity: Granularity, source: Quantization, *, search: bool = False
) -> NDArray[np.float32]:
    """Return the scales of a layer's int8 weights, float32 (out,) per channel or (1,) per tensor.

    Args:
        layer: weights and bias.
        granularity: one scale for each output channel, or one for all.
        source: of what the layer reads: with it, scales are kept large enough for biases to fit int32.
        search: take the scale of least squared error, which may clip the largest weights, and not the largest weight's.
    """
    rows = layer.weight.reshape(1 if granularity == "tensor" else len(layer.weight), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    scales = np.maximum(largest / LARGEST_WEIGHT, _SMALLEST_SCALE)
    if search:
        scales = _least_error(rows, scales)
    biases = np.abs(layer.bias.astype(np.float64)).reshape(len(rows), -1).max(axis=1)
    found: NDArray[np.float32] = np.maximum(scales, biases / (source.scale * LARGEST_BIAS)).astype(np.float32)
    return found


def _least_error(rows: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Try fractions of the largest weight's scale, row by row; 1 comes first and wins a tie."""
    best, least = scales, np.full(len(rows), np.inf)
    for fraction in np.linspace(1.0, 0.5, 26):
        tried = scales * fraction
        codes = np.clip(np.rint(rows / tried[:, np.newaxis]), -LARGEST_WEIGHT, LARGEST_WEIGHT)
        error = np.square(codes * tried[:, np.newaxis] - rows).sum(axis=1)
        better = error < least
        best, least = np.where(better, tried, best), np.where(better, error, least)
    return best


def quantized_layer(
    layer: Layer, scales: NDArray[np.float32], source: Quantization
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Return the int8 weights and the int32 bias of a layer; scales are (out,) or (1,)."""
    steps = scales.astype(np.float64)
    shaped = steps.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    weight = np.clip(np.rint(layer.weight.astype(np.float64) / shaped), -LARGEST_WEIGHT, LARGEST_WEIGHT)
    bias = np.rint(layer.bias.astype(np.float64) / (steps * source.scale))
    limit = 2**31 - 1
    return weight.astype(np.int8), np.clip(bias, -limit, limit).astype(np.int32)


def int8_checkpoint(
    card: Card,
    layers: Mapping[str, Layer],
    ranges: Mapping[str, Quantization],
    granularity: Granularity,
    *,
    search: bool = False,
    scales: Mapping[str, NDArray[np.float32]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Make the int8 checkpoint of a network whose BatchNorms are folded.

    Args:
        card: of the float32 network, its `parent` already what the new file is made from.
        layers: weights and biases by operation.
        ranges: what 8-bit values stand for: `input`, operations, and `NAME.before` where the activation is no clip.
            A sigmoid's output is always :data:`SIGMOID`.
        granularity: of the weight scales.
        search: as for :func:`weight_scales`.
        scales: weight scales that are known already, by operation; the others are computed.
        facts: how the network was quantized, for the card.
    """
    ranges = {**ranges, **{op.name: SIGMOID for op in card.plan.ops if op.activation == "sigmoid"}}
    tensors: dict[str, NDArray[Any]] = {}
    names = ["input"]
    for op in card.plan.ops:
        names += [op.name] if op.activation in CLIPS else [op.name, f"{op.name}.before"]
        if op.name not in layers:
            continue
        source = ranges[op.sources[0]]
        known = None if scales is None else scales.get(op.name)
        scale = weight_scales(layers[op.name], granularity, source, search=search) if known is None else known
        tensors[f"{op.name}.weight"], tensors[f"{op.name}.bias"] = quantized_layer(layers[op.name], scale, source)
        tensors[f"{op.name}.weight_scale"] = scale
    for name in names:
        tensors[f"{name}.scale"] = np.array([ranges[name].scale], np.float32)
        tensors[f"{name}.zero_point"] = np.array([ranges[name].zero_point], np.uint8)
    quantization = {**(facts or {}), "granularity": granularity}
    made = replace(card, precision="int8", batch_norm="folded", quantization=quantization)
    return Checkpoint(made, tensors)
