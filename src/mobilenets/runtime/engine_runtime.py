"""The project's own engine: fused kernels, compiled for this processor the first time and kept in the cache.

Checkpoints of any table. The first picture of another size than the card's compiles kernels for that size.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from mobilenets.arch import Plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine.choices import choices
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import host
from mobilenets.engine.lowering import Network, lower, resized
from mobilenets.engine.program import Program
from mobilenets.engine.schedules import Machine
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
        self._plan = checkpoint.card.plan
        self._checkpoint = checkpoint
        self._layers = None if checkpoint.card.precision == "int8" else folded(checkpoint)
        self._threads = threads
        self._programs: OrderedDict[tuple[int, int], Program] = OrderedDict()
        self._lock = threading.Lock()
        self._program(checkpoint.card.resolution)

    def _program(self, resolution: tuple[int, int]) -> Program:
        """Return the program for a picture size, making room for a new one."""
        program = self._programs.pop(resolution, None)
        if program is None:
            target = host()
            layout = resized(self._plan, resolution)
            program = Program(self._network(layout, target.machine), target, self._threads)
            while len(self._programs) >= SIZES:
                self._programs.popitem(last=False)[1].close()
        self._programs[resolution] = program
        return program

    def _network(self, layout: Plan, machine: Machine) -> Network:
        if self._layers is None:
            return lower_int8(layout, self._checkpoint, machine)
        return lower(layout, self._layers, machine, choices(machine))

    def run(self, batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits (N, classes) or maps (N, C, H, W), float32, of float32 (N, C, H, W)."""
        height, width = batch.shape[2:]
        with self._lock:
            program = self._program((height, width))
            found = program.outputs(program.run(np.ascontiguousarray(batch)))
        ops = [self._plan.op(name) for name in self._plan.outputs]
        exact = [value[:, : op.out[0]] for value, op in zip(found, ops, strict=True)]
        if self._plan.arch.detector is None:
            exact = [value.reshape(len(value), -1) for value in exact]
        return tuple(np.ascontiguousarray(value) for value in exact)

    def close(self) -> None:
        """Let the threads, the arenas and the packed weights go."""
        with self._lock:
            while self._programs:
                self._programs.popitem()[1].close()
