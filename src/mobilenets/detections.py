"""What a detector says of pictures, and how good it is: frozen, printable, and ready for JSON, as in `results`.

Boxes are (x1, y1, x2, y2) in pixels of the picture as it was given. Average precisions and recalls are fractions from 0
to 1, None where there is nothing to measure: no box of that class or size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilenets.results import PER_CLASS_LINES, file_lines, json_number
from mobilenets.text import duration, percent, printable, table


@dataclass(frozen=True)
class Detection:
    """Say that something is in a box: `label`, its `index` among the model's labels, a score in 0..1.

    `box` is (x1, y1, x2, y2) in pixels of the picture.
    """

    label: str
    index: int
    score: float
    box: tuple[float, float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the box is a list of four numbers."""
        return {
            "label": self.label,
            "index": self.index,
            "score": json_number(self.score),
            "box": [json_number(corner) for corner in self.box],
        }


@dataclass(frozen=True)
class Detections:
    """Hold what was found on one picture, the surest first, or why the picture could not be read.

    >>> print(Detections("farm.jpg", (Detection("sheep", 3, 0.8125, (10.0, 20.0, 110.5, 90.0)),)))
    farm.jpg
       81.25 %  sheep  at 10, 20, 110, 90
    """

    image: str
    detections: tuple[Detection, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{printable(self.image)}\n  cannot be read: {printable(self.error)}"
        corners = [", ".join(f"{corner:.0f}" for corner in each.box) for each in self.detections]
        lines = [
            f"  {percent(each.score):>8}  {printable(each.label)}  at {place}"
            for each, place in zip(self.detections, corners, strict=True)
        ]
        return "\n".join([printable(self.image), *(lines or ["  nothing found"])])

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `error` is there only where the picture could not be read."""
        item: dict[str, Any] = {"image": self.image, "detections": [each.to_json() for each in self.detections]}
        return item if self.error is None else {**item, "error": self.error}


@dataclass(frozen=True)
class ClassPrecision:
    """Say how well the boxes of one class are found.

    `boxes` counts the true ones, without crowds. `ap` is COCO's average precision over overlaps from .5 to .95, `ap_50`
    and `ap_75` at one overlap; small, medium and large are objects below 32 x 32 pixels, below 96 x 96, and above.
    """

    label: str
    boxes: int
    ap: float | None
    ap_50: float | None
    ap_75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    recall: float | None  # at most 100 boxes a picture, over overlaps from .5 to .95

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        names = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "recall")
        return {"label": self.label, "boxes": self.boxes, **{name: json_number(getattr(self, name)) for name in names}}

    def cells(self) -> list[str]:
        """Return label, boxes, AP, AP50, AP by size and recall as text."""
        values = (self.ap, self.ap_50, self.ap_small, self.ap_medium, self.ap_large, self.recall)
        return [self.label, f"{self.boxes:,}", *map(share, values)]


@dataclass(frozen=True)
class DetectionReport:
    """Hold how good a detector is on a set of pictures.

    `metrics` has COCO's twelve numbers, which are means over the classes: `map` (overlaps .5 to .95), `map_50`,
    `map_75`, `map_small`, `map_medium`, `map_large`, `ar_1`, `ar_10`, `ar_100`, `ar_small`, `ar_medium`, `ar_large`,
    and `voc_ap_50`, the whole area under the curve at overlap .5, as VOC measures since 2010. `curves` are precisions
    at recalls of 0, 0.01 ... 1 at overlap .5, by class. The rest is as in `results.Report`.
    """

    metrics: Mapping[str, float | None]
    images: int
    boxes: int
    labels: tuple[str, ...]
    per_class: tuple[ClassPrecision, ...]
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    part: str = ""
    runtime: str | None = None
    seconds: float | None = None
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def map(self) -> float | None:
        """COCO's mean average precision, over overlaps from .5 to .95."""
        return self.metrics["map"]

    @property
    def map_50(self) -> float | None:
        """COCO's mean average precision at overlap .5."""
        return self.metrics["map_50"]

    def __str__(self) -> str:
        title = " on ".join(printable(part) for part in (self.model, self.data) if part)
        header = ["class", "boxes", "AP", "AP50", "small", "medium", "large", "recall"]
        shown, weakest = self.per_class, ""
        if len(shown) > PER_CLASS_LINES:
            known = [row for row in shown if row.ap is not None]
            shown = tuple(sorted(known, key=lambda row: row.ap or 0)[:PER_CLASS_LINES])
            weakest = f"the {len(shown)} weakest of {len(self.per_class):,} classes\n"
        parts = [title, self._headline(), weakest + table(header, [row.cells() for row in shown])]
        if self.problems:
            parts.append("\n".join(["problems", *(f"  {printable(problem)}" for problem in self.problems)]))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(part for part in parts if part)

    def _headline(self) -> str:
        part = f" ({printable(self.part)})" if self.part else ""
        numbers = [(name, share(self.metrics[key])) for key, name in HEADLINE.items()]
        numbers.append(("images", f"{self.images:,}{part}, {self.boxes:,} boxes"))
        if self.seconds:
            numbers.append(("time", f"{duration(self.seconds)}, {self.images / self.seconds:,.1f} images a second"))
        if self.runtime:
            numbers.append(("runtime", self.runtime))
        width = max(len(name) for name, _ in numbers)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in numbers)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; every metric has a key of its own."""
        return {
            "model": self.model,
            "data": self.data,
            "part": self.part,
            "runtime": self.runtime,
            **{name: json_number(value) for name, value in self.metrics.items()},
            "images": self.images,
            "boxes": self.boxes,
            "seconds": json_number(self.seconds),
            "per_class": [row.to_json() for row in self.per_class],
            "labels": list(self.labels),
            "problems": list(self.problems),
            "files": [str(path) for path in self.files],
        }


HEADLINE = {
    "map": "mAP .5:.95",
    "map_50": "mAP .5",
    "map_75": "mAP .75",
    "map_small": "small",
    "map_medium": "medium",
    "map_large": "large",
    "ar_100": "recall",
    "voc_ap_50": "VOC AP50",
}
"""The metrics that are printed, and what they are called."""


def share(value: float | None) -> str:
    """Print a fraction as a percentage, `-` where there is none."""
    return "-" if value is None else percent(value)
