"""From a network's calls to what is kept of it: places in the arena, weights in one block."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.engine.arena import Buffer, aligned, arrange, total
from mobilenets.engine.library import names, path_of
from mobilenets.engine.lowering import INPUT, Network, View
from mobilenets.engine.prepared import ALIGN, Prepared, Step, Value, Weights, aligned_memory
from mobilenets.engine.scratch import scratch_bytes
from mobilenets.engine.target import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prepare(network: Network, target: Target, channels: Sequence[int] | None = None) -> Prepared:
    """Lay out a network.

    Args:
        network: the calls, with packed weights.
        target: what it is for.
        channels: of each output, less those that only fill up vectors; None counts all.
    """
    kernels = [call.kernel for call in network.calls]
    symbols = names(kernels, target)
    offsets, arena_bytes = arena(network)
    weights = _Weights()
    steps = tuple(
        Step(
            symbols[call.kernel],
            tuple(_value(each) if isinstance(each, View) else weights.add(each) for each in call.arguments),
            _value(call.out),
            (call.axis.place, call.axis.extent, call.axis.unit),
        )
        for call in network.calls
    )
    return Prepared(
        library=path_of(symbols.values(), target).name,
        steps=steps,
        offsets=offsets,
        arena_bytes=arena_bytes,
        scratch_bytes=scratch_bytes(kernels, target.machine),
        outputs=tuple(map(_value, network.outputs)),
        channels=tuple(channels or (view.extents[0] for view in network.outputs)),
        picture_bytes=network.sizes[INPUT] * 4,
        weights=weights.block(),
    )


def _value(view: View) -> Value:
    return Value(view.name, view.extents, view.strides, view.item)


class _Weights:
    """Arrays that become one block, each at a multiple of ALIGN."""

    def __init__(self) -> None:
        self._held: list[tuple[int, NDArray[Any]]] = []
        self._end = 0

    def add(self, values: NDArray[Any]) -> Weights:
        """Take an array whose last dimension is the innermost."""
        offset = self._end
        self._held.append((offset, values))
        self._end = offset + aligned(values.nbytes, ALIGN)
        extents = values.shape[::-1]
        return Weights(offset, extents, tuple(prod(extents[:place]) for place in range(len(extents))), values.itemsize)

    def block(self) -> NDArray[np.uint8]:
        """Return the bytes of them all."""
        block = aligned_memory(self._end)
        block[:] = 0
        for offset, values in self._held:
            block[offset : offset + values.nbytes].view(values.dtype).reshape(values.shape)[...] = values
        return block


def arena(network: Network) -> tuple[dict[str, int], int]:
    """Return the offset of every value that is neither the picture nor an output, and the bytes of them all."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, call in enumerate(network.calls):
        first[call.out.name] = index
        for argument in (*call.arguments, call.out):
            if isinstance(argument, View):
                last[argument.name] = index
    kept = {view.name for view in network.outputs}
    buffers = [Buffer(name, network.sizes[name] * 4, first[name], last[name]) for name in first if name not in kept]
    placed = arrange(buffers, ALIGN)
    return {each.buffer.name: each.offset for each in placed}, total(placed)
