"""The fused kernel in Halide.

Loops are over rows, blocks of channels, tiles of pixels; a tile's sums are in registers. The rows between the
convolutions are kept in rings of a known size: rows are asked for in rising order, clamped to the map, and what is
clamped is multiplied by zero weights (see `kernels.Cases`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import halide as hl

from mobilenets.engine.forms import (
    CI,
    CL,
    CO,
    CV,
    XI,
    XO,
    YI,
    YO,
    C,
    Generated,
    Tail,
    X,
    Y,
    activate,
    biases,
    fixed,
    in_registers,
    in_vectors,
    parameter,
    sums_of,
    surrounded,
    tiles,
    weights,
    window_sums,
)
from mobilenets.engine.kernels import Dense, Depthwise, Fused, cases
from mobilenets.engine.schedules import Machine
from mobilenets.engine.scratch import ring_rows


def fused(kernel: Fused, machine: Machine) -> Generated:
    """Compute up to three convolutions, in rings of rows or block by block."""
    source = parameter("source")
    if kernel.planar:
        fixed(source, kernel.width, kernel.height, kernel.channels)
    else:
        fixed(source, kernel.channels, kernel.width, kernel.height)
    arguments: list[Any] = [source]
    inner_height, inner_width = kernel.inner_sides
    block, blocks = kernel.depthwise.tile.block, kernel.inner // kernel.depthwise.tile.block
    first = None
    if kernel.first is not None:
        first = _First(kernel, kernel.first, source, machine)
        arguments += first.parameters

        def inner(ci: Any, co: Any, x: Any, y: Any) -> Any:
            return first.out[ci, co, x, y]
    else:

        def inner(ci: Any, co: Any, x: Any, y: Any) -> Any:
            return source[co * block + ci, x, y]

    depth = kernel.depthwise
    count = cases(depth.window, inner_height).count
    weight = fixed(parameter("depthwise_weight", 4), block, depth.window.kernel**2, count, blocks)
    bias = biases("depthwise", blocks, block)
    arguments += [weight, bias]
    spatial = hl.Func("spatial")
    spatial[CI, CO, X, Y] = _depthwise(depth, inner, weight, bias, inner_height, inner_width)
    if kernel.last is None:
        out = _whole(kernel, spatial, first, machine)
    else:
        out = _rows(kernel, spatial, first, machine, arguments)
    return Generated(out, arguments)


def _depthwise(depth: Depthwise, inner: Callable[..., Any], weight: Any, bias: Any, height: int, width: int) -> Any:
    """Return the value of a depthwise convolution at (ci, co, x, y)."""
    window = depth.window
    case = cases(window, height)
    rows = -(-height // window.stride)
    which = hl.min(Y, case.top) + hl.max(0, Y - (rows - 1 - case.bottom))
    total = bias[CI, CO]
    for row in range(window.kernel):
        y = hl.clamp(Y * window.stride + (row - window.top), 0, height - 1)
        for column in range(window.kernel):
            x = X * window.stride + (column - window.left)
            value = inner(CI, CO, hl.clamp(x, 0, width - 1), y) * weight[CI, row * window.kernel + column, which, CO]
            if column < window.left or column > window.left:
                value = hl.select(hl.likely((x >= 0) & (x < width)), value, 0.0)
            total += value
    return activate(total, depth.activation)


class _First:
    """The convolution in front of a depthwise one."""

    def __init__(self, kernel: Fused, dense: Dense, source: Any, machine: Machine) -> None:
        self._dense, self._machine = dense, machine
        self._window = dense.window
        pixel = dense.window.kernel == 1 and not kernel.planar
        terms = kernel.channels * dense.window.kernel**2
        weight, bias = weights("first", dense, terms), biases("first", dense.blocks, dense.tile.block)
        self.parameters = [weight, bias]
        if pixel:
            r = hl.RDom([(0, kernel.channels)], "terms")
            self._inner = [r.x]
            self._padded = None
            s = dense.window.stride
            self._sums = sums_of("first", weight, bias, lambda x, y: source[r.x, x * s, y * s], r.x)
        else:
            self._padded = surrounded(source, kernel.height, kernel.width, planar=kernel.planar)
            self._sums, self._inner = window_sums("first", dense, weight, bias, self._padded, kernel.channels)
        self.out = hl.Func("first")
        self.out[CI, CO, X, Y] = activate(self._sums[CI, CO, X, Y], dense.activation)

    def schedule(self, at: Any, variable: Any, kernel: Fused, rows: int, kept: Any | None) -> None:
        """Compute what is needed of it at a loop of `at`, into a ring of so many rows, kept in a loop or throughout."""
        height, width = kernel.inner_sides
        dense, tile = self._dense, self._dense.tile
        out = self.out
        if kept is None:
            out.compute_at(at, variable).store_root()
        elif rows < height:
            out.compute_at(at, variable).store_at(at, kept)
        else:  # a row may read them all, so there is nothing to go through
            out.compute_at(at, kept).bound(Y, 0, height)
        out.bound(CI, 0, tile.block).bound(X, 0, width)
        if rows < height:
            out.fold_storage(Y, rows)
        else:
            out.bound_storage(Y, height)
        lanes = min(self._machine.lanes, tile.block)
        pixels = min(tile.pixels, width)
        out.split(X, XO, XI, pixels, Tail.ShiftInwards).split(CI, CV, CL, lanes).reorder(CL, CV, XI, XO, Y, CO)
        out.vectorize(CL).unroll(CV).unroll(XI)
        self._sums.compute_at(out, XO)
        in_registers(self._sums, dense, self._machine, self._inner)
        if self._padded is not None:
            self._padded.compute_at(out, Y)
            in_vectors(self._padded, kernel.channels, self._machine)


def _whole(kernel: Fused, spatial: Any, first: _First | None, machine: Machine) -> Any:
    """Write the depthwise convolution's map, one block of channels after another."""
    block = kernel.depthwise.tile.block
    lanes = min(machine.lanes, block)
    height, width = kernel.sides
    out = hl.Func("out")
    out[CI, CO, X, Y] = spatial[CI, CO, X, Y]
    buffer = out.output_buffer()
    buffer.dim(0).set_bounds(0, block).set_stride(1)
    buffer.dim(1).set_stride(block)
    buffer.dim(2).set_bounds(0, width).set_stride(kernel.inner)
    buffer.dim(3).set_bounds(0, height).set_stride(kernel.inner * width)
    pixels = min(kernel.depthwise.tile.pixels, width)
    out.split(CI, CV, CL, lanes).split(X, XO, XI, pixels, Tail.ShiftInwards)
    out.reorder(CL, XI, CV, XO, Y, CO).vectorize(CL).unroll(XI)
    if first is not None:
        first.schedule(out, Y, kernel, ring_rows(kernel), CO)
    return out


