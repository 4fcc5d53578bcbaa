"""From measured networks to the time of one that was never measured.

Two steps. What a unit of each kind of work costs follows from all networks of the table at once: the least relative
squared error with no cost below zero, where networks that do not fit in (a disturbance of the machine) count less.
What this sum leaves is smooth, since networks alike are off alike: a Gaussian process over what a network is made of
corrects it. The model states how far it is off on networks that it has not seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.bench.table import Timed
from mobilenets.errors import InputError
from mobilenets.fit.costs import blocks, work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch import Plan

    Values = NDArray[np.float64]

FEWEST = 12
"""Networks that a table must have at least."""
FOLDS = 10
"""Parts of the table that are left out in turn to learn how far predictions are off."""
REWEIGHTINGS = 5
OUTLYING = 1.5
"""Networks that are off by more than so many standard deviations count less."""
LENGTH, NOISE, LARGEST = 2.5, 0.3, 0.15
"""Of the Gaussian process: how far apart networks are still alike (in standard deviations of the table's), the
variance of a measurement beside that of the correction, and the largest correction that is believed."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far predictions are off, as shares of what was measured, on networks that were left out."""

    median: float
    worst: float
    networks: int


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts milliseconds. Make one with :func:`latency_model`."""

    kinds: tuple[str, ...]
    cost: Values  # milliseconds of a unit of each kind of work, float64 (kinds,)
    centre: Values  # of what networks are made of, float64 (parts,)
    spread: Values
    places: Values  # of the table's networks, float64 (networks, parts)
    pull: Values  # float64 (networks,)
    error: Error | None = None

    def predict(self, layout: Plan) -> float:
        """Return the milliseconds that a network takes."""
        return float(self.predict_all([work(layout)])[0])

    def predict_all(self, amounts: Sequence[Mapping[str, float]]) -> Values:
        """Return the milliseconds of several networks, by their work; float64 (N,)."""
        basis = _matrix(amounts, self.kinds) @ self.cost
        return np.asarray(basis * np.exp(self._correction(_made_of(amounts))), np.float64)

    def blocks_ms(self, layout: Plan) -> dict[str, float]:
        """Return the milliseconds of each block; they add up to the network's but for what any network costs."""
        amounts = work(layout)
        factor = float(np.exp(self._correction(_made_of([amounts]))[0]))
        cost = dict(zip(self.kinds, self.cost * factor, strict=True))
        return blocks(layout, cost)

    def _correction(self, made_of: Values) -> Values:
        if not len(self.places):
            return np.zeros(len(made_of))
        near = _alike((made_of - self.centre) / self.spread, self.places)
        return np.clip(near @ self.pull, -LARGEST, LARGEST)


def latency_model(timed: Sequence[Timed]) -> LatencyModel:
    """Make a model of measured networks, with its error on networks left out in turn.

    Raises:
        InputError: there are too few of them.
    """
    if len(timed) < FEWEST:
        raise InputError(f"the latency table has {len(timed)} networks, and {FEWEST} are needed: measure more")
    amounts = [work(each.layout) for each in timed]
    ms = np.array([each.ms for each in timed])
    offs: list[float] = []
    for fold in range(FOLDS):
        kept = [index for index in range(len(ms)) if index % FOLDS != fold]
        left = [index for index in range(len(ms)) if index % FOLDS == fold]
        model = _fitted([amounts[index] for index in kept], ms[kept])
        predicted = model.predict_all([amounts[index] for index in left])
        offs += np.abs(predicted / ms[left] - 1).tolist()
    whole = _fitted(amounts, ms)
    error = Error(statistics.median(offs), max(offs), len(offs))
    return LatencyModel(whole.kinds, whole.cost, whole.centre, whole.spread, whole.places, whole.pull, error)


def _fitted(amounts: Sequence[Mapping[str, float]], ms: Values) -> LatencyModel:
    kinds = tuple(sorted({name for each in amounts for name in each}))
    matrix = _matrix(amounts, kinds)
    cost = _costs(matrix, ms)
    made_of = _made_of(amounts)
    centre, spread = made_of.mean(0), made_of.std(0)
    spread[spread == 0] = 1.0
    places = (made_of - centre) / spread
    left = np.clip(np.log(ms / (matrix @ cost)), -LARGEST, LARGEST)
    pull = np.linalg.solve(_alike(places, places) + NOISE * np.eye(len(ms)), left)
    return LatencyModel(kinds, cost, centre, spread, places, pull)


def _costs(matrix: Values, ms: Values) -> Values:
    """Return the cost of a unit of each kind: least relative squares, none negative, outliers counting less."""
    scale = matrix.max(0)
    scale[scale == 0] = 1.0
    relative = matrix / scale / ms[:, np.newaxis]
    weights = np.ones(len(ms))
    cost = np.zeros(matrix.shape[1])
    for _ in range(REWEIGHTINGS):
        cost = non_negative(relative * weights[:, np.newaxis], weights)
        off = np.abs(relative @ cost - 1)
        deviation = 1.4826 * float(np.median(off)) + 1e-9  # of a normal distribution, by its median
        weights = np.minimum(1.0, np.sqrt(OUTLYING * deviation / np.maximum(off, 1e-12)))
    return np.asarray(cost / scale, np.float64)


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


PARTS = (
    *("pointwise multiply-adds", "pointwise weights", "pointwise written", "pointwise small"),
    *("depthwise written", "depthwise rows", "vector weights", "scaled numbers", "hard_swish numbers"),
)
"""What networks are compared by, with the work in large kernels."""
LARGE_KERNELS = ("depthwise 5", "depthwise 7")


def _made_of(amounts: Sequence[Mapping[str, float]]) -> Values:
    """Return what networks are made of, in logarithms: float64 (N, parts)."""
    large = [[sum(each[name] for name in each if name.startswith(LARGE_KERNELS))] for each in amounts]
    return np.log1p(np.hstack([_matrix(amounts, PARTS), np.array(large, np.float64)]))


def _matrix(amounts: Sequence[Mapping[str, float]], kinds: Sequence[str]) -> Values:
    return np.array([[each.get(kind, 0.0) for kind in kinds] for each in amounts], np.float64)


def _alike(these: Values, those: Values) -> Values:
    squared = ((these[:, np.newaxis] - those[np.newaxis]) ** 2).sum(2)
    return np.asarray(np.exp(-squared / (2 * LENGTH**2)), np.float64)
