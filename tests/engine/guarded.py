"""Kernels in memory between pages that nobody may touch: what is read or written out of bounds ends the process.

Every map, every array of weights and the scratch memory is a piece of its own, first with its last byte, then with its
first byte beside such a page. What is left of a page's bytes has to stay as it is, and what it is must not matter.

Run as a program, because that ends: python -m tests.engine.guarded ARCHITECTURE PRECISION FOLDER [short=NAME]
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mobilenets.arch import arch_named
from mobilenets.engine import reference, scratch
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import Target, host, load, names
from mobilenets.engine.lowering import INPUT, Axis, Call, Network, View, lower, resized
from tests.engine.networks import noise, quantized, random_checkpoint

Array = npt.NDArray[Any]
PAGE = mmap.PAGESIZE
VECTOR = 64  # bytes: what kernels take for granted of weights and scratch memory
SCRATCH = (5 + 2 * 16) * 8 + 256  # bytes of the driver's scratch_t
SIDES = ((48, 48), (33, 301), (1, 1))  # rows of the widest are no longer on the stack


class Memory:
    """Pieces between forbidden pages, all with their ends there or all with their beginnings."""

    def __init__(self, *, ends: bool, filling: int) -> None:
        self._ends, self._filling = ends, filling
        self._held: list[tuple[str, mmap.mmap, Array, slice]] = []
        self._protect = ctypes.CDLL(None, use_errno=True).mprotect
        self._protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def piece(self, name: str, size: int, align: int = 1) -> Array:
        """Return so many bytes; where their end is no multiple of `align`, fewer bytes than that lie behind them."""
        pages = -(-max(size, 1) // PAGE)
        whole = mmap.mmap(-1, (pages + 2) * PAGE)
        every = np.frombuffer(whole, np.uint8)
        for page in (0, pages + 1):
            assert self._protect(every.ctypes.data + page * PAGE, PAGE, 0) == 0
        start = PAGE * (pages + 1) - -(-size // align) * align if self._ends else PAGE
        inside = slice(start, start + size)
        every[PAGE : PAGE * (pages + 1)] = self._filling
        self._held.append((name, whole, every, inside))
        return every[inside]

    def touched(self) -> list[str]:
        """Return the pieces beside which something was written."""
        found = []
        for name, _, every, inside in self._held:
            beside = (every[PAGE : inside.start], every[inside.stop : -PAGE])
            if any((part != self._filling).any() for part in beside):
                found.append(name)
        return found


class Machinery:
    """The kernels of a network, called one by one as the driver calls them."""

    def __init__(self, network: Network, target: Target, folder: Path, memory: Memory, short: str | None) -> None:
        kernels = [call.kernel for call in network.calls]
        self._library, self._names = load(kernels, target, folder=folder), names(kernels, target)
        self._memory, self._short, self._kept = memory, short, list[Array]()
        self.values = {INPUT: self._piece(INPUT, network.sizes[INPUT] * 4)}
        for call in network.calls:
            self.values.setdefault(call.out.name, self._piece(call.out.name, size(call.out)))
        self._machine = target.machine

    def _piece(self, name: str, count: int, align: int = 1) -> Array:
        return self._memory.piece(name, max(0, count - (VECTOR if name == self._short else 0)), align)

    def call(self, call: Call, parts: int) -> None:
        """Call a kernel for each part of its output."""
        shared = [self._argument(each) for each in call.arguments]
        for start, extent in strips(call.axis, parts):
            out = self._header(call.out, self.values[call.out.name], (call.axis.place, start, extent))
            count = scratch.scratch_bytes([call.kernel], self._machine)
            held = self._piece("scratch", count, VECTOR)
            state = np.zeros(SCRATCH, np.uint8)
            state[:16].view(np.uint64)[:] = (held.ctypes.data, held.size)
            context = np.array([state.ctypes.data], np.uint64)
            arguments = np.array([context.ctypes.data, *shared, out], np.uint64)
            kernel: Callable[[int], int] = self._library[f"{self._names[call.kernel]}_argv"]
            kernel.argtypes = [ctypes.c_void_p]  # type: ignore[attr-defined]
            assert kernel(arguments.ctypes.data) == 0, call.kernel
            assert state[24:32].view(np.uint64)[0] <= held.size, f"more scratch memory than planned: {call.kernel}"

    def _argument(self, argument: View | Array) -> int:
        if isinstance(argument, View):
            return self._header(argument, self.values[argument.name])
        held = self._piece("weights", argument.nbytes)
        held.view(argument.dtype)[:] = argument.reshape(-1)[: held.size // argument.itemsize]
        extents = argument.shape[::-1]
        strides = tuple(prod(extents[:place]) for place in range(len(extents)))
        return self._header(View("", extents, strides, argument.itemsize), held)

    def _header(self, view: View, memory: Array, cut: tuple[int, int, int] | None = None) -> int:
        """Return the address of a halide_buffer_t; `cut` is (dimension, first, extent)."""
        extents, starts, offset = list(view.extents), [0] * len(view.extents), 0
        if cut is not None:
            place, starts[cut[0]], extents[cut[0]] = cut[0], cut[1], cut[2]
            offset = cut[1] * view.strides[place] * view.item
        rows = [[s, e, t, 0] for s, e, t in zip(starts, extents, view.strides, strict=True)]
        dimensions = np.array(rows, np.int32)
        kind = (0x0001_20_02 if view.item == 4 else 0x0001_08_01) | len(rows) << 32
        numbers = [0, 0, memory.ctypes.data + offset, 0, kind, dimensions.ctypes.data, 0]
        self._kept += [dimensions, np.array(numbers, np.uint64)]
        return int(self._kept[-1].ctypes.data)


def size(view: View) -> int:
    """Return the bytes from the first to behind the last."""
    return (1 + sum((e - 1) * s for e, s in zip(view.extents, view.strides, strict=True))) * view.item


def strips(axis: Axis, parts: int) -> Iterator[tuple[int, int]]:
    """Yield (first, extent) of parts, in whole units but the last one."""
    units = -(-axis.extent // axis.unit)
    bounds = [min(axis.extent, -(-units * index // parts) * axis.unit) for index in range(parts + 1)]
    for low, high in itertools.pairwise(bounds):
        if high > low:
            yield low, high - low


def run(name: str, precision: str, folder: Path, short: str | None = None) -> None:
    """Run a narrow network at several sizes, and compare what it answers with the reference."""
    scratch.STACK_BYTES = 0  # of int8 kernels: what they keep is on no stack
    checkpoint, target = random_checkpoint(arch_named(name), (48, 48), width=0.25), host()
    if precision == "int8":
        checkpoint = quantized(checkpoint, noise(checkpoint, 2, seed=1))
    for sides in SIDES:
        layout = resized(checkpoint.card.plan, sides)
        batch = noise(checkpoint, 1, sides=sides)
        expected = reference.outputs(layout, reference.arithmetic(checkpoint), batch)
        if precision == "int8":
            network = lower_int8(layout, checkpoint, target.machine)
        else:
            network = lower(layout, folded(checkpoint), target.machine)
        for ends, filling, parts in ((True, 0xFF, 1), (False, 0xA5, 2)):
            memory = Memory(ends=ends, filling=filling)
            machinery = Machinery(network, target, folder, memory, short)
            machinery.values[INPUT].view(np.float32)[:] = batch.reshape(-1)[: machinery.values[INPUT].size // 4]
            for call in network.calls:
                sys.stdout.write(f"{sides} {call.kernel}\n")
                sys.stdout.flush()
                machinery.call(call, parts)
            assert not memory.touched(), memory.touched()
            for view, wanted in zip(network.outputs, expected, strict=True):
                channels, width, height = view.extents
                value = machinery.values[view.name].view(np.float32).reshape(height, width, channels)
                off = np.abs(value.transpose(2, 0, 1)[: wanted.shape[1]] - wanted[0].reshape(-1, height, width)).max()
                # Rounding is not what is looked for: with such weights MnasNet-A1 in torch's float32 is 6e-5 off.
                assert off <= (0 if precision == "int8" else 1e-3 * np.abs(wanted).max()), off


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *(each.removeprefix("short=") for each in sys.argv[4:]))
