"""From measured networks to the time of one that was never measured.

What operations take is learned from operations timed inside running networks where the runtime has a profiler, for each
kind from all networks: what a unit of each sort of work costs (least relative squares, no cost below zero, disturbed
ones counting less), corrected by a Gaussian process, since operations alike are off alike. What operations take
together in a network is learned from the networks' own times, which nobody watched; so is everything where there is no
profiler. A second process corrects whole networks. The model states how far it is off on networks left out of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.bench.table import Timed
from mobilenets.errors import InputError
from mobilenets.fit.costs import BESIDE, KINDS, Operations, encode, likeness, work
from mobilenets.fit.regression import Smooth, robust_costs, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch import Plan

    Values = NDArray[np.float64]

FEWEST = 12
"""Networks that a table must have at least."""
FOLDS = 4
"""Parts of the table that are left out in turn to learn how far predictions are off."""

LEAST_MS = 0.002
"""A profiler's times are not better than this."""
OPERATION = {"length": 2.5, "noise": 0.05, "most": 1.0, "centres": 128}
"""Of the process over the operations of a kind: see :func:`mobilenets.fit.regression.smooth`."""
NETWORK = {"length": 2.5, "noise": 0.3, "most": 0.15, "centres": 1000}
"""Of the process over networks, whose places are in standard deviations of the table's."""
LEAST_SHARE = 0.05
"""Of a network's time: what a runtime does beside operations need not be known better than this share of it."""
FEWEST_OPERATIONS = 8
"""Of a kind; where there are fewer, work is taken to cost what it costs in networks."""

PARTS = (
    *("pointwise multiply-adds", "pointwise weights", "pointwise written", "pointwise small"),
    *("depthwise written", "depthwise rows", "vector weights", "scale numbers", "hard_swish numbers"),
)
"""What networks are compared by, with the work in large kernels."""
LARGE_KERNELS = ("depthwise 5", "depthwise 7")


@dataclass(frozen=True, slots=True)
class Error:
    """How far predictions are off, as shares of what was measured, on networks that were left out."""

    median: float
    worst: float
    networks: int


@dataclass(frozen=True, eq=False)
class KindModel:
    """What operations of one kind take."""

    names: tuple[str, ...]
    cost: Values  # milliseconds of a unit of each sort of work
    correction: Smooth

    def predict(self, done: Mapping[str, Values], places: Values) -> Values:
        """Return milliseconds (N,) of operations, by their work and their likeness."""
        basis = _stacked(done, self.names) @ self.cost
        return np.maximum(0.0, (basis + LEAST_MS) * np.exp(self.correction(places)) - LEAST_MS)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Predicts milliseconds. Make one with :func:`latency_model`."""

    kinds: Mapping[str, KindModel]  # by kind of operation; none where nobody timed operations
    beside: Values  # what a runtime does beside operations, milliseconds of a unit of each of `BESIDE`
    names: tuple[str, ...]
    cost: Values  # of a unit of each of `names` in a network, milliseconds
    centre: Values  # of what networks are made of, float64 (parts,)
    spread: Values
    correction: Smooth
    error: Error | None = None

    def predict(self, layout: Plan) -> float:
        """Return the milliseconds that a network takes."""
        return float(self.predict_all(encode([layout]))[0])

    def predict_all(self, operations: Operations) -> Values:
        """Return the milliseconds of several networks, float64 (networks,)."""
        done = work(operations)
        basis = operations.sums(self._operations_ms(operations, done)) + self.cost[0]
        return np.asarray(basis * np.exp(self._corrected(operations, done)), np.float64)

    def blocks_ms(self, layout: Plan) -> dict[str, float]:
        """Return the milliseconds of each block; they add up to the network's but for what any network costs."""
        operations = encode([layout])
        done = work(operations)
        ms = self._operations_ms(operations, done) * float(np.exp(self._corrected(operations, done))[0])
        found: dict[str, float] = {}
        for op, each in zip(layout.ops, ms, strict=True):
            found[op.block or op.name] = found.get(op.block or op.name, 0.0) + float(each)
        return found

    def _operations_ms(self, operations: Operations, done: Mapping[str, Values]) -> Values:
        return _columns(self.kinds, self.beside, operations, done, self.names[1:]) @ self.cost[1:]

    def _corrected(self, operations: Operations, done: Mapping[str, Values]) -> Values:
        return self.correction((_made_of(operations, done) - self.centre) / self.spread)


def latency_model(timed: Sequence[Timed]) -> LatencyModel:
    """Make a model of measured networks, with its error on networks left out in turn.

    Raises:
        InputError: there are too few of them.
    """
    if len(timed) < FEWEST:
        raise InputError(f"the latency table has {len(timed)} networks, and {FEWEST} are needed: measure more")
    operations = encode([each.layout for each in timed])
    ms, parts = _steady(timed)
    offs: list[float] = []
    everything = np.arange(len(timed))
    for fold in range(FOLDS):
        kept, left = everything[everything % FOLDS != fold], everything[everything % FOLDS == fold]
        model = _fitted(operations.of(kept), ms[kept], [parts[index] for index in kept])
        predicted = model.predict_all(operations.of(left))
        offs += np.abs(predicted / ms[left] - 1).tolist()
    error = Error(statistics.median(offs), max(offs), len(offs))
    return replace(_fitted(operations, ms, parts), error=error)


