"""What memory the engine allocates for a network, from its plan alone: no weights, no compiler, the same to the byte.

It is more than :mod:`mobilenets.engine.memory` plans for fused blocks where kernels need room to be fast: channels fill
up whole vectors, several rows go through at once, int8 rings hold words of four rows, and some blocks are two kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mobilenets.arch import Plan
from mobilenets.engine.choices import choices
from mobilenets.engine.folding import Layer
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.lowering import Network, lower
from mobilenets.engine.prepared import memory_bytes
from mobilenets.engine.preparing import arena
from mobilenets.engine.scratch import scratch_bytes

if TYPE_CHECKING:
    from mobilenets.checkpoint import Checkpoint
    from mobilenets.engine.target import Machine


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bytes of the maps between kernels, and of what each thread keeps while a kernel runs."""

    arena_bytes: int
    scratch_bytes: int

    def bytes(self, threads: int) -> int:
        """Return what is allocated for a number of threads."""
        return memory_bytes(self.arena_bytes, self.scratch_bytes, threads)


def allocation(layout: Plan, precision: Literal["float32", "int8"], machine: Machine) -> Allocation:
    """Return what running a plan allocates, beside weights, the picture and the answers, which are the caller's."""
    if precision == "float32":
        network = lower(layout, _no_layers(layout), machine, choices(machine))
    else:
        network = lower_int8(layout, _no_weights(layout), machine, choices(machine))
    return allocated(network, machine)


def allocated(network: Network, machine: Machine) -> Allocation:
    """Return what running calls allocates."""
    return Allocation(arena(network)[1], scratch_bytes([call.kernel for call in network.calls], machine))


def _no_layers(layout: Plan) -> dict[str, Layer]:
    """Return weights that take no memory: all are one zero."""
    zero, layers = np.zeros((), np.float32), {}
    for op in layout.ops:
        if op.kind in ("conv", "linear"):
            sources = op.source_shape[0] // op.groups
            shape = (op.out[0], sources) if op.kind == "linear" else (op.out[0], sources, op.kernel, op.kernel)
            layers[op.name] = Layer(np.broadcast_to(zero, shape), np.broadcast_to(zero, shape[:1]))
    return layers


def _no_weights(layout: Plan) -> Checkpoint:
    """Return an int8 checkpoint of zeros, whose codes are those of ReLU6."""
    from mobilenets.checkpoint import Card, Checkpoint, tensor_specs
    from mobilenets.image import Preprocess

    labels = tuple(map(str, range(layout.classes)))
    side, count = layout.resolution, layout.in_channels
    fed = Preprocess(*side, channels=count, mean=(0.5,) * count, std=(0.5,) * count)
    card = Card(layout.arch, layout.width, side, labels, fed, in_channels=count, precision="int8")
    tensors = {
        name: np.broadcast_to(np.array(6 / 255 if name.endswith("scale") else 0, dtype), shape)
        for name, (dtype, shape) in tensor_specs(card).items()
    }
    return Checkpoint(card, tensors)
