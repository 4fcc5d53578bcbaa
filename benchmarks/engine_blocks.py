"""Every kernel of MobileNetV2 beside what a core can do: the roofline, and what tuned tiles are worth.

    python -m benchmarks.engine_blocks [repeats]

One thread, 224 pixels, float32 and int8, with the tiles that follow from the rules and with those that come with the
package, in turns in one process, between measurements of the ceilings: multiply-adds in registers, and reading as many
bytes as the network has weights. No kernel can take less than the longer of two times: of its multiply-adds at the one
ceiling, of its weights at the other. Writes benchmarks/results/engine_blocks.json.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.environment import ROOT, Figure, write
from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.arch.cost import multiply_adds, parameters
from mobilenets.bench.profile import call_shares
from mobilenets.bench.synthetic import quick_int8, random_checkpoint
from mobilenets.engine.choices import AnyTiled, Choice, shape, shipped
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import DRIVER, compiler, host
from mobilenets.engine.lowering import Network, lower
from mobilenets.engine.program import Program

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 30
TURN = 5  # pictures
CEILING_MS = 3.0
PRECISIONS = {"float32": 4, "int8": 1}  # bytes of a weight
TILES = ("rules", "shipped")

LAYOUT = plan(ARCHITECTURES["mobilenet_v2"])


def main() -> None:
    """Time kernels and ceilings; the figures are shares of the ceilings."""
    rounds = -(-int(sys.argv[1]) // TURN) if len(sys.argv) > 1 else ROUNDS
    target = host()
    made = networks()
    picture = np.random.default_rng(0).normal(size=(1, *LAYOUT.input_shape)).astype(np.float32)
    with ExitStack() as stack:
        limits = ceilings(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        programs = {name: stack.enter_context(closing(Program(each, target, 1))) for name, each in made.items()}
        steps: dict[tuple[str, str], list[NDArray[Any]]] = {name: [] for name in programs}
        whole: dict[tuple[str, str], list[float]] = {name: [] for name in programs}
        reached: dict[str, list[float]] = {name: [] for name in limits}
        order = random.Random(0)  # noqa: S311 - a shuffle, no secret
        for turn in range(-2, rounds):
            for what, limit in limits.items():
                reached[what] += [limit()] if turn >= 0 else []
            for name in order.sample([*programs], len(programs)):
                taken, alone = programs[name].step_times(picture, TURN), timed(programs[name], picture)
                if turn >= 0:
                    steps[name].append(taken)
                    whole[name] += alone
    found = {name: float(np.median(each)) for name, each in reached.items()}
    details = {
        "ceilings": found,
        "networks": [
            {
                "precision": kind,
                "tiles": tiles,
                "median_ms": float(np.median(whole[kind, tiles])),
                "min_ms": min(whole[kind, tiles]),
                "kernels": kernels(made[kind, tiles], np.concatenate(steps[kind, tiles]), found, kind),
            }
            for kind, tiles in made
        ],
    }
    print(write("engine_blocks", figures(details), details))


def networks() -> dict[tuple[str, str], Network]:
    """Return MobileNetV2 by precision and tiles."""
    checkpoint, machine = random_checkpoint(LAYOUT), host().machine
    layers, quantized = folded(checkpoint), quick_int8(checkpoint)
    found = {}
    choices: Mapping[str, Choice]
    for tiles, choices in zip(TILES, ({}, shipped(machine)), strict=True):
        found["float32", tiles] = lower(LAYOUT, layers, machine, choices)
        found["int8", tiles] = lower_int8(LAYOUT, quantized, machine, choices)
    return found


def timed(program: Program, picture: NDArray[np.float32]) -> list[float]:
    """Return the milliseconds of a turn's pictures; nobody looks at single kernels meanwhile."""
    times = []
    for _ in range(TURN):
        begun = time.perf_counter_ns()
        program.run(picture)
        times.append((time.perf_counter_ns() - begun) / 1e6)
    return times


