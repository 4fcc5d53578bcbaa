"""What every operation means, in plain numpy. Everything that runs a network is tested against this.

Float32 networks are computed in float64, so that what another implementation differs by is its own rounding.

Int8 networks have one arithmetic, and it is exact to the bit:

- *convolution, fully connected*: products of (q - zero point of the source) and int8 weights, plus the int32 bias, sum
  up in int32; padding is the source's zero point. The sum, as float32, times the float32 multiplier
  (source scale x weight scale / output scale, computed in float64 and rounded once), rounded to the nearest integer,
  halves to even, plus the output's zero point, clipped to what the activation lets through.
- *other activations* (h-swish, hard sigmoid, sigmoid): the same to the quantization `before`, then a table of codes.
- *add*: float32(s1 / s) x (q1 - z1) + float32(s2 / s) x (q2 - z2), each product and the sum in float32, rounded.
- *scale*: float32(s1 x s2 / s) x ((q1 - z1) x (q2 - z2)), the inner product in int32.
- *pool*: the int32 sum over the pixels times float32(source scale / (output scale x pixels)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobilenets.arch import Op
from mobilenets.arch.plan import padding
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import (
    Quantization,
    activated,
    bounds,
    dequantize,
    multipliers,
    quantizations,
    quantize,
    table,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch import Plan
    from mobilenets.checkpoint import Checkpoint


class Arithmetic(Protocol):
    """One way to compute the operations of a plan on arrays (N, C, H, W)."""

    def enter(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Return normalized pictures, float32 (N, C, H, W), as the operations read them."""

    def compute(self, op: Op, *sources: NDArray[Any]) -> NDArray[Any]:
        """Return the output of an operation, (N, C, H, W), for its sources in the plan's order."""

    def leave(self, value: NDArray[Any]) -> NDArray[np.float32]:
        """Return an output of the last operation as logits, float32 (N, classes)."""


def arithmetic(checkpoint: Checkpoint) -> Arithmetic:
    """Return how a checkpoint's operations are computed: by its precision, float32 or int8."""
    return Int8Arithmetic(checkpoint) if checkpoint.card.precision == "int8" else FloatArithmetic(checkpoint)


def run(
    checkpoint: Checkpoint,
    batch: NDArray[np.float32],
    watch: Callable[[str, NDArray[Any]], None] | None = None,
) -> NDArray[np.float32]:
    """Return the logits, float32 (N, classes), of normalized pictures, float32 (N, C, H, W) of any size.

    Args:
        checkpoint: of any precision.
        batch: at least one picture.
        watch: called with the name and the output of every operation, (N, C, H, W): float64 for a float32 network,
            uint8 codes for an int8 one.
    """
    return compute(checkpoint.card.plan, arithmetic(checkpoint), batch, watch)


def compute(
    layout: Plan,
    by: Arithmetic,
    batch: NDArray[np.float32],
    watch: Callable[[str, NDArray[Any]], None] | None = None,
) -> NDArray[np.float32]:
    """Do what :func:`run` says, with an arithmetic at hand; each map is dropped after its last reader."""
    last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
    live = {"input": by.enter(batch)}
    for index, op in enumerate(layout.ops):
        live[op.name] = by.compute(op, *(live[source] for source in op.sources))
        if watch is not None:
            watch(op.name, live[op.name])
        for source in op.sources:
            if last_use[source] == index:
                live.pop(source, None)
    return by.leave(live[layout.ops[-1].name])


class FloatArithmetic:
    """A float32 network, computed in float64."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._rule = checkpoint.card.arch.padding
        self._layers = {
            name: (layer.weight.astype(np.float64), layer.bias.astype(np.float64))
            for name, layer in folded(checkpoint).items()
        }

    def enter(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the pictures in float64."""
        return batch.astype(np.float64)

    def compute(self, op: Op, *sources: NDArray[Any]) -> NDArray[np.float64]:
        """Compute one operation on float64 (N, C, H, W)."""
        match op.kind:
            case "add":
                real = sources[0] + sources[1]
            case "scale":
                real = sources[0] * sources[1]
            case "pool":
                real = sources[0].mean((2, 3), keepdims=True)
            case "conv" | "linear":
                weight, bias = self._layers[op.name]
                real = products(op, sources[0], weight, self._rule) + bias[:, np.newaxis, np.newaxis]
        return activated(real, op.activation)

    def leave(self, value: NDArray[Any]) -> NDArray[np.float32]:
        """Round to float32, (N, classes)."""
        return value.reshape(len(value), -1).astype(np.float32)


