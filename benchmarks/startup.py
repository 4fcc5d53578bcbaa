"""How long a command takes to start, in a fresh interpreter each time.

    python -m benchmarks.startup [repeats]

Each command runs once to warm the disk's cache and then `repeats` times (20); the median of the wall times is the
figure, all of them are in the JSON.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.environment import Figure, write

COMMANDS = {
    "`mobilenets --help`": (["--help"], "under 300 ms"),
    "`mobilenets show mobilenet_v2`": (["show", "mobilenet_v2"], "under 500 ms"),
}


def main() -> None:
    """Measure all commands and write the figures."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    figures, details = [], {}
    for what, (arguments, wanted) in COMMANDS.items():
        times_ms = measure([sys.executable, "-m", "mobilenets", *arguments], repeats)
        figures.append(Figure(what, round(statistics.median(times_ms)), "ms", wanted))
        details[what] = [round(time_ms, 1) for time_ms in times_ms]
        print(f"{what}: {figures[-1].value:g} ms ({wanted})")
    bare_ms = measure([sys.executable, "-c", "pass"], repeats)
    details["python -c pass"] = [round(time_ms, 1) for time_ms in bare_ms]
    print(write("startup", figures, details))


def measure(command: list[str], repeats: int) -> list[float]:
    """Return the wall time of each run, in milliseconds."""
    times_ms = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times_ms.append(1000 * (time.perf_counter() - start))
    return times_ms[1:]


if __name__ == "__main__":
    main()
