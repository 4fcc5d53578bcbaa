"""From true boxes and found ones to COCO's numbers, by faster-coco-eval: nothing here is measured by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobilenets.detections import ClassPrecision, DetectionReport
from mobilenets.errors import MissingExtraError
from mobilenets.image.detection import Found

_SIZES = ("all", "small", "medium", "large")
_MOST_FOUND = (1, 10, 100)
_VOC_RECALLS = 5001  # so many points that their mean is the area under the curve to four digits


class TrueBoxes(Protocol):
    """What is needed of the truth about one picture; see `mobilenets.data.annotations.Truth`."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Boxes (N, 4) in pixels: x1, y1, x2, y2."""

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class indices (N,)."""

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """Whether each neither counts nor is counted as wrongly found, (N,)."""

    @property
    def areas(self) -> NDArray[np.float32]:
        """Areas of the objects in square pixels, (N,)."""


def measure_boxes(truths: Sequence[TrueBoxes], found: Sequence[Found], labels: Sequence[str]) -> DetectionReport:
    """Return how good the found boxes of each picture are, both in pixels of the picture.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    true, said = _datasets(truths, found, labels)
    precision, recall = _evaluated(true, said, {})  # (overlaps, recalls, classes, sizes, counts); (all but recalls)
    whole, _ = _evaluated(
        true,
        said,
        {
            "iouThrs": np.array([0.5]),
            "recThrs": np.linspace(0, 1, _VOC_RECALLS),
            "maxDets": [1, 10, max(100, *map(len, found))] if found else [1, 10, 100],
        },
    )
    metrics: dict[str, float | None] = {"map": _mean(precision[..., 0, -1])}
    metrics["map_50"], metrics["map_75"] = _mean(precision[0, ..., 0, -1]), _mean(precision[5, ..., 0, -1])
    for place, size in enumerate(_SIZES[1:], start=1):
        metrics[f"map_{size}"] = _mean(precision[..., place, -1])
    for place, most in enumerate(_MOST_FOUND):
        metrics[f"ar_{most}"] = _mean(recall[..., 0, place])
    for place, size in enumerate(_SIZES[1:], start=1):
        metrics[f"ar_{size}"] = _mean(recall[..., place, -1])
    metrics["voc_ap_50"] = _mean(whole[0, ..., 0, -1])
    counts = np.zeros(len(labels), np.int64)
    for truth in truths:
        counts += np.bincount(truth.classes[~truth.crowd], minlength=len(labels))
    return DetectionReport(
        metrics=metrics,
        images=len(truths),
        boxes=int(counts.sum()),
        labels=tuple(labels),
        per_class=tuple(
            _of_class(label, int(counts[place]), precision[:, :, place], recall[:, place])
            for place, label in enumerate(labels)
        ),
        curves={
            label: tuple(precision[0, :, place, 0, -1].tolist()) for place, label in enumerate(labels) if counts[place]
        },
    )


def _of_class(label: str, boxes: int, precision: NDArray[np.float64], recall: NDArray[np.float64]) -> ClassPrecision:
    """Return the numbers of one class: precision is (overlaps, recalls, sizes, counts), recall without recalls."""
    return ClassPrecision(
        label=label,
        boxes=boxes,
        ap=_mean(precision[..., 0, -1]),
        ap_50=_mean(precision[0, :, 0, -1]),
        ap_75=_mean(precision[5, :, 0, -1]),
        ap_small=_mean(precision[..., 1, -1]),
        ap_medium=_mean(precision[..., 2, -1]),
        ap_large=_mean(precision[..., 3, -1]),
        recall=_mean(recall[..., 0, -1]),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of what could be measured; the library marks the rest with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _datasets(truths: Sequence[TrueBoxes], found: Sequence[Found], labels: Sequence[str]) -> tuple[Any, Any]:
    """Return truth and findings as the library's objects; classes are numbered from 1, as it wants them."""
    try:
        from faster_coco_eval import COCO
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "detection") from None
    images = [{"id": number, "file_name": str(number)} for number in range(1, len(truths) + 1)]
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, start=1)]
    annotations: list[dict[str, Any]] = []
    for number, truth in enumerate(truths, start=1):
        rows = zip(_xywh(truth.boxes), truth.classes.tolist(), truth.crowd.tolist(), truth.areas.tolist(), strict=True)
        for box, category, crowd, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    said = [
        {"image_id": number, "category_id": category + 1, "bbox": box, "score": score}
        for number, each in enumerate(found, start=1)
        for box, category, score in zip(_xywh(each.boxes), each.classes.tolist(), each.scores.tolist(), strict=True)
    ]
    true = COCO({"images": images, "annotations": annotations, "categories": categories})
    return true, true.loadRes(said)


def _xywh(boxes: NDArray[np.float32]) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    rows: list[list[float]] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return rows


def _evaluated(true: Any, said: Any, settings: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (overlaps, recalls, classes, sizes, counts) and recall (overlaps, classes, sizes, counts)."""
    from faster_coco_eval import COCOeval_faster

    judge = COCOeval_faster(true, said, iouType="bbox", print_function=_silent)
    for name, value in settings.items():
        setattr(judge.params, name, value)
    judge.evaluate()
    judge.accumulate()
    return np.asarray(judge.eval["precision"], np.float64), np.asarray(judge.eval["recall"], np.float64)


def _silent(text: str) -> None:
    """Say nothing: the library reports its progress line by line."""
