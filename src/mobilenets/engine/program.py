"""A network ready to run: kernels, weights and one block of memory, laid out for the driver.

All memory is there before the first picture. The driver is told once what to call with which buffers; for a picture it
gets two addresses, of the picture and of the answers.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.engine.prepared import (
    INPUT,
    Prepared,
    Value,
    Weights,
    aligned_memory,
    engine_folder,
    memory_bytes,
    opened,
    rounded,
)
from mobilenets.engine.target import EngineError, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.engine.lowering import Network

_FLOAT32, _BYTE = 0x0001_20_02, 0x0001_08_01  # halide_type_t: lanes, bits, and code 2 (float) or 1 (unsigned)
_HOST = 2  # which word of Halide's halide_buffer_t is the address
_SCRATCH = (5 + 2 * 16) * 8 + 256  # bytes of scratch_t


class _Words:
    """64-bit numbers that the driver reads, some of them addresses of others."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._inside: list[int] = []

    def add(self, *words: int, inside: tuple[int, ...] = ()) -> int:
        """Take numbers; those at the places `inside` are offsets of others. Return the first one's offset."""
        start = len(self._held)
        self._held += words
        self._inside += [start + place for place in inside]
        return 8 * start

    def block(self) -> NDArray[np.uint64]:
        """Return them all, offsets of others now addresses."""
        block = np.array(self._held, np.uint64)
        block[self._inside] += np.uint64(block.ctypes.data)
        return block


