"""Queues: several threads share what waits, and one answers as before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mobilenets.serve.batching import Batcher
from mobilenets.serve.model import Picture, Question, ServedModel, Task

PATIENCE_S = 20


def test_several_threads_compute_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def compute(tasks: Sequence[int]) -> list[int]:
        both.wait(PATIENCE_S)  # breaks, and with it the answers, unless two batches are in work at once
        return [2 * task for task in tasks]

    batcher = Batcher[int, int]("double", compute, 8, workers=2)
    futures = [batcher.submit(task) for task in (1, 2)]
    assert [future.result(PATIENCE_S) for future in futures] == [2, 4]
    batcher.close()


@pytest.mark.parametrize(("workers", "largest"), [(1, 6), (2, 3), (3, 2)])
def test_each_thread_takes_its_share(workers: int, largest: int) -> None:
    busy, held, sizes = threading.Semaphore(0), threading.Event(), []

    def compute(tasks: Sequence[int]) -> Sequence[int]:
        if tasks[0] < 0:
            busy.release()
            held.wait(PATIENCE_S)
        else:
            sizes.append(len(tasks))
        return tasks

    batcher = Batcher[int, int]("shares", compute, 8, workers)
    first = []
    for task in range(workers):  # one after the other, so that each thread holds one
        first.append(batcher.submit(-1 - task))
        assert busy.acquire(timeout=PATIENCE_S)
    futures = [batcher.submit(task) for task in range(6)]
    held.set()
    assert [future.result(PATIENCE_S) for future in [*first, *futures]] == [
        *(-1 - n for n in range(workers)),
        *range(6),
    ]
    batcher.close()
    assert max(sizes) == largest
    assert sum(sizes) == 6


def test_pictures_alone_and_together_are_answered_alike(colours: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = ServedModel("colours", str(colours), "onnx", 2)
    try:
        assert model.workers == 2
        model.warm_up()
        height, width = model.card.resolution
        picture = Picture(np.full((height, width, 3), 200, np.uint8), (height, width))
        task = Task(picture, Question(top=2))
        (alone,) = model.answer([task])  # by the predictor with all threads
        for together in model.answer([task, task]):  # by the other
            for one, other in zip(alone.item["predictions"], together.item["predictions"], strict=True):
                assert one["label"] == other["label"]
                assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    finally:
        model.close()
