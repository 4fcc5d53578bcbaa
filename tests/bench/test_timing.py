from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.bench.timing import Timing, middle_mean, quantile, summarize

TIMES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)


def test_known_numbers() -> None:
    timing = summarize([10.0, 12.0, 11.0, 13.0, 14.0, 100.0, 11.5, 12.5, 10.5, 13.5, 12.2])
    assert timing.count == 11
    assert timing.median_ms == 12.2
    assert timing.min_ms == 10.0
    assert timing.p95_ms == pytest.approx(57.0)  # halfway between the last two of eleven
    assert (timing.first_quartile_ms, timing.third_quartile_ms) == (11.25, 13.25)
    assert timing.spread == pytest.approx(2 / 12.2)


def test_one_time_is_every_statistic() -> None:
    assert summarize([7.0]) == Timing(1, 7.0, 7.0, 7.0, 7.0, 7.0)
    assert summarize([7.0]).spread == 0


@given(TIMES)
def test_statistics_are_in_order(times: list[float]) -> None:
    timing = summarize(times)
    ordered = [timing.min_ms, timing.first_quartile_ms, timing.median_ms, timing.third_quartile_ms, timing.p95_ms]
    assert all(low <= high * (1 + 1e-12) for low, high in pairwise(ordered))
    assert timing.min_ms == min(times)
    assert timing.p95_ms <= max(times) * (1 + 1e-12)


@given(TIMES)
def test_statistics_do_not_depend_on_the_order(times: list[float]) -> None:
    assert summarize(times) == summarize(times[::-1])
    assert middle_mean(times) == pytest.approx(middle_mean(sorted(times)))


def test_quantiles_are_interpolated() -> None:
    assert quantile([0.0, 10.0, 20.0], 0.25) == 5.0
    assert quantile([0.0, 10.0], 1.0) == 10.0


def test_outliers_do_not_move_the_middle_mean() -> None:
    assert middle_mean([1.0] * 6 + [1e9, 1e9]) == 1.0
    assert middle_mean([1.0, 3.0]) == 2.0


def test_overlapping_quartiles_are_no_clear_win() -> None:
    fast, close, slow = summarize([1, 2, 3, 4]), summarize([2, 3, 4, 5]), summarize([11, 12, 13, 14])
    assert fast.clearly_faster_than(slow)
    assert not slow.clearly_faster_than(fast)
    assert not fast.clearly_faster_than(close)
