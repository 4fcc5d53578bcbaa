"""The engine beside its peers: the same networks in ONNX Runtime, OpenVINO and the engine, interleaved.

    python -m benchmarks.engine [repeats [NAME ...]]

Random weights, which speed does not depend on; one picture at a time; every runtime in a process of its own, taking
turns in rounds. NAMEs of architectures measure those alone, and leave the others in the file as they are. Writes
benchmarks/results/engine.json.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import mobilenets
from benchmarks.environment import RESULTS, Figure, environment, write
from mobilenets.bench.result import BenchResult

NETWORKS: tuple[tuple[str, float, int], ...] = (
    ("mobilenet_v2", 1.0, 224),
    ("mobilenet_v1", 1.0, 224),
    ("mobilenet_v2", 0.35, 96),
    ("mobilenet_v3_large", 1.0, 224),
    ("mobilenet_v3_small", 1.0, 224),
    ("efficientnet_lite0", 1.0, 224),
    ("ssdlite_mobilenet_v2", 1.0, 320),
)
PEERS = ("onnx", "openvino")
THREADS = (1, 2)


def main() -> None:
    """Time networks; the figures are the engine's time, and how many times as long the peers take."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    wanted = sys.argv[2:] or [name for name, _, _ in NETWORKS]
    kept = before()
    for name, width, resolution in NETWORKS:
        if name not in wanted:
            continue
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
        figures = [figure for threads in THREADS for figure in beside_peers(found, threads)]
        kept[f"{name} {width:g} {resolution}"] = {
            "environment": environment(),
            "figures": [[figure.what, figure.value, figure.unit, figure.wanted] for figure in figures],
            "result": found.to_json(),
        }
        every = [Figure(*figure) for network in kept.values() for figure in network["figures"]]
        print(write("engine", every, kept), flush=True)


def before() -> dict[str, Any]:
    """Return what the file holds of each network: when it was measured, its figures, and all its times."""
    path = RESULTS / "engine.json"
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["details"] if path.is_file() else {}
    return {key: held[key] for name, width, side in NETWORKS if (key := f"{name} {width:g} {side}") in held}


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
