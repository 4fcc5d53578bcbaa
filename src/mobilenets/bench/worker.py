"""The child process: opens one configuration and times it whenever it is told to.

    python -m mobilenets.bench.worker

Requests come as lines of JSON on standard input, each is answered by one line on standard output: `{"card": JOB}`,
`{"open": JOB}`, `{"run": N, "warm": M}`, `{"memory": true}`, `{"operations": N}`, and, for several networks at once,
`{"together": [JOB, ...], "rounds": N, "runs": M}`. An answer with `error` says why there
is no other. What libraries print goes to standard error. The end of the input ends the process, and so does the
parent's death.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mobilenets.bench.configuration import BFLOAT16, Job
from mobilenets.bench.memory import forget_peak, peak_bytes, resident_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Card
    from mobilenets.runtime import Predictor

WARM_RUNS = 3
"""Runs after opening: runtimes choose kernels, pack weights and grow their memory in the first ones."""

WARM_MS = 20
"""Small networks are run more often before they are timed, until clocks and caches have had this long to settle."""

PARTS_RUNS = 15
"""Runs over which a network's operations are timed, for a table."""


def main() -> None:
    """Answer requests until there are no more."""
    _die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    worker = _Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is this configuration's result
            answer = {"error": _said(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Worker:
    """One configuration, once it is open."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._predictor: Predictor | None = None
        self._batch: NDArray[Any] | None = None
        self._baseline = self._opened = self._peak = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "card" in request:
            with closing(open_predictor(Job.from_json(request["card"]))) as predictor:
                return {"card": predictor.card.to_json()}
        if "open" in request:
            return self._open(Job.from_json(request["open"]))
        if "together" in request:
            jobs = [Job.from_json(job) for job in request["together"]]
            return {"rounds_ms": together(jobs, request), "parts_ms": [parts(job) for job in jobs]}
        if "run" in request:
            return {"times_ms": self._times(request["run"], request["warm"])}
        if "memory" in request:
            return self._memory()
        return self._operations(request["operations"])

    def _open(self, job: Job) -> dict[str, Any]:
        import mobilenets.runtime  # noqa: F401 - what every runtime needs belongs to the baseline

        self._baseline = peak_bytes() or 0
        begun = time.perf_counter()
        self._predictor = open_predictor(job)
        load_ms = 1000 * (time.perf_counter() - begun)
        self._peak, self._opened = peak_bytes() or 0, resident_bytes() or 0
        forget_peak()
        self._job, self._batch = job, noise(self._predictor.card, job, pictures=self._predictor.pictures)
        self._times(0, WARM_RUNS)
        return {"load_ms": load_ms}

    def _times(self, count: int, warm: int) -> list[float]:
        assert self._predictor is not None
        assert self._batch is not None
        return timed(self._predictor, self._batch, count, warm)

    def _memory(self) -> dict[str, Any]:
        """Return the peak of this process, what the runtime and model added, and what running added; None if unknown.

        What running added is activations, scratch memory, and weights that are only then brought into shape.
        """
        running = peak_bytes() or 0
        peak = max(self._peak, running)
        return {
            "peak_bytes": peak or None,
            "added_bytes": peak - self._baseline if peak else None,
            "running_bytes": max(0, running - self._opened) if self._opened else None,
        }

    def _operations(self, count: int) -> dict[str, Any]:
        """Return the median milliseconds of each operation by name, in a session of its own that watches itself."""
        from mobilenets.bench.profile import profile

        assert self._job is not None
        assert self._predictor is not None
        assert self._batch is not None
        return {"operations_ms": profile(self._job, self._predictor.card, self._batch, count)}


def timed(predictor: Predictor, batch: NDArray[Any], count: int, warm: int) -> list[float]:
    """Return the milliseconds of `count` runs, after at least `warm` ones, and `WARM_MS`, that are not counted."""
    run, now = predictor.run, time.perf_counter_ns
    begun, done = now(), 0
    while done < warm or (warm and now() - begun < WARM_MS * 1e6):
        run(batch)
        done += 1
    times_ms = []
    for _ in range(count):
        begun = now()
        run(batch)
        times_ms.append((now() - begun) / 1e6)
    return times_ms


def together(jobs: Sequence[Job], request: Mapping[str, int]) -> list[list[list[float]]]:
    """Open several networks and time them in turns; return for each the milliseconds of every round."""
    opened = []
    for job in jobs:
        predictor = open_predictor(job)
        opened.append((predictor, noise(predictor.card, job, pictures=predictor.pictures)))
    rounds: list[list[list[float]]] = [[] for _ in opened]
    order = random.Random(0)  # noqa: S311 - a shuffle, no secret
    for _ in range(request["rounds"]):
        for index in order.sample(range(len(opened)), len(opened)):
            rounds[index].append(timed(*opened[index], request["runs"], WARM_RUNS))
    for predictor, _ in opened:
        predictor.close()
    return rounds


def parts(job: Job) -> list[float]:
    """Return the milliseconds of a network's operations in it, and last of all else; none without a profiler."""
    from mobilenets.bench.profile import PROFILERS, profile

    if job.runtime not in PROFILERS:
        return []
    with closing(open_predictor(job)) as predictor:
        card, batch = predictor.card, noise(predictor.card, job, pictures=predictor.pictures)
    found = profile(job, card, batch, PARTS_RUNS)
    own = [found.pop(op.name, 0.0) for op in card.plan.ops]
    return [round(ms, 5) for ms in (*own, sum(found.values()))]


def open_predictor(job: Job) -> Predictor:
    """Open what a job names, by the same way as everybody else."""
    from mobilenets import runtime

    if job.precision == BFLOAT16:
        from mobilenets.bench.bfloat16 import open_bfloat16

        return open_bfloat16(job)
    return runtime.load(job.path, job.runtime, job.threads)


def noise(card: Card, job: Job, *, pictures: bool) -> NDArray[Any]:
    """Return a batch the network takes: normal numbers, or pictures of random pixels."""
    import numpy as np

    random = np.random.default_rng(0)
    height, width = job.resolution
    if pictures:
        return random.integers(0, 256, (job.batch, height, width, card.in_channels), np.uint8)
    batch: NDArray[np.float32] = random.normal(size=(job.batch, card.in_channels, height, width)).astype(np.float32)
    return batch


def _die_with_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however that happens (prctl(2) on Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    from mobilenets.errors import MobileNetsError

    return text if isinstance(error, MobileNetsError) and text else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
