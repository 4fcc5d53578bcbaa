"""What this machine can do at most: multiply-adds a second, and bytes a second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

SIDE = 1024
"""Of the square matrices multiplied: 3 x 4 MiB, larger than most second-level caches, and all arithmetic."""
MEMORY_BYTES = 128 << 20
"""Of the array copied: larger than any cache of a processor core's own."""
CACHE_BYTES = 256 << 10
"""Of the array copied within the cache."""


@dataclass(frozen=True)
class Limits:
    """A machine's roofline, float32: billions of multiply-adds and of bytes a second."""

    gigamadds: float
    memory_gigabytes: float
    cache_gigabytes: float


def measure_limits(threads: int) -> Limits:
    """Measure with torch: a matrix product, a copy through memory, and one within the cache."""
    with threads_set(threads), torch.inference_mode():
        a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
        product = SIDE**3 / best_seconds(lambda: a @ b, 0.6) / 1e9
        return Limits(product, _copy_speed(MEMORY_BYTES), _copy_speed(CACHE_BYTES))


def _copy_speed(size: int) -> float:
    """Return billions of bytes a second, read and written ones both counted."""
    source, target = torch.randn(size // 4), torch.empty(size // 4)
    rounds = max(1, (8 << 20) // size)  # calls of torch take a microsecond

    def copy() -> None:
        for _ in range(rounds):
            target.copy_(source)

    return 2 * size * rounds / best_seconds(copy, 0.4) / 1e9


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
