"""A network ready to run: kernels, weights and one arena, laid out for the driver.

All memory is there before the first picture. The driver is told once what to call with which buffers; for a picture it
gets two addresses, of the picture and of the answers.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.engine.arena import Buffer, arrange, total
from mobilenets.engine.library import EngineError, Target, load, names
from mobilenets.engine.lowering import INPUT, Axis, Call, Network, View
from mobilenets.engine.scratch import scratch_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGN = 128  # bytes: two cache lines, and more than any vector
_FLOAT32, _BYTE = 0x0001_20_02, 0x0001_08_01  # halide_type_t: lanes, bits, and code 2 (float) or 1 (unsigned)
_DIMENSION, _BUFFER = 16, 56  # bytes of Halide's halide_dimension_t and halide_buffer_t
_SCRATCH = (5 + 2 * 16) * 8 + 256  # of scratch_t


class _Block:
    """Bytes that the driver reads, written once: pieces are added and their addresses known at the end."""

    def __init__(self) -> None:
        self._pieces: list[NDArray[Any]] = []

    def add(self, piece: NDArray[Any]) -> int:
        """Keep an array alive and return its address."""
        self._pieces.append(piece)
        return int(piece.ctypes.data)


class Program:
    """What runs one picture size with a number of threads.

    Args:
        network: the calls.
        target: this machine.
        threads: how many share each step.
        folder: where machine code is kept; None is the cache.

    Raises:
        EngineError: kernels cannot be compiled or loaded; or there is no memory.
    """

    def __init__(self, network: Network, target: Target, threads: int, folder: Path | None = None) -> None:
        kernels = [call.kernel for call in network.calls]
        self._library = load(kernels, target, folder=folder)
        self._symbols = names(kernels, target)
        self._threads = threads
        self._block = _Block()
        self._outputs = network.outputs
        offsets, self.arena_bytes = arena(network)
        # Vectors may be read to their end at the end of a map.
        self._arena = _aligned(self.arena_bytes + ALIGN)
        self._answers, self.answer_size = _answers(network)
        self._picture_bytes = network.sizes[INPUT] * 4
        places = {name: int(self._arena.ctypes.data) + offset for name, offset in offsets.items()}
        self._patches: list[tuple[int, int, int]] = []
        self.scratch_bytes = scratch_bytes(kernels, target.machine)
        self._extra = [_aligned(self.scratch_bytes) for _ in range(threads)]
        self._scratch = np.zeros((threads, _SCRATCH), np.uint8)
        for row, memory in zip(self._scratch, self._extra, strict=True):
            row[:16].view(np.uint64)[:] = (memory.ctypes.data, self.scratch_bytes)
        strips, steps = self._lay_out(network.calls, places)
        patches = np.array(self._patches, np.uint64).reshape(-1, 3)
        self._program = np.array(
            [
                *(self._block.add(each) for each in (strips, steps, patches, self._scratch)),
                len(steps),
                len(patches),
                threads,
                0,
            ],
            np.uint64,
        )
        self._crew = 0
        self._declare()
        self._open()

    def _declare(self) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_uint64
        self._library.engine_open.argtypes, self._library.engine_open.restype = [pointer], pointer
        self._library.engine_close.argtypes, self._library.engine_close.restype = [pointer], None
        run = self._library.engine_run
        run.argtypes, run.restype = [pointer, pointer, pointer, count, count, count], ctypes.c_int

    def _lay_out(self, calls: Sequence[Call], places: Mapping[str, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return what the driver's strip_t and step_t say, as arrays of 64-bit numbers."""
        strips: list[tuple[int, int]] = []
        steps: list[tuple[int, int]] = []
        for call in calls:
            function = ctypes.cast(self._library[f"{self._symbols[call.kernel]}_argv"], ctypes.c_void_p).value
            assert function is not None
            shared = [self._buffer(argument, places) for argument in call.arguments]
            first = len(strips)
            for start, extent in cuts(call.axis, self._threads):
                out = self._buffer(call.out, places, (call.axis.place, start, extent))
                strips.append((function, self._block.add(np.array([0, *shared, out], np.uint64))))
            steps.append((first, len(strips) - first))
        return np.array(strips, np.uint64), np.array(steps, np.uint64)

    def _buffer(
        self, argument: View | NDArray[Any], places: Mapping[str, int], cut: tuple[int, int, int] | None = None
    ) -> int:
        """Return the address of a halide_buffer_t; `cut` is (dimension, first, extent) of what is written."""
        if isinstance(argument, View):
            extents, strides = list(argument.extents), argument.strides
            base = places.get(argument.name, 0)
        else:
            held = _aligned_copy(argument)
            extents = list(held.shape[::-1])
            strides = tuple(prod(extents[:place]) for place in range(len(extents)))
            base = self._block.add(held)
        starts = [0] * len(extents)
        offset = 0
        if cut is not None:
            place, starts[cut[0]], extents[cut[0]] = cut[0], cut[1], cut[2]
            offset = cut[1] * strides[place] * (argument.item if isinstance(argument, View) else 4)
        dimensions = np.array([[s, e, t, 0] for s, e, t in zip(starts, extents, strides, strict=True)], np.int32)
        assert dimensions.nbytes == _DIMENSION * len(extents)
        header = np.array(
            [0, 0, base + offset, 0, _type(argument) | len(extents) << 32, self._block.add(dimensions), 0], np.uint64
        )
        assert header.nbytes == _BUFFER
        address = self._block.add(header)
        if isinstance(argument, View) and argument.name not in places:
            output = argument.name != INPUT
            shift = self._answers[argument.name] * 4 if output else 0
            self._patches.append((address + 16, offset + shift, int(output)))
        return address

    def _open(self) -> None:
        self._crew = self._library.engine_open(self._program.ctypes.data) or 0
        if not self._crew:
            raise EngineError(f"no memory, or no {self._threads} threads to be had: ask for fewer")

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute pictures, float32 (N, ...), contiguous; return the answers, float32 (N, answer_size), as they lie."""
        answers = np.empty((len(batch), self.answer_size), np.float32)
        failed = self._library.engine_run(
            self._crew,
            batch.ctypes.data,
            answers.ctypes.data,
            len(batch),
            self._picture_bytes,
            self.answer_size * 4,
        )
        if failed:
            messages = [bytes(row[-256:]).split(b"\0")[0].decode(errors="replace") for row in self._scratch]
            raise EngineError(f"a kernel failed ({failed}): {' '.join(filter(None, messages)) or 'no message'}")
        return answers

    def outputs(self, answers: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Return the outputs as (N, C, H, W), their channels as many as lie in memory."""
        found = []
        for view in self._outputs:
            start = self._answers[view.name]
            channels, width, height = view.extents
            part = answers[:, start : start + channels * width * height]
            found.append(part.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
        return tuple(found)

    def step_times(self, batch: NDArray[np.float32], repeats: int) -> NDArray[np.uint64]:
        """Return how many nanoseconds each call took, one after another, for each of `repeats` pictures: (N, calls)."""
        times = np.zeros((repeats, int(self._program[4])), np.uint64)
        try:
            for row in times:
                self._program[7] = row.ctypes.data
                self.run(batch)
        finally:
            self._program[7] = 0
        return times

    def close(self) -> None:
        """Let the threads go; closing twice is harmless."""
        crew, self._crew = self._crew, 0
        if crew:
            self._library.engine_close(crew)


def _type(argument: View | NDArray[Any]) -> int:
    """Return Halide's name of the type; kernels of its make know float32 alone."""
    item = argument.item if isinstance(argument, View) else argument.itemsize
    return _FLOAT32 if item == 4 else _BYTE


def cuts(axis: Axis, threads: int) -> list[tuple[int, int]]:
    """Return (start, extent) of the part of each thread, as even as the axis' unit allows; some may be left out.

    >>> cuts(Axis(1, 49, 7), 2)
    [(0, 28), (28, 21)]
    """
    units = -(-axis.extent // axis.unit)
    bounds = [min(axis.extent, -(-units * index // threads) * axis.unit) for index in range(threads + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds) if high > low]


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


def _answers(network: Network) -> tuple[dict[str, int], int]:
    """Return where each output begins among the answers to one picture, and how many numbers they are."""
    at = 0
    places = {}
    for view in network.outputs:
        places[view.name] = at
        at += -(-network.sizes[view.name] // (ALIGN // 4)) * (ALIGN // 4)
    return places, at


def _aligned(size: int) -> NDArray[np.uint8]:
    whole = np.zeros(size + ALIGN, np.uint8)
    start = -int(whole.ctypes.data) % ALIGN
    return whole[start : start + size]


def _aligned_copy(values: NDArray[Any]) -> NDArray[Any]:
    memory = _aligned(values.nbytes).view(values.dtype).reshape(values.shape)
    memory[...] = values
    return memory
