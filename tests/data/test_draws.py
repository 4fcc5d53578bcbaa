from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.data import draws


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 1000), st.integers(0, 10**6))
def test_one_at_a_time_is_the_same_as_all_at_once(seed: int, epoch: int, first: int) -> None:
    indices = np.arange(first, first + 5)
    together = draws.uniform(seed, epoch, indices, 3)
    assert together.tolist() == [float(draws.uniform(seed, epoch, int(index), 3)) for index in indices]
    assert ((together >= 0) & (together < 1)).all()


def test_known_values_keep_their_meaning() -> None:
    """A saved run goes on with the same batches in a later version: these numbers may never change."""
    assert int(draws.bits(0)) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 seeded with 0, as published
    assert draws.order(0, 0, 8).tolist() == [5, 6, 3, 1, 0, 7, 4, 2]
    assert sorted(draws.order(3, 5, 100).tolist()) == list(range(100))


def test_numbers_are_even_and_unrelated() -> None:
    indices = np.arange(20_000)
    first, second = draws.uniform(1, 0, indices, 0), draws.uniform(1, 0, indices, 1)
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 150  # five standard deviations
    for other in (second, draws.uniform(1, 1, indices, 0), draws.uniform(2, 0, indices, 0), np.roll(first, 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.04
    assert set(draws.below(9, 1, 0, indices, 2).tolist()) == set(range(9))


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = {tuple(draws.order(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_torch_is_seeded_inside_and_untouched_outside() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with draws.torch_seeded(1, 2, 3):
        inside = torch.rand(3)
    assert (torch.rand(3) == expected).all()
    with draws.torch_seeded(1, 2, 3):
        assert (torch.rand(3) == inside).all()
    with draws.torch_seeded(1, 2, 4):
        assert (torch.rand(3) != inside).all()
