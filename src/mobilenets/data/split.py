"""Hold pictures back for validation, the same share of every class."""

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


def _rank(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
