"""The engine as a runtime: what goes in and out is not copied, and Python goes on while it computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.runtime.engine_runtime import EnginePredictor, open_predictor

pytest.importorskip("halide", reason="the extra `engine` is not installed")
Networks = Callable[..., Checkpoint]
SIDES = (48, 48)


def noise(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = np.random.default_rng(seed).normal(size=(count, 3, *SIDES)).astype(np.float32)
    return made


@pytest.fixture(params=["float32", "int8"])
def checkpoint(request: pytest.FixtureRequest, random_network: Networks, random_int8_network: Networks) -> Checkpoint:
    return (random_int8_network if request.param == "int8" else random_network)("mobilenet_v2")


@pytest.fixture
def predictor(checkpoint: Checkpoint) -> Iterator[EnginePredictor]:
    with closing(open_predictor(checkpoint, 1)) as opened:
        yield opened


class Watched:
    """A library that notes the addresses it is called with."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.addresses: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def engine_run(self, crew: int, pictures: int, answers: int, *others: int) -> int:
        self.addresses.append((pictures, answers))
        failed: int = self._library.engine_run(crew, pictures, answers, *others)
        return failed


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_are_read_where_they_are_and_answers_are_views(predictor: EnginePredictor, count: int) -> None:
    program = predictor._programs[SIDES]
    watched = Watched(program._library)
    program._library = watched  # type: ignore[assignment]
    batch = noise(count)
    batch.flags.writeable = False
    (logits,) = predictor.run(batch)
    assert logits.shape == (count, 7)
    assert watched.addresses == [(batch.ctypes.data, logits.ctypes.data)]
    assert not logits.flags.owndata
    (strided,) = predictor.run(np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    assert watched.addresses[1][0] != batch.ctypes.data  # what is not contiguous is copied, and is the same
    np.testing.assert_array_equal(strided, logits)


def test_a_detectors_maps_are_views_of_one_block(random_network: Networks) -> None:
    with closing(open_predictor(random_network("ssdlite_mobilenet_v2"), 1)) as predictor:
        maps = predictor.run(noise(2))
    bases = set()
    for each in maps:
        base: Any = each
        while base.base is not None:
            base = base.base
        bases.add(base.ctypes.data)
    assert len(maps) == 12
    assert len(bases) == 1


def test_answers_are_the_callers(predictor: EnginePredictor) -> None:
    (first,) = predictor.run(noise(3, seed=1))
    kept = first.copy()
    predictor.run(noise(3, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_predictors_in_threads_of_their_own_answer_as_one_after_another(checkpoint: Checkpoint) -> None:
    batches = [noise(6, seed=seed) for seed in range(8)]
    found: dict[int, list[npt.NDArray[np.float32]]] = {}
    meeting = threading.Barrier(3)
    with closing(open_predictor(checkpoint, 1)) as alone:
        expected = [alone.run(batch)[0] for batch in batches]

        def work(number: int, threads: int) -> None:
            with closing(open_predictor(checkpoint, threads)) as predictor:
                meeting.wait(60)
                found[number] = [predictor.run(batch)[0] for batch in batches for _ in range(3)]

        workers = [threading.Thread(target=work, args=(number, 1 + number % 2)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(found) == 3
    for answers in found.values():
        for index, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, expected[index // 3])


def test_one_predictor_in_several_threads_answers_one_after_another(predictor: EnginePredictor) -> None:
    batches = [noise(4, seed=seed) for seed in range(4)]
    expected = [predictor.run(batch)[0] for batch in batches]
    found: dict[int, npt.NDArray[np.float32]] = {}
    workers = [
        threading.Thread(target=lambda number=number: found.update({number: predictor.run(batches[number])[0]}))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, answer in found.items():
        np.testing.assert_array_equal(answer, expected[number])


def test_python_goes_on_while_a_batch_is_computed(predictor: EnginePredictor) -> None:
    """Were the interpreter held, the other thread could not hand it over a thousand times before the batch is done."""
    batch = noise(2000)
    predictor.run(batch[:1])

    def went_on() -> bool:
        begun, done = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            predictor.run(batch)
            done.set()

        worker = threading.Thread(target=work)
        worker.start()
        begun.wait()
        for _ in range(1000):
            time.sleep(0)
        before = not done.is_set()
        worker.join()
        return before

    assert any(went_on() for _ in range(5))  # a busy machine may keep the other thread waiting, but not always
