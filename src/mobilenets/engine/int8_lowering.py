"""An int8 plan as calls of kernels: which operations run as one, and what each call reads, multiplies by and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.engine import int8_packing as packing
from mobilenets.engine.choices import Choice, chosen, shape
from mobilenets.engine.int8_kernels import (
    CHUNK,
    DIVISORS,
    Int8Dense,
    Int8Fused,
    Int8Kernel,
    Int8Layer,
    Int8Simple,
    Simple,
    order,
    rows_at_once,
    tiles,
)
from mobilenets.engine.kernels import Window
from mobilenets.engine.lowering import INPUT, Axis, Call, Network, View
from mobilenets.engine.quantized import Quantization, multipliers, quantizations
from mobilenets.engine.schedules import Machine
from mobilenets.engine.stages import readers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint

Argument: TypeAlias = "View | NDArray[Any]"


def lower_int8(
    layout: Plan, checkpoint: Checkpoint, machine: Machine, choices: Mapping[str, Choice] | None = None
) -> Network:
    """Return the calls that compute a plan with the weights of an int8 checkpoint.

    Args:
        layout: the plan, at the size of the pictures.
        checkpoint: its weights and quantizations.
        machine: how wide vectors are, and how many there are.
        choices: tiles by what a kernel computes (its shape, see :func:`shape`); others follow the rules.
    """
    return _Lowering(layout, checkpoint, machine, choices or {}).network()


def codes(name: str, channels: int, sides: tuple[int, int]) -> View:
    """Return a map of codes as rows and columns of pixels."""
    return View(name, (channels, sides[1], sides[0]), (1, channels, channels * sides[1]), 1)


class _Lowering:
    def __init__(self, layout: Plan, checkpoint: Checkpoint, machine: Machine, choices: Mapping[str, Choice]) -> None:
        self._choices = choices
        self._plan, self._tensors, self._machine = layout, checkpoint.tensors, machine
        self._of = quantizations(checkpoint)
        self._readers = readers(layout)
        self._calls: list[Call] = []
        self._sizes = {INPUT: prod(layout.input_shape)}  # in float32 numbers, four bytes each
        self._pixel: dict[str, int] = {}  # bytes of a pixel of a map
        self._shapes = {INPUT: layout.input_shape, **{op.name: op.out for op in layout.ops}}

    def network(self) -> Network:
        ops, at = self._plan.ops, 0
        while at < len(ops):
            taken = self._fused(ops, at) or self._dense(ops, at)
            if not taken:
                self._single(ops[at])
                taken = 1
            at += taken
        outputs = tuple(self._leave(name) for name in self._plan.outputs)
        return Network(tuple(self._calls), self._sizes, outputs)

    # What there is to know of operations.

    def _follows(self, op: Op, ops: Sequence[Op], at: int) -> bool:
        """Say whether ops[at] is all that reads an operation, so that no other needs its map."""
        return (
            at < len(ops)
            and op.name not in self._plan.outputs
            and self._readers.get(op.name, ()) == (ops[at],)
            and op.name in ops[at].sources
        )

    def _added(self, op: Op, ops: Sequence[Op], at: int) -> Op | None:
        """Return the addition that is all that reads an operation and directly follows it, if sums can be added."""
        if not self._follows(op, ops, at) or ops[at].kind != "add" or self._before(op) or op.activation is not None:
            return None
        if len(set(ops[at].sources)) != 2 or INPUT in ops[at].sources or self._before(ops[at]):
            return None
        return ops[at]

    def _before(self, op: Op) -> Quantization | None:
        return self._of.get(f"{op.name}.before")

    def _vectors(self, channels: int) -> int:
        return -(-channels // self._machine.lanes)

    def _after(self, op: Op) -> int:
        return packing.after(op.activation, self._before(op), self._of[op.name])

    # Sources: pictures become codes, and windows read what lies around a map.

    def _around(self, op: Op) -> tuple[int, int, int, int]:
        """Return the top, left, height and width of the map with what a window reads around it."""
        top, left = op.padding[0], op.padding[2]
        _, height, width = self._shapes[op.sources[0]]
        reach = [(side - 1) * op.stride + op.kernel for side in op.out[1:]] if op.kind == "conv" else [0, 0]
        return top, left, max(top + height, reach[0]), max(left + width, reach[1])

    def _windowed(self, op: Op) -> View:
        """Return the source of a convolution with codes of zero around it, where its window leaves the map."""
        source = op.sources[0]
        if op.kernel == 1 and source != INPUT:
            return self._map(source)
        around = self._around(op)
        _, height, width = self._shapes[source]
        if source == INPUT:
            return self._entered(around, -(-self._plan.in_channels // 4) * 4)
        if around == (0, 0, height, width):
            return self._map(source)
        name = f"{source} within {around}"
        if name not in self._sizes:
            pixel = self._pixel[source]
            kernel = self._simple("surround", source, pixel, around, pixel)
            arguments = (self._map(source), packing.real(self._of[source]))
            self._write(kernel, arguments, codes(name, pixel, around[2:]), Axis(2, around[2]))
        return codes(name, self._pixel[source], around[2:])

    def _map(self, name: str) -> View:
        """Return a map as it lies; of the picture, codes with whole vectors of channels."""
        _, height, width = self._shapes[name]
        if name == INPUT:
            lanes = self._machine.lanes
            return self._entered((0, 0, height, width), self._vectors(self._plan.in_channels) * lanes)
        return codes(name, self._pixel[name], (height, width))

    def _entered(self, around: tuple[int, int, int, int], pixel: int) -> View:
        """Return the picture as codes."""
        name = f"{INPUT} within {around} by {pixel}"
        channels, height, width = self._shapes[INPUT]
        if name not in self._sizes:
            kernel = self._simple("enter", INPUT, channels, around, pixel)
            planes = View(INPUT, (width, height, channels), (1, width, width * height))
            arguments = (planes, packing.real(self._of[INPUT]))
            self._write(kernel, arguments, codes(name, pixel, around[2:]), Axis(2, around[2]))
        return codes(name, pixel, around[2:])

    def _simple(
        self, kind: Simple, source: str, channels: int, around: tuple[int, int, int, int], pixel: int
    ) -> Int8Simple:
        _, height, width = self._shapes[source]
        return Int8Simple(self._machine.lanes, kind, height, width, channels, around[0], around[1], around[3], pixel)

    # Weights.

    def _layer(self, op: Op, source: View, pixels: int, most: tuple[int, ...] | None = None) -> Int8Layer:
        """Return how a convolution over all channels is computed for rows of so many pixels."""
        vectors = self._vectors(self._out_channels(op))
        channels = op.source_shape[0] if op.kind == "conv" else prod(op.source_shape)
        terms = -(-channels // 4) if op.kernel == 1 else op.kernel * source.extents[0] // 4
        return Int8Layer(
            vectors, terms, self._after(op), *tiles(vectors, pixels, self._machine, most), op.kernel, op.stride
        )

    def _out_channels(self, op: Op) -> int:
        """Return the channels to compute: what scales a map has as many as that map has in memory."""
        scaled = (reader.sources[0] for reader in self._readers.get(op.name, ()) if reader.kind == "scale")
        return max(op.out[0], *(self._pixel.get(name, 0) for name in scaled), 0)

    def _packed(self, op: Op, weight: NDArray[np.int8], vectors: int, fill: int = 0) -> list[NDArray[Any]]:
        """Return the scales, the coding and the weights of a layer."""
        values = self._tensors[f"{op.name}.weight"].astype(np.int64)
        source, out, before = self._of[op.sources[0]], self._of[op.name], self._before(op)
        bias = self._tensors[f"{op.name}.bias"] - source.zero_point * values.reshape(len(values), -1).sum(axis=1)
        factors = multipliers(self._tensors[f"{op.name}.weight_scale"], source, before or out)
        return [
            packing.scales(bias, factors, self._machine.lanes, vectors),
            packing.coding(op.activation, before, out, fill),
            weight,
        ]

    def _packed_dense(
        self, op: Op, layer: Int8Layer, source: View, places: list[int] | None = None
    ) -> list[NDArray[Any]]:
        weight = self._tensors[f"{op.name}.weight"]
        pixel = None if op.kernel == 1 else source.extents[0]
        packed = packing.dense(weight, self._machine.lanes, layer.vectors, pixel)
        return self._packed(op, packed if places is None else packing.reordered(packed, places), layer.vectors)

    def _packs(self, op: Op, inner: int) -> int:
        """Return how many pixels of a depthwise convolution are packed at a time; 0 where clipping takes more."""
        if self._machine.lanes != 16 or inner < CHUNK or self._before(op):
            return 0
        scales, coding, _ = self._packed_depth(op, inner)
        weight = self._tensors[f"{op.name}.weight"]
        bias, factors = (scales[:, row].reshape(-1)[: len(weight)] for row in range(2))
        fits = packing.saturating(weight, bias, factors.view(np.float32), coding)
        return min((4, 5, 6), key=lambda pixels: -(-op.out[2] // pixels) * pixels) if fits else 0

    def _packed_depth(self, op: Op, vectors: int) -> list[NDArray[Any]]:
        weight = packing.depthwise(self._tensors[f"{op.name}.weight"], self._machine.lanes, vectors)
        return self._packed(op, weight, vectors, self._of[op.sources[0]].zero_point)

    def _sum(self, op: Op, second: str, first_zero: int) -> NDArray[np.uint8]:
        """Return how two maps are added, the first one the other source than `second`."""
        out = self._of[op.name]
        first = next((name for name in op.sources if name != second), second)
        target = self._before(op) or out
        factors = (self._of[first].scale / target.scale, self._of[second].scale / target.scale)
        zeros = (first_zero, self._of[second].zero_point)
        return packing.addition(op.activation, self._before(op), out, factors, zeros)

    # Calls.

    def _write(self, kernel: Int8Kernel, arguments: Sequence[Argument], out: View, axis: Axis) -> None:
        elements = 1 + sum((e - 1) * s for e, s in zip(out.extents, out.strides, strict=True))
        self._sizes[out.name] = -(-elements * out.item // 4)
        self._calls.append(Call(kernel, tuple(arguments), out, axis))

    def _fused(self, ops: Sequence[Op], at: int) -> int:
        """Take a depthwise convolution with what may go in front of and behind it; return how many operations."""
        start, first = at, None
        if _dense(ops[at]) and self._follows(ops[at], ops, at + 1) and ops[at + 1].depthwise:
            first, at = ops[at], at + 1
        depth = ops[at]
        if not depth.depthwise:
            return 0
        _, height, width = depth.source_shape
        source = self._map(depth.sources[0]) if first is None else self._windowed(first)
        inner = self._vectors(depth.out[0])
        layer = None if first is None else self._layer(first, source, width, DIVISORS)
        last = ops[at + 1] if self._follows(depth, ops, at + 1) and _pixelwise(ops[at + 1]) else None
        added = None if last is None else self._added(last, ops, at + 2)
        lanes, out_width, rows = self._machine.lanes, depth.out[2], 1
        then = None
        if last is not None:
            rows = rows_at_once(depth.out[1:], inner * lanes, inner * lanes * last.out[0])
            then = self._layer(last, codes("", inner * lanes, depth.out[1:]), rows * out_width)
        packed = self._packs(depth, inner) if then is not None else 0
        if then is not None and packed:
            then = replace(then, terms=4 * inner)
        kernel = Int8Fused(
            *(lanes, height, width, source.strides[2], source.extents[0], layer, inner),
            Window(depth.kernel, depth.stride, depth.padding[0], depth.padding[2]),
            tiles(1, out_width, self._machine)[1],
            self._after(depth),
            then,
            None if added is None else self._after(added),
            rows,
            packed,
        )
        kernel = chosen(kernel, self._choices.get(shape(kernel)))
        arguments: list[Argument] = [source]
        if first is not None and layer is not None:
            arguments += self._packed_dense(first, layer, source)
        arguments += self._packed_depth(depth, inner)
        end = depth
        if last is not None and kernel.last is not None:
            arguments += self._packed_dense(last, kernel.last, source, order(inner) if packed else None)
            end = last
        if added is not None and last is not None:
            arguments += self._other(added, last)
            end = added
        self._pixel[end.name] = kernel.out_pixel
        self._write(kernel, arguments, codes(end.name, kernel.out_pixel, depth.out[1:]), Axis(2, depth.out[1]))
        return ops.index(end) - start + 1

    def _other(self, op: Op, first: Op) -> list[Argument]:
        """Return the other source of an addition, and how it is added to the steps of the first."""
        second = next(name for name in op.sources if name != first.name)
        return [self._map(second), self._sum(op, second, 0)]

    def _dense(self, ops: Sequence[Op], at: int) -> int:
        """Take a convolution over all channels or a fully connected layer, with an addition or a mean behind it."""
        op = ops[at]
        if op.kind != "linear" and not _dense(op):
            return 0
        source = self._windowed(op)
        _, height, width = op.out
        flat = op.kind == "linear" or op.out[1:] == (1, 1) == op.source_shape[1:] or _pixelwise(op)
        mean = flat and height * width > 1 and self._follows(op, ops, at + 1) and ops[at + 1].kind == "pool"
        pixels = height * width if flat else width
        layer = self._layer(op, source, pixels)
        added = self._added(op, ops, at + 1) if flat else None
        end = ops[at + 1] if mean or added is not None else op
        kernel = Int8Dense(
            *(self._machine.lanes, pixels, source.strides[2], source.extents[0], layer, flat),
            None if added is None else self._after(added),
            self._after(end) if mean else None,
        )
        kernel = chosen(kernel, self._choices.get(shape(kernel)))
        layer = kernel.layer
        arguments: list[Argument] = [source, *self._packed_dense(op, layer, source)]
        if mean:
            arguments += self._mean(end, pixels, layer.vectors)
        if added is not None:
            arguments += self._other(added, op)
        channels = layer.vectors * self._machine.lanes
        self._pixel[end.name] = channels
        if mean or height * width == 1:
            out, axis = codes(end.name, channels, (1, 1)), Axis(0, channels, layer.tile_vectors * self._machine.lanes)
        elif flat:
            out, axis = codes(end.name, channels, (1, pixels)), Axis(1, pixels, layer.tile_pixels)
        else:
            out, axis = codes(end.name, channels, (height, width)), Axis(2, height)
        self._write(kernel, arguments, out, axis)
        return ops.index(end) - at + 1

    def _mean(self, op: Op, pixels: int, vectors: int) -> list[NDArray[Any]]:
        """Return how a sum over pixels becomes codes."""
        source, out, before = self._of[op.sources[0]], self._of[op.name], self._before(op)
        channels, target = vectors * self._machine.lanes, before or out
        bias = np.full(channels, -source.zero_point * pixels, np.int64)
        factor = np.array([source.scale / (target.scale * pixels)], np.float32)
        return [
            packing.scales(bias, factor, self._machine.lanes, vectors),
            packing.coding(op.activation, before, out),
        ]

    def _single(self, op: Op) -> None:
        """Take an operation without weights by itself."""
        source = self._map(op.sources[0])
        channels, width, height = source.extents
        lanes, after = self._machine.lanes, self._after(op)
        self._pixel[op.name] = channels
        if op.kind == "pool":
            kernel = Int8Simple(lanes, "pool", height, width, channels, after=after)
            arguments: list[Argument] = [source, *self._mean(op, height * width, channels // lanes)]
            self._write(kernel, arguments, codes(op.name, channels, (1, 1)), Axis(0, channels, lanes))
            return
        other = self._map(op.sources[1])
        if op.kind == "add":
            numbers = self._sum(op, op.sources[1], self._of[op.sources[0]].zero_point)
            kernel = Int8Simple(lanes, "added", height, width, channels, after=after)
        else:
            one, two = (self._of[name] for name in op.sources)
            target = self._before(op) or self._of[op.name]
            factors = (one.scale * two.scale / target.scale, 0.0)
            zeros = (one.zero_point, two.zero_point)
            numbers = packing.addition(op.activation, self._before(op), self._of[op.name], factors, zeros)
            kernel = Int8Simple(lanes, "scaled", height, width, channels, after=after)
        pixels = height * width
        self._write(kernel, [source, other, numbers], codes(op.name, channels, (1, pixels)), Axis(1, pixels))

    def _leave(self, name: str) -> View:
        """Return an output as real numbers."""
        source = self._map(name)
        channels, width, height = source.extents
        out = View(f"{name} as real numbers", source.extents, source.strides)
        kernel = Int8Simple(self._machine.lanes, "leave", height, width, channels)
        self._write(kernel, [source, packing.real(self._of[name])], out, Axis(2, height))
        return out


def _dense(op: Op) -> bool:
    return op.kind == "conv" and op.groups == 1


def _pixelwise(op: Op) -> bool:
    return _dense(op) and op.kernel == 1 and op.stride == 1
