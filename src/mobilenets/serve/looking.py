"""Where a classifier looked: class activation mapping, from the map that its pooling reads.

Every place of that map gets what it adds to the best class's logit: the map's channels times the class's row of the
classifier (Zhou et al. 2016, section 2). With two layers behind the pooling, as in V3, that row is first led back
through the layer between: times the slope of its activation, times its weights (Selvaraju et al. 2017, section 3.1).
One forward pass, no gradients.

An int8 network is run by ONNX Runtime, which computes all of this behind it, or else by numpy, exactly and slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mobilenets.arch import Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import quantizations
from mobilenets.formats.card import OUTPUT
from mobilenets.formats.onnx_heat import HEAT, Head, head_of
from mobilenets.image.preprocess import normalize
from mobilenets.runtime import RUNTIMES

Array = npt.NDArray[Any]
Seen = Callable[[npt.NDArray[np.float32]], tuple[Array, npt.NDArray[np.float32]]]
"""Normalized pictures, float32 (N, C, H, W), to the map before the pooling, (N, C, h, w), and the logits."""


Heats = list[list[list[float]]]


class Looking(Protocol):
    """Classifies pictures and tells where on each the network saw its best class."""

    def __call__(self, fitted: list[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], Heats]:
        """Return the logits, float32 (N, classes), of pictures as `fit` leaves them, and for each a map of 0..1."""


class _Steps:
    """Runs the network up to its pooling and behind it, and maps what was there."""

    def __init__(self, checkpoint: Checkpoint, head: Head, runtime: str) -> None:
        self._preprocess = checkpoint.card.preprocess
        self._head = head
        self._classifier, _ = _layer(checkpoint, head.classifier)
        self._dense = None if head.dense is None else _layer(checkpoint, head.dense)
        torch = RUNTIMES["torch"]
        able = runtime != "reference" and torch.installed and checkpoint.card.precision in torch.precisions
        self._see = (_by_torch if able else _by_numpy)(checkpoint, head)

    def __call__(self, fitted: list[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], Heats]:
        features, logits = self._see(normalize(np.stack(fitted), self._preprocess))
        best = logits.argmax(axis=1)
        heat = np.einsum("nc,nchw->nhw", self._rows(best, features.mean(axis=(2, 3))), features)
        return logits, [shown(each) for each in heat]

    def _rows(self, classes: npt.NDArray[np.int64], pooled: Array) -> Array:
        """Return what each channel of the pooled map counts for a class: (N, C)."""
        rows = self._classifier[classes]
        if self._dense is None or self._head.dense is None:
            return rows
        weight, bias = self._dense
        through: Array = (rows * slope(self._head.dense.activation, pooled @ weight.T + bias)) @ weight
        return through


class _OnnxHeat:
    """Runs one ONNX graph that has the heat among its outputs."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from mobilenets.formats.onnx_file import to_onnx
        from mobilenets.runtime.onnx_runtime import open_session

        self._session = open_session(to_onnx(checkpoint, pictures=True, heat=True), None, "the checkpoint")
        (self._input,) = (entry.name for entry in self._session.get_inputs())

    def __call__(self, fitted: list[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], Heats]:
        logits, heat = self._session.run([OUTPUT, HEAT], {self._input: np.stack(fitted)})
        return logits, [shown(each[0]) for each in heat]  # of the best class


def looking(checkpoint: Checkpoint, runtime: str) -> Looking | None:
    """Return what tells where a network looked; None where its last layers are of another kind, as a detector's.

    torch computes it where it can, ONNX Runtime what is in 8 bits, plain numpy otherwise, and where `runtime`, by which
    the model is served, is that.
    """
    layout = checkpoint.card.plan
    head = head_of(layout) if layout.arch.detector is None else None
    if head is None:
        return None
    eight_bits = checkpoint.card.precision == "int8" and runtime != "reference"
    if eight_bits and find_spec("onnx") is not None and find_spec("onnxruntime") is not None:
        return _OnnxHeat(checkpoint)
    return _Steps(checkpoint, head, runtime)


def shown(heat: Array) -> list[list[float]]:
    """Return what speaks for a class, 0..1 of the most that does: negative values are 0."""
    positive = np.maximum(heat, 0).astype(np.float64)  # whose decimals are short
    highest = positive.max()
    rows: list[list[float]] = np.round(positive / highest if highest > 0 else positive, 4).tolist()
    return rows


def slope(activation: str | None, value: Array) -> Array:
    """Return an activation's derivative: `relu` or `hard_swish`, x relu6(x + 3) / 6 (Howard et al. 2019, 5.2)."""
    if activation == "relu":
        return (value > 0).astype(value.dtype)
    inside = (2 * value + 3) / 6
    return np.where(value <= -3, 0.0, np.where(value >= 3, 1.0, inside))


def _layer(checkpoint: Checkpoint, op: Op) -> tuple[Array, Array]:
    """Return weight (out, in) and bias (out,) of a fully connected layer as real numbers."""
    if checkpoint.card.precision != "int8":
        layer = folded(checkpoint)[op.name]
        return layer.weight, layer.bias
    weight, bias, scale = (checkpoint.tensors[f"{op.name}.{part}"] for part in ("weight", "bias", "weight_scale"))
    source = quantizations(checkpoint)[op.sources[0]].scale
    return weight * scale.reshape(-1, 1), bias * (scale * source)


def _by_torch(checkpoint: Checkpoint, head: Head) -> Seen:
    import torch

    from mobilenets.nn.network import from_checkpoint
    from mobilenets.runtime.torch_runtime import fold_batch_norm

    network = fold_batch_norm(from_checkpoint(checkpoint)).to(memory_format=torch.channels_last)
    ops = network.plan.ops
    pool = next(index for index, op in enumerate(ops) if op.name == head.pool.name)

    def see(batch: npt.NDArray[np.float32]) -> tuple[Array, npt.NDArray[np.float32]]:
        with torch.inference_mode():
            pictures = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            features = network.run(pictures, 0, pool)
            logits: npt.NDArray[np.float32] = network.run(features, pool, len(ops)).numpy()
        return features.numpy(), logits

    return see


def _by_numpy(checkpoint: Checkpoint, head: Head) -> Seen:
    layout, by = checkpoint.card.plan, reference.arithmetic(checkpoint)

    def see(batch: npt.NDArray[np.float32]) -> tuple[Array, npt.NDArray[np.float32]]:
        seen: dict[str, Array] = {}

        def watch(name: str, value: Array) -> None:
            if name == head.features:
                seen[name] = by.leave(layout.op(name), value)

        logits = reference.compute(layout, by, batch, watch)
        return seen[head.features], logits

    return see
