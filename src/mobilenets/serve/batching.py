"""Requests that come one by one, computed together: a thread of each model, or several, takes whatever waits.

Nothing waits for a batch to fill up. While one is computed, others queue, and they are the next batch; so an idle
service answers at once and a busy one computes several pictures at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Batcher(Generic[Task, Answer]):
    """A queue and the threads that empty it, each a batch at a time.

    `compute` gets 1 to `size` tasks and returns as many answers, in their order. What it raises is raised to everyone
    in its batch. A task whose future was cancelled before its turn is left out: nobody waits for it any more.
    """

    def __init__(
        self, name: str, compute: Callable[[Sequence[Task]], Sequence[Answer]], size: int, workers: int = 1
    ) -> None:
        self._compute, self._size = compute, size
        self._waiting: deque[tuple[Task, Future[Answer]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"model {name} {number}", daemon=True)
            for number in range(1, workers + 1)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Return how many tasks wait, without those that are computed now."""
        return len(self._waiting)

    def submit(self, task: Task) -> Future[Answer]:
        """Queue a task; its future gets the answer. Raises RuntimeError after `close`."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("this queue is closed")
            self._waiting.append((task, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Compute what still waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            tasks = [task for task, _ in batch]
            try:
                answers = self._compute(tasks)
            except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)

    def _next(self) -> list[tuple[Task, Future[Answer]]]:
        """Wait for work; return up to `size` tasks somebody still waits for, none where the queue is closed.

        Of several threads each takes its share, so that none idles while others have much to do.
        """
        batch: list[tuple[Task, Future[Answer]]] = []
        while not batch:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                most = min(self._size, -(-len(self._waiting) // len(self._threads)))
                while self._waiting and len(batch) < most:
                    task, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((task, future))
        return batch
