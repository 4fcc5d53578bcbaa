"""Boxes in pixels, float32 (N, 4) as (x1, y1, x2, y2): overlap, non-maximum suppression, clipping.

The suppression is the greedy one, computed block by block: within a block of candidates all overlaps are one matrix,
and which of them survive is its fixed point, so that no Python runs for each box.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]

BLOCK = 128
"""Candidates looked at together: their overlaps are a matrix of this side."""


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """Return the area of each box, float32 (N,)."""
    result: NDArray[np.float32] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return result


def intersections(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """Return the area that each of N boxes shares with each of M: float32 (N, M)."""
    width = np.minimum(first[:, None, 2], second[None, :, 2])
    width -= np.maximum(first[:, None, 0], second[None, :, 0])
    height = np.minimum(first[:, None, 3], second[None, :, 3])
    height -= np.maximum(first[:, None, 1], second[None, :, 1])
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    width *= height
    return width


def iou(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """Return intersection over union of each of N boxes with each of M: float32 (N, M), nan for two empty boxes.

    >>> iou(np.array([[0, 0, 2, 2]], np.float32), np.array([[1, 0, 3, 2]], np.float32)).round(3).tolist()
    [[0.3330000042915344]]
    """
    shared = intersections(first, second)
    union = areas(first)[:, None] + areas(second)[None, :]
    union -= shared
    with np.errstate(invalid="ignore", divide="ignore"):
        shared /= union
    return shared


def clip(boxes: Boxes, height: float, width: float) -> Boxes:
    """Return the boxes with their corners moved into a picture of this height and width."""
    most = np.array([width, height, width, height], np.float32)
    clipped: Boxes = np.clip(boxes, np.float32(0), most)
    return clipped


def nms(boxes: Boxes, scores: NDArray[np.float32], threshold: float, most: int | None = None) -> NDArray[np.int64]:
    """Return the indices of the boxes that survive, by falling score.

    A box goes where it overlaps one that stays, and has a higher score, by more than `threshold`. Of equal scores the
    first one counts as higher. With `most`, no more than so many are looked for.

    >>> nms(np.array([[0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]], np.float32), np.array([.5, .6, .4], "f4"), 0.5)
    array([1, 2])
    """
    return class_nms(boxes, scores, np.zeros(len(boxes), np.int64), threshold, most=most)


def class_nms(
    boxes: Boxes,
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    threshold: float,
    *,
    most: int | None = None,
    most_candidates: int | None = None,
) -> NDArray[np.int64]:
    """Return what :func:`nms` leaves of each class, of all classes together by falling score.

    Args:
        boxes: float32 (N, 4).
        scores: float32 (N,).
        classes: int64 (N,), from 0; boxes of different classes never suppress each other.
        threshold: the largest intersection over union that two boxes of a class may have.
        most: stop when so many have survived.
        most_candidates: of each class, look at only so many of the highest scores.
    """
    limit = len(boxes) if most is None else most
    seen = np.zeros(int(classes.max(initial=0)) + 1, np.int64)
    kept = np.zeros(0, np.int64)
    for block in _by_falling_score(scores, limit):
        if most_candidates is not None:
            ranks = _ranks(classes[block]) + seen[classes[block]]
            seen += np.bincount(classes[block], minlength=len(seen))
            block = block[ranks < most_candidates]
        if len(kept):
            block = block[~_suppressed(boxes, classes, kept, block, threshold).any(axis=0)]
        kept = np.concatenate([kept, block[_survivors(boxes, classes, block, threshold)]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _by_falling_score(scores: NDArray[np.float32], wanted: int) -> Iterator[NDArray[np.int64]]:
    """Yield all indices by falling score, in blocks; of many, the first are sorted apart, the rest when asked for."""
    several = max(4 * BLOCK, 4 * wanted)
    parts = [np.arange(len(scores))]
    if len(scores) > 2 * several:
        edge = np.partition(scores, len(scores) - several)[len(scores) - several]
        # Ties at the edge are all among the first, so that their order stays that of a full sort.
        parts = [np.flatnonzero(scores >= edge), np.flatnonzero(scores < edge)]
    for part in parts:
        order = part[np.argsort(-scores[part], kind="stable")]
        for start in range(0, len(order), BLOCK):
            yield order[start : start + BLOCK]


def _ranks(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the same class come before each."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    ranks = np.empty(len(classes), np.int64)
    ranks[order] = np.arange(len(classes)) - np.searchsorted(ordered, ordered)
    return ranks


def _suppressed(
    boxes: Boxes, classes: NDArray[np.int64], by: NDArray[np.int64], which: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Say which of `which` each of `by` would suppress: (len(by), len(which))."""
    result: NDArray[np.bool_] = iou(boxes[by], boxes[which]) > _rounded_down(threshold)
    result &= classes[by][:, None] == classes[which][None, :]
    return result


def _rounded_down(threshold: float) -> np.float32:
    """Return the largest float32 that is no larger: what is above the one is above the other, exact thirds too."""
    nearest = np.float32(threshold)
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf))


def _survivors(
    boxes: Boxes, classes: NDArray[np.int64], block: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Say which of a block, by falling score, survive among themselves.

    A box survives unless a survivor before it suppresses it. Read as an equation that has exactly one solution, for
    nothing depends on what comes later; repeating it from any start reaches that within the longest chain of boxes.
    """
    suppresses = np.triu(_suppressed(boxes, classes, block, block, threshold), 1)
    alive: NDArray[np.bool_] = np.ones(len(block), bool)
    while True:
        now: NDArray[np.bool_] = ~np.any(suppresses[alive], axis=0)
        if np.array_equal(now, alive):
            return alive
        alive = now