def _steady(timed: Sequence[Timed]) -> tuple[Values, list[Values]]:
    """Return networks' times and their operations', as if the machine had always been as fast as it mostly was.

    The network that is measured with all others says how fast it was. Operations are taken to share in the network's
    own time as they share in the profiler's, which takes longer.
    """
    watch = np.array([each.watch_ms for each in timed])
    ms = np.array([each.ms for each in timed]) * np.median(watch) / watch
    parts = []
    for each, own in zip(timed, ms, strict=True):
        parts.append(np.array(each.parts_ms) * own / sum(each.parts_ms) if each.parts_ms else np.zeros(0))
    return ms, parts


def _fitted(operations: Operations, ms: Values, parts: Sequence[Values]) -> LatencyModel:
    done = work(operations)
    kinds, beside = _kinds(operations, done, parts)
    names = ("networks", *(_SUMS if kinds else done))
    columns = operations.sums(_columns(kinds, beside, operations, done, names[1:]))
    matrix = np.hstack([np.ones((len(ms), 1)), columns])
    cost = robust_costs(matrix, ms)
    made_of = _made_of(operations, done)
    centre, spread = made_of.mean(0), made_of.std(0)
    spread[spread == 0] = 1.0
    left = np.log(ms / (matrix @ cost))
    correction = smooth((made_of - centre) / spread, left, np.ones(len(ms)), **NETWORK)  # type: ignore[arg-type]
    return LatencyModel(kinds, beside, names, cost, centre, spread, correction)


def _kinds(
    operations: Operations, done: Mapping[str, Values], parts: Sequence[Values]
) -> tuple[dict[str, KindModel], Values]:
    """Learn what operations take, kind by kind, and what comes beside them, where operations were timed."""
    timed = np.array([index for index, each in enumerate(parts) if len(each)], np.int64)
    if len(timed) < FEWEST:
        return {}, np.zeros(len(BESIDE))
    some = operations.of(timed)
    done = work(some) if len(timed) < len(parts) else done
    ms, places = np.concatenate([parts[index][:-1] for index in timed]), likeness(some)
    found = {}
    for code, kind in enumerate(KINDS):
        these = np.flatnonzero(some.columns["kind"] == code)
        if len(these) >= FEWEST_OPERATIONS:
            found[kind] = _kind({name: column[these] for name, column in done.items()}, places[these], ms[these])
    last = np.array([parts[index][-1] for index in timed])
    floor = LEAST_SHARE * np.array([parts[index].sum() for index in timed])
    return found, robust_costs(some.sums(_stacked(done, BESIDE)), np.maximum(last, 1e-6), floor)


def _kind(done: Mapping[str, Values], places: Values, ms: Values) -> KindModel:
    names = tuple(name for name, column in done.items() if column.any())
    matrix = _stacked(done, names)
    cost = robust_costs(matrix, np.maximum(ms, 1e-4), LEAST_MS)
    left = np.log((ms + LEAST_MS) / (matrix @ cost + LEAST_MS))
    trust = np.minimum(1.0, ms / LEAST_MS)
    return KindModel(names, cost, smooth(places, left, trust, **OPERATION))  # type: ignore[arg-type]


_SUMS = ("pointwise", "depthwise", "others", "beside", "operations")


def _columns(
    kinds: Mapping[str, KindModel],
    beside: Values,
    operations: Operations,
    done: Mapping[str, Values],
    names: Sequence[str],
) -> Values:
    """Return what a network's time is the sum of, for each operation: (N, names)."""
    if not kinds:
        return _stacked(done, names)
    c = operations.columns
    places = likeness(operations)
    columns = {name: np.zeros(len(operations)) for name in _SUMS}
    for code, kind in enumerate(KINDS):
        these = np.flatnonzero(c["kind"] == code)
        if kind in kinds and len(these):
            ms = kinds[kind].predict({name: column[these] for name, column in done.items()}, places[these])
            columns[kind if kind in columns else "others"][these] = ms
    columns["operations"] += 1.0
    columns["beside"] += _stacked(done, BESIDE) @ beside
    return _stacked(columns, names)


def _made_of(operations: Operations, done: Mapping[str, Values]) -> Values:
    """Return what networks are made of, in logarithms: float64 (networks, parts)."""
    large = sum((column for name, column in done.items() if name.startswith(LARGE_KERNELS)), np.zeros(len(operations)))
    return np.log1p(operations.sums(np.column_stack([_stacked(done, PARTS), large])))


def _stacked(columns: Mapping[str, Values], names: Sequence[str]) -> Values:
    return np.stack([columns[name] for name in names], axis=1)
