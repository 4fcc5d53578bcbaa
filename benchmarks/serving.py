"""Serve a model, load it with 32 clients, and compare what it answers with what `bench` says is possible.

    python -m benchmarks.serving MODEL PICTURE [--runtime onnx] [--threads 2] [--seconds 60] [--clients 32] [--rounds 3]
        [--starts 5] [--memory-minutes 10]

What is measured, one after the other:

- how long a service takes to be ready, how long its very first picture takes, and those after it: `--starts` times
- in turns, `--rounds` times: `bench`'s pictures a second, one and eight at a time, and the answers a second of the
  service, with the share of late ones; the load is made by `hey`, on the same cores
- the memory of the service under this load for `--memory-minutes`, after a minute to settle
- a SIGTERM while `--clients` clients of our own send: whether everything that was accepted is answered

PICTURE is sent as it is, so its size decides how much decoding there is. Without `--memory-minutes` it takes about five
minutes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import mobilenets
from benchmarks.environment import Figure, write
from benchmarks.serving_clients import End, Service, first_answers_ms
from mobilenets.image.decode import decode

KIND = "application/octet-stream"
FIRST_PICTURES = 20
WARM_UP_S = 3
SETTLING_S = 60
SAMPLE_S = 2.0


def main() -> None:
    """Measure, print, write."""
    given = arguments()
    if shutil.which("hey") is None:
        raise SystemExit("hey is not installed: apt install hey")
    body = given.picture.read_bytes()
    height, width, _ = decode(given.picture).shape
    options = ("--runtime", given.runtime, "--threads", str(given.threads), "--quiet")
    starts = [started(given.model, body, options) for _ in range(given.starts)]
    service = Service(given.model, *options)
    try:
        loaded(service, given.picture, given.clients, WARM_UP_S)
        alone = [possible(given.model, given.runtime, given.threads)]
        rounds = []
        for _ in range(given.rounds):
            rounds.append(loaded(service, given.picture, given.clients, given.seconds))
            print(json.dumps(rounds[-1]), flush=True)
            alone.append(possible(given.model, given.runtime, given.threads))
            print(json.dumps(alone[-1]), flush=True)
        memory = watched(service, given.picture, given.clients, given.memory_minutes)
    finally:
        service.close()
    end = ended(given.model, body, given.clients, options)
    figures = [
        *start_figures(starts),
        *load_figures(alone, rounds, given.clients, given.seconds),
        *memory_figures(memory, given.memory_minutes),
        Figure(f"SIGTERM under {given.clients} clients: accepted and not answered", unanswered(end), "requests", "0"),
    ]
    for figure in figures:
        print(f"{figure.what}: {figure.value:.4g} {figure.unit}")
    details = {
        "clients": given.clients,
        "seconds": given.seconds,
        "picture": {"bytes": len(body), "width": width, "height": height},
        "starts": starts,
        "alone_images_per_second": alone,
        "rounds": rounds,
        "resident_bytes": memory,
        "end": asdict(end),
    }
    write("serving", figures, details)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--memory-minutes", type=float, default=0.0)
    return parser.parse_args()


def started(model: str, body: bytes, options: tuple[str, ...]) -> dict[str, Any]:
    """Start a service anew; return the seconds until it was ready, and how long its first pictures took."""
    service = Service(model, *options)
    try:
        return {
            "ready_s": service.ready_s,
            "pictures_ms": first_answers_ms(service.address, [body] * FIRST_PICTURES, KIND),
        }
    finally:
        service.close()


def possible(model: str, runtime: str, threads: int) -> dict[str, float]:
    """Return what `bench` says the runtime alone computes a second, one picture and eight at a time."""
    rates = {}
    for batch in (1, 8):
        result = mobilenets.bench(model, runtimes=runtime, threads=threads, batch=batch, repeats=400 // batch)
        precision = mobilenets.load(model, runtime, threads).card.precision
        rate = next(row for row in result.rows if row.configuration.precision == precision).images_per_second
        assert rate is not None, result
        rates[str(batch)] = rate
    return rates


def loaded(service: Service, picture: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Load a service with `hey`; return what it saw, and how many requests the service says it answered meanwhile."""
    before = answered(service.address)
    command = ["hey", "-z", f"{seconds:g}s", "-c", str(clients), "-t", "30", "-m", "POST", "-T", KIND]
    command += ["-D", str(picture), f"{service.address}/v1/predict"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    statuses = {status: int(count) for status, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    latencies = {f"p{share}": 1000 * float(value) for share, value in re.findall(r"(\d+)%+ in ([\d.]+) secs", text)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None, text
    return {
        "requests_per_second": float(rate[1]),
        "statuses": statuses,
        "latency_ms": latencies,
        "errors": text.partition("Error distribution:")[2].strip(),
        "answered_by_service": answered(service.address) - before,
    }


def answered(address: str) -> int:
    """Return how many pictures' requests a service counts."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:  # noqa: S310  # our own service
        text = answer.read().decode()
    found = re.findall(r'^mobilenets_requests_total\{[^}]*path="/v1/predict"[^}]*\} ([\d.e+]+)$', text, re.MULTILINE)
    return round(sum(float(each) for each in found))


def watched(service: Service, picture: Path, clients: int, minutes: float) -> list[int]:
    """Load a service for a minute and for so long; return its resident bytes every two seconds after that minute."""
    if not minutes:
        return []
    load = threading.Thread(target=loaded, args=(service, picture, clients, SETTLING_S + 60 * minutes))
    load.start()
    time.sleep(SETTLING_S)
    samples = []
    while load.is_alive():
        samples.append(resident_bytes(service.process.pid))
        load.join(SAMPLE_S)
    return samples


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def ended(model: str, body: bytes, clients: int, options: tuple[str, ...]) -> End:
    """Start a service, load it with our own clients, tell it to end; return what became of every request."""
    service = Service(model, *options)
    try:
        return service.end_under_load(body, KIND, clients, 20 * clients)
    finally:
        service.close()


def unanswered(end: End) -> int:
    """Return how many requests a service took and did not answer, or refused, by its clients' count and its own."""
    return max(end.lost, end.counted - end.answered) + end.refused + (end.exit_code != 0)


def start_figures(starts: list[dict[str, Any]]) -> list[Figure]:
    """Say how soon a new service is ready, and answers."""
    ready, first = median(each["ready_s"] for each in starts), median(each["pictures_ms"][0] for each in starts)
    others = median(each for start in starts for each in start["pictures_ms"][1:])
    return [
        Figure("ready after", ready, "s", "under 5 s"),
        Figure("its first picture, end to end", first, "ms", "under 150 ms"),
        Figure("a picture after that, end to end", others, "ms", "under 150 ms"),
    ]


def load_figures(
    alone: list[dict[str, float]], rounds: list[dict[str, Any]], clients: int, seconds: int
) -> list[Figure]:
    """Say what a service answers of what its model could compute, a round between the two measurements around it."""
    figures = []
    for batch, wanted in (("1", "0.70 or more"), ("8", "beside it")):
        shares = [
            each["requests_per_second"] / ((alone[place][batch] + alone[place + 1][batch]) / 2)
            for place, each in enumerate(rounds)
        ]
        what = f"answers a second under {clients} clients for {seconds} s, as a share of bench's images a second"
        figures.append(Figure(f"{what}, batches of {batch}", median(shares), "", wanted))
    refused = sum(sum(each["statuses"].values()) - each["statuses"].get("200", 0) for each in rounds)
    errors = sum(len(each["errors"].splitlines()) for each in rounds)
    lost = sum(abs(each["answered_by_service"] - sum(each["statuses"].values())) for each in rounds)
    return [
        *figures,
        Figure("answers a second", median(each["requests_per_second"] for each in rounds), "1/s", "stated"),
        Figure("99 of 100 answers within", median(each["latency_ms"]["p99"] for each in rounds), "ms", "stated"),
        Figure("errors, refusals and lost requests of all rounds", refused + errors + lost, "", "0"),
    ]


def memory_figures(samples: list[int], minutes: float) -> list[Figure]:
    """Say how much more memory there is in the last tenth of the time than in the first."""
    if not samples:
        return []
    part = max(1, len(samples) // 10)
    gained = (median(samples[-part:]) - median(samples[:part])) / 2**20
    return [Figure(f"memory gained in {minutes:g} minutes of load", gained, "MiB", "flat")]


if __name__ == "__main__":
    main()
