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

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

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


ALL = slice(None)


class Arithmetic(Protocol):
    """One way to compute the operations of a plan on arrays (N, C, H, W)."""

    def enter(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        """Return normalized pictures, float32 (N, C, H, W), as the operations read them."""

    def compute(self, op: Op, *sources: NDArray[Any]) -> NDArray[Any]:
        """Return the output of an operation, (N, C, H, W), for its sources in the plan's order."""

    def leave(self, op: Op, value: NDArray[Any]) -> NDArray[np.float32]:
        """Return the value (N, C, H, W) of an operation as real numbers, float32."""

    def weights(self, op: Op) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight and bias of a convolution or fully connected layer, in units of what it adds up."""

    def shifted(self, name: str, value: NDArray[Any]) -> NDArray[np.float64]:
        """Return an operation's output, or the picture, in units of what is multiplied by weights: zero is 0."""

    def finish(
        self, op: Op, sums: NDArray[np.float64], part: slice = ALL, *, pixels: int | None = None
    ) -> NDArray[Any]:
        """Return the output of an operation that has added up these sums, (N, C, H, W).

        Args:
            op: a layer, or a pooling.
            sums: of products and the bias; or of a pooling's shifted source.
            part: the channels of the output that these are.
            pixels: over how many a pooling has added up.
        """


def arithmetic(checkpoint: Checkpoint) -> Arithmetic:
    """Return how a checkpoint's operations are computed: by its precision, float32 or int8."""
    return Int8Arithmetic(checkpoint) if checkpoint.card.precision == "int8" else FloatArithmetic(checkpoint)


def run(
    checkpoint: Checkpoint,
    batch: NDArray[np.float32],
    watch: Callable[[str, NDArray[Any]], None] | None = None,
) -> NDArray[np.float32]:
    """Return the answers, float32 (N, values), to normalized pictures, float32 (N, C, H, W) of any size.

    A classifier answers with its logits, (N, classes), a detector with the values of all its outputs, flat.

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
    """Do what :func:`run` says, with an arithmetic at hand."""
    return flat(outputs(layout, by, batch, watch))


def flat(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return outputs, each (N, ...), as one answer for each picture, (N, values)."""
    return np.concatenate([value.reshape(len(value), -1) for value in values], axis=1)


def outputs(
    layout: Plan,
    by: Arithmetic,
    batch: NDArray[np.float32],
    watch: Callable[[str, NDArray[Any]], None] | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """Return the values of the plan's outputs, float32: logits (N, classes), or a detector's maps (N, C, H, W).

    Each map is dropped after its last reader.
    """
    last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
    last_use.update(dict.fromkeys(layout.outputs, len(layout.ops)))
    live = {"input": by.enter(batch)}
    for index, op in enumerate(layout.ops):
        live[op.name] = by.compute(op, *(live[source] for source in op.sources))
        if watch is not None:
            watch(op.name, live[op.name])
        for source in op.sources:
            if last_use[source] == index:
                live.pop(source, None)
    values = tuple(by.leave(layout.op(name), live[name]) for name in layout.outputs)
    return values if layout.arch.detector is not None else (flat(values),)


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
                return activated(sources[0] + sources[1], op.activation)
            case "scale":
                return activated(sources[0] * sources[1], op.activation)
            case "pool":
                return self.finish(op, sources[0].sum((2, 3), keepdims=True), pixels=sources[0][0, 0].size)
            case "conv" | "linear":
                weight, bias = self.weights(op)
                return self.finish(op, products(op, sources[0], weight, self._rule) + bias[:, np.newaxis, np.newaxis])

    def weights(self, op: Op) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the folded weight and bias."""
        return self._layers[op.name]

    def shifted(self, name: str, value: NDArray[Any]) -> NDArray[np.float64]:
        """Return the numbers as they are."""
        del name
        return value.astype(np.float64)

    def finish(
        self, op: Op, sums: NDArray[np.float64], part: slice = ALL, *, pixels: int | None = None
    ) -> NDArray[np.float64]:
        """Activate, or take the mean."""
        del part
        return activated(sums / pixels if pixels else sums, op.activation)

    def leave(self, op: Op, value: NDArray[Any]) -> NDArray[np.float32]:  # noqa: ARG002  # the same for all
        """Round to float32."""
        return value.astype(np.float32)


class Int8Arithmetic:
    """An int8 network: unsigned 8-bit codes in and out of every operation.

    Sums of products are computed in float64, where integers below 2**53 are exact, because that is what BLAS is
    fast at.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._rule = checkpoint.card.arch.padding
        self._tensors = checkpoint.tensors
        self._quantizations = quantizations(checkpoint)

    def enter(self, batch: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Quantize the pictures."""
        return quantize(batch, self._quantizations["input"])

    def compute(self, op: Op, *sources: NDArray[Any]) -> NDArray[np.uint8]:
        """Compute one operation on codes, uint8 (N, C, H, W)."""
        values = [self.shifted(name, codes) for name, codes in zip(op.sources, sources, strict=True)]
        read, out = [self._quantizations[name] for name in op.sources], self._target(op)
        match op.kind:
            case "add":
                first, second = (np.float32(each.scale / out.scale) for each in read)
                return self._codes(op, first * values[0].astype(np.float32) + second * values[1].astype(np.float32))
            case "scale":
                product = (values[0] * values[1]).astype(np.float32)
                return self._codes(op, np.float32(read[0].scale * read[1].scale / out.scale) * product)
            case "pool":
                return self.finish(op, values[0].sum((2, 3), keepdims=True), pixels=values[0][0, 0].size)
            case "conv" | "linear":
                weight, bias = self.weights(op)
                return self.finish(op, products(op, values[0], weight, self._rule) + bias[:, np.newaxis, np.newaxis])

    def weights(self, op: Op) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the int8 weight and the int32 bias, in float64."""
        weight, bias = (self._tensors[f"{op.name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        return weight, bias

    def shifted(self, name: str, value: NDArray[Any]) -> NDArray[np.float64]:
        """Return codes less their zero point."""
        return value.astype(np.float64) - self._quantizations[name].zero_point

    def finish(
        self, op: Op, sums: NDArray[np.float64], part: slice = ALL, *, pixels: int | None = None
    ) -> NDArray[np.uint8]:
        """Bring sums to the output's scale, round, clip, and look up what is no clip."""
        source, out = self._quantizations[op.sources[0]], self._target(op)
        steps = sums.astype(np.float32)
        if pixels:
            steps *= np.float32(source.scale / (out.scale * pixels))
        else:
            scale = self._tensors[f"{op.name}.weight_scale"]
            factors = multipliers(scale if len(scale) == 1 else scale[part], source, out)
            steps *= factors[:, np.newaxis, np.newaxis]
        return self._codes(op, steps)

    def _target(self, op: Op) -> Quantization:
        """Return the quantization that sums are brought to: in front of the table, where there is one."""
        return self._quantizations.get(f"{op.name}.before") or self._quantizations[op.name]

    def _codes(self, op: Op, steps: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Round a result in units of the output's scale, float32, to codes after the activation."""
        out = self._target(op)
        clips = f"{op.name}.before" not in self._quantizations
        low, high = bounds(op.activation if clips else None, out)
        codes: NDArray[np.uint8] = np.clip(np.rint(steps) + np.float32(out.zero_point), low, high).astype(np.uint8)
        return codes if clips else table(op.activation, out, self._quantizations[op.name])[codes]

    def leave(self, op: Op, value: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the codes stand for."""
        return dequantize(value, self._quantizations[op.name])


def _rule(rule: str) -> Literal["symmetric", "same"]:
    return "same" if rule == "same" else "symmetric"


def products(op: Op, x: NDArray[np.float64], weight: NDArray[np.float64], rule: str) -> NDArray[np.float64]:
    """Return the sums of products of a convolution or fully connected layer, float64 (N, C_out, H', W').

    Args:
        op: kind "conv" (dense or depthwise) or "linear".
        x: float64 (N, C_in, H, W); a fully connected layer reads it flat.
        weight: as a checkpoint has it.
        rule: where the padding goes, "symmetric" or "same"; "none" where x has it already.
    """
    if op.kind == "linear":
        return (x.reshape(len(x), -1) @ weight.T)[:, :, np.newaxis, np.newaxis]
    k, s = op.kernel, op.stride
    sides = [(0, 0) if rule == "none" else padding(side, k, s, _rule(rule)) for side in x.shape[2:]]
    height, width = (
        (side + before + after - k) // s + 1 for side, (before, after) in zip(x.shape[2:], sides, strict=True)
    )
    if any(map(any, sides)):
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
