"""Which 1x1 convolutions in float32 are C and not Halide, and how they are compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from mobilenets.engine.kernels import Pointwise

if TYPE_CHECKING:
    from mobilenets.arch.mobilenet import Activation
    from mobilenets.engine.schedules import Machine

LANES = 16
"""Vectors of the machines for which C was measured to be faster."""
ACTIVATIONS: tuple[Activation | None, ...] = (None, "relu", "relu6", "hard_swish")
"""In the order of the C file."""


def in_c(kernel: object, machine: Machine) -> TypeGuard[Pointwise]:
    """Say whether a kernel is a 1x1 convolution that is compiled from C: nothing scales its source."""
    return (
        isinstance(kernel, Pointwise)
        and machine.lanes == LANES
        and not kernel.gate
        and kernel.dense.activation in ACTIVATIONS
        and kernel.dense.tile.block % LANES == 0
        and (kernel.dense.channels if not kernel.mean else kernel.dense.padded) % LANES == 0
    )


def defined(kernel: Pointwise) -> tuple[str, dict[str, int]]:
    """Return the C file that a kernel is made from, and what is defined for it."""
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
