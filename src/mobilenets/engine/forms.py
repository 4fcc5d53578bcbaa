"""What Halide pipelines of several kernels have in common: parameters, sums in registers, tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import halide as hl

from mobilenets.arch.mobilenet import Activation
from mobilenets.engine.kernels import Dense
from mobilenets.engine.schedules import Machine

C, X, Y = hl.Var("c"), hl.Var("x"), hl.Var("y")
CI, CO = hl.Var("ci"), hl.Var("co")  # a channel in its block, and the block
CV, CL = hl.Var("cv"), hl.Var("cl")  # a vector in its block, and a lane of it
XI, XO = hl.Var("xi"), hl.Var("xo")
YI, YO = hl.Var("yi"), hl.Var("yo")
Tail = hl.TailStrategy


@dataclass(frozen=True, slots=True)
class Generated:
    """A pipeline: its output and its arguments, in the order they are passed, the output last."""

    out: Any
    arguments: list[Any]


def activate(value: Any, activation: Activation | None) -> Any:
    """Return an activation of a value."""
    match activation:
        case None:
            return value
        case "relu":
            return hl.max(value, 0.0)
        case "relu6":
            return hl.min(hl.max(value, 0.0), 6.0)
        case "hard_swish":
            return value * (hl.min(hl.max(value + 3.0, 0.0), 6.0) * hl.f32(1.0 / 6.0))
        case "hard_sigmoid":
            return hl.min(hl.max(value + 3.0, 0.0), 6.0) * hl.f32(1.0 / 6.0)
        case "sigmoid":
            return 1.0 / (1.0 + hl.exp(-value))


def parameter(name: str, dimensions: int = 3) -> Any:
    """Return a buffer of float32 that is passed to a kernel."""
    return hl.ImageParam(hl.Float(32), dimensions, name)


def fixed(param: Any, *extents: int | None) -> Any:
    """Tell how long dimensions are, from the innermost on, and that they lie without gaps; None is for any length."""
    stride = 1
    for index, extent in enumerate(extents):
        dim = param.dim(index)
        dim.set_stride(stride)
        if extent is None:
            break
        dim.set_bounds(0, extent)
        stride *= extent
    return param


def weights(name: str, dense: Dense, terms: int) -> Any:
    """Return the parameter of packed weights: (in the block, terms of the sum, blocks)."""
    return fixed(parameter(f"{name}_weight"), dense.tile.block, terms, dense.blocks)


def biases(name: str, blocks: int, block: int) -> Any:
    """Return the parameter of packed biases: (in the block, blocks)."""
    return fixed(parameter(f"{name}_bias", 2), block, blocks)


def sums_of(name: str, weight: Any, bias: Any, source: Callable[..., Any], term: Any) -> Any:
    """Return the Func of a convolution's sums over (ci, co, x, y).

    `source(x, y)` is the factor of one term for an output pixel, and `term` its place among the weights.
    """
    sums = hl.Func(f"{name}_sums")
    sums[CI, CO, X, Y] = bias[CI, CO]
    sums[CI, CO, X, Y] += weight[CI, term, CO] * source(X, Y)
    return sums


def in_registers(sums: Any, dense: Dense, machine: Machine, inner: list[Any]) -> None:
    """Compute a tile's sums in vectors, one term after another; `inner` are the reduction's variables."""
    lanes = min(machine.lanes, dense.tile.block)
    sums.bound(CI, 0, dense.tile.block).bound_extent(CO, 1)
    sums.split(CI, CV, CL, lanes).reorder(CL, CV, X, CO, Y).vectorize(CL).unroll(CV).unroll(X).unroll(Y)
    update = sums.update()
    update.split(CI, CV, CL, lanes).reorder(CL, CV, X, Y, *inner, CO).vectorize(CL).unroll(CV).unroll(X).unroll(Y)


def surrounded(source: Any, height: int, width: int, *, planar: bool) -> Any:
    """Return a Func of (x, c, y), planar, or (c, x, y), that is zero outside of the map."""
    padded = hl.Func("padded")
    x, y = hl.clamp(X, 0, width - 1), hl.clamp(Y, 0, height - 1)
    inside = (X >= 0) & (width > X) & (Y >= 0) & (height > Y)
    if planar:
        padded[X, C, Y] = hl.select(inside, source[x, y, C], 0.0)
    else:
        padded[C, X, Y] = hl.select(inside, source[C, x, y], 0.0)
    return padded


def in_vectors(padded: Any, channels: int, machine: Machine) -> None:
    """Fill what :func:`surrounded` returns with whole vectors, as far as none of them reads behind the last channel."""
    innermost = padded.args()[0]
    whole = innermost.name() == X.name() or channels % machine.lanes == 0  # columns are clamped
    padded.vectorize(innermost, machine.lanes, Tail.RoundUp if whole else Tail.GuardWithIf)


def window_sums(name: str, dense: Dense, weight: Any, bias: Any, padded: Any, channels: int) -> tuple[Any, list[Any]]:
    """Return the sums of a convolution with a window, and the reduction's variables."""
    window = dense.window
    r = hl.RDom([(0, channels), (0, window.kernel), (0, window.kernel)], "terms")
    planar = padded.args()[0].name() == X.name()

    def factor(x: Any, y: Any) -> Any:
        at_x, at_y = x * window.stride + r.y - window.left, y * window.stride + r.z - window.top
        return padded[at_x, r.x, at_y] if planar else padded[r.x, at_x, at_y]

    term = (r.z * window.kernel + r.y) * channels + r.x
    sums = sums_of(name, weight, bias, factor, term)
    return sums, [r.x, r.y, r.z]


def tiles(out: Any, dense: Dense, pixels: int, machine: Machine) -> None:
    """Cut an output over (c, x) into the tiles whose sums fit registers."""
    tile = dense.tile
    lanes = min(machine.lanes, tile.block)
    out.split(C, CO, CI, tile.block, Tail.GuardWithIf).split(CI, CV, CL, lanes)
    out.split(X, XO, XI, min(tile.pixels, pixels), Tail.ShiftInwards)
    out.vectorize(CL).unroll(CV).unroll(XI)


def flat_in_registers(sums: Any, dense: Dense, machine: Machine, term: Any) -> None:
    """Do what :func:`in_registers` does for pixels in a row."""
    lanes = min(machine.lanes, dense.tile.block)
    sums.bound(CI, 0, dense.tile.block).bound_extent(CO, 1)
    sums.split(CI, CV, CL, lanes).reorder(CL, CV, X, CO).vectorize(CL).unroll(CV).unroll(X)
    update = sums.update()
    update.split(CI, CV, CL, lanes).reorder(CL, CV, X, term, CO).vectorize(CL).unroll(CV).unroll(X)


def in_blocks(out: Any, block: int, lanes: int) -> None:
    """Let threads share a vector of channels block by block."""
    out.output_buffer().dim(0).set_bounds(0, block).set_stride(1)
    out.output_buffer().dim(1).set_stride(block)
    out.split(CI, CV, CL, lanes).reorder(CL, CV, CO).vectorize(CL).unroll(CV)
