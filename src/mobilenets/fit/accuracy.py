"""How good a network is expected to be before anybody has trained it: ImageNet's top-1, published or by a prior.

The prior: the error, 100 % - top-1, of an architecture at another width and resolution follows a power law with a
little curvature, the same for all architectures, since where it is published (TF-slim's grids of V1 and V2) the curves
run parallel. Each architecture's own level comes from its published points. int8 is taken as one point below float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, log

import numpy as np

from mobilenets.arch.published import printed
from mobilenets.nn.published import PUBLISHED

INT8_POINTS = 1.0
"""What int8 costs in TensorFlow's hosted models: V1 71.0 -> 70.0 %, V2 71.8 -> 70.8 % (tensorflow/tensorflow,
tensorflow/lite/g3doc/guide/hosted_models.md)."""

_SIDE = 224
_CLASSES = 1000
_SAME_WEIGHTS = {"mobilenet_v3_small_1280": "mobilenet_v3_small"}
"""The table that a paper prints, and the one that the published weights have."""

Point = tuple[str, float, int]
"""Architecture, width, side."""


@dataclass(frozen=True, slots=True)
class Expected:
    """An expected top-1 in per cent of ImageNet's validation pictures, and whose word it is."""

    top1: float
    source: str
    published: bool


@cache
def points() -> dict[Point, Expected]:
    """Return the published accuracies: the papers' and TF-slim's, else the least of what weights state.

    The least, since newer recipes train any of these networks better, and they are compared with one another here.
    """
    found: dict[Point, Expected] = {}
    for entry in sorted(PUBLISHED.values(), key=lambda each: -each.top1):
        side = entry.resolution[0]
        if entry.resolution == (side, side):
            key = (entry.architecture, entry.width, side)
            found[key] = Expected(entry.top1, f"{entry.publisher} {entry.identifier}", published=True)
    for line in printed():
        if line.quantity == "top1" and line.arch and line.classes == _CLASSES:
            arch = _SAME_WEIGHTS.get(line.arch, line.arch)
            found[arch, float(line.width), line.resolution] = Expected(float(line.printed), line.source, published=True)
    return found


def expected(arch: str, width: float, side: int, precision: str = "float32") -> Expected | None:
    """Return what accuracy to expect of an architecture at a width and a resolution, None of one nobody published.

    >>> expected("mobilenet_v2", 0.5, 160).top1
    61.0
    """
    found = points().get((arch, width, side))
    if found is None:
        level = _law().levels.get(arch)
        if level is None:
            return None
        error = exp(level + float(np.dot(_law().slopes, _terms(width, side))))
        found = Expected(100 - min(99.9, error), "prior: the published points' power law", published=False)
    if precision == "int8":
        note = f"{found.source}, less {INT8_POINTS:g} for int8"
        return Expected(found.top1 - INT8_POINTS, note, published=False)
    return found


@dataclass(frozen=True)
class _Law:
    levels: dict[str, float]
    slopes: Sequence[float]


def _terms(width: float, side: int) -> list[float]:
    w, s = log(width), log(side / _SIDE)
    return [w, w * w, s, s * s, w * s]


@cache
def _law() -> _Law:
    """Fit levels and slopes to all published points: least squares of the error's logarithm."""
    known = points()
    names = sorted({arch for arch, _, _ in known})
    rows = [[*(float(arch == name) for name in names), *_terms(width, side)] for arch, width, side in known]
    target = [log(100 - each.top1) for each in known.values()]
    solved = np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[0].tolist()
    return _Law(dict(zip(names, solved[: len(names)], strict=True)), solved[len(names) :])


def prior_error() -> float:
    """Return how far the prior is off on the published points of V1 and V2, in points of top-1: the mean.

    >>> prior_error() < 1
    True
    """
    grids = [key for key in points() if sum(other[0] == key[0] for other in points()) > len(_terms(1.0, _SIDE))]
    off = [
        abs(
            100
            - exp(_law().levels[arch] + float(np.dot(_law().slopes, _terms(width, side))))
            - points()[arch, width, side].top1
        )
        for arch, width, side in grids
    ]
    return sum(off) / len(off)
