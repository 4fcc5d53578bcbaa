"""From logits and true classes to numbers: top-k accuracy, confusion matrix, precision, recall, F1.

Pictures are judged batch by batch (`judge`), so that the logits of a large set are never held together; the judgements
are joined and measured once, over every picture (`measure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mobilenets.results import ClassReport, Report

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Turn logits (..., classes) into log-probabilities, float64 of the same shape; nan where a row overflowed."""
    rows = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        shifted = rows - rows.max(axis=-1, keepdims=True)
        result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """Turn logits (..., classes) into probabilities of the same shape that sum to 1, as float64.

    >>> softmax(np.array([[1000.0, 1000.0]])).round(3).tolist()
    [[0.5, 0.5]]
    """
    probabilities: Floats = np.exp(log_softmax(logits))
    return probabilities


def best_classes(scores: npt.NDArray[np.floating], k: int) -> Integers:
    """Return the k best classes per row, best first: (N, min(k, classes)); of equal scores the lower index first."""
    best: Integers = np.argsort(-np.asarray(scores, np.float64), axis=-1, kind="stable")[..., :k]
    return best


@dataclass(frozen=True)
class Judged:
    """Hold what a model said of N pictures: all that the metrics need, without the logits.

    target      int64 (N,)    the true class
    predicted   int64 (N,)    the best class
    score       float64 (N,)  the softmax score of the best class, 0..1
    rank        int64 (N,)    how many classes were put before the true one: 0 is right
    loss        float64 (N,)  cross-entropy in nats
    """

    target: Integers
    predicted: Integers
    score: Floats
    rank: Integers
    loss: Floats

    def __len__(self) -> int:
        return len(self.target)


def judge(logits: npt.NDArray[np.floating], targets: npt.ArrayLike) -> Judged:
    """Compare logits (N, classes) with the true classes (N,).

    Of equal logits the class with the lower index comes first, as in `best_classes`: a network that says the same of
    every class is right for class 0 alone. Where a network has overflowed (nan, infinity) the picture counts as wrong:
    its rank is the number of classes, its loss nan. Raises ValueError where shapes disagree or a target is outside
    0..classes-1.
    """
    rows = np.asarray(logits, np.float64)
    target = np.asarray(targets, np.int64)
    if rows.ndim != 2 or target.shape != rows.shape[:1]:
        raise ValueError(f"logits {rows.shape} and targets {target.shape}: expected (N, classes) and (N,)")
    classes = rows.shape[1]
    if len(target) and (target.min() < 0 or target.max() >= classes):
        raise ValueError(f"targets from {target.min()} to {target.max()} do not fit {classes} classes")
    if not len(target):
        return Judged(target, target, np.zeros(0), target, np.zeros(0))

    true = np.take_along_axis(rows, target[:, None], axis=1)
    tied_before = (rows == true) & (np.arange(classes) < target[:, None])
    rank = np.count_nonzero((rows > true) | tied_before, axis=1)
    predicted = rows.argmax(axis=1)
    log_probabilities = log_softmax(rows)
    picture = np.arange(len(rows))
    broken = ~np.isfinite(rows.max(axis=1))
    return Judged(
        target=target,
        predicted=predicted.astype(np.int64),
        score=np.exp(log_probabilities[picture, predicted]),
        rank=np.where(broken, classes, rank).astype(np.int64),
        loss=-log_probabilities[picture, target],
    )


def join(parts: Sequence[Judged]) -> Judged:
    """Join the judgements of several batches, in order."""
    if not parts:
        return judge(np.zeros((0, 1)), [])
    return Judged(
        target=np.concatenate([part.target for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        rank=np.concatenate([part.rank for part in parts]),
        loss=np.concatenate([part.loss for part in parts]),
    )


def top_k(judged: Judged, k: int) -> float:
    """Return the fraction of pictures whose true class is among the k best: 1 where there are no more than k."""
    return float(np.mean(judged.rank < k))


def confusion_matrix(targets: npt.ArrayLike, predicted: npt.ArrayLike, classes: int) -> Integers:
    """Count pictures by true class (row) and predicted class (column): int64 (classes, classes).

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    cells = np.asarray(targets, np.int64) * classes + np.asarray(predicted, np.int64)
    counts: Integers = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return counts


def class_reports(confusion: Integers, labels: Sequence[str]) -> tuple[ClassReport, ...]:
    """Return precision, recall and F1 of every class from a confusion matrix; 0 where a quotient has no denominator."""
    right = np.diagonal(confusion)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)

    def quotient(above: Integers, below: Integers) -> list[float]:
        values: list[float] = np.divide(above, below, out=np.zeros(len(labels)), where=below > 0).tolist()
        return values

    precision, recall = quotient(right, predicted), quotient(right, images)
    f1 = quotient(2 * right, images + predicted)
    columns = zip(labels, images.tolist(), predicted.tolist(), precision, recall, f1, strict=True)
    return tuple(ClassReport(*values) for values in columns)


def measure(
    judged: Judged,
    labels: Sequence[str],
    *,
    model: str = "",
    data: str = "",
    part: str = "",
    runtime: str | None = None,
    seconds: float | None = None,
    problems: Sequence[str] = (),
) -> Report:
    """Make the report of all judged pictures; the named texts go into it as they are.

    Raises ValueError where nothing was judged.
    """
    if not len(judged):
        raise ValueError("no picture was judged: there is nothing to measure")
    confusion = confusion_matrix(judged.target, judged.predicted, len(labels))
    return Report(
        top1=top_k(judged, 1),
        top5=top_k(judged, min(5, len(labels))),
        images=len(judged),
        labels=tuple(labels),
        per_class=class_reports(confusion, labels),
        confusion=tuple(map(tuple, confusion.tolist())),
        loss=float(judged.loss.mean()),
        model=model,
        data=data,
        part=part,
        runtime=runtime,
        seconds=seconds,
        problems=tuple(problems),
    )


def most_wrong(judged: Judged, count: int) -> list[int]:
    """Return the positions of the wrong pictures whose wrong class scored highest, the most confident first."""
    wrong = np.flatnonzero(judged.rank > 0)
    order = np.argsort(-judged.score[wrong], kind="stable")
    return [int(position) for position in wrong[order][:count]]