def ceilings(folder: Path) -> dict[str, Callable[[], float]]:
    """Return what measures each ceiling once: G multiply-adds a second by precision, and GB a second read."""
    target, path = host(), folder / "ceiling.so"
    command = [*compiler(target), *(f"-m{name}" for name in target.features), "-I", str(DRIVER.parent), "-std=c11"]
    command += ["-O3", "-ffp-contract=fast", "-shared", "-fPIC", "-o", str(path), str(ROOT / "benchmarks/ceiling.c")]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(path))
    numbers = np.full(64, 0.5, np.float32)  # sums of float32 stay small; for bytes, any bits do
    weights = np.ones(sum(parameters(op) for op in LAYOUT.ops) // 64 * 64 + 64, np.int32)
    vector = 4 * target.machine.lanes
    first = -int(weights.ctypes.data) % vector // 4
    vectors = 4 * (len(weights) - 64) // vector

    def products(function: Any, each: int) -> Callable[[], float]:
        at_once = each * int(library.products_at_once())

        def once() -> float:
            count, seconds = 1000, 0.0
            while seconds < CEILING_MS / 2e3:
                count *= 2
                begun = time.perf_counter()
                function(ctypes.c_long(count), ctypes.c_void_p(numbers.ctypes.data))
                seconds = time.perf_counter() - begun
            return count * at_once / seconds / 1e9

        return once

    def read() -> float:
        begun = time.perf_counter()
        at = ctypes.c_void_p(weights[first:].ctypes.data)
        library.read_all(ctypes.c_long(vectors), at, ctypes.c_void_p(numbers.ctypes.data))
        return vectors * vector / (time.perf_counter() - begun) / 1e9

    return {
        "float32": products(library.float32_products, 1),
        "int8": products(library.int8_products, 4),
        "read_gb_s": read,
    }


def kernels(network: Network, times: NDArray[Any], limits: Mapping[str, float], kind: str) -> list[dict[str, Any]]:
    """Return what each call computes, its median and least microseconds, and those that it cannot go below."""
    shares = call_shares(LAYOUT, [call.out.name for call in network.calls])
    by_name = {op.name: op for op in LAYOUT.ops}
    rows = []
    for call, parts, median, least in zip(
        network.calls, shares, np.median(times, axis=0) / 1e3, times.min(axis=0) / 1e3, strict=True
    ):
        if not isinstance(call.kernel, AnyTiled):
            parts = {}
        ops = [by_name[name] for name in parts]
        count = sum(multiply_adds(op) for op in ops)
        weights = sum(parameters(op) for op in ops) * PRECISIONS[kind]
        rows.append(
            {
                "writes": call.out.name,
                "operations": [op.name for op in ops],
                "shape": shape(call.kernel) if isinstance(call.kernel, AnyTiled) else type(call.kernel).__name__,
                "multiply_adds": count,
                "weight_bytes": weights,
                "median_us": round(float(median), 2),
                "min_us": round(float(least), 2),
                "bound_us": round(max(count / limits[kind], weights / limits["read_gb_s"]) / 1e3, 2),
            }
        )
    return rows


def figures(details: Mapping[str, Any]) -> list[Figure]:
    """Return the ceilings, the share of them that whole networks reach, and what tuned tiles are worth."""
    limits = details["ceilings"]
    found = [
        Figure("1 thread: multiply-adds in registers, float32", round(limits["float32"], 1), "G/s", "reported"),
        Figure("1 thread: multiply-adds in registers, int8", round(limits["int8"], 1), "G/s", "reported"),
        Figure("1 thread: reading the weights of V2", round(limits["read_gb_s"], 1), "GB/s", "reported"),
    ]
    for kind in PRECISIONS:
        both = {each["tiles"]: each for each in details["networks"] if each["precision"] == kind}
        count = sum(row["multiply_adds"] for row in both["shipped"]["kernels"])
        share = 100 * count / (both["shipped"]["median_ms"] * 1e6) / limits[kind]
        what = f"mobilenet_v2 1 at 224, {kind}, 1 thread"
        found.append(Figure(f"{what}: share of that ceiling", round(share, 1), "%", "reported"))
        if not shipped(host().machine):
            continue  # both are the same network
        gain = both["rules"]["median_ms"] / both["shipped"]["median_ms"]
        found.append(
            Figure(f"{what}: the rules' tiles, of those that come along", round(gain, 3), "times as long", "1 or more")
        )
    return found


if __name__ == "__main__":
    main()
