"""Layers out of a Keras file that has only weights: kinds by their shapes, order by the file or by what fits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobilenets.errors import ConvertError
from mobilenets.nn.convert.keras_file import KerasFile
from mobilenets.nn.convert.layers import Array, Layer, Norm


def layers_of_weights(file: KerasFile, path: Path) -> tuple[Layer, ...]:
    """Return the layers in the order they run, each with its BatchNorm.

    Raises:
        ConvertError: arrays that are of no layer of these networks.
    """
    found = [
        _weights("/".join(names), arrays, path)
        for names, arrays in file.arrays.items()
        if arrays and (not file.ordered or len(names) == 2)
    ]
    layers = [entry for entry in found if isinstance(entry, Layer)]
    if not layers:
        raise ConvertError(f"{path}: has no layer with weights")
    if file.ordered:
        return tuple(_with_norms(found, path))
    norms = [entry for entry in found if isinstance(entry, Norm)]
    return tuple(_with_counted_norms(_chained(layers, path), norms, path))


def _weights(name: str, arrays: Sequence[Array], path: Path) -> Layer | Norm:
    """Recognise a layer or a BatchNorm by the number and shapes of its arrays."""
    kernel, *others = arrays
    bias = others[0].reshape(-1) if others else None
    if kernel.ndim == 4 and len(others) <= 1 and kernel.shape[0] == kernel.shape[1]:
        if kernel.shape[3] == 1 and kernel.shape[0] > 1:
            weight = kernel.transpose(2, 3, 0, 1)
        else:
            weight = kernel.transpose(3, 2, 0, 1)
        return Layer(name, np.ascontiguousarray(weight), bias)
    if kernel.ndim == 2 and len(others) <= 1:
        return Layer(name, np.ascontiguousarray(kernel.T), bias)
    if kernel.ndim == 1 and len(arrays) == 4 and len({array.shape for array in arrays}) == 1:
        gamma, beta, mean, variance = arrays
        return Norm(gamma, beta, mean, variance)
    shapes = ", ".join(str(array.shape) for array in arrays[:4])
    raise ConvertError(f"{path}: {name} with arrays of {shapes} is no layer of the networks known here")


def _with_norms(found: Sequence[Layer | Norm], path: Path) -> list[Layer]:
    """Give every layer the BatchNorm that follows it."""
    layers: list[Layer] = []
    for entry in found:
        if isinstance(entry, Layer):
            layers.append(entry)
            continue
        if not layers or layers[-1].norm is not None or layers[-1].weight.shape[0] != entry.weight.size:
            raise ConvertError(f"{path}: a BatchNorm of {entry.weight.size} channels follows no layer of as many")
        layers[-1] = replace(layers[-1], norm=entry)
    return layers


@dataclass(slots=True)
class _Queues:
    depthwise: deque[Layer]
    others: deque[Layer]
    dense: deque[Layer]


def _chained(layers: Sequence[Layer], path: Path) -> list[Layer]:
    """Order layers that are only ordered within their kind, by the channels that one hands to the next.

    Where both a depthwise and another convolution fit, the depthwise one comes: these networks have none without a 1x1
    after it.
    """
    spatial = [layer for layer in layers if layer.weight.ndim == 4]
    queues = _Queues(
        deque(layer for layer in spatial if _is_depthwise(layer)),
        deque(layer for layer in spatial if not _is_depthwise(layer)),
        deque(layer for layer in layers if layer.weight.ndim == 2),
    )
    ordered = [queues.others.popleft()] if queues.others else []
    while ordered and (queues.depthwise or queues.others or queues.dense):
        channels = ordered[-1].weight.shape[0]
        if queues.depthwise and _may_follow(queues.depthwise[0], ordered[-1]):
            ordered.append(queues.depthwise.popleft())
        elif queues.others and queues.others[0].weight.shape[1] == channels:
            ordered.append(queues.others.popleft())
        elif queues.dense and queues.dense[0].weight.shape[1] == channels and not queues.depthwise:
            ordered.append(queues.dense.popleft())
        else:
            break
    if len(ordered) != len(layers):
        raise ConvertError(
            f"{path}: its layers are stored without their order and do not chain up: save the whole model (.keras)"
        )
    return ordered


def _may_follow(depthwise: Layer, before: Layer) -> bool:
    """Say whether a depthwise convolution can come next: not after another, nor after squeeze-excite's, with a bias."""
    fits = depthwise.weight.shape[0] == before.weight.shape[0] and not _is_depthwise(before)
    return fits and (depthwise.bias is None) == (before.bias is None)


def _is_depthwise(layer: Layer) -> bool:
    return bool(layer.weight.shape[1] == 1 and layer.weight.shape[-1] > 1)


def _with_counted_norms(layers: Sequence[Layer], norms: Sequence[Norm], path: Path) -> list[Layer]:
    """Give the BatchNorms, in their order, to the layers without a bias, or to all convolutions if they are as many."""
    convolutions = [layer for layer in layers if layer.weight.ndim == 4]
    owners = convolutions if len(norms) == len(convolutions) else [each for each in layers if each.bias is None]
    if len(owners) != len(norms) or any(
        layer.weight.shape[0] != norm.weight.size for layer, norm in zip(owners, norms, strict=True)
    ):
        raise ConvertError(
            f"{path}: has {len(norms)} BatchNorms that do not fit its layers: save the whole model (.keras)"
        )
    given = {layer.name: norm for layer, norm in zip(owners, norms, strict=True)}
    return [replace(layer, norm=given.get(layer.name)) for layer in layers]
