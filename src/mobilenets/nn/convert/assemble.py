"""Somebody's layers and the plan they are of, made into a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.errors import ConvertError
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import IMAGENET_MEAN, IMAGENET_STD
from mobilenets.nn.convert.identify import weighted
from mobilenets.nn.convert.labels import Classes
from mobilenets.nn.convert.layers import Array, Layer, Norm, Source


def assemble(
    source: Source,
    layout: Plan,
    classes: Classes,
    *,
    origin: str,
    resolution: tuple[int, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Checkpoint:
    """Make the checkpoint: weights in their places, and a card that says how pictures become its input.

    Args:
        source: what a reader returned.
        layout: what :func:`identify` made of it.
        classes: the labels, and whether the source's first class is dropped.
        origin: for the card, where the weights came from.
        resolution: (height, width) in pixels; None takes the source's, or the table's.
        notes: for the card.

    Raises:
        ConvertError: a weight that is not a finite number, or of the wrong shape.
    """
    tensors: dict[str, Array] = {}
    folded = source.batch_norm == "folded"
    for layer, op in zip(source.layers, weighted(layout), strict=True):
        last = op.name == layout.ops[-1].name
        tensors |= _fill(_without_first_class(layer) if last and classes.drops_background else layer, op, layout)
        folded = folded or (op.batch_norm and layer.norm is None)
    fed = source.preprocess
    sides = resolution or source.resolution or ((fed.height, fed.width) if fed else layout.resolution)
    card = Card(
        arch=layout.arch,
        width=layout.width,
        resolution=sides,
        labels=classes.labels,
        preprocess=preprocess(source, sides),
        in_channels=source.in_channels,
        task="classification" if layout.arch.detector is None else "detection",
        batch_norm="folded" if folded else "trained",
        origin=origin,
        notes=notes,
    )
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ConvertError(f"{origin}: {name} has values that are not finite numbers: the file is damaged")
    return Checkpoint(card, tensors)


def preprocess(source: Source, sides: tuple[int, int]) -> Preprocess:
    """Return how pictures become the source's input, at this (height, width)."""
    channels, known = source.in_channels, source.preprocess
    if known is not None:
        scale = min(sides) / min(known.height, known.width)
        resize = None if known.resize is None else round(known.resize * scale)
        return replace(known, height=sides[0], width=sides[1], resize=resize)
    return Preprocess(
        height=sides[0],
        width=sides[1],
        channels=channels,
        resize=None if source.crop_fraction is None else math.floor(min(sides) / source.crop_fraction),
        interpolation=source.interpolation,
        mean=_per_channel(source.mean or IMAGENET_MEAN, channels),
        std=_per_channel(source.std or IMAGENET_STD, channels),
    )


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Fit statistics to a number of channels: one grey channel gets the average, others get them in turn."""
    if len(values) == channels:
        return values
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(channels))


def _without_first_class(layer: Layer) -> Layer:
    bias = None if layer.bias is None else layer.bias[1:]
    return Layer(layer.name, layer.weight[1:], bias, stride=layer.stride, activation=layer.activation)


def _fill(layer: Layer, op: Op, layout: Plan) -> dict[str, Array]:
    """Return one operation's tensors."""
    inputs = op.source_shape[0] // op.groups
    rows = layer.weight.shape[0]
    kernel = () if op.kind == "linear" else (op.kernel, op.kernel)
    weight = layer.weight.reshape(rows, inputs, *kernel).astype(np.float32)
    bias = np.zeros(rows, np.float32) if layer.bias is None else layer.bias.reshape(rows).astype(np.float32)
    if not op.batch_norm:
        if layer.norm is not None:
            weight, bias = _fold(weight, bias, layer.norm, layout.arch.bn_eps)
        return {f"{op.name}.weight": weight} | ({f"{op.name}.bias": bias} if op.bias else {})
    eps = layout.arch.bn_eps
    if layer.norm is None:  # folded: a BatchNorm that does nothing but add the bias
        one, zero = np.ones(rows, np.float32), np.zeros(rows, np.float32)
        norm = Norm(one, bias, zero, (one - np.float32(eps)).astype(np.float32))
    else:
        extra = 0.0 if layer.norm.eps is None else layer.norm.eps - eps  # never negative: the smallest eps was taken
        norm = Norm(
            layer.norm.weight,
            layer.norm.bias,
            layer.norm.mean - bias,
            layer.norm.variance + np.float32(extra) if extra else layer.norm.variance,
        )
    named = {"weight": norm.weight, "bias": norm.bias, "running_mean": norm.mean, "running_var": norm.variance}
    arrays = {f"{op.name}.norm.{key}": array.reshape(rows).astype(np.float32) for key, array in named.items()}
    return {f"{op.name}.weight": weight} | arrays


def _fold(weight: Array, bias: Array, norm: Norm, eps: float) -> tuple[Array, Array]:
    """Multiply a BatchNorm into the layer before it, in float64."""
    variance = norm.variance.astype(np.float64) + (eps if norm.eps is None else norm.eps)
    scale = norm.weight.astype(np.float64) / np.sqrt(variance)
    folded = weight.astype(np.float64) * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    shifted = (bias.astype(np.float64) - norm.mean) * scale + norm.bias
    return folded.astype(np.float32), shifted.astype(np.float32)
