"""Serve MobileNetV2 at 224, load it with 32 clients, and compare what it answers with what `bench` says is possible.

    python -m benchmarks.serving MODEL PICTURE [--runtime NAME] [--threads 2] [--seconds 60] [--clients 32] [--rounds 1]

The load is made by `hey` (or `wrk`), which must be installed. It runs on the same cores as the service. Before and
behind each round the runtime alone computes one picture at a time, and batches of eight, on the same threads. PICTURE
is sent as it is, so its size decides how much decoding there is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import Figure, write
from mobilenets.runtime import load
from mobilenets.runtime.feed import outputs_of


def images_per_second(model: str, runtime: str, threads: int, batch: int, seconds: float = 4.0) -> float:
    """Return how many pictures the runtime alone computes: the median of its batches."""
    predictor = load(model, runtime, threads)
    preprocess = predictor.card.preprocess
    shape = (batch, preprocess.height, preprocess.width, preprocess.channels)
    pictures = list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    times: list[float] = []
    for _ in range(5):
        outputs_of(predictor, pictures)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        outputs_of(predictor, pictures)
        times.append(time.perf_counter() - start)
    predictor.close()
    return batch / median(times)


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def started(model: str, runtime: str, threads: int) -> tuple[subprocess.Popen[str], str, float]:
    """Start a service; return it, its address, and the seconds until it was ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mobilenets", "serve", model, "--port", "0", "--quiet"]
    command += ["--runtime", runtime, "--threads", str(threads)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on (\S+)", line):
            while True:
                try:
                    with urllib.request.urlopen(f"{found[1]}/readyz") as answer:  # noqa: S310  # our own service
                        assert answer.status == 200
                    return process, found[1], time.perf_counter() - began
                except OSError:
                    time.sleep(0.01)
    raise SystemExit("the service did not start")


def first_answer_ms(address: str, picture: Path) -> list[float]:
    """Return how long the first pictures take, one after the other, from sending to the whole answer."""
    content, times = picture.read_bytes(), []
    for _ in range(20):
        request = urllib.request.Request(f"{address}/v1/predict", content, {"Content-Type": "image/jpeg"})  # noqa: S310
        start = time.perf_counter()
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            json.load(answer)
        times.append(1000 * (time.perf_counter() - start))
    return times


def loaded(address: str, picture: Path, clients: int, seconds: int) -> dict[str, Any]:
    """Load the service with `hey`; return what it saw."""
    command = ["hey", "-z", f"{seconds}s", "-c", str(clients), "-t", "30", "-m", "POST", "-T", "image/jpeg"]
    command += ["-D", str(picture), f"{address}/v1/predict"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    statuses = {status: int(count) for status, count in re.findall(r"\[(\d+)\]\s+(\d+) responses", text)}
    latencies = {f"p{share}": 1000 * float(value) for share, value in re.findall(r"(\d+)%+ in ([\d.]+) secs", text)}
    errors = text.partition("Error distribution:")[2].strip()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None, text
    return {"requests_per_second": float(rate[1]), "statuses": statuses, "latency_ms": latencies, "errors": errors}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    if shutil.which("hey") is None:
        raise SystemExit("hey is not installed: apt install hey")
    process, address, ready_seconds = started(given.model, given.runtime, given.threads)
    try:
        first = first_answer_ms(address, given.picture)
        loaded(address, given.picture, given.clients, 3)
        rounds = []
        for _ in range(given.rounds):
            before = resident_bytes(process.pid)
            alone = {
                str(batch): images_per_second(given.model, given.runtime, given.threads, batch) for batch in (1, 8)
            }
            seen = loaded(address, given.picture, given.clients, given.seconds)
            memory = {"before_bytes": before, "after_bytes": resident_bytes(process.pid)}
            rounds.append({**seen, "model_images_per_second": alone, **memory})
            print(json.dumps(rounds[-1]), flush=True)
    finally:
        process.terminate()
        process.wait(30)
    shares = [each["requests_per_second"] / each["model_images_per_second"]["1"] for each in rounds]
    refused = sum(sum(each["statuses"].values()) - each["statuses"].get("200", 0) for each in rounds)
    errors = sum(len(each["errors"].splitlines()) for each in rounds)
    figures = [
        Figure("share of the model's own images a second", median(shares), "", "0.70 or more"),
        Figure("pictures a second", median(each["requests_per_second"] for each in rounds), "1/s", ""),
        Figure("99 of 100 answers within", median(each["latency_ms"]["p99"] for each in rounds), "ms", "stated"),
        Figure("answers that were none", refused + errors, "", "0"),
        Figure("ready after", ready_seconds, "s", "under 5 s"),
        Figure("one picture, end to end", median(first), "ms", "under 150 ms"),
        Figure(
            "memory gained in the last round",
            (rounds[-1]["after_bytes"] - rounds[-1]["before_bytes"]) / 2**20,
            "MiB",
            "0",
        ),
    ]
    for figure in figures:
        print(f"{figure.what}: {figure.value:.4g} {figure.unit}")
    details = {"clients": given.clients, "seconds": given.seconds, "picture_bytes": given.picture.stat().st_size}
    write("serving", figures, {**details, "first_answers_ms": first, "rounds": rounds})


if __name__ == "__main__":
    main()
