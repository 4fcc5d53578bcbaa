"""Time against multiply-adds: MobileNetV2 over widths and resolutions, the engine beside its peers, interleaved.

    python -m benchmarks.scaling FOLDER --prepare
    python -m benchmarks.scaling FOLDER [SECONDS]

Twenty networks with random weights, one picture at a time. First files for every runtime are written into FOLDER and
the engine's kernels compiled; then networks are timed, one after another, until SECONDS are over: run it again and it
goes on with those that benchmarks/results/scaling.json does not have. All runtimes take turns on one network, each in a
process of its own. Some networks are timed with two threads as well.
"""

from __future__ import annotations

import json
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from math import exp, log
from pathlib import Path
from typing import Any

from benchmarks.environment import RESULTS, Figure, commit, write
from mobilenets.bench.children import Child
from mobilenets.bench.configuration import FLOAT32, INT8, Job
from mobilenets.bench.timing import summarize

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
RESOLUTIONS = (96, 128, 160, 224)
CELLS = tuple(product(WIDTHS, RESOLUTIONS))
THREADED = ((0.35, 96), (0.75, 160), (1.0, 224), (1.4, 224))
"""The networks that are timed with two threads as well."""

ENTRANTS = (("engine", FLOAT32), ("engine", INT8), ("onnx", FLOAT32), ("openvino", FLOAT32))
ROUNDS = 20
ROUND_MS = 30  # of one entrant, at least
OPEN_SECONDS = 120.0

Cell = dict[str, Any]


def main() -> None:
    """Write files, or time networks; figures are how many times as long peers take, and the worth of two threads."""
    folder = Path(sys.argv[1])
    if "--prepare" in sys.argv:
        for cell in CELLS:
            prepare(cell, folder)
            print(name(cell), flush=True)
        return
    end = time.monotonic() + (float(sys.argv[2]) if len(sys.argv) > 2 else float("inf"))
    cells = before()
    for cell in CELLS:
        if name(cell) not in cells and time.monotonic() < end:
            cells[name(cell)] = timed(cell, folder)
            medians = {
                row["what"]: round(row["median_ms"], 3) for row in cells[name(cell)]["rows"] if row["threads"] == 1
            }
            print(name(cell), medians, flush=True)
            write("scaling", figures(cells), {"cells": cells})


def name(cell: tuple[float, int]) -> str:
    """Return what a network is called in the file.

    >>> name((1.0, 224))
    '1 at 224'
    """
    return f"{cell[0]:g} at {cell[1]}"


def before() -> dict[str, Cell]:
    """Return the networks that the file has."""
    path = RESULTS / "scaling.json"
    held: dict[str, Cell] = json.loads(path.read_text(encoding="utf-8"))["details"]["cells"] if path.is_file() else {}
    return {key: held[key] for cell in CELLS if (key := name(cell)) in held}


def paths(cell: tuple[float, int], folder: Path) -> dict[tuple[str, str], Path]:
    """Return the file that each entrant opens."""
    endings = {"engine": "safetensors", "onnx": "onnx", "openvino": "xml"}
    own = folder / name(cell).replace(" ", "_")
    return {(runtime, kind): own / f"{kind}.{endings[runtime]}" for runtime, kind in ENTRANTS}


def prepare(cell: tuple[float, int], folder: Path) -> None:
    """Write what each entrant opens, and compile what the engine needs for it."""
    from mobilenets.bench.subject import subject
    from mobilenets.runtime import load

    found = subject("mobilenet_v2", width=cell[0], resolution=cell[1])
    for (runtime, kind), path in paths(cell, folder).items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            assert found.file(runtime, kind, path.parent) == path
        if runtime == "engine":
            load(str(path), "engine", 1).close()


def timed(cell: tuple[float, int], folder: Path) -> Cell:
    """Return the times of a network, every entrant's in rounds that they all take part in."""
    from mobilenets.arch import ARCHITECTURES, plan
    from mobilenets.arch.cost import cost

    files = paths(cell, folder)
    threads = (1, 2) if cell in THREADED else (1,)
    jobs = [
        Job(str(files[entrant]), *entrant, count, 1, (cell[1], cell[1])) for count in threads for entrant in ENTRANTS
    ]
    times: list[list[float]] = [[] for _ in jobs]
    with ExitStack() as stack:
        children = [stack.enter_context(Child(job)) for job in jobs]
        for child in children:
            child.ask({"open": child.job.to_json()}, OPEN_SECONDS)
        each = [child.ask({"run": 3, "warm": 2}, OPEN_SECONDS)["times_ms"] for child in children]
        counts = [max(5, min(50, round(ROUND_MS / sorted(first)[1]))) for first in each]
        order = random.Random(0)  # noqa: S311 - a shuffle, no secret
        for _ in range(ROUNDS):
            for at in order.sample(range(len(jobs)), len(jobs)):
                times[at] += children[at].ask({"run": counts[at], "warm": 2}, OPEN_SECONDS)["times_ms"]
    layout = plan(ARCHITECTURES["mobilenet_v2"], width=cell[0], resolution=cell[1])
    return {
        "width": cell[0],
        "resolution": cell[1],
        "multiply_adds": cost(layout).multiply_adds,
        "commit": commit(),
        "rows": [
            {"what": what(job.runtime, job.precision), "threads": job.threads, **asdict(summarize(found))}
            for job, found in zip(jobs, times, strict=True)
        ],
    }


def what(runtime: str, precision: str) -> str:
    """Return how an entrant is called."""
    return f"{runtime} {precision}"


def median_ms(cell: Cell, runtime: str, precision: str, threads: int = 1) -> float:
    """Return an entrant's median time."""
    wanted = (what(runtime, precision), threads)
    return next(float(row["median_ms"]) for row in cell["rows"] if (row["what"], row["threads"]) == wanted)


def figures(cells: dict[str, Cell]) -> list[Figure]:
    """Return the faster peer's time as a multiple of the engine's, over all networks, and the share of two threads."""
    found = []
    for kind in (FLOAT32, INT8):
        ratios = {
            key: min(median_ms(cell, peer, FLOAT32) for peer in ("onnx", "openvino")) / median_ms(cell, "engine", kind)
            for key, cell in cells.items()
        }
        mean = exp(sum(log(ratio) for ratio in ratios.values()) / len(ratios))
        said = f"mobilenet_v2, {len(cells)} networks, 1 thread: the faster peer in float32, of the engine in {kind}"
        least = min(ratios, key=lambda key: ratios[key])
        found.append(Figure(f"{said}, geometric mean", round(mean, 2), "times as long", "1 or more"))
        found.append(Figure(f"{said}, least ({least})", round(ratios[least], 2), "times as long", "1 or more"))
    for key, cell in cells.items():
        if any(row["threads"] == 2 for row in cell["rows"]):
            for runtime, kind in ENTRANTS:
                share = 50 * median_ms(cell, runtime, kind) / median_ms(cell, runtime, kind, 2)
                said = f"mobilenet_v2 {key}, {what(runtime, kind)}: efficiency of 2 threads"
                found.append(Figure(said, round(share, 1), "%", "reported"))
    return found


if __name__ == "__main__":
    main()
