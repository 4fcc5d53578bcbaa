"""What kernels in C are worth beside Halide's, in float32: whole networks with both, in turns, in one process.

    python -m benchmarks.engine_c [rounds]

One thread, 224 pixels, random weights. Only with AVX-512 are there kernels in C for float32: 1x1 convolutions of small
maps, inverted residuals, expansions with their depthwise convolutions. Writes benchmarks/results/engine_c.json.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np

from benchmarks.environment import Figure, write
from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.bench.synthetic import random_checkpoint
from mobilenets.engine.c_kernels import in_c
from mobilenets.engine.folding import folded
from mobilenets.engine.library import Target, host
from mobilenets.engine.lowering import lower
from mobilenets.engine.program import Program

NETWORKS = (
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet_a1", "efficientnet_lite0"),
)
ROUNDS = 40
TURN = 5  # pictures


def main() -> None:
    """Time every network; the figures are how many times as long Halide's kernels alone take."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    figures, details = [], {}
    for name in NETWORKS:
        times, kernels = timed(name, rounds)
        median = {how: float(np.median(each)) for how, each in times.items()}
        worth = round(median["Halide"] / median["C"], 2)
        figures.append(Figure(f"{name}, float32, 1 thread: kernels in C, against Halide's", worth, "times as fast", ""))
        rows = {how: {"median_ms": median[how], "min_ms": min(each)} for how, each in times.items()}
        details[name] = {**rows, "kernels": kernels}
        print(name, {how: round(each, 3) for how, each in median.items()}, worth, flush=True)
    print(write("engine_c", figures, details))


def timed(name: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the milliseconds of each picture by the kernels' language, and how many kernels there are in C."""
    layout = plan(ARCHITECTURES[name])
    checkpoint = random_checkpoint(layout)
    picture = np.random.default_rng(0).normal(size=(1, *layout.input_shape)).astype(np.float32)
    own = host()
    targets: dict[str, Target] = {"C": own, "Halide": replace(own, machine=replace(own.machine, halide=True))}
    made = {how: lower(layout, folded(checkpoint), each.machine) for how, each in targets.items()}
    times: dict[str, list[float]] = {how: [] for how in targets}
    order = random.Random(0)  # noqa: S311 - a shuffle, no secret
    with ExitStack() as stack:
        programs = {how: stack.enter_context(closing(Program(made[how], targets[how], 1))) for how in targets}
        for turn in range(-3, rounds):
            for how in order.sample([*programs], len(programs)):
                for _ in range(TURN):
                    begun = time.perf_counter_ns()
                    programs[how].run(picture)
                    if turn >= 0:
                        times[how].append((time.perf_counter_ns() - begun) / 1e6)
    kernels = [call.kernel for call in made["C"].calls]
    return times, {"C": sum(in_c(each, own.machine) for each in kernels), "all": len(kernels)}


if __name__ == "__main__":
    main()
