"""A plan as calls of kernels: which operations run as one, and what each call reads, multiplies by and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from mobilenets.arch import Op, Plan
from mobilenets.arch.plan import padding
from mobilenets.engine import packing, schedules
from mobilenets.engine.c_kernels import in_c, last_lanes
from mobilenets.engine.choices import Choice, Tiled, chosen, shape
from mobilenets.engine.kernels import (
    Combine,
    Convolution,
    Dense,
    Depthwise,
    Fused,
    Interleave,
    Kernel,
    Linear,
    Mean,
    Pointwise,
    Tile,
    Window,
)
from mobilenets.engine.schedules import Machine
from mobilenets.engine.stages import readers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.engine.folding import Layer
    from mobilenets.engine.int8_kernels import AnyKernel

INPUT = "input"
INTERLEAVED = "input.interleaved"
SMALL_ROWS = 8
"""Maps with no more rows than this are finished by channels before they are projected: rows would be too short."""
APART_PIXELS = 256
"""Up to so many pixels a 1x1 convolution is a kernel of its own, where it is C (see `c_kernels`).

These maps lie in the second cache as a whole. What is waited for are weights, and C asks for them ahead.
"""


@dataclass(frozen=True, slots=True)
class Axis:
    """The dimension of the output that threads share: its place, its extent, and the steps it may be cut in."""

    place: int
    extent: int
    unit: int = 1


@dataclass(frozen=True, slots=True)
class View:
    """A value as a kernel sees it: extents from the innermost on, strides in elements, and the bytes of one."""

    name: str
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    item: int = 4


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One kernel with its arguments in order: values and packed weights; the last one is what it writes."""

    kernel: AnyKernel
    arguments: tuple[View | NDArray[Any], ...]
    out: View
    axis: Axis


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Everything that runs for one picture, in order; `sizes` are those of every value by name, in four bytes."""

    calls: tuple[Call, ...]
    sizes: Mapping[str, int]
    outputs: tuple[View, ...]


def resized(layout: Plan, resolution: tuple[int, int]) -> Plan:
    """Return a plan with the same operations at another resolution: strides stay as they are."""
    shapes = {INPUT: (layout.in_channels, *resolution)}
    ops: list[Op] = []
    for op in layout.ops:
        source = shapes[op.sources[0]]
        out, sides = (op.out[0], *source[1:]), op.padding
        if op.kind in ("pool", "linear"):
            out = (op.out[0], 1, 1)
        elif op.kind == "conv":
            out = (op.out[0], -(-source[1] // op.stride), -(-source[2] // op.stride))
            rule = layout.arch.padding
            sides = (*padding(source[1], op.kernel, op.stride, rule), *padding(source[2], op.kernel, op.stride, rule))
        shapes[op.name] = out
        ops.append(replace(op, source_shape=source, out=out, padding=sides))
    return replace(layout, resolution=resolution, ops=tuple(ops))


def lower(
    layout: Plan, layers: Mapping[str, Layer], machine: Machine, choices: Mapping[str, Choice] | None = None
) -> Network:
    """Return the calls that compute a plan with these weights.

    Args:
        layout: the plan, at the size of the pictures.
        layers: weights and biases, BatchNorms folded in.
        machine: what the rules for tiles have to know.
        choices: tiles by what a kernel computes (its shape, see :func:`shape`); others follow the rules.
    """
    return _Lowering(layout, layers, machine, choices or {}).network()


def flat(name: str, channels: int, pixels: int) -> View:
    """Return a map as pixels in a row."""
    return View(name, (channels, pixels), (1, channels))


def spatial(name: str, channels: int, sides: tuple[int, int]) -> View:
    """Return a map as rows and columns of pixels."""
    return View(name, (channels, sides[1], sides[0]), (1, channels, channels * sides[1]))


def vector(name: str, channels: int) -> View:
    """Return what has no pixels."""
    return View(name, (channels,), (1,))


class _Lowering:
    def __init__(
        self, layout: Plan, layers: Mapping[str, Layer], machine: Machine, choices: Mapping[str, Choice]
    ) -> None:
        self._plan, self._layers, self._machine = layout, layers, machine
        self._choices = choices
        self._readers = readers(layout)
        self._calls: list[Call] = []
        self._sizes = {INPUT: prod(layout.input_shape)}
        self._channels = {INPUT: layout.in_channels}  # as they lie in memory: there may be more than the plan's
        self._shapes = {INPUT: layout.input_shape, **{op.name: op.out for op in layout.ops}}

    def network(self) -> Network:
        ops = self._plan.ops
        at = 0
        while at < len(ops):
            taken = self._fused(ops, at) or self._mean_of_pointwise(ops, at) or self._pointwise(ops, at)
            if not taken:
                self._single(ops[at])
                taken = 1
            at += taken
        outputs = []
        for name in self._plan.outputs:
            _, height, width = self._shapes[name]
            outputs.append(spatial(name, self._channels[name], (height, width)))
        return Network(tuple(self._calls), self._sizes, tuple(outputs))

    def _follows(self, op: Op, ops: Sequence[Op], at: int) -> bool:
        """Say whether ops[at] is all that reads an operation, so that no other needs its map."""
        return (
            at < len(ops)
            and op.name not in self._plan.outputs
            and self._readers.get(op.name, ()) == (ops[at],)
            and op.name in ops[at].sources
        )

    def _fused(self, ops: Sequence[Op], at: int) -> int:
        """Take a depthwise convolution with what may go in front of and behind it; return how many operations."""
        start, first = at, None
        op = ops[at]
        planar = op.sources[0] == INPUT
        if _dense(op) and (op.kernel == 1 or planar) and self._follows(op, ops, at + 1) and ops[at + 1].depthwise:
            first, at = op, at + 1
        depth = ops[at]
        if not depth.depthwise or (first is None and planar):
            return 0
        source = ops[start].sources[0]
        machine, (_, height, width) = self._machine, self._shapes[source]
        inner = None
        if first is not None:
            inner = _layer(first, schedules.dense_tile(first.out[0], first.out[2], machine))
        block = schedules.depthwise_block(self._channels[source], machine) if inner is None else inner.tile.block
        tile = Tile(block, schedules.depthwise_pixels(depth.out[2]))
        middle = Depthwise(_window(depth), depth.activation, tile)
        kernel = Fused(height, width, self._channels[source], inner, middle, None, planar=planar)
        if first is not None and self._apart(first) and not in_c(kernel, machine):
            return 0
        last = ops[at + 1] if self._follows(depth, ops, at + 1) else None
        if last is None or not _pixelwise(last) or depth.out[1] <= SMALL_ROWS or self._apart(last):
            kernel = self._chosen(kernel)
            self._whole(kernel, first, depth, source)
            return at - start + 1
        added = self._added(last, ops, at + 2)
        rows = schedules.rows_at_once(kernel.sides, kernel.inner, last.out[0]) if first is None else 1
        kernel = replace(kernel, last=_layer(last, Tile(machine.lanes, 1)), add=added is not None, rows=rows)
        lanes = last_lanes(kernel, machine)
        tile = schedules.dense_tile(last.out[0], depth.out[2], replace(machine, lanes=lanes))
        kernel = self._chosen(replace(kernel, last=_layer(last, tile)))
        self._rows(kernel, first, depth, last, source, added)
        return at - start + (2 if added is None else 3)

    def _apart(self, op: Op) -> bool:
        """Say whether a 1x1 convolution is a kernel of its own, and in C."""
        pixels = op.out[1] * op.out[2]
        if not _pixelwise(op) or not 1 < pixels <= APART_PIXELS:
            return False
        dense = _layer(op, schedules.dense_tile(op.out[0], pixels, self._machine))
        return in_c(Pointwise(pixels, op.source_shape[0], dense), self._machine)

    def _added(self, op: Op, ops: Sequence[Op], at: int) -> str | None:
        """Return the other source of an addition that is all that reads an operation and directly follows it."""
        if not self._follows(op, ops, at) or ops[at].kind != "add" or op.activation is not None:
            return None
        if ops[at].activation is not None or len(set(ops[at].sources)) != 2:
            return None
        other = next(name for name in ops[at].sources if name != op.name)
        return other if other != INPUT and self._channels[other] == op.out[0] else None

    def _chosen(self, kernel: Tiled) -> Tiled:
        return chosen(kernel, self._choices.get(shape(kernel)))

    def _front(self, kernel: Fused, first: Op | None, depth: Op, source: str) -> list[View | NDArray[Any]]:
        """Return the arguments up to the depthwise convolution's."""
        view = self._source(source, planar=kernel.planar)
        arguments: list[View | NDArray[Any]] = [view]
        if kernel.first is not None and first is not None:
            arguments += self._packed(first, kernel.first, kernel.channels)
        layer, block = self._layers[depth.name], kernel.depthwise.tile.block
        rows = kernel.inner_sides[0]
        weight = packing.depthwise(layer.weight, kernel.depthwise.window, rows, kernel.inner, block)
        return [*arguments, weight, packing.bias(layer.bias, kernel.inner, block)]

    def _source(self, name: str, *, planar: bool = False) -> View:
        _, height, width = self._shapes[name]
        channels = self._channels[name]
        if planar:
            return View(name, (width, height, channels), (1, width, width * height))
        return spatial(self._here(name), channels, (height, width))

    def _here(self, name: str) -> str:
        """Return the value to read for a map with its channels beside one another: the picture is interleaved once."""
        if name != INPUT:
            return name
        if INTERLEAVED not in self._sizes:
            channels, height, width = self._shapes[INPUT]
            pixels = height * width
            planar = View(INPUT, (pixels, channels), (1, pixels))
            self._sizes[INTERLEAVED] = channels * pixels
            out = flat(INTERLEAVED, channels, pixels)
            self._calls.append(Call(Interleave(pixels, channels), (planar,), out, Axis(1, pixels)))
        return INTERLEAVED

    def _packed(self, op: Op, dense: Dense, sources: int, *, pairs: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        layer = self._layers[op.name]
        return (
            (packing.paired if pairs else packing.dense)(layer.weight, dense, sources),
            packing.bias(layer.bias, dense.padded, dense.tile.block),
        )

    def _write(self, kernel: Kernel, arguments: Sequence[View | NDArray[Any]], out: View, axis: Axis) -> None:
        self._sizes[out.name] = 1 + sum((e - 1) * s for e, s in zip(out.extents, out.strides, strict=True))
        self._calls.append(Call(kernel, tuple(arguments), out, axis))

    def _whole(self, kernel: Fused, first: Op | None, depth: Op, source: str) -> None:
        height, width = kernel.sides
        block, inner = kernel.depthwise.tile.block, kernel.inner
        arguments = self._front(kernel, first, depth, source)
        out = View(depth.name, (block, inner // block, width, height), (1, block, inner, inner * width))
        self._channels[depth.name] = inner
        self._write(kernel, arguments, out, Axis(1, inner // block))

    def _rows(self, kernel: Fused, first: Op | None, depth: Op, last: Op, source: str, added: str | None) -> None:
        assert kernel.last is not None
        arguments = self._front(kernel, first, depth, source)
        arguments += self._packed(last, kernel.last, kernel.inner, pairs=in_c(kernel, self._machine))
        name = last.name
        if added is not None:
            arguments.append(spatial(added, last.out[0], kernel.sides))
            name = next(op.name for op in self._readers[last.name])
        self._channels[name] = last.out[0]
        out = spatial(name, last.out[0], kernel.sides)
        self._write(kernel, arguments, out, Axis(2, kernel.sides[0], kernel.rows))

    def _mean_of_pointwise(self, ops: Sequence[Op], at: int) -> int:
        """Take a 1x1 convolution and the pooling behind it."""
        op = ops[at]
        if not _pixelwise(op) or not self._follows(op, ops, at + 1) or ops[at + 1].kind != "pool":
            return 0
        source = op.sources[0]
        pixels = op.out[1] * op.out[2]
        tile = schedules.mean_tile(op.out[0], pixels, self._machine)
        if tile is None or ops[at + 1].activation is not None:
            return 0
        channels, dense = self._channels[source], _layer(op, tile)
        kernel = self._chosen(Pointwise(pixels, channels, dense, mean=True))
        dense = kernel.dense
        view = flat(self._here(source), channels, pixels)
        out = _blocks(ops[at + 1].name, dense)
        self._channels[out.name] = dense.padded
        self._write(kernel, (view, *self._packed(op, dense, channels)), out, Axis(1, dense.blocks))
        return 2

    def _pointwise(self, ops: Sequence[Op], at: int) -> int:
        """Take a 1x1 convolution with a scaling in front of it and an addition behind it."""
        start, op, scale = at, ops[at], None
        if op.kind == "scale" and self._follows(op, ops, at + 1) and _pixelwise(ops[at + 1]):
            scale, at = op, at + 1
            op = ops[at]
        if not _pixelwise(op) or op.out[1:] == (1, 1):
            return 0
        source = op.sources[0] if scale is None else scale.sources[0]
        pixels, channels = op.out[1] * op.out[2], self._channels[source]
        dense = _layer(op, schedules.dense_tile(op.out[0], pixels, self._machine))
        added = self._added(op, ops, at + 1)
        gated = None if scale is None else scale.activation
        kernel = self._chosen(Pointwise(pixels, channels, dense, added is not None, scale is not None, gated))
        dense = kernel.dense
        arguments: list[View | NDArray[Any]] = [flat(self._here(source), channels, pixels)]
        if scale is not None:
            arguments.append(vector(scale.sources[1], channels))
        arguments += self._packed(op, dense, channels)
        if added is not None:
            arguments.append(flat(added, op.out[0], pixels))
            op, at = ops[at + 1], at + 1
        self._channels[op.name] = op.out[0]
        out = flat(op.name, op.out[0], pixels)
        self._write(kernel, arguments, out, Axis(1, pixels, min(dense.tile.pixels, pixels)))
        return at - start + 1

    def _single(self, op: Op) -> None:
        """Take an operation by itself."""
        source, channels = op.sources[0], self._channels[op.sources[0]]
        _, height, width = self._shapes[source]
        pixels = height * width
        if op.kind == "linear" or (_dense(op) and op.kernel == 1 and pixels == 1):
            self._linear(op, channels)
        elif op.kind == "conv":
            planar = source == INPUT
            dense = _layer(op, schedules.dense_tile(op.out[0], op.out[2], self._machine))
            kernel = self._chosen(Convolution(height, width, channels, dense, planar))
            dense = kernel.dense
            arguments = (self._source(source, planar=planar), *self._packed(op, dense, channels))
            self._channels[op.name] = op.out[0]
            out = spatial(op.name, op.out[0], (op.out[1], op.out[2]))
            self._write(kernel, arguments, out, Axis(2, op.out[1]))
        elif op.kind == "pool":
            self._channels[op.name] = channels
            view = flat(self._here(source), channels, pixels)
            self._write(Mean(pixels, channels), (view,), vector(op.name, channels), Axis(0, channels, channels))
        else:
            self._combine(op, channels, pixels)

    def _linear(self, op: Op, channels: int) -> None:
        """A layer without pixels; what scales a map has as many channels as that map has in memory."""
        count = op.out[0]
        for reader in self._readers.get(op.name, ()):
            if reader.kind == "scale":
                count = max(count, self._channels[reader.sources[0]])
        kernel = Linear(channels, Dense(count, Window(), op.activation, schedules.linear_tile(count, self._machine)))
        kernel = self._chosen(kernel)
        dense = kernel.dense
        out = _blocks(op.name, dense)
        self._channels[op.name] = dense.padded
        arguments = (vector(self._here(op.sources[0]), channels), *self._packed(op, dense, channels))
        self._write(kernel, arguments, out, Axis(1, dense.blocks))

    def _combine(self, op: Op, channels: int, pixels: int) -> None:
        first, second = (self._here(name) for name in op.sources)
        if op.kind == "add" and pixels == 1:  # in memory, one source may have more channels than the other
            channels = min(channels, self._channels[op.sources[1]])
        other = flat(second, channels, pixels) if op.kind == "add" else vector(second, channels)
        kernel = Combine(pixels, channels, op.kind, op.activation)
        self._channels[op.name] = channels
        self._write(kernel, (flat(first, channels, pixels), other), flat(op.name, channels, pixels), Axis(1, pixels))


def _blocks(name: str, dense: Dense) -> View:
    return View(name, (dense.tile.block, dense.blocks), (1, dense.tile.block))


def _dense(op: Op) -> bool:
    return op.kind == "conv" and op.groups == 1


def _pixelwise(op: Op) -> bool:
    return _dense(op) and op.kernel == 1 and op.stride == 1


def _window(op: Op) -> Window:
    return Window(op.kernel, op.stride, op.padding[0], op.padding[2])


def _layer(op: Op, tile: Tile) -> Dense:
    return Dense(op.out[0], _window(op), op.activation, tile)
