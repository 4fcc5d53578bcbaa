"""Two ways to learn from measurements, of which some are disturbed: costs that add up, and what is alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

REWEIGHTINGS = 5
OUTLYING = 1.5
"""What is off by more than so many standard deviations counts less."""
_NORMAL = 1.4826  # standard deviations of a normal distribution in its median distance


def robust_costs(matrix: Values, target: Values, floor: float | Values = 0.0) -> Values:
    """Return the cost of a unit of each column: least relative squares, none negative, outliers counting less.

    Args:
        matrix: float64 (N, columns).
        target: what they add up to, above 0, float64 (N,).
        floor: an error that is nothing beside any target: what keeps tiny targets from counting most.
    """
    scale = matrix.max(0)
    scale[scale == 0] = 1.0
    share = 1 / (target + floor)
    relative, wanted = matrix / scale * share[:, np.newaxis], target * share
    weights = np.ones(len(target))
    cost = np.zeros(matrix.shape[1])
    for _ in range(REWEIGHTINGS):
        cost = non_negative(relative * weights[:, np.newaxis], wanted * weights)
        weights = np.sqrt(_trust(np.abs(relative @ cost - wanted)))
    return np.asarray(cost / scale, np.float64)


def _trust(off: Values) -> Values:
    """Return how much each measurement counts, 0..1, by how far it is off."""
    deviation = _NORMAL * float(np.median(off)) + 1e-9
    return np.asarray(np.minimum(1.0, OUTLYING * deviation / np.maximum(off, 1e-12)), np.float64)


def non_negative(matrix: Values, target: Values) -> Values:
    """Return the x >= 0 with the least |matrix x - target|: Lawson and Hanson's active sets (1974, chapter 23).

    >>> non_negative(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).round(9).tolist()
    [2.0, 0.0]
    """
    count = matrix.shape[1]
    gram, moment = matrix.T @ matrix, matrix.T @ target
    gram += 1e-12 * float(np.trace(gram)) / count * np.eye(count)  # columns may say the same
    x, free = np.zeros(count), np.zeros(count, np.bool_)
    tolerance = 1e-9 * float(np.abs(moment).max(initial=1e-30))
    for _ in range(3 * count):
        slope = np.where(free, -np.inf, moment - gram @ x)
        if free.all() or slope.max() <= tolerance:
            break
        free[int(slope.argmax())] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
            below = free & (trial <= 0)
            if not below.any():
                break
            step = float((x[below] / np.maximum(x[below] - trial[below], 1e-300)).min())
            x += step * (trial - x)
            free &= x > 1e-15
            x[~free] = 0.0
        x = trial
    return x


@dataclass(frozen=True, eq=False)
class Smooth:
    """A Gaussian process: values that are alike where places are near, seen from some of them (Nystroem's way)."""

    centres: Values  # float64 (centres, sides)
    pull: Values  # float64 (centres,)
    length: float
    most: float

    def __call__(self, places: Values) -> Values:
        """Return the values at places, (N, sides) -> (N,), between -most and most."""
        return np.clip(_alike(places, self.centres, self.length) @ self.pull, -self.most, self.most)


def smooth(
    places: Values, values: Values, trust: Values, *, length: float, noise: float, most: float, centres: int
) -> Smooth:
    """Learn values at places.

    Args:
        places: float64 (N, sides).
        values: float64 (N,).
        trust: how much each counts, 0..1; what is far from all others counts less still.
        length: how far apart places are still alike.
        noise: the variance of a value beside that of the process.
        most: the largest value that is believed.
        centres: so many places, at most, are compared with.
    """
    _, distinct = np.unique(np.round(places, 6), axis=0, return_index=True)
    chosen = places[np.random.default_rng(0).permutation(distinct)[:centres]]
    near, among = _alike(places, chosen, length), _alike(chosen, chosen, length)
    values = np.clip(values, -most, most)
    weights: Values = trust
    pull: Values = np.zeros(len(chosen), np.float64)
    for _ in range(REWEIGHTINGS - 2):
        gram = near.T @ (near * weights[:, np.newaxis]) + noise * among
        moment = near.T @ (weights * values)
        pull = np.asarray(np.linalg.solve(gram + 1e-6 * np.eye(len(chosen)), moment), np.float64)
        weights = trust * _trust(np.abs(near @ pull - values))
    return Smooth(chosen, pull, length, most)


def _alike(these: Values, those: Values, length: float) -> Values:
    squared = (these**2).sum(1)[:, np.newaxis] + (those**2).sum(1)[np.newaxis] - 2 * these @ those.T
    return np.asarray(np.exp(-squared / (2 * length**2)), np.float64)