def _rows(kernel: Fused, spatial: Any, first: _First | None, machine: Machine, arguments: list[Any]) -> Any:
    """Write the 1x1 convolution's map, row by row."""
    assert kernel.last is not None
    last, width = kernel.last, kernel.sides[1]
    block, blocks = kernel.depthwise.tile.block, kernel.inner // kernel.depthwise.tile.block
    weight, bias = weights("last", last, kernel.inner), biases("last", last.blocks, last.tile.block)
    arguments += [weight, bias]
    r = hl.RDom([(0, block), (0, blocks)], "inner")
    sums = sums_of("last", weight, bias, lambda x, y: spatial[r.x, r.y, x, y], r.y * block + r.x)
    out = hl.Func("out")
    value = activate(sums[C % last.tile.block, C // last.tile.block, X, Y], last.activation)
    if kernel.add:
        other = fixed(parameter("other"), last.channels, width, kernel.sides[0])
        arguments.append(other)
        value += other[C, X, Y]
    out[C, X, Y] = value
    buffer = out.output_buffer()
    buffer.dim(0).set_bounds(0, last.channels).set_stride(1)
    buffer.dim(1).set_bounds(0, width).set_stride(last.channels)
    buffer.dim(2).set_stride(last.channels * width)
    out.split(Y, YO, YI, kernel.rows, Tail.RoundUp)
    tiles(out, last, width, machine)
    out.reorder(CL, CV, XI, XO, YI, CO, YO)
    sums.compute_at(out, XO)
    in_registers(sums, last, machine, [r.x, r.y])
    pixels = min(kernel.depthwise.tile.pixels, width)
    lanes = min(machine.lanes, block)
    spatial.compute_at(out, YO).bound(CI, 0, block).bound(CO, 0, blocks).bound(X, 0, width)
    spatial.split(CI, CV, CL, lanes).split(X, XO, XI, pixels, Tail.ShiftInwards)
    spatial.reorder(CL, XI, CV, XO, Y, CO).vectorize(CL).unroll(XI)
    if first is not None:
        first.schedule(spatial, CO, kernel, ring_rows(kernel), None)
    return out
