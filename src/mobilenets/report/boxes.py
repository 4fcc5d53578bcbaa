"""The page about a detector: curves, precision and recall, classes, pictures with what was found, missed and false."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mobilenets import draw
from mobilenets.average_precision import TrueBoxes
from mobilenets.detections import HEADLINE, DetectionReport, share
from mobilenets.draw import RIGHT, WRONG
from mobilenets.draw.boxes import DrawnBox, draw_boxes, draw_precision_svg
from mobilenets.files import write_atomically
from mobilenets.image.boxes import Boxes, intersections, iou
from mobilenets.image.detection import Found
from mobilenets.report import NamedPictures, data_url, rendered, table_rows
from mobilenets.text import duration, percent

SURE = 0.5
"""Boxes with a lower score are not drawn."""
OVERLAP = 0.5
EXAMPLES = 24
PICTURE_PIXELS = 480


@dataclass(frozen=True, eq=False)
class Example:
    """A picture with its boxes drawn, uint8 (H, W, 3), and how many were found, missed, and false."""

    name: str
    picture: npt.NDArray[np.uint8]
    found: int
    missed: int
    false: int


@dataclass(frozen=True, eq=False)
class Sorted:
    """Which found boxes are true (bool over found ones), and which true ones were found (bool over true ones)."""

    true: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]


def examples(
    truths: Sequence[TrueBoxes],
    found: Sequence[Found],
    pictures: NamedPictures,
    labels: Sequence[str],
    *,
    count: int = EXAMPLES,
) -> list[Example]:
    """Return the pictures with the most mistakes, their boxes drawn."""
    sure = [each.take(each.scores >= SURE) for each in found]
    told = [told_apart(truth, each) for truth, each in zip(truths, sure, strict=True)]
    mistakes = [int((~each.true).sum() + (~each.seen).sum()) for each in told]
    order = sorted(range(len(told)), key=lambda index: -mistakes[index])[:count]
    return [_example(index, truths[index], sure[index], told[index], pictures, labels) for index in order]


def told_apart(truth: TrueBoxes, found: Found) -> Sorted:
    """Match found boxes, the surest first, with true ones of their class that they overlap by half.

    What lies in a crowd is neither true nor false: it counts as true here, and crowds as seen.
    """
    true, seen = np.zeros(len(found), bool), truth.crowd.copy()
    overlaps = iou(found.boxes, truth.boxes)
    shared = _share_inside(found.boxes, truth.boxes)
    for index in np.argsort(-found.scores, kind="stable"):
        fitting = (truth.classes == found.classes[index]) & ~truth.crowd & ~seen & (overlaps[index] >= OVERLAP)
        if fitting.any():
            best = int(np.where(fitting, overlaps[index], -1).argmax())
            true[index] = seen[best] = True
        else:
            true[index] = bool((truth.crowd & (shared[index] >= OVERLAP)).any())
    return Sorted(true, seen)


def write_box_report(
    path: Path,
    report: DetectionReport,
    *,
    history: Sequence[Mapping[str, float | None]] = (),
    shown: Sequence[Example] = (),
    recipe: Mapping[str, object] | None = None,
    command: str = "",
    machine: Mapping[str, object] | None = None,
) -> Path:
    """Write the page for `report` to `path`, atomically, and return the path, as `mobilenets.report.write_report` does.

    `shown` are pictures in the order to show them.
    """
    html = rendered(
        "boxes.html",
        {
            "title": " on ".join(part for part in (report.model, report.data) if part) or "report",
            "headline": _headline(report),
            "report": report,
            "curves": draw.draw_curve_svgs(history),
            "precision": draw_precision_svg(report.curves, {row.label: row.ap_50 for row in report.per_class}),
            "examples": [(item, data_url(item.picture, longest=PICTURE_PIXELS)) for item in shown],
            "sure": SURE,
            "recipe": table_rows(recipe or {}),
            "machine": table_rows(machine or {}),
            "command": command,
        },
    )
    return write_atomically(path, html)


def _headline(report: DetectionReport) -> list[tuple[str, str]]:
    tiles = [(name, share(report.metrics[key])) for key, name in HEADLINE.items()]
    tiles += [("images", f"{report.images:,}"), ("boxes", f"{report.boxes:,}")]
    if report.seconds is not None:
        tiles.append(("time", duration(report.seconds)))
    return tiles


def _example(
    index: int, truth: TrueBoxes, found: Found, told: Sorted, pictures: NamedPictures, labels: Sequence[str]
) -> Example:
    drawn = [
        DrawnBox(_corners(box), labels[number], WRONG, dashed=True)
        for box, number, seen in zip(truth.boxes, truth.classes, told.seen, strict=True)
        if not seen
    ]
    for box, number, score, true in zip(found.boxes, found.classes, found.scores, told.true, strict=True):
        text = "" if true else f"{labels[number]} {percent(float(score))}"
        drawn.append(DrawnBox(_corners(box), text, RIGHT if true else WRONG))
    return Example(
        name=pictures.name(index),
        picture=draw_boxes(pictures.picture(index), drawn, longest=PICTURE_PIXELS),
        found=int(told.true.sum()),
        missed=int((~told.seen).sum()),
        false=int((~told.true).sum()),
    )


def _corners(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def _share_inside(boxes: Boxes, regions: Boxes) -> npt.NDArray[np.float32]:
    """Return how much of each box lies in each region, (N, M) from 0 to 1."""
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    shares = intersections(boxes, regions)
    shares /= np.maximum(own, np.float32(1e-6))[:, None]
    return shares