class Int8Arithmetic:
    """An int8 network: unsigned 8-bit codes in and out of every operation.

    Sums of products are computed in float64, where integers below 2**53 are exact, because that is what BLAS is
    fast at.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._rule = checkpoint.card.arch.padding
        self._tensors = checkpoint.tensors
        self._quantizations = quantizations(checkpoint)
        self._last = checkpoint.card.plan.ops[-1].name

    def enter(self, batch: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Quantize the pictures."""
        return quantize(batch, self._quantizations["input"])

    def compute(self, op: Op, *sources: NDArray[Any]) -> NDArray[np.uint8]:
        """Compute one operation on codes, uint8 (N, C, H, W)."""
        clips = f"{op.name}.before" not in self._quantizations
        out = self._quantizations[op.name if clips else f"{op.name}.before"]
        read = [self._quantizations[name] for name in op.sources]
        shifted = [codes.astype(np.float64) - each.zero_point for codes, each in zip(sources, read, strict=True)]
        steps = np.rint(self._steps(op, shifted, read, out)) + np.float32(out.zero_point)
        low, high = bounds(op.activation if clips else None, out)
        codes: NDArray[np.uint8] = np.clip(steps, low, high).astype(np.uint8)
        return codes if clips else table(op.activation, out, self._quantizations[op.name])[codes]

    def _steps(
        self, op: Op, shifted: list[NDArray[np.float64]], read: list[Quantization], out: Quantization
    ) -> NDArray[np.float32]:
        """Return the result in units of the output's scale, float32, not yet rounded."""
        match op.kind:
            case "add":
                first, second = (np.float32(each.scale / out.scale) for each in read)
                return first * shifted[0].astype(np.float32) + second * shifted[1].astype(np.float32)
            case "scale":
                product = (shifted[0] * shifted[1]).astype(np.float32)
                return np.float32(read[0].scale * read[1].scale / out.scale) * product
            case "pool":
                pixels = shifted[0].shape[2] * shifted[0].shape[3]
                total: NDArray[np.float32] = shifted[0].sum((2, 3), keepdims=True).astype(np.float32)
                total *= np.float32(read[0].scale / (out.scale * pixels))
                return total
            case "conv" | "linear":
                weight, bias, scale = (
                    self._tensors[f"{op.name}.{part}"] for part in ("weight", "bias", "weight_scale")
                )
                sums = products(op, shifted[0], weight.astype(np.float64), self._rule)
                sums += bias.astype(np.float64)[:, np.newaxis, np.newaxis]
                steps = sums.astype(np.float32)
                steps *= multipliers(scale, read[0], out)[:, np.newaxis, np.newaxis]
                return steps

    def leave(self, value: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the last codes stand for, (N, classes)."""
        return dequantize(value.reshape(len(value), -1), self._quantizations[self._last])


def products(op: Op, x: NDArray[np.float64], weight: NDArray[np.float64], rule: str) -> NDArray[np.float64]:
    """Return the sums of products of a convolution or fully connected layer, float64 (N, C_out, H', W').

    Args:
        op: kind "conv" (dense or depthwise) or "linear".
        x: float64 (N, C_in, H, W); a fully connected layer reads it flat.
        weight: as a checkpoint has it.
        rule: where the padding goes, "symmetric" or "same".
    """
    if op.kind == "linear":
        return (x.reshape(len(x), -1) @ weight.T)[:, :, np.newaxis, np.newaxis]
    k, s = op.kernel, op.stride
    sides = [padding(side, k, s, "same" if rule == "same" else "symmetric") for side in x.shape[2:]]
    height, width = (
        (side + before + after - k) // s + 1 for side, (before, after) in zip(x.shape[2:], sides, strict=True)
    )
    if k > 1:
        x = np.pad(x, ((0, 0), (0, 0), *sides))
    total = np.zeros((len(x), op.out[0], height, width))
    for row in range(k):
        for column in range(k):
            seen = x[:, :, row : row + s * (height - 1) + 1 : s, column : column + s * (width - 1) + 1 : s]
            tap = weight[:, :, row, column]
            if op.depthwise:
                total += seen * tap[:, :, np.newaxis]
            else:
                total += (tap @ seen.reshape(*seen.shape[:2], -1)).reshape(total.shape)
    return total
