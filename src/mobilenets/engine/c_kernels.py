"""Which kernels in float32 are C and not Halide, and how they are compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from mobilenets.engine.kernels import Dense, Fused, Pointwise, Tile, Window, cases

if TYPE_CHECKING:
    from mobilenets.arch.mobilenet import Activation
    from mobilenets.engine.schedules import Machine

LANES = 16
"""Vectors of the machines for which C was measured to be faster."""
ACTIVATIONS: tuple[Activation | None, ...] = (None, "relu", "relu6", "hard_swish")
"""In the order of the C file."""
HALF = LANES // 2
"""Channels of a fused kernel's last convolution in a vector, each for even terms and for odd ones."""
_FLOAT = 4


def in_c(kernel: object, machine: Machine) -> TypeGuard[Pointwise | Fused]:
    """Say whether a kernel is compiled from C.

    Those are 1x1 convolutions whose source nothing scales, and depthwise ones with a 1x1 one in front of them.
    """
    if machine.lanes != LANES or machine.halide:
        return False
    if isinstance(kernel, Fused):
        return _fused_in_c(kernel)
    return (
        isinstance(kernel, Pointwise)
        and not kernel.gate
        and kernel.dense.activation in ACTIVATIONS
        and kernel.dense.tile.block % LANES == 0
        and (kernel.dense.channels if not kernel.mean else kernel.dense.padded) % LANES == 0
    )


def _fused_in_c(kernel: Fused) -> bool:
    first, last = kernel.first, kernel.last
    if first is None or kernel.planar or first.window != Window() or first.tile.block % LANES:
        return False
    layers = [each for each in (first, kernel.depthwise, last) if each is not None]
    return all(each.activation in ACTIVATIONS for each in layers) and (last is None or last.tile.block % HALF == 0)


def last_lanes(kernel: Fused, machine: Machine) -> int:
    """Return how many channels of a fused kernel's last convolution one vector stands for."""
    return HALF if in_c(kernel, machine) else machine.lanes


def defined(kernel: Pointwise | Fused) -> tuple[str, dict[str, int]]:
    """Return the C file that a kernel is made from, and what is defined for it."""
    if isinstance(kernel, Fused):
        return "fused.c", _fused(kernel)
    dense, tile = kernel.dense, kernel.dense.tile
    return "dense.c", {
        "PIXELS": kernel.pixels,
        "CHANNELS": kernel.channels,
        "OUT": dense.padded if kernel.mean else dense.channels,
        "TILE_VECTORS": tile.block // LANES,
        "TILE_PIXELS": min(tile.pixels, kernel.pixels),
        "ACTIVATION": ACTIVATIONS.index(dense.activation),
        "ADD": int(kernel.add),
        "MEAN": int(kernel.mean),
    }


def _fused(kernel: Fused) -> dict[str, int]:
    from mobilenets.engine.scratch import STACK_BYTES

    first, depth, last = kernel.first, kernel.depthwise, kernel.last
    assert first is not None
    window = depth.window
    (height, width), (out_height, out_width) = kernel.inner_sides, kernel.sides
    case = cases(window, height)
    after = Dense(0, window, None, Tile(HALF, 1)) if last is None else last
    return {
        "SOURCE": kernel.channels,
        "HEIGHT": height,
        "WIDTH": width,
        "INNER": kernel.inner,
        "BLOCK_VECTORS": first.tile.block // LANES,
        "FIRST_PIXELS": min(first.tile.pixels, width),
        "FIRST_ACTIVATION": ACTIVATIONS.index(first.activation),
        "KERNEL": window.kernel,
        "STRIDE": window.stride,
        "TOP": window.top,
        "LEFT": window.left,
        "CASES": case.count,
        "CASES_TOP": case.top,
        "CASES_BOTTOM": case.bottom,
        "DEPTH_PIXELS": min(depth.tile.pixels, out_width),
        "DEPTH_ACTIVATION": ACTIVATIONS.index(depth.activation),
        "OUT_HEIGHT": out_height,
        "OUT_WIDTH": out_width,
        "LAST": after.channels,
        "LAST_HALVES": after.tile.block // HALF,
        "LAST_PIXELS": min(after.tile.pixels, out_width),
        "LAST_ACTIVATION": ACTIVATIONS.index(after.activation),
        "ROWS": kernel.rows,
        "ADD": int(kernel.add),
        "STACK": int(kept_bytes(kernel) <= STACK_BYTES),
    }


def kept_bytes(kernel: Fused) -> int:
    """Return the bytes of what a fused kernel keeps: the ring of rows, and the rows that the last one reads."""
    window, block = kernel.depthwise.window, kernel.depthwise.tile.block
    (height, width), out_width = kernel.inner_sides, kernel.sides[1]
    kept = min(window.kernel, height) * width * (block if kernel.last is None else kernel.inner)
    if kernel.last is not None:
        kept += kernel.rows * out_width * kernel.inner
    return kept * _FLOAT
