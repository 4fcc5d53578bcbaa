"""Trainings side by side, one a core, each in a process of its own; also what runs in such a process.

Small networks gain next to nothing from a second thread, and everything from a second training. The processes are this
module run by the same Python, told by lines of JSON: nothing is forked, and the caller's own script is not run again.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Self

from mobilenets.errors import MobileNetsError
from mobilenets.reproduce.training import Run, Task, train_once


class Worker:
    """A process that trains, one task after the other."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mobilenets.reproduce.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def train(self, task: Task) -> Run:
        """Let the process train.

        Raises:
            MobileNetsError: the training failed, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            last = (self._said.read().strip().splitlines() or ["it said nothing: is the memory full?"])[-1]
            raise MobileNetsError(f"{task.variant}, seed {task.seed}: the training's process ended: {last}")
        document = json.loads(answer)
        if "error" in document:
            raise MobileNetsError(document["error"])
        return Run(**document)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()


def train_all(tasks: Sequence[Task], workers: int) -> Generator[Run, None, None]:
    """Yield the results as they come, in any order.

    Raises:
        MobileNetsError: a training failed; the others are ended.
    """
    if workers == 1 or len(tasks) < 2:
        yield from map(train_once, tasks)
        return
    with ThreadPoolExecutor(workers) as pool, ExitStack() as stack:  # processes end first: no thread waits for them
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(Worker()))

        def train(task: Task) -> Run:
            worker = idle.get()
            try:
                return worker.train(task)
            finally:
                idle.put(worker)

        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for future in as_completed([pool.submit(train, task) for task in tasks]):
            yield future.result()


def main() -> None:
    """Train whatever comes, a line each, until no more comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = asdict(train_once(Task(**json.loads(line))))
        except MobileNetsError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
