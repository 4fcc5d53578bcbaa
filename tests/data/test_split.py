from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.data import open_data
from mobilenets.data.split import spread_sample, stratified
from mobilenets.errors import InputError


@given(st.lists(st.integers(0, 5), max_size=60), st.floats(0.01, 0.99), st.integers(-5, 5))
def test_every_class_is_split_and_nothing_is_lost(targets: list[int], fraction: float, seed: int) -> None:
    array = np.array(targets, np.int64)
    names = [f"picture {index}" for index in range(len(array))]
    train, val = stratified(array, names, seed=seed, val_fraction=fraction)
    assert sorted([*train, *val]) == list(range(len(array)))
    for target in set(targets):
        count, held = targets.count(target), int((array[val] == target).sum())
        if count == 1:
            assert held == 0
        else:
            assert 1 <= held < count
            assert abs(held - count * fraction) <= 1


def test_the_seed_decides_and_order_does_not() -> None:
    targets = np.arange(200) % 4
    names = [f"picture {index}" for index in range(200)]
    held = {names[index] for index in stratified(targets, names, seed=1, val_fraction=0.2)[1]}
    backwards = stratified(targets[::-1], names[::-1], seed=1, val_fraction=0.2)[1]
    assert {names[::-1][index] for index in backwards} == held
    other = {names[index] for index in stratified(targets, names, seed=2, val_fraction=0.2)[1]}
    assert len(other) == len(held) == 40
    assert other != held


def test_one_more_picture_moves_at_most_one() -> None:
    names = [f"picture {index}" for index in range(101)]
    before = {names[index] for index in stratified(np.zeros(100, np.int64), names[:100], seed=0, val_fraction=0.2)[1]}
    after = {names[index] for index in stratified(np.zeros(101, np.int64), names, seed=0, val_fraction=0.2)[1]}
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 20, float("nan")])
def test_other_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="--val-fraction must lie between 0 and 1"):
        open_data("digits", val_fraction=fraction)
    with pytest.raises(InputError, match="--val-fraction must lie between 0 and 1"):
        stratified(np.zeros(3, np.int64), ["a", "b", "c"], seed=0, val_fraction=fraction)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 3))
def test_samples_are_as_even_as_the_classes_allow(classes: list[int], count: int, seed: int) -> None:
    targets = np.array(classes, np.int64)
    chosen = spread_sample(targets, count, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, len(classes))
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, spread_sample(targets, count, seed))
    taken, present = np.bincount(targets[chosen], minlength=6), np.bincount(targets, minlength=6)
    for a in range(6):
        for b in range(6):
            assert taken[a] >= taken[b] - 1 or taken[a] == present[a]


def test_samples_of_fewer_than_the_classes_take_any_class() -> None:
    targets = np.repeat(np.arange(100), 3)
    taken = {int(label) for seed in range(30) for label in targets[spread_sample(targets, 5, seed)]}
    assert len(taken) > 50
    assert max(taken) > 80