class Program:
    """What runs one picture size with a number of threads.

    Args:
        network: the calls, or what was prepared of them.
        target: this machine.
        threads: how many share each step.
        folder: where machine code is kept; None is the cache.

    Raises:
        EngineError: kernels cannot be compiled or loaded; or there is no memory.
        MissingExtraError: something is to be compiled, and Halide or a linker is not installed.
    """

    def __init__(self, network: Network | Prepared, target: Target, threads: int, folder: Path | None = None) -> None:
        if isinstance(network, Prepared):
            self._library = opened((engine_folder() if folder is None else folder) / network.library)
            prepared = network
        else:
            from mobilenets.engine.library import load
            from mobilenets.engine.preparing import prepare

            self._library = load([call.kernel for call in network.calls], target, folder=folder)
            prepared = prepare(network, target)
        self.prepared = prepared
        self.arena_bytes, self.scratch_bytes = prepared.arena_bytes, prepared.scratch_bytes
        self._threads, self._outputs = threads, prepared.outputs
        self.memory = aligned_memory(memory_bytes(self.arena_bytes, self.scratch_bytes, threads))
        self.memory[:] = 0  # so that it is there
        at = int(self.memory.ctypes.data)
        self._scratch = np.zeros((threads, _SCRATCH), np.uint8)
        for number, row in enumerate(self._scratch):
            own = at + rounded(self.arena_bytes) + number * rounded(self.scratch_bytes)
            row[:16].view(np.uint64)[:] = (own, self.scratch_bytes)
        self._answers, self.answer_size = _answers(prepared)
        self._places = {name: at + offset for name, offset in prepared.offsets.items()}
        self._program = self._lay_out()
        self._crew = 0
        self._declare()
        self._open()

    def _declare(self) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_uint64
        self._library.engine_open.argtypes, self._library.engine_open.restype = [pointer], pointer
        self._library.engine_close.argtypes, self._library.engine_close.restype = [pointer], None
        run = self._library.engine_run
        run.argtypes, run.restype = [pointer, pointer, pointer, count, count, count], ctypes.c_int

    def _lay_out(self) -> NDArray[np.uint64]:
        """Return the driver's program_t."""
        words = _Words()
        patches: list[int] = []  # patch_t: a place, the offset to be added, and whether it is of an answer
        strips: list[int] = []  # strip_t: a function, and where its arguments are
        steps: list[int] = []  # step_t: the first strip, and how many
        functions: dict[str, int] = {}
        for symbol, arguments, out, axis in self.prepared.steps:
            if symbol not in functions:
                functions[symbol] = ctypes.cast(self._library[f"{symbol}_argv"], ctypes.c_void_p).value or 0
            shared = [self._buffer(words, patches, each) for each in arguments]
            first = len(strips) // 2
            for start, extent in cuts(axis[1], axis[2], self._threads):
                written = self._buffer(words, patches, out, (axis[0], start, extent))
                pointers = words.add(0, *shared, written, inside=tuple(range(1, 2 + len(shared))))
                strips += (functions[symbol], pointers)
            steps += (first, len(strips) // 2 - first)
        tables = (
            words.add(*strips, inside=tuple(range(1, len(strips), 2))),
            words.add(*steps),
            words.add(*patches, inside=tuple(range(0, len(patches), 3))),
        )
        self._words = words.block()
        places = [int(self._words.ctypes.data) + offset for offset in tables]
        counts = (len(steps) // 2, len(patches) // 3, self._threads)
        return np.array([*places, int(self._scratch.ctypes.data), *counts, 0], np.uint64)

    def _buffer(
        self, words: _Words, patches: list[int], argument: Value | Weights, cut: tuple[int, int, int] | None = None
    ) -> int:
        """Return where a halide_buffer_t is; `cut` is (dimension, first, extent) of what is written."""
        extents, starts, strides = list(argument.extents), [0] * len(argument.extents), argument.strides
        offset = 0
        if cut is not None:
            place, starts[cut[0]], extents[cut[0]] = cut[0], cut[1], cut[2]
            offset = cut[1] * strides[place] * argument.item
        if isinstance(argument, Weights):
            base = int(self.prepared.weights.ctypes.data) + argument.offset
        else:
            base = self._places.get(argument.name, 0)
        kind = _FLOAT32 if argument.item == 4 else _BYTE  # kernels of Halide's make know float32 alone
        dimensions = words.add(
            *(
                word
                for start, extent, stride in zip(starts, extents, strides, strict=True)
                for word in (start | extent << 32, stride)  # four of 32 bits, the last one flags
            )
        )
        header = words.add(0, 0, base + offset, 0, kind | len(extents) << 32, dimensions, 0, inside=(5,))
        if isinstance(argument, Value) and argument.name not in self._places:
            output = argument.name != INPUT
            shift = self._answers[argument.name] * 4 if output else 0
            patches += (header + 8 * _HOST, offset + shift, int(output))
        return header

    def _open(self) -> None:
        self._crew = self._library.engine_open(self._program.ctypes.data) or 0
        if not self._crew:
            raise EngineError(f"no memory, or no {self._threads} threads to be had: ask for fewer")

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute pictures, float32 (N, ...), contiguous; return the answers, float32 (N, answer_size), as they lie.

        Pictures are read where they are. Other Python threads go on meanwhile.
        """
        answers = np.empty((len(batch), self.answer_size), np.float32)
        failed = self._library.engine_run(
            self._crew,
            batch.ctypes.data,
            answers.ctypes.data,
            len(batch),
            self.prepared.picture_bytes,
            self.answer_size * 4,
        )
        if failed:
            messages = [bytes(row[-256:]).split(b"\0")[0].decode(errors="replace") for row in self._scratch]
            raise EngineError(f"a kernel failed ({failed}): {' '.join(filter(None, messages)) or 'no message'}")
        return answers

    def outputs(self, answers: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Return the outputs as (N, C, H, W), their channels as many as lie in memory: nothing is copied."""
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


def cuts(extent: int, unit: int, threads: int) -> list[tuple[int, int]]:
    """Return (start, extent) of the part of each thread, as even as whole units allow; some may be left out.

    >>> cuts(49, 7, 2)
    [(0, 28), (28, 21)]
    """
    units = -(-extent // unit)
    bounds = [min(extent, -(-units * index // threads) * unit) for index in range(threads + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(bounds) if high > low]


def _answers(prepared: Prepared) -> tuple[dict[str, int], int]:
    """Return where each output begins among the answers to one picture, and how many numbers they are."""
    at = 0
    places = {}
    for view in prepared.outputs:
        places[view.name] = at
        size = 1 + sum((e - 1) * s for e, s in zip(view.extents, view.strides, strict=True))
        at += rounded(size * 4) // 4
    return places, at
