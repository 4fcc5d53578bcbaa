"""What a kernel keeps while it runs: how many bytes, known from its description alone.

Halide takes what is at most `STACK_BYTES` from the thread's stack and asks for the rest, block upon block. The driver
gives blocks from memory that is there before the first picture, so what is planned here is what there must be.
"""

from __future__ import annotations

from collections.abc import Iterable

from mobilenets.engine.arena import aligned
from mobilenets.engine.c_kernels import in_c, kept_bytes
from mobilenets.engine.int8_kernels import AnyKernel, Int8Fused
from mobilenets.engine.kernels import Convolution, Dense, Fused, Pointwise
from mobilenets.engine.schedules import Machine

STACK_BYTES = 16384
"""Blocks of a known size up to this are on the stack."""

BLOCK_ALIGN = 128
"""Each block begins at a multiple of this, in the driver."""

_FLOAT = 4


def scratch_bytes(kernels: Iterable[AnyKernel], machine: Machine) -> int:
    """Return the bytes that the most demanding kernel asks for: what a thread must have."""
    return max((stacked(block for block in kept(each, machine) if block > STACK_BYTES) for each in kernels), default=0)


def stacked(blocks: Iterable[int]) -> int:
    """Return the bytes of blocks upon one another."""
    end = 0
    for block in blocks:
        end = aligned(end, BLOCK_ALIGN) + block
    return end


def kept(kernel: AnyKernel, machine: Machine) -> tuple[int, ...]:
    """Return the bytes of what a kernel keeps beside its arguments, block by block; sums in registers left out.

    Those are the ring of a first convolution's rows, the depthwise convolution's rows, the rows of a source with zeros
    around them, and a scaled tile.
    """
    match kernel:
        case Fused():
            of_c = in_c(kernel, machine)
            return (kept_bytes(kernel),) if of_c else _fused(kernel, machine)
        case Int8Fused():
            return (kernel.kept_bytes,)
        case Convolution():
            size = _padded(kernel.dense, kernel.channels, kernel.sides[1], machine, planar=kernel.planar)
            return (size * _FLOAT,)
        case Pointwise() if kernel.gate:
            pixels = min(kernel.dense.tile.pixels, kernel.pixels)
            return (kernel.channels * pixels * _FLOAT,)
        case _:
            return ()


def _fused(kernel: Fused, machine: Machine) -> tuple[int, ...]:
    width, channels, found = kernel.inner_sides[1], kernel.inner, []
    if kernel.first is not None:
        there = channels if kernel.last is not None else kernel.depthwise.tile.block
        found.append(there * ring_rows(kernel) * width)
    if kernel.last is not None:
        found.append(channels * kernel.rows * kernel.sides[1])
    if kernel.first is not None and (kernel.planar or kernel.first.window.kernel > 1):
        found.append(_padded(kernel.first, kernel.channels, width, machine, planar=kernel.planar))
    return tuple(size * _FLOAT for size in found)


def _padded(dense: Dense, channels: int, width: int, machine: Machine, *, planar: bool) -> int:
    """Return the elements of what a row of `width` pixels is convolved from, columns of planes as whole vectors."""
    window = dense.window
    columns = (width - 1) * window.stride + window.kernel
    if planar:
        return aligned(columns, machine.lanes) * channels * window.kernel
    return channels * columns * window.kernel


def ring_rows(kernel: Fused) -> int:
    """Return how many rows of the first convolution a fused kernel keeps: those that a step reads and no more."""
    window = kernel.depthwise.window
    return min(kernel.inner_sides[0], (kernel.rows - 1) * window.stride + window.kernel)
