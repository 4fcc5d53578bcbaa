"""Anchors for boxes that a table's own do not fit: SSD's are made for COCO, and others' things are smaller or slimmer.

A box that no anchor overlaps by half is learned by a single one, its best. Where many are like that, a few anchors of
their shape are added to the first map, which has the most places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Arch, Plan
from mobilenets.data.box_augment import fitted_targets
from mobilenets.data.boxed import BoxedPictures
from mobilenets.image.boxes import iou
from mobilenets.image.detection import anchors, detector_of
from mobilenets.image.preprocess import Preprocess
from mobilenets.nn.box_loss import POSITIVE_IOU

MOST_ADDED = 3
WORTH = 0.02
"""An anchor is added where it fits this share of all boxes that had none, every class weighing the same."""
ALIKE = 0.65
"""An anchor fits a box whose shape it overlaps by as much, centre on centre: places are half a stride off at most."""
_MOST_BOXES = 5000


def with_fitting_anchors(layout: Plan, pictures: BoxedPictures, preprocess: Preprocess) -> tuple[Arch, str | None]:
    """Return the table with anchors for the boxes of these pictures, and a line about what was added, if anything."""
    arch, detector = layout.arch, detector_of(layout)
    sizes, weights = _unmatched(layout, pictures, preprocess)
    added = _chosen(sizes, weights)
    if not added:
        return arch, None
    height, width = layout.resolution
    shorter = min(height, width)
    if detector.anchors.form == "torchvision":
        shares = [(wide / width, high / height) for wide, high in added]
    else:
        shares = [(wide / shorter, high / shorter) for wide, high in added]
    more = tuple((round(float(np.sqrt(wide * high)), 4), round(wide / high, 4)) for wide, high in shares)
    first, *others = detector.anchors.levels
    levels = ((*first, *more), *others)
    shapes = ", ".join(f"{wide:.0f}x{high:.0f}" for wide, high in added)
    note = f"anchors of {shapes} pixels added to the first map, for boxes that the table's own do not fit"
    return replace(arch, detector=replace(detector, anchors=replace(detector.anchors, levels=levels))), note


def _unmatched(
    layout: Plan, pictures: BoxedPictures, preprocess: Preprocess
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return width and height (N, 2), in the network's pixels, of boxes without an anchor, and each one's weight.

    The weights of all boxes, with and without one, sum to 1, as much of it for each class.
    """
    own = anchors(layout)
    sizes, classes, lonely = [], [], []
    seen = 0
    for index in range(len(pictures)):
        targets = fitted_targets(pictures.truth(index), preprocess, *pictures.size(index))
        targets = targets[targets[:, 4] >= 0]
        if not len(targets):
            continue
        sizes.append(targets[:, 2:4] - targets[:, :2])
        classes.append(targets[:, 4].astype(np.int64))
        lonely.append(iou(targets[:, :4], own).max(axis=1) < POSITIVE_IOU)
        seen += len(targets)
        if seen > _MOST_BOXES:
            break
    if not sizes:
        return np.zeros((0, 2), np.float32), np.zeros(0)
    of_class, alone = np.concatenate(classes), np.concatenate(lonely)
    counts = np.bincount(of_class)
    weights = 1 / (counts[of_class] * np.count_nonzero(counts))
    return np.concatenate(sizes)[alone], weights[alone]


def _chosen(sizes: NDArray[np.float32], weights: NDArray[np.float64]) -> Sequence[tuple[float, float]]:
    """Return the few of these shapes that fit the most of them, one after the other."""
    corners = np.concatenate([-sizes / 2, sizes / 2], axis=1)
    alike = iou(corners, corners) >= ALIKE
    left = weights.copy()
    chosen: list[tuple[float, float]] = []
    while len(chosen) < MOST_ADDED and len(left):
        gains = alike @ left
        best = int(gains.argmax())
        if gains[best] < WORTH:
            break
        fits = alike[best] & (left > 0)
        wide, high = np.average(sizes[fits], axis=0, weights=left[fits])
        chosen.append((float(wide), float(high)))
        left[fits] = 0
    return chosen
