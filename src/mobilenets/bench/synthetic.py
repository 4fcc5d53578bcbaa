"""Networks made for their speed alone: random weights, and int8 from ranges that noise leads to.

How long a network takes does not depend on what its weights say, as long as no value is denormal, infinite or stuck:
so the BatchNorm statistics of random weights are those of what really passes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import CLIPS, Card, Checkpoint, tensor_shapes
from mobilenets.engine import reference
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import int8_checkpoint
from mobilenets.engine.quantized import Quantization, activated, quantization
from mobilenets.image import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

PICTURES = 4
SIDE = 64
"""Pictures of noise, at most this many pixels a side, which lead to statistics and ranges: enough for both."""

QUICK = "for timing alone"
"""The method on the card of what `quick_int8` makes."""


def random_checkpoint(layout: Plan) -> Checkpoint:
    """Return a float32 network with random weights and no meaning; the same one for the same plan."""
    height, width = layout.resolution
    channels = layout.in_channels
    preprocess = Preprocess(height, width, channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    labels = tuple(str(index) for index in range(layout.classes))
    task = "classification" if layout.arch.detector is None else "detection"
    card = Card(layout.arch, layout.width, layout.resolution, labels, preprocess, channels, task=task)
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in tensor_shapes(layout).items():
        if name.endswith(".weight") and len(shape) > 1:
            deviation = np.sqrt(2 / prod(shape[1:]))  # He et al., arXiv:1502.01852, by fan-in
            tensors[name] = random.normal(0, deviation, shape).astype(np.float32)
        else:
            tensors[name] = np.full(shape, name.endswith((".norm.weight", ".running_var")), np.float32)
    _settle(layout, tensors)
    return Checkpoint(card, tensors)


def _settle(layout: Plan, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Set every BatchNorm's statistics to those of noise, in the order in which it passes through."""
    live: dict[str, Values] = {"input": _noise(layout).astype(np.float64)}
    for op in layout.ops:
        sources = [live[name] for name in op.sources]
        real = _computed(op, sources, tensors, layout.arch.padding)
        if op.batch_norm:
            mean, variance = real.mean((0, 2, 3)), real.var((0, 2, 3))
            tensors[f"{op.name}.norm.running_mean"] = mean.astype(np.float32)
            tensors[f"{op.name}.norm.running_var"] = variance.astype(np.float32)
            deviation = np.sqrt(variance + layout.arch.bn_eps)
            real = (real - mean[:, np.newaxis, np.newaxis]) / deviation[:, np.newaxis, np.newaxis]
        live[op.name] = np.asarray(activated(real, op.activation), np.float64)


def _computed(op: Op, sources: list[Values], tensors: Mapping[str, NDArray[np.float32]], rule: str) -> Values:
    """Return what an operation computes before BatchNorm and activation; biases are zero."""
    match op.kind:
        case "add":
            return sources[0] + sources[1]
        case "scale":
            return sources[0] * sources[1]
        case "pool":
            pooled: Values = sources[0].mean((2, 3), keepdims=True)
            return pooled
        case "conv" | "linear":
            return reference.products(op, sources[0], tensors[f"{op.name}.weight"].astype(np.float64), rule)


def quick_int8(checkpoint: Checkpoint) -> Checkpoint:
    """Return a float32 checkpoint in int8 per channel, with the ranges that noise leads to.

    Its kernels are those of any int8 network of this shape, its answers are worth nothing.
    """
    layout, by = checkpoint.card.plan, reference.arithmetic(checkpoint)
    live = {"input": by.enter(_noise(layout))}
    ranges = {"input": _range(live["input"])}
    for op in layout.ops:
        sources = [live[name] for name in op.sources]
        if op.activation not in CLIPS:
            before = by.compute(replace(op, activation=None), *sources)
            ranges[f"{op.name}.before"] = _range(before)
        live[op.name] = by.compute(op, *sources)
        ranges[op.name] = _range(live[op.name])
    return int8_checkpoint(checkpoint.card, folded(checkpoint), ranges, "channel", facts={"method": QUICK})


def _range(values: NDArray[np.floating]) -> Quantization:
    return quantization(float(values.min()), float(values.max()))


def _noise(layout: Plan) -> NDArray[np.float32]:
    height, width = (min(SIDE, side) for side in layout.resolution)
    shape = (PICTURES, layout.in_channels, height, width)
    noise: NDArray[np.float32] = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return noise
