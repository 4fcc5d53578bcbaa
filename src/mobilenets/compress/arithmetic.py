"""Networks run operation by operation in torch: float32 with folded layers, and int8 exact to the bit.

`engine.reference` says what every operation means; this says the same, fast enough to calibrate by and to judge a whole
data set. An operation is computed in two steps, so that the value before the activation can be looked at.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mobilenets.arch import Op, Plan
from mobilenets.arch.plan import padding
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine.folding import Layer
from mobilenets.engine.quantized import Quantization, bounds, multipliers, quantizations, table

BATCH = 8
"""Pictures computed at a time: at 224 the largest map of V2 is 38 MB of float32."""

EXACT = 2**24
"""Up to here float32 holds every integer, so that sums of products of integers are exact in any order."""

_DEPTHWISE_AS_WRITTEN = platform.machine().lower() in {"x86_64", "amd64"}
"""Elsewhere torch may compute 3x3 depthwise convolutions by Winograd's transform, whose intermediates are fractions."""


class Arithmetic(Protocol):
    """One way to compute the operations of a plan, on tensors (N, C, H, W)."""

    def enter(self, batch: Tensor) -> Tensor:
        """Return normalized pictures, float32 (N, C, H, W), as the operations read them."""

    def before(self, op: Op, sources: list[Tensor]) -> Tensor:
        """Return what an operation computes before its activation."""

    def after(self, op: Op, before: Tensor) -> Tensor:
        """Return the operation's output, given what it is before the activation."""

    def leave(self, op: Op, value: Tensor) -> Tensor:
        """Return the value of an operation as real numbers, float32 (N, values)."""


Watch = Callable[[Op, Tensor, Tensor], None]
"""Called with an operation, its value before the activation, and its output."""


@torch.inference_mode()
def run(layout: Plan, by: Arithmetic, batch: NDArray[np.float32], watch: Watch | None = None) -> NDArray[np.float32]:
    """Return the answers, float32 (N, values), to normalized pictures (N, C, H, W): as `engine.reference.run` does.

    Each map is dropped when it has been read.
    """
    last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
    last_use.update(dict.fromkeys(layout.outputs, len(layout.ops)))
    live = {"input": by.enter(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last))}
    for index, op in enumerate(layout.ops):
        before = by.before(op, [live[source] for source in op.sources])
        live[op.name] = by.after(op, before)
        if watch is not None:
            watch(op, before, live[op.name])
        del before
        for source in op.sources:
            if last_use[source] == index:
                live.pop(source, None)
    answers: NDArray[np.float32] = torch.cat(
        [by.leave(layout.op(name), live[name]) for name in layout.outputs], 1
    ).numpy()
    return answers


def split(pictures: NDArray[np.uint8], size: int = BATCH) -> Iterator[NDArray[np.uint8]]:
    """Yield the pictures (N, ...) in batches of `size`, the last one smaller."""
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


class FloatArithmetic:
    """A float32 network on layers without BatchNorm."""

    def __init__(self, card: Card, layers: Mapping[str, Layer]) -> None:
        self._rule = card.arch.padding
        self._layers = {
            name: (_weight(layer.weight, torch.float32), torch.from_numpy(layer.bias)) for name, layer in layers.items()
        }

    def enter(self, batch: Tensor) -> Tensor:
        """Take the pictures as they are."""
        return batch

    def before(self, op: Op, sources: list[Tensor]) -> Tensor:
        """Compute float32 (N, C, H, W), the activation still to come."""
        match op.kind:
            case "add":
                return sources[0] + sources[1]
            case "scale":
                return sources[0] * sources[1]
            case "pool":
                return sources[0].mean((2, 3), keepdim=True)
            case "conv" | "linear":
                weight, bias = self._layers[op.name]
                return products(op, sources[0], weight, self._rule) + bias[:, None, None]

    def after(self, op: Op, before: Tensor) -> Tensor:
        """Apply the activation to a copy."""
        match op.activation:
            case None:
                return before
            case "relu6":
                return functional.relu6(before)
            case "relu":
                return functional.relu(before)
            case "hard_swish":
                return functional.hardswish(before)
            case "hard_sigmoid":
                return functional.hardsigmoid(before)
            case "sigmoid":
                return torch.sigmoid(before)

    def leave(self, op: Op, value: Tensor) -> Tensor:  # noqa: ARG002  # the same for all
        """Return (N, values)."""
        return value.flatten(1)


@dataclass(slots=True)
class _Int8Layer:
    """Integers as torch multiplies them: in float32 where every sum stays exact there, else in float64."""

    weight: Tensor
    bias: Tensor  # float64 (c, 1, 1)
    most: float  # no sum of products is larger, without the bias
    factors: Tensor  # float32 (c, 1, 1) or (1, 1, 1): codes of the output per unit of a sum


