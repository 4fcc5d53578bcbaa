"""What this machine can do at most: multiply-adds a second, and bytes a second."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

SIDE = 512
"""Of the square matrices multiplied: 3 x 1 MiB, nearly all arithmetic, and over before anything else gets its turn."""
MEMORY_BYTES = 256 << 20
"""Of the array walked through: larger than the caches, so that every part comes from memory."""
PART_BYTES = 1 << 20
"""Copied at a time."""
CACHE_BYTES = 128 << 10
"""Of the array copied over and over within the cache."""


@dataclass(frozen=True)
class Limits:
    """A machine's roofline, float32: billions of multiply-adds and of bytes a second."""

    gigamadds: float
    memory_gigabytes: float
    cache_gigabytes: float

    def best(self, other: Limits) -> Limits:
        """Return the higher of each of two measurements."""
        return Limits(
            max(self.gigamadds, other.gigamadds),
            max(self.memory_gigabytes, other.memory_gigabytes),
            max(self.cache_gigabytes, other.cache_gigabytes),
        )


def measure_limits(threads: int) -> Limits:
    """Measure with torch: a matrix product, a copy through memory, and one within the cache."""
    with threads_set(threads), torch.inference_mode():
        a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
        product = SIDE**3 / best_seconds(lambda: a @ b, 1.0) / 1e9
        return Limits(product, _copy_speed(MEMORY_BYTES, PART_BYTES), _copy_speed(CACHE_BYTES, CACHE_BYTES))


def _copy_speed(size: int, part: int) -> float:
    """Return billions of bytes a second, read and written ones both counted, of copying part after part of an array."""
    sources, targets = (torch.split(torch.ones(size // 4), part // 4) for _ in range(2))
    turns = itertools.cycle(zip(sources, targets, strict=True))

    def copy() -> None:
        source, target = next(turns)
        target.copy_(source)

    return 2 * part / median_seconds(copy, 0.5) / 1e9


def best_seconds(work: Callable[[], object], budget: float) -> float:
    """Return the shortest time of several calls that take about `budget` seconds together; a first one warms up."""
    return min(timed(work, budget))


def median_seconds(work: Callable[[], object], budget: float) -> float:
    """Return the median time of several calls that take about `budget` seconds together; a first one warms up."""
    return statistics.median(timed(work, budget))


def timed(work: Callable[[], object], budget: float, *, least: int = 3, most: int = 1000) -> list[float]:
    """Return the seconds of `least` to `most` calls, ending after `budget` seconds; a first call is not counted."""
    work()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Give torch this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
