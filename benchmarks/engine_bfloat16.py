"""What bfloat16 would be worth to the engine: its speed in kernels, and what it costs in answers.

    python -m benchmarks.engine_bfloat16 WEIGHTS PICTURES

Speed, one thread, in turns in one process: 1x1 convolutions and inverted residuals of MobileNetV2 at 224, in C by the
same loops in float32 and in bfloat16 (benchmarks/bfloat16.c), beside the engine's own kernels in float32 and in int8.
Answers to PICTURES of the network WEIGHTS (a float32 checkpoint): with weights and all activations rounded to bfloat16
and sums in float32, against float32. Writes benchmarks/results/engine_bfloat16.json.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import ROOT, Figure, write
from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.arch.mobilenet import Classifier, Conv, Pool
from mobilenets.bench.synthetic import quick_int8, random_checkpoint
from mobilenets.checkpoint import Checkpoint, load
from mobilenets.engine.choices import choices
from mobilenets.engine.folding import folded, unfolded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import compiler, host
from mobilenets.engine.lowering import lower
from mobilenets.engine.program import Program

ROUNDS, TURN = 20, 5
IMAGES = 500
LANES = 16
BLOCKS = ("block_3_add", "block_5_add", "block_8_add", "block_12_add", "block_15_add")
CONVOLUTIONS = ((56, 32, 144), (28, 32, 192), (14, 64, 384), (14, 576, 96), (7, 320, 1280))
CEILING, STEPS = "products in registers", 1000
AT_ONCE = 24 * LANES  # sums; of bfloat16 two products each
Once = Callable[[], float]


def main() -> None:
    """Time kernels, compare answers, write both."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        things = {**own_kernels(stack), **c_kernels(folder)}
        times: dict[tuple[str, str], list[float]] = {name: [] for name in things}
        order = random.Random(0)  # noqa: S311 - a shuffle, no secret
        for turn in range(-3, ROUNDS):
            for name in order.sample([*things], len(things)):
                taken = [things[name]() for _ in range(TURN)]
                times[name] += taken if turn >= 0 else []
    rows = [
        {"what": what, "by": by, "median_us": round(float(np.median(each)), 2), "min_us": round(min(each), 2)}
        for (what, by), each in times.items()
    ]
    details = {"kernels": rows, "answers": answers(load(Path(sys.argv[1])), sys.argv[2])}
    print(write("engine_bfloat16", figures(details), details))


def own_kernels(stack: ExitStack) -> dict[tuple[str, str], Once]:
    """Return what times the engine's kernels, by what is computed and how."""
    target = host()
    found: dict[tuple[str, str], Once] = {}
    layouts = [(plan(ARCHITECTURES["mobilenet_v2"]), {name: name for name in BLOCKS})]
    for side, terms, channels in CONVOLUTIONS:
        rows = (Conv(channels, kernel=1), Conv(LANES, kernel=1), Pool(), Classifier())
        arch = replace(ARCHITECTURES["mobilenet_v2"], rows=rows, small_image_strides=False)
        layout = plan(arch, resolution=side, in_channels=terms, classes=10)
        layouts.append((layout, {"stem": f"1x1 {side}x{side} {terms} > {channels}"}))
    for layout, wanted in layouts:
        checkpoint = random_checkpoint(layout)
        picture = np.random.default_rng(0).normal(size=(1, *layout.input_shape)).astype(np.float32)
        tiles = choices(target.machine)
        for kind, network in (
            ("engine float32", lower(layout, folded(checkpoint), target.machine, tiles)),
            ("engine int8", lower_int8(layout, quick_int8(checkpoint), target.machine, tiles)),
        ):
            program = stack.enter_context(closing(Program(network, target, 1)))
            places = [call.out.name for call in network.calls]
            for name, what in wanted.items():
                found[what, kind] = _step(program, picture, places.index(name))
    return found


def _step(program: Program, picture: Any, place: int) -> Once:
    return lambda: float(program.step_times(picture, 1)[0, place]) / 1e3