class Int8Arithmetic:
    """An int8 network on codes, uint8 (N, C, H, W), with the results of `engine.reference` to the bit.

    `before` is what is rounded to codes: the sum in units of a product for convolutions and fully connected layers,
    in units of the output's scale for all else.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._rule = checkpoint.card.arch.padding
        self.quantizations = quantizations(checkpoint)
        self._layers: dict[str, _Int8Layer] = {}
        self._tables: dict[str, Tensor] = {}
        for op in checkpoint.card.plan.ops:
            target = self._target(op)
            if op.kind in ("conv", "linear"):
                self._layers[op.name] = _int8_layer(op, checkpoint, self.quantizations[op.sources[0]], target)
            if f"{op.name}.before" in self.quantizations:
                codes = table(op.activation, target, self.quantizations[op.name])
                self._tables[op.name] = torch.from_numpy(codes)

    def _target(self, op: Op) -> Quantization:
        return self.quantizations.get(f"{op.name}.before", self.quantizations[op.name])

    def enter(self, batch: Tensor) -> Tensor:
        """Quantize the pictures."""
        return encoded(batch, self.quantizations["input"])

    def add_bias(self, op: Op, more: NDArray[np.int64]) -> None:
        """Add integers (c,) to the bias of a convolution or fully connected layer."""
        self._layers[op.name].bias += torch.from_numpy(more.astype(np.float64))[:, None, None]

    def bias(self, op: Op) -> NDArray[np.int32]:
        """Return the bias (c,) as it is now."""
        values: NDArray[np.int32] = self._layers[op.name].bias.flatten().numpy().astype(np.int32)
        return values

    def before(self, op: Op, sources: list[Tensor]) -> Tensor:
        """Compute the value that is rounded, float32 (sums beyond 2**24 are float64)."""
        read = [self.quantizations[name] for name in op.sources]
        shifted = [codes.float() - each.zero_point for codes, each in zip(sources, read, strict=True)]
        out = self._target(op)
        match op.kind:
            case "add":
                first, second = (_float32(each.scale / out.scale) for each in read)
                return shifted[0] * first + shifted[1] * second
            case "scale":
                return shifted[0] * shifted[1] * _float32(read[0].scale * read[1].scale / out.scale)
            case "pool":
                pixels = shifted[0].shape[2] * shifted[0].shape[3]
                total = shifted[0].sum((2, 3), keepdim=True, dtype=torch.float64).float()
                return total * _float32(read[0].scale / (out.scale * pixels))
            case "conv" | "linear":
                layer = self._layers[op.name]
                sums = products(op, shifted[0].to(layer.weight.dtype), layer.weight, self._rule)
                if sums.dtype == torch.float32 and layer.most + float(layer.bias.abs().max()) < EXACT:
                    return sums.add_(layer.bias.float())
                return sums.double() + layer.bias

    def after(self, op: Op, before: Tensor) -> Tensor:
        """Round to codes and apply the activation: a clip, or a table."""
        out = self._target(op)
        tabled = op.name in self._tables
        steps = before.float() * self._layers[op.name].factors if op.name in self._layers else before
        low, high = bounds(None if tabled else op.activation, out)
        codes = (torch.round(steps) + out.zero_point).clamp_(low, high).to(torch.uint8)
        return self._tables[op.name][codes.int()] if tabled else codes

    def leave(self, op: Op, value: Tensor) -> Tensor:
        """Return what the codes stand for, (N, values)."""
        return decoded(value.flatten(1), self.quantizations[op.name])


def _int8_layer(op: Op, checkpoint: Checkpoint, source: Quantization, out: Quantization) -> _Int8Layer:
    weight, bias, scale = (checkpoint.tensors[f"{op.name}.{part}"] for part in ("weight", "bias", "weight_scale"))
    magnitudes = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1)
    most = float(magnitudes.max()) * max(source.zero_point, 255 - source.zero_point)
    exact = most < EXACT and (_DEPTHWISE_AS_WRITTEN or not op.depthwise)
    factors = torch.from_numpy(multipliers(scale, source, out))
    return _Int8Layer(
        weight=_weight(weight, torch.float32 if exact else torch.float64),
        bias=torch.from_numpy(bias.astype(np.float64))[:, None, None],
        most=most,
        factors=factors[:, None, None],
    )


def encoded(real: Tensor, to: Quantization) -> Tensor:
    """Return the nearest codes, uint8, of float32 numbers."""
    return (torch.round(real / _float32(to.scale)) + to.zero_point).clamp_(0, 255).to(torch.uint8)


def decoded(codes: Tensor, of: Quantization) -> Tensor:
    """Return what codes stand for, float32."""
    return (codes.float() - of.zero_point) * _float32(of.scale)


def products(op: Op, x: Tensor, weight: Tensor, rule: str) -> Tensor:
    """Return the sums of products of a convolution or fully connected layer, (N, C_out, H', W')."""
    if op.kind == "linear":
        return functional.linear(x.flatten(1), weight)[:, :, None, None]
    if rule == "same" and op.kernel > 1:
        top, bottom = padding(x.shape[2], op.kernel, op.stride, "same")
        left, right = padding(x.shape[3], op.kernel, op.stride, "same")
        x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, weight, stride=op.stride, groups=op.groups)
    return functional.conv2d(x, weight, stride=op.stride, padding=(op.kernel - 1) // 2, groups=op.groups)


def _weight(weight: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(weight)).to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)
