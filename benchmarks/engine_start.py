"""How long the engine takes from a checkpoint that was read to being ready, each time in a fresh interpreter.

    python -m benchmarks.engine_start FLOAT32 INT8 [repeats [colds]]

FLOAT32 and INT8 are checkpoints of MobileNetV2 1.0 at 224. Cold: the cache is empty, so every kernel is compiled
(`colds` times, 3). Other weights: the library of another checkpoint of the table is there, weights are folded and
packed. Warm: this checkpoint was run before. The last two `repeats` times (15), in turns; the medians are the figures,
all times are in the JSON. Byte code is kept, as an installed package has it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environment import ROOT, Figure, write

READY = """
import json, sys, time
import numpy as np
from mobilenets import checkpoint, runtime
loaded = checkpoint.load(sys.argv[1])
began = time.perf_counter()
predictor = runtime.load(loaded, "engine", 1)
ready = time.perf_counter()
batch = np.zeros((1, loaded.card.in_channels, *loaded.card.resolution), np.float32)
before = time.perf_counter()
predictor.run(batch)
print(json.dumps([1000 * (ready - began), 1000 * (time.perf_counter() - before)]))
"""
WANTED = {"cold": "30 s or less", "other weights": "reported", "warm": "100 ms or less"}


def main() -> None:
    """Measure both precisions and write the figures."""
    paths = dict(zip(("float32", "int8"), sys.argv[1:3], strict=True))
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 15
    colds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    figures, details = [], {}
    for precision, path in paths.items():
        with tempfile.TemporaryDirectory() as folder:
            times = measure(path, Path(folder), repeats, colds)
        for what, pairs in times.items():
            ready_ms = statistics.median(ready for ready, _ in pairs)
            value, unit = (ready_ms / 1000, "s") if what == "cold" else (ready_ms, "ms")
            figures.append(Figure(f"engine, V2 1.0 at 224, {precision}, {what}", round(value, 1), unit, WANTED[what]))
            details[f"{precision}, {what}"] = [
                {"ready_ms": round(ready, 1), "first_picture_ms": round(first, 1)} for ready, first in pairs
            ]
            print(f"{figures[-1].what}: {figures[-1].value:g} {unit} ({WANTED[what]})", flush=True)
    print(write("engine_start", figures, details))


def measure(path: str, folder: Path, repeats: int, colds: int) -> dict[str, list[tuple[float, float]]]:
    """Return milliseconds until it is ready, and of its first picture, by what was there before."""
    cache = folder / "cache"
    times: dict[str, list[tuple[float, float]]] = {"cold": [], "other weights": [], "warm": []}
    start(path, folder / "not counted", folder)  # byte code, and the disk's cache
    for _ in range(colds):
        shutil.rmtree(cache, ignore_errors=True)
        times["cold"].append(start(path, cache, folder))
    for _ in range(repeats):
        for packed in (cache / "engine" / "prepared").glob("*.bin"):
            packed.unlink()
        times["other weights"].append(start(path, cache, folder))
        times["warm"].append(start(path, cache, folder))
    return times


def start(path: str, cache: Path, folder: Path) -> tuple[float, float]:
    """Start once, with a cache folder."""
    settings = {"MOBILENETS_CACHE": str(cache), "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment = {**os.environ, **settings}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", READY, path]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    ready_ms, first_ms = json.loads(done.stdout)
    return ready_ms, first_ms


if __name__ == "__main__":
    main()
