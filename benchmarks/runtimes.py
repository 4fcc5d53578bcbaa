"""How long a picture takes: every runtime, precision and number of threads, by the `bench` verb.

    python -m benchmarks.runtimes [repeats [NAME ...]]

Each network of NETWORKS is timed at 224 with random weights, which speed does not depend on, one picture at a time,
`repeats` times (100) in each configuration. int8 is quantized per channel on noise. NAMEs measure those alone, and
leave the others in the file as they are. The README's table has the medians; benchmarks/results/runtimes.json has
everything that `mobilenets bench --json` prints.
"""

from __future__ import annotations

import json
import sys

import mobilenets
from benchmarks.environment import RESULTS, Figure, write
from mobilenets.bench.configuration import PRECISIONS
from mobilenets.bench.result import BenchResult

NETWORKS = ("mobilenet_v2", "mobilenet_v1", "mobilenet_v3_large", "mobilenet_v3_small")
RESOLUTION = 224
THREADS = "1,2"


def main() -> None:
    """Time all networks and write the figures of the first."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    path = RESULTS / "runtimes.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"figures": [], "details": []}
    kept = {each["model"]: each for each in before["details"]}
    first = [Figure(**each) for each in before["figures"]]
    for name in sys.argv[2:] or NETWORKS:
        found = mobilenets.bench(name, resolution=RESOLUTION, threads=THREADS, repeats=repeats)
        print(found, end="\n\n", flush=True)
        kept[name] = found.to_json()
        if name == NETWORKS[0]:
            first = figures(found)
    print(write("runtimes", first, [kept[name] for name in NETWORKS if name in kept]))


def figures(found: BenchResult) -> list[Figure]:
    """Return the fastest runtime at each precision, with one thread."""
    best = []
    for precision in PRECISIONS:
        rows = [
            (row.timing.median_ms, row.configuration.runtime)
            for row in found.rows
            if row.timing is not None and row.configuration.precision == precision and row.configuration.threads == 1
        ]
        if rows:
            ms, runtime = min(rows)
            what = f"V2 1.0 at {RESOLUTION}, one picture, one thread: fastest in {precision} ({runtime})"
            best.append(Figure(what, round(ms, 2), "ms", "reported"))
    return best


if __name__ == "__main__":
    main()
