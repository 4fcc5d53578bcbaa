"""The spiral through ReLU and back."""

from __future__ import annotations

import numpy as np
import pytest

from mobilenets.reproduce.spiral import DIMENSIONS, collapsed, distortion, measured, spiral, there_and_back


def test_nothing_changed_is_no_distortion() -> None:
    points = spiral()
    assert distortion(points, points) == pytest.approx(0, abs=1e-12)
    assert distortion(points, points @ np.array([[2.0, 1.0], [0.0, -3.0]])) == pytest.approx(0, abs=1e-12)


def test_one_line_is_all_that_is_left_of_two_opposite_directions() -> None:
    points = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert distortion(points, np.array([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.5)


def test_more_dimensions_lose_less() -> None:
    medians = [[float(np.median(values)) for values in measured(n, seeds=25)] for n in DIMENSIONS]
    for each in zip(*medians, strict=True):
        assert list(each) == sorted(each, reverse=True)
    assert medians[0][0] > 0.6
    assert medians[-1][0] < 0.01


def test_two_dimensions_keep_one_sector() -> None:
    """Both coordinates are positive between two half planes: never in more than half of all directions."""
    assert all(collapsed(spiral(), 2, seed) > 0.4 for seed in range(10))


def test_a_matrix_is_drawn_from_its_seed() -> None:
    points = spiral()
    np.testing.assert_array_equal(there_and_back(points, 5, 1), there_and_back(points, 5, 1))
    assert not np.array_equal(there_and_back(points, 5, 1), there_and_back(points, 5, 2))