def c_kernels(folder: Path) -> dict[tuple[str, str], Once]:
    """Return what times the kernels in C."""
    found: dict[tuple[str, str], Once] = {}
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    for kind, short in (("C float32", 0), ("C bfloat16", 1)):
        path, target = folder / f"{short}.so", host()
        flags = [*(f"-m{name}" for name in target.features), "-mavx512bf16", f"-DBFLOAT16={short}", "-O3"]
        source = str(ROOT / "benchmarks/bfloat16.c")
        command = [*compiler(target), *flags, "-ffp-contract=fast", "-shared", "-fPIC", "-o", str(path), source]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
        arguments = [_memory(32, short), _memory(16, 0)]
        found[CEILING, kind] = _call(library.products, [STEPS, *arguments])
        for side, terms, channels in CONVOLUTIONS:
            numbers = [side * side * terms, terms * channels, side * side * channels]
            memory = [_memory(count, short) for count in numbers]
            arguments = [memory[0], side * side, terms, channels, memory[1], _memory(channels, 0), memory[2]]
            found[f"1x1 {side}x{side} {terms} > {channels}", kind] = _call(library.convolution, arguments)
        for name in BLOCKS:
            op = layout.op(name)
            (_, side, _), inner = op.out, layout.op(f"{op.block}_depthwise").out[0]
            channels = -(-op.out[0] // (2 * LANES)) * 2 * LANES  # 24 are computed as 32
            maps = [_memory(side * side * channels, short) for _ in range(2)]
            weights = [_memory(channels * inner, short) for _ in range(2)]
            biases = [_memory(count, 0) for count in (inner, 9 * inner, inner, channels)]
            kept = [_memory(count * inner, short) for count in (3 * (side + 2), side)]
            arguments = [maps[0], side, channels, inner, channels, weights[0], *biases[:3], weights[1], biases[3]]
            found[name, kind] = _call(library.block, [*arguments, *kept, maps[1]])
    return found


def _memory(count: int, short: int) -> Any:
    """Return so many numbers near zero, aligned to vectors; bfloat16 as the upper halves of float32."""
    values = np.random.default_rng(0).normal(0, 0.1, count + 64).astype(np.float32)
    if short:
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    first = -int(values.ctypes.data) % 64 // values.itemsize
    return values[first : first + count]


def _call(function: Any, arguments: list[Any]) -> Once:
    passed = [
        ctypes.c_void_p(each.ctypes.data) if isinstance(each, np.ndarray) else ctypes.c_int(each) for each in arguments
    ]

    def once(_kept: list[Any] = arguments) -> float:
        begun = time.perf_counter_ns()
        function(*passed)
        return (time.perf_counter_ns() - begun) / 1e3

    return once


def answers(checkpoint: Checkpoint, pictures: str) -> dict[str, float]:
    """Return how far answers in bfloat16 are from those in float32, and how often the first class is the same."""
    import torch

    from mobilenets.image import normalize
    from mobilenets.nn.network import from_checkpoint
    from mobilenets.parity import pictures_for

    layers = folded(checkpoint)
    rounded = {
        name: replace(layer, weight=torch.from_numpy(layer.weight).bfloat16().float().numpy())
        for name, layer in layers.items()
    }
    networks = [from_checkpoint(unfolded(checkpoint.card, each)) for each in (layers, rounded)]
    shown = pictures_for(checkpoint.card, pictures, IMAGES).fitted
    logits: list[list[Any]] = [[], []]
    with torch.no_grad():
        for at in range(0, len(shown), 25):
            batch = torch.from_numpy(normalize(shown[at : at + 25], checkpoint.card.preprocess))
            for network, found, short in zip(networks, logits, (False, True), strict=True):
                found.append(_run(network, batch, short=short).flatten(1).numpy())
    exact, near = (np.concatenate(each) for each in logits)
    return {
        "pictures": len(shown),
        "same_first_class_percent": round(100 * float((exact.argmax(1) == near.argmax(1)).mean()), 2),
        "relative_error_rms": float(np.sqrt(np.square(near - exact).mean() / np.square(exact).mean())),
        "relative_error_largest": float((np.abs(near - exact).max(1) / np.abs(exact).max(1)).max()),
    }


def _run(network: Any, batch: Any, *, short: bool) -> Any:
    """Return what the last operation gives, every map between operations rounded where it is `short`."""

    def kept(value: Any) -> Any:
        return value.bfloat16().float() if short else value

    live = {"input": kept(batch)}
    for op in network.plan.ops:
        sources = [live[name] for name in op.sources]
        match op.kind:
            case "add":
                value = sources[0] + sources[1]
            case "pool":
                value = sources[0].mean((2, 3), keepdim=True)
            case _:
                source = sources[0].flatten(1) if op.kind == "linear" else sources[0]
                value = network.get_submodule(op.name)(source.clone())
        last = op.name in network.plan.outputs
        live[op.name] = value if last else kept(value)
    return live[network.plan.outputs[0]]


def figures(details: dict[str, Any]) -> list[Figure]:
    """Return how many times as fast bfloat16 is, and what it costs."""
    medians = {(row["what"], row["by"]): row["median_us"] for row in details["kernels"]}
    found = []
    groups = {
        "5 inverted residuals": BLOCKS,
        "5 1x1 convolutions": [f"1x1 {s}x{s} {t} > {c}" for s, t, c in CONVOLUTIONS],
    }
    for title, names in groups.items():
        total = {by: sum(medians[name, by] for name in names) for _, by in medians}
        for by in ("C float32", "engine float32", "engine int8"):
            what = f"{title} of V2 at 224, 1 thread: C in bfloat16, against {by}"
            found.append(Figure(what, round(total[by] / total["C bfloat16"], 2), "times as fast", "1.5 for it to pay"))
    for by, products in (("C float32", 1), ("C bfloat16", 2)):
        rate = STEPS * AT_ONCE * products / medians[CEILING, by] / 1e3
        what = f"1 thread: multiply-adds in registers, {by.removeprefix('C ')}"
        found.append(Figure(what, round(rate, 1), "G/s", "reported"))
    told = details["answers"]
    count = told["pictures"]
    error = round(100 * told["relative_error_rms"], 2)
    return [
        *found,
        Figure(
            f"MobileNetV2 in bfloat16, {count} photographs: same first class",
            told["same_first_class_percent"],
            "%",
            "reported",
        ),
        Figure(
            f"MobileNetV2 in bfloat16, {count} photographs: error of logits", error, "% of their size (rms)", "reported"
        ),
    ]


if __name__ == "__main__":
    main()
