"""The kernels in Halide that are one operation, or a 1x1 convolution with what is computed on its way."""

from __future__ import annotations

from typing import Any

import halide as hl

from mobilenets.engine.forms import (
    CI,
    CL,
    CO,
    CV,
    XI,
    XO,
    C,
    Generated,
    Tail,
    X,
    Y,
    activate,
    biases,
    fixed,
    flat_in_registers,
    in_blocks,
    in_registers,
    in_vectors,
    parameter,
    surrounded,
    tiles,
    weights,
    window_sums,
)
from mobilenets.engine.kernels import Combine, Convolution, Interleave, Linear, Mean, Pointwise
from mobilenets.engine.schedules import Machine


def convolution(kernel: Convolution, machine: Machine) -> Generated:
    """Convolve with a window: rows of the source with zeros around them are copied first."""
    dense = kernel.dense
    source = parameter("source")
    shape = (kernel.channels, kernel.width, kernel.height)
    fixed(source, *(shape[1:] + shape[:1] if kernel.planar else shape))
    weight = weights("first", dense, kernel.channels * dense.window.kernel**2)
    bias = biases("first", dense.blocks, dense.tile.block)
    padded = surrounded(source, kernel.height, kernel.width, planar=kernel.planar)
    sums, inner = window_sums("first", dense, weight, bias, padded, kernel.channels)
    out = hl.Func("out")
    out[C, X, Y] = activate(sums[C % dense.tile.block, C // dense.tile.block, X, Y], dense.activation)
    width = kernel.sides[1]
    buffer = out.output_buffer()
    buffer.dim(0).set_bounds(0, dense.channels).set_stride(1)
    buffer.dim(1).set_bounds(0, width).set_stride(dense.channels)
    buffer.dim(2).set_stride(dense.channels * width)
    tiles(out, dense, width, machine)
    out.reorder(CL, CV, XI, XO, CO, Y)
    sums.compute_at(out, XO)
    in_registers(sums, dense, machine, inner)
    padded.compute_at(out, Y)
    in_vectors(padded, kernel.channels, machine)
    return Generated(out, [source, weight, bias])


def pointwise(kernel: Pointwise, machine: Machine) -> Generated:
    """Convolve pixels in a row, each by itself."""
    dense = kernel.dense
    source = fixed(parameter("source", 2), kernel.channels, kernel.pixels)
    weight, bias = weights("last", dense, kernel.channels), biases("last", dense.blocks, dense.tile.block)
    arguments = [source]
    r = hl.RDom([(0, kernel.channels)], "terms")
    factor = _gated(kernel, source, arguments)
    sums = hl.Func("sums")
    sums[CI, CO, X] = bias[CI, CO]
    sums[CI, CO, X] += weight[CI, r.x, CO] * factor[r.x, X]
    arguments += [weight, bias]
    value = activate(sums[C % dense.tile.block, C // dense.tile.block, X], dense.activation)
    if kernel.add:
        other = fixed(parameter("other", 2), dense.channels, kernel.pixels)
        arguments.append(other)
        value += other[C, X]
    out = hl.Func("out")
    out[C, X] = value
    buffer = out.output_buffer()
    buffer.dim(0).set_bounds(0, dense.channels).set_stride(1)
    buffer.dim(1).set_stride(dense.channels)
    tiles(out, dense, kernel.pixels, machine)
    if kernel.gate:
        out.reorder(CL, CV, XI, CO, XO)
        whole = kernel.channels % machine.lanes == 0
        factor.compute_at(out, XO).vectorize(C, machine.lanes, Tail.RoundUp if whole else Tail.GuardWithIf)
        sums.compute_at(out, CO)
    else:
        out.reorder(CL, CV, XI, XO, CO)
        sums.compute_at(out, XO)
    flat_in_registers(sums, dense, machine, r.x)
    return Generated(out, arguments)


def _gated(kernel: Pointwise, source: Any, arguments: list[Any]) -> Any:
    """Return what is multiplied by weights: the source, or the source scaled by channel and activated."""
    if not kernel.gate:
        return source
    gate = fixed(parameter("gate", 1), kernel.channels)
    arguments.append(gate)
    scaled = hl.Func("scaled")
    scaled[C, X] = activate(source[C, X] * gate[C], kernel.gated)
    return scaled


def mean_of_pointwise(kernel: Pointwise, machine: Machine) -> Generated:
    """Convolve pixels and take the mean over them all: each tile is added up and forgotten."""
    dense, tile = kernel.dense, kernel.dense.tile
    assert kernel.pixels % tile.pixels == 0, kernel
    source = fixed(parameter("source", 2), kernel.channels, kernel.pixels)
    weight, bias = weights("last", dense, kernel.channels), biases("last", dense.blocks, tile.block)
    r = hl.RDom([(0, kernel.channels)], "terms")
    sums, total, out = hl.Func("sums"), hl.Func("total"), hl.Func("out")
    sums[CI, CO, X] = bias[CI, CO]
    sums[CI, CO, X] += weight[CI, r.x, CO] * source[r.x, X]
    p = hl.RDom([(0, tile.pixels), (0, kernel.pixels // tile.pixels)], "pixels")
    total[CI, CO] = 0.0
    total[CI, CO] += activate(sums[CI, CO, p.y * tile.pixels + p.x], dense.activation)
    out[CI, CO] = total[CI, CO] * hl.f32(1.0 / kernel.pixels)
    lanes = min(machine.lanes, tile.block)
    in_blocks(out, tile.block, lanes)
    total.bound_extent(CO, 1)
    total.compute_at(out, CO).split(CI, CV, CL, lanes).vectorize(CL).unroll(CV)
    update = total.update().split(CI, CV, CL, lanes).reorder(CL, CV, p.x, CO, p.y)
    update.vectorize(CL).unroll(CV).unroll(p.x)
    sums.compute_at(total, p.y)
    flat_in_registers(sums, dense, machine, r.x)
    return Generated(out, [source, weight, bias])


def linear(kernel: Linear, machine: Machine) -> Generated:
    """Multiply by a matrix: weights are read once, one after another."""
    dense, block = kernel.dense, kernel.dense.tile.block
    source = fixed(parameter("source", 1), kernel.channels)
    weight, bias = weights("last", dense, kernel.channels), biases("last", dense.blocks, block)
    r = hl.RDom([(0, kernel.channels)], "terms")
    sums, out = hl.Func("sums"), hl.Func("out")
    sums[CI, CO] = bias[CI, CO]
    sums[CI, CO] += weight[CI, r.x, CO] * source[r.x]
    out[CI, CO] = activate(sums[CI, CO], dense.activation)
    lanes = min(machine.lanes, block)
    in_blocks(out, block, lanes)
    sums.bound_extent(CO, 1)
    sums.compute_at(out, CO).split(CI, CV, CL, lanes).vectorize(CL).unroll(CV)
    sums.update().split(CI, CV, CL, lanes).reorder(CL, CV, r.x, CO).vectorize(CL).unroll(CV)
    return Generated(out, [source, weight, bias])


def mean(kernel: Mean, machine: Machine) -> Generated:
    """Take the mean over pixels: a few vectors of channels at a time."""
    source = fixed(parameter("source", 2), kernel.channels, kernel.pixels)
    r = hl.RDom([(0, kernel.pixels)], "pixels")
    total, out = hl.Func("total"), hl.Func("out")
    total[C] = 0.0
    total[C] += source[C, r.x]
    out[C] = total[C] * hl.f32(1.0 / kernel.pixels)
    # Vectors that divide the channels: nothing is read behind the last one.
    lanes = next(count for count in (16, 8, 4, 2, 1) if count <= machine.lanes and kernel.channels % count == 0)
    out.split(C, CO, CI, min(4, kernel.channels // lanes) * lanes, Tail.ShiftInwards)
    out.split(CI, CV, CL, lanes).vectorize(CL).unroll(CV)
    total.compute_at(out, CO).vectorize(C, lanes)
    total.update().reorder(C, r.x).vectorize(C, lanes)
    return Generated(out, [source])


def combine(kernel: Combine, machine: Machine) -> Generated:
    """Add two maps, or scale one by channel."""
    source = fixed(parameter("source", 2), kernel.channels, kernel.pixels)
    out = hl.Func("out")
    if kernel.kind == "add":
        other = fixed(parameter("other", 2), kernel.channels, kernel.pixels)
        out[C, X] = activate(source[C, X] + other[C, X], kernel.activation)
    else:
        other = fixed(parameter("gate", 1), kernel.channels)
        out[C, X] = activate(source[C, X] * other[C], kernel.activation)
    out.output_buffer().dim(1).set_stride(kernel.channels)
    out.vectorize(C, machine.lanes, Tail.GuardWithIf)
    return Generated(out, [source, other])


def interleave(kernel: Interleave, machine: Machine) -> Generated:
    """Bring the channels of a planar map beside one another."""
    del machine
    source = fixed(parameter("source", 2), kernel.pixels, kernel.channels)
    out = hl.Func("out")
    out[C, X] = source[X, C]
    return Generated(out, [source])
