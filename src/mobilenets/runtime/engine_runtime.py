"""The project's own engine: fused kernels, compiled for this processor the first time and kept in the cache.

Checkpoints of any table. The first picture of another size than the card's compiles kernels for that size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine.prepared import Prepared, note_file, read, weights_file, write
from mobilenets.engine.program import Program
from mobilenets.engine.target import Target, host
from mobilenets.machine import cores

SIZES = 4  # picture sizes that stay ready at a time: each has packed weights and an arena
MOST_THREADS = 4  # where nobody says: these networks are too small to keep more busy


def open_predictor(checkpoint: Checkpoint, threads: int | None) -> EnginePredictor:
    """Make a predictor of a checkpoint, its kernels for the card's picture size ready.

    Args:
        checkpoint: what to run.
        threads: how many share the work; None takes the cores there are, at most 4.

    Raises:
        EngineError: kernels cannot be compiled on this machine.
        MissingExtraError: they are to be compiled, and Halide or a linker is not installed.
    """
    return EnginePredictor(checkpoint, min(cores(), MOST_THREADS) if threads is None else threads)


class EnginePredictor:
    """Runs fused kernels; other Python threads go on meanwhile. One predictor computes one batch at a time."""

    pictures = False

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        self.card: Card = checkpoint.card
        self._checkpoint = checkpoint
        self._threads = threads
        self._programs: OrderedDict[tuple[int, int], Program] = OrderedDict()
        self._lock = threading.Lock()
        self._program(checkpoint.card.resolution)

    def _program(self, resolution: tuple[int, int]) -> Program:
        """Return the program for a picture size, making room for a new one."""
        program = self._programs.pop(resolution, None)
        if program is None:
            target = host()
            program = Program(prepared(self._checkpoint, resolution, target), target, self._threads)
            while len(self._programs) >= SIZES:
                self._programs.popitem(last=False)[1].close()
        self._programs[resolution] = program
        return program

    def run(self, batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits (N, classes) or maps (N, C, H, W), float32, of float32 (N, C, H, W).

        A contiguous batch is read where it is, and what is returned are views of what the kernels wrote.
        """
        height, width = batch.shape[2:]
        with self._lock:
            program = self._program((height, width))
            found = program.outputs(program.run(np.ascontiguousarray(batch)))
            counts = program.prepared.channels
        exact = [value[:, :count] for value, count in zip(found, counts, strict=True)]
        if self.card.arch.detector is None:
            exact = [value[:, :, 0, 0] for value in exact]
        return tuple(exact)

    def close(self) -> None:
        """Let the threads, the arenas and the packed weights go."""
        with self._lock:
            while self._programs:
                self._programs.popitem()[1].close()


def prepared(checkpoint: Checkpoint, resolution: tuple[int, int], target: Target) -> Prepared:
    """Return a checkpoint's network for pictures of a size, from the cache or made anew, its library there."""
    path = weights_file(checkpoint, resolution, target)
    found = None if path is None else read(path)
    if found is None:
        found = _made(checkpoint, resolution, target)
        write(path, found, note_file(checkpoint.card, resolution, target))
    return found


def _made(checkpoint: Checkpoint, resolution: tuple[int, int], target: Target) -> Prepared:
    """Compile what is missing, fold and pack."""
    from mobilenets.engine.choices import choices
    from mobilenets.engine.folding import folded
    from mobilenets.engine.int8_lowering import lower_int8
    from mobilenets.engine.library import load
    from mobilenets.engine.lowering import lower, resized
    from mobilenets.engine.preparing import prepare

    layout, machine = resized(checkpoint.card.plan, resolution), target.machine
    if checkpoint.card.precision == "int8":
        network = lower_int8(layout, checkpoint, machine, choices(machine))
    else:
        network = lower(layout, folded(checkpoint), machine, choices(machine))
    load([call.kernel for call in network.calls], target)
    return prepare(network, target, [layout.op(name).out[0] for name in layout.outputs])
