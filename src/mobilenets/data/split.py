"""Choose among pictures: some held back for validation, or a sample, the same share of every class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import InputError


def stratified(
    targets: NDArray[np.int64], names: Sequence[str], *, seed: int, val_fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices for training and validation, both in the given order.

    Of every class with two pictures or more, `val_fraction` of them (rounded, at least one, never all) go to
    validation; a lone picture is trained on. Which ones depends on the seed and their names alone, so that a data set
    that gains a picture keeps the rest of its split. Raises InputError unless 0 < val_fraction < 1.
    """
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction must lie between 0 and 1, not {val_fraction}")
    ranks = np.array([_rank(seed, name) for name in names], np.uint64)
    held_back = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        if len(members) < 2:
            continue
        share = min(max(round(len(members) * val_fraction), 1), len(members) - 1)
        held_back[members[np.argsort(ranks[members], kind="stable")[:share]]] = True
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)


def spread_sample(targets: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose `count` pictures spread over the classes as evenly as these allow; return their places, ascending.

    Which ones depends on targets (N,), count and seed alone.

    >>> targets = np.array([0] * 90 + [1] * 10)
    >>> np.bincount(targets[spread_sample(targets, 20, seed=0)]).tolist()
    [10, 10]
    """
    shuffled = np.random.default_rng(seed).permutation(len(targets))
    by_class = np.argsort(targets[shuffled], kind="stable")
    ordered = targets[shuffled[by_class]]
    place_in_class = np.empty(len(targets), np.int64)
    place_in_class[by_class] = np.arange(len(targets)) - np.searchsorted(ordered, ordered)
    # The first of every class, then the second: within each round in shuffled order, so that a count below the number
    # of classes takes any of them.
    return np.sort(shuffled[np.argsort(place_in_class, kind="stable")][:count])


def _rank(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
