"""The engine's int8 beside its peers': the same checkpoints in four runtimes, interleaved.

    python -m benchmarks.engine_int8 CHECKPOINT [repeats]

CHECKPOINT is MobileNetV2 1.0 at 224 in int8, quantized with pictures; the other networks are quantized on noise, which
speed does not depend on. One picture at a time; every runtime in a process of its own, taking turns in rounds. Before
it is timed, the engine's answers are compared with the reference's, bit for bit. Writes
benchmarks/results/engine_int8.json.
"""

from __future__ import annotations

import sys
from contextlib import closing

import numpy as np

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets.bench.result import BenchResult
from mobilenets.checkpoint import Checkpoint, load
from mobilenets.engine import reference
from mobilenets.runtime import load as load_predictor

NETWORKS: tuple[tuple[str, float, int], ...] = (
    ("mobilenet_v1", 1.0, 224),
    ("mobilenet_v2", 0.35, 96),
    ("mobilenet_v3_large", 1.0, 224),
    ("mobilenet_v3_small", 1.0, 224),
    ("efficientnet_lite0", 1.0, 224),
)
PEERS = ("onnx", "openvino", "litert")
THREADS = (1, 2)
TARGETS = {1: "1.4 or more", 2: "1 or more"}


def main() -> None:
    """Time all networks; the figures are how many times as fast as each peer the engine is."""
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    checkpoint = load(sys.argv[1])
    figures = [Figure("largest difference from the reference, 4 pictures of noise", difference(checkpoint), "", "0")]
    found = timed(sys.argv[1], repeats)
    results = [found]
    figures += [each for threads in THREADS for each in beside_peers(found, threads, TARGETS[threads])]
    for name, width, resolution in NETWORKS:
        found = timed(name, repeats, width, resolution)
        results.append(found)
        figures += [each for threads in THREADS for each in beside_peers(found, threads, "1 or more")]
    print(write("engine_int8", figures, [each.to_json() for each in results]))


def difference(checkpoint: Checkpoint) -> float:
    """Return the largest difference of the engine's logits from the reference's."""
    card = checkpoint.card
    batch = np.random.default_rng(0).normal(size=(4, card.in_channels, *card.resolution)).astype(np.float32)
    with closing(load_predictor(checkpoint, "engine")) as predictor:
        (logits,) = predictor.run(batch)
    return float(np.abs(logits - reference.run(checkpoint, batch)).max())


def timed(model: str, repeats: int, width: float | None = None, resolution: int | None = None) -> BenchResult:
    """Return the times of a network in int8."""
    found = mobilenets.bench(
        model,
        width=width,
        resolution=resolution,
        runtimes=("engine", *PEERS),
        precisions=("int8",),
        threads=THREADS,
        repeats=repeats,
    )
    print(found, end="\n\n", flush=True)
    return found


def beside_peers(found: BenchResult, threads: int, target: str) -> list[Figure]:
    """Return the engine's median time, and the fastest peer's as a multiple of it: of medians and of shortest times."""
    times = {
        row.configuration.runtime: row.timing
        for row in found.rows
        if row.timing is not None and row.configuration.threads == threads
    }
    peers = {name: times[name] for name in PEERS if name in times}
    if "engine" not in times or not peers:
        return []
    what = f"{found.arch} {found.width:g} at {found.resolution[0]}, int8, threads: {threads}"
    own = times["engine"]
    figures = [Figure(f"{what}: engine", round(own.median_ms, 3), "ms", "reported")]
    for kind in ("median", "min"):
        name = min(peers, key=lambda each: getattr(peers[each], f"{kind}_ms"))
        ratio = getattr(peers[name], f"{kind}_ms") / getattr(own, f"{kind}_ms")
        figures.append(Figure(f"{what}: the fastest peer ({name}), {kind}", round(ratio, 2), "times as long", target))
    return figures


if __name__ == "__main__":
    main()
