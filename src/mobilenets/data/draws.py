"""Random numbers that are a pure function of (seed, epoch, picture).

A generator's state would have to be saved, and would depend on how many processes share the work. These numbers depend
on nothing but their names, so that a resumed run, one with other workers and one on more machines see the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014, figure 14).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def bits(*names: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return 64 random bits for each combination of names: integers, and int64 arrays that broadcast together."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64 on purpose
        for name in names:
            word = np.asarray(name, np.int64).astype(np.uint64)
            state = _mixed((state ^ word) + _GOLDEN)
    return np.asarray(state)


def uniform(*names: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each combination of names."""
    return (bits(*names) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # the 53 bits that a float64 holds


def below(limit: int, *names: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an integer in 0..limit-1 for each combination of names."""
    return (uniform(*names) * limit).astype(np.int64)


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return 0..count-1 in the random order of one epoch."""
    return np.argsort(bits(seed, epoch, -1, np.arange(count)), kind="stable").astype(np.int64)


@contextmanager
def torch_seeded(*names: int) -> Iterator[None]:
    """Let torch's CPU generator start from these names, and give it back its state afterwards.

    torchvision's transforms draw from that generator alone. `torch.manual_seed` would reseed every accelerator too.
    """
    import torch

    state = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(int(bits(*names) >> np.uint64(1)))
        yield
    finally:
        torch.default_generator.set_state(state)


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))
