"""From a detector's raw maps to boxes on a picture: anchors, decoding, suppression, and the way back to its pixels.

This is the same for every runtime: a network, wherever it runs, ends with its heads. Places are counted level by level,
and within a level anchor by anchor, row by row: the order in which a map (anchors * values, height, width) lies in
memory, so that nothing has to be moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.arch.detector import Detector
from mobilenets.errors import InputError
from mobilenets.image.boxes import class_nms, clip
from mobilenets.image.preprocess import Preprocess, resized_sides

COORDINATES = 4
LARGEST_GROWTH = math.log(1000 / 16)  # a box is at most this much larger than its anchor, as torchvision has it


@dataclass(frozen=True, eq=False)
class Found:
    """What was found on one picture, the surest first.

    boxes    float32 (N, 4)  x1, y1, x2, y2 in pixels
    classes  int64 (N,)      class indices; the background is none
    scores   float32 (N,)    0..1
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Found:
        """Return the boxes that are chosen, by index or by mask."""
        return Found(self.boxes[chosen], self.classes[chosen], self.scores[chosen])


def anchors(layout: Plan) -> NDArray[np.float32]:
    """Return the anchors of all places, float32 (A, 4): x1, y1, x2, y2 in pixels of the network's input.

    They may reach beyond it.
    """
    detector = detector_of(layout)
    height, width = layout.resolution
    levels = []
    for maps, level in zip(_map_sides(layout), detector.anchors.levels, strict=True):
        sizes = [_sides(scale, ratio, detector, height, width) for scale, ratio in level]
        down = (np.arange(maps[0]) + 0.5) * (height / maps[0])
        right = (np.arange(maps[1]) + 0.5) * (width / maps[1])
        centres = np.stack(np.meshgrid(right, down), axis=-1).reshape(1, -1, 2)  # (1, places, x and y)
        halves = np.array(sizes).reshape(-1, 1, 2) / 2
        levels.append(np.concatenate([centres - halves, centres + halves], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def detector_of(layout: Plan) -> Detector:
    """Return the heads of a plan; raises InputError where it is no detector's."""
    if layout.arch.detector is None:
        raise InputError(f"{layout.arch.name} classifies pictures: name a detector, such as ssdlite_mobilenet_v2")
    return layout.arch.detector


class Decoder:
    """Turns the raw maps of one network into boxes in pixels of its input, clipped to it.

    What is not given is as the table's detector says: a score at or below `score_threshold` is none; of a class,
    boxes may overlap by `nms_iou`; at most `detections` are returned.
    """

    def __init__(
        self,
        layout: Plan,
        *,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        detections: int | None = None,
    ) -> None:
        detector = detector_of(layout)
        self._detector = detector
        self._resolution = layout.resolution
        self._values = layout.classes + 1
        self._counts = detector.anchors.counts
        self.score_threshold = detector.score_threshold if score_threshold is None else score_threshold
        self._nms_iou = detector.nms_iou if nms_iou is None else nms_iou
        self._most = detector.detections if detections is None else detections
        boxes = anchors(layout).T
        self._sizes = boxes[2:] - boxes[:2]
        self._centres = boxes[:2] + self._sizes / 2
        self._coder = np.array(detector.coder, np.float32).reshape(4, 1)

    def __call__(self, raw: Sequence[NDArray[np.float32]]) -> list[Found]:
        """Return what is on each picture of a batch.

        Args:
            raw: as a predictor returns them: boxes and scores of each level in turn, float32 (N, C, H, W).
        """
        return [self._found([each[index] for each in raw]) for index in range(len(raw[0]))]

    def _found(self, raw: Sequence[NDArray[np.float32]]) -> Found:
        boxes = self.boxes(_joined(raw[0::2], self._counts, COORDINATES))
        if self._detector.anchors.form == "torchvision":  # before the suppression; TensorFlow's library does it after
            boxes = clip(boxes, *self._resolution)
        places, classes, scores = self._candidates(_joined(raw[1::2], self._counts, self._values))
        candidates = boxes[places]
        kept = class_nms(
            candidates,
            scores,
            classes,
            self._nms_iou,
            most=self._most,
            most_candidates=self._detector.candidates,
        )
        return Found(clip(candidates[kept], *self._resolution), classes[kept], scores[kept])

    def boxes(self, differences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the boxes (A, 4) in pixels that differ so from their anchors: (4, A), x, y, width, height."""
        steps = differences / self._coder
        centres = steps[:2] * self._sizes + self._centres
        halves = np.exp(np.minimum(steps[2:], np.float32(LARGEST_GROWTH))) * (self._sizes / 2)
        return np.ascontiguousarray(np.concatenate([centres - halves, centres + halves]).T)

    def _candidates(
        self, logits: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Return place, class and score wherever a class scores enough; logits are (values, A), background first."""
        count = logits.shape[1]
        if self._detector.scores == "sigmoid":
            share = min(max(self.score_threshold, 1e-9), 1 - 1e-9)
            chosen = np.flatnonzero(logits[1:].ravel() > np.float32(math.log(share / (1 - share))))
            scores = (1 / (1 + np.exp(-logits[1:].ravel()[chosen]))).astype(np.float32)
            return chosen % count, chosen // count, scores
        powers = np.exp(logits - logits.max(axis=0))
        totals = powers.sum(axis=0)
        objects = powers[1:]
        chosen = np.flatnonzero((objects > totals * np.float32(self.score_threshold)).ravel())
        places = chosen % count
        return places, chosen // count, objects.ravel()[chosen] / totals[places]


def encoded(boxes: NDArray[np.float32], anchor_boxes: NDArray[np.float32], detector: Detector) -> NDArray[np.float32]:
    """Return how boxes (N, 4) differ from their anchors (N, 4), as heads say it: (N, 4), x, y, width, height."""
    sizes, anchor_sizes = boxes[:, 2:] - boxes[:, :2], anchor_boxes[:, 2:] - anchor_boxes[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - anchor_boxes[:, :2] - anchor_boxes[:, 2:]) / 2
    steps = np.concatenate([moved / anchor_sizes, np.log(sizes / anchor_sizes)], axis=1)
    result: NDArray[np.float32] = (steps * np.array(detector.coder, np.float32)).astype(np.float32)
    return result


def on_picture(found: Found, preprocess: Preprocess, height: int, width: int) -> Found:
    """Return boxes in pixels of the network's input as boxes in pixels of the picture that was fitted to it.

    The picture is `height` x `width`; boxes are clipped to it.
    """
    scale, shift = fitting(preprocess, height, width)
    boxes: NDArray[np.float32] = found.boxes - np.array([*shift, *shift], np.float32)
    boxes /= np.array([*scale, *scale], np.float32)
    return Found(clip(boxes, height, width), found.classes, found.scores)


def fitting(preprocess: Preprocess, height: int, width: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what x and y of a picture are multiplied with, and then moved by, when it is fitted to the network."""
    resized = resized_sides(height, width, preprocess)
    top, left = round((resized[0] - preprocess.height) / 2), round((resized[1] - preprocess.width) / 2)
    return (resized[1] / width, resized[0] / height), (-float(left), -float(top))


def _joined(maps: Sequence[NDArray[np.float32]], counts: Sequence[int], values: int) -> NDArray[np.float32]:
    """Return (values, A) of the maps of one picture, (anchors * values, height, width) each."""
    levels = [
        each.reshape(count, values, -1).transpose(1, 0, 2).reshape(values, -1)
        for each, count in zip(maps, counts, strict=True)
    ]
    return np.concatenate(levels, axis=1)


def _map_sides(layout: Plan) -> list[tuple[int, int]]:
    """Return height and width of every level's maps."""
    return [layout.op(name).out[1:] for name in layout.outputs[0::2]]


def _sides(scale: float, ratio: float, detector: Detector, height: int, width: int) -> tuple[float, float]:
    """Return an anchor's width and height in pixels."""
    wide, high = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
    if detector.anchors.form == "torchvision":
        return min(wide, 1.0) * width, min(high, 1.0) * height
    side = min(height, width)
    return wide * side, high * side
