"""The engine beside its peers: the same networks in ONNX Runtime, OpenVINO and the engine, interleaved.

    python -m benchmarks.engine [repeats]

Random weights, which speed does not depend on; one picture at a time; every runtime in a process of its own, taking
turns in rounds. Writes benchmarks/results/engine.json.
"""

from __future__ import annotations

import sys

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets.bench.result import BenchResult

NETWORKS: tuple[tuple[str, float, int], ...] = (
    ("mobilenet_v2", 1.0, 224),
    ("mobilenet_v1", 1.0, 224),
    ("mobilenet_v2", 0.35, 96),
    ("mobilenet_v3_large", 1.0, 224),
    ("mobilenet_v3_small", 1.0, 224),
    ("efficientnet_lite0", 1.0, 224),
)
PEERS = ("onnx", "openvino")
THREADS = (1, 2)


def main() -> None:
    """Time all networks; the figures are how many times as fast as the faster peer the engine is."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    results: list[BenchResult] = []
    figures: list[Figure] = []
    for name, width, resolution in NETWORKS:
        found = mobilenets.bench(
            name,
            width=width,
            resolution=resolution,
            runtimes=("engine", *PEERS),
            precisions=("float32",),
            threads=THREADS,
            repeats=repeats,
        )
        print(found, end="\n\n", flush=True)
        results.append(found)
        figures += [figure for threads in THREADS for figure in beside_peers(found, threads)]
    print(write("engine", figures, [found.to_json() for found in results]))


def beside_peers(found: BenchResult, threads: int) -> list[Figure]:
    """Return the engine's median time, and each peer's as a multiple of it."""
    times = {
        row.configuration.runtime: row.timing.median_ms
        for row in found.rows
        if row.timing is not None and row.configuration.threads == threads
    }
    if "engine" not in times:
        return []
    what = f"{found.model} {found.width:g} at {found.resolution[0]}, float32, threads: {threads}"
    own = times["engine"]
    figures = [Figure(f"{what}: engine", round(own, 3), "ms", "reported")]
    return figures + [
        Figure(f"{what}: {peer} takes", round(times[peer] / own, 2), "times as long", "1 or more")
        for peer in PEERS
        if peer in times
    ]


if __name__ == "__main__":
    main()
