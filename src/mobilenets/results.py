"""What the verbs return: frozen, printable, and ready for JSON.

`str(result)` is what the command line prints; `result.to_json()` is what `--json` prints and what a server sends.
Accuracies (`top1`, `top5`, `precision`, `recall`, `f1`) and scores are fractions from 0 to 1 in every field and in JSON
(0.985); the printed text shows them as percentages (98.50 %). Times are seconds, `loss` is the mean cross-entropy in
nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from mobilenets.text import duration, percent, printable, table

PER_CLASS_LINES = 20
"""How many classes the printed report lists; all of them are in `per_class`, in JSON and in the HTML page."""


@dataclass(frozen=True)
class Prediction:
    """Say that a picture is `label`, with a softmax score in 0..1.

    `index` is the class's place in the model's labels, from 0.
    """

    label: str
    index: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return {"label": self.label, "index": self.index, "score": json_number(self.score)}


@dataclass(frozen=True)
class Classification:
    """Hold what a model says of one picture: the best classes first, or why the picture could not be read.

    Exactly one of `predictions` and `error` says something: where `error` is set, `predictions` is empty.

    >>> print(Classification("cat.jpg", (Prediction("tabby", 281, 0.8125),)))
    cat.jpg
       81.25 %  tabby
    """

    image: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.error is None) != bool(self.predictions):
            raise ValueError(f"{self.image}: a classification has either predictions or an error")

    def __str__(self) -> str:
        if self.error is not None:
            return f"{printable(self.image)}\n  cannot be read: {printable(self.error)}"
        lines = [f"  {percent(p.score):>8}  {printable(p.label)}" for p in self.predictions]
        return "\n".join([printable(self.image), *lines])

    def to_json(self) -> dict[str, Any]:
        item: dict[str, Any] = {"image": self.image, "predictions": [p.to_json() for p in self.predictions]}
        return item if self.error is None else {**item, "error": self.error}


class OfPicture(Protocol):
    """What is said of one picture: a `Classification`, or a detector's `Detections`."""

    @property
    def image(self) -> str:
        """The picture's path, as it was given."""

    @property
    def error(self) -> str | None:
        """Why it could not be read."""

    def to_json(self) -> dict[str, Any]: ...


Item = TypeVar("Item", bound=OfPicture)


@dataclass(frozen=True)
class Predictions(Generic[Item]):
    """Hold one `Classification`, or of a detector one `Detections`, per picture, in the order the pictures were given.

    In JSON this is a list: one item per picture with `image` and `predictions` (or `detections`); a picture that could
    not be read has none and an `error`. `files` are the pictures that were written, if any.
    """

    items: tuple[Item, ...]
    files: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    @property
    def failed(self) -> tuple[Item, ...]:
        """The pictures that could not be read."""
        return tuple(item for item in self.items if item.error is not None)

    def __str__(self) -> str:
        parts = [str(item) for item in self.items]
        if len(self.items) > 1 and self.failed:
            parts.append(f"{len(self.failed)} of {len(self.items)} pictures could not be read")
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(parts)

    def to_json(self) -> list[dict[str, Any]]:
        return [item.to_json() for item in self.items]


@dataclass(frozen=True)
class ClassReport:
    """Say how well one class is told from the others.

    `images` counts the pictures that truly are of the class. As in scikit-learn, a quotient without a denominator
    (precision of a class never predicted, recall of a class without pictures) is 0; the printed table shows `-` there.
    """

    label: str
    images: int
    predicted: int
    precision: float
    recall: float
    f1: float

    def to_json(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "images": self.images,
            "predicted": self.predicted,
            "precision": json_number(self.precision),
            "recall": json_number(self.recall),
            "f1": json_number(self.f1),
        }

    def cells(self) -> list[str]:
        """Return label, images, precision, recall and F1 as text."""
        precision = percent(self.precision) if self.predicted else "-"
        recall = percent(self.recall) if self.images else "-"
        f1 = percent(self.f1) if self.predicted or self.images else "-"
        return [self.label, f"{self.images:,}", precision, recall, f1]


class Confused(NamedTuple):
    """Count the pictures of one class that were taken for another."""

    truth: str
    predicted: str
    images: int


@dataclass(frozen=True)
class Report:
    """Hold how good a classifier is on a set of pictures.

    `top1` and `top5` are fractions of `images`; with fewer than five classes top5 is 1 by definition. `confusion[t][p]`
    counts the pictures of class t that were taken for p; rows and columns follow `labels`. `loss` is the mean
    cross-entropy in nats. `part` says which pictures of the data these are, `problems` what was wrong with the data,
    `files` what was written.
    """

    top1: float
    top5: float
    images: int
    labels: tuple[str, ...]
    per_class: tuple[ClassReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    loss: float | None = None
    model: str = ""
    data: str = ""
    part: str = ""
    runtime: str | None = None
    seconds: float | None = None
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        classes = len(self.labels)
        if len(self.per_class) != classes or len(self.confusion) != classes:
            raise ValueError(f"a report of {classes} classes needs as many per_class rows and confusion rows")
        if any(len(row) != classes for row in self.confusion):
            raise ValueError(f"a confusion matrix of {classes} classes needs {classes} columns")

    def confused(self, count: int = 10) -> tuple[Confused, ...]:
        """List the pairs of classes most often taken for each other, the most frequent first."""
        pairs = [
            Confused(self.labels[truth], self.labels[predicted], images)
            for truth, row in enumerate(self.confusion)
            for predicted, images in enumerate(row)
            if images and truth != predicted
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair.images)[:count])

    def __str__(self) -> str:
        title = " on ".join(printable(part) for part in (self.model, self.data) if part)
        parts = [part for part in (title, self._headline(), self._classes(), self._pairs()) if part]
        if self.problems:
            parts.append("\n".join(["problems", *(f"  {printable(problem)}" for problem in self.problems)]))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(parts)

    def _headline(self) -> str:
        numbers = [("top-1", percent(self.top1))]
        if len(self.labels) > 5:
            numbers.append(("top-5", percent(self.top5)))
        if self.loss is not None:
            numbers.append(("loss", f"{self.loss:.4f}"))
        part = f" ({printable(self.part)})" if self.part else ""
        numbers.append(("images", f"{self.images:,}{part}"))
        if self.seconds:
            numbers.append(("time", f"{duration(self.seconds)}, {self.images / self.seconds:,.1f} images a second"))
        if self.runtime:
            numbers.append(("runtime", self.runtime))
        width = max(len(name) for name, _ in numbers)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in numbers)

    def _classes(self) -> str:
        shown, title = self.per_class, ""
        if len(self.per_class) > PER_CLASS_LINES:
            weak = [row for row in self.per_class if row.images and row.f1 < 1]
            shown = tuple(sorted(weak, key=lambda row: row.f1)[:PER_CLASS_LINES])
            if not shown:
                return ""
            title = f"the {len(shown)} weakest of {len(self.per_class):,} classes\n"
        header = ["class", "images", "precision", "recall", "F1"]
        return title + table(header, [row.cells() for row in shown], left=1)

    def _pairs(self) -> str:
        pairs = self.confused(5) if len(self.labels) > 2 else ()
        if not pairs:
            return ""
        rows = [[pair.truth, pair.predicted, f"{pair.images:,}"] for pair in pairs]
        return "most often confused\n" + table(["is", "taken for", "images"], rows, left=2)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "part": self.part,
            "runtime": self.runtime,
            "top1": json_number(self.top1),
            "top5": json_number(self.top5),
            "loss": json_number(self.loss),
            "images": self.images,
            "seconds": json_number(self.seconds),
            "per_class": [row.to_json() for row in self.per_class],
            "labels": list(self.labels),
            "confusion": [list(row) for row in self.confusion],
            "problems": list(self.problems),
            "files": [str(path) for path in self.files],
        }


@dataclass(frozen=True)
class TrainResult:
    """Say where the trained checkpoint is and how good it is.

    `metrics` (`top1`, `top5`, `loss`, ...) were measured on the validation pictures with the weights in `checkpoint`.
    `files` are there to be looked at, the most telling first. `notes` are sentences for the reader: what was stopped
    early and how to go on.
    """

    checkpoint: Path
    metrics: Mapping[str, float]
    seconds: float
    model: str = ""
    data: str = ""
    epochs: int | None = None
    images: int | None = None
    files: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        title = " on ".join(printable(part) for part in (self.model, self.data) if part)
        rows = [(metric_name(name), metric_text(name, value)) for name, value in self.metrics.items()]
        if self.images is not None:
            rows.append(("images", f"{self.images:,} for validation"))
        epochs = "" if self.epochs is None else f" ({self.epochs} epoch{'' if self.epochs == 1 else 's'})"
        rows += [("time", duration(self.seconds) + epochs), ("saved", str(self.checkpoint))]
        width = max(len(name) for name, _ in rows)
        parts = [title, "\n".join(f"{name:<{width}}  {value}" for name, value in rows), *self.notes]
        if self.problems:
            parts.append("\n".join(["problems", *(f"  {printable(problem)}" for problem in self.problems)]))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "metrics": {name: json_number(value) for name, value in self.metrics.items()},
            "seconds": json_number(self.seconds),
            "model": self.model,
            "data": self.data,
            "epochs": self.epochs,
            "images": self.images,
            "files": [str(path) for path in self.files],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ConvertResult:
    """Say what somebody else's weights became.

    `origin` names the source and its layout. `max_abs_error` is the largest difference of any logit between the source,
    run by its own runtime on `compared` pictures, and the checkpoint; None where the source cannot be run here, and
    `notes` says why.
    """

    checkpoint: Path
    origin: str
    model: str = ""
    parameters: int | None = None
    classes: int | None = None
    max_abs_error: float | None = None
    top1_agreement: float | None = None
    compared: int | None = None
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        rows = [("origin", printable(self.origin))]
        if self.model:
            rows.append(("model", printable(self.model)))
        if self.parameters is not None:
            rows.append(("parameters", f"{self.parameters:,}"))
        if self.classes is not None:
            rows.append(("classes", f"{self.classes:,}"))
        measured = "not measured" if self.max_abs_error is None else f"{self.max_abs_error:.3g}"
        if self.compared:
            measured += f" over {self.compared:,} picture{'' if self.compared == 1 else 's'}"
        rows.append(("max abs error", measured))
        if self.top1_agreement is not None:
            rows.append(("same top-1", percent(self.top1_agreement)))
        rows.append(("saved", str(self.checkpoint)))
        lines = [f"{name:<13}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note           {printable(note)}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "origin": self.origin,
            "max_abs_error": json_number(self.max_abs_error),
            "top1_agreement": json_number(self.top1_agreement),
            "compared": self.compared,
            "model": self.model,
            "parameters": self.parameters,
            "classes": self.classes,
            "notes": list(self.notes),
        }


def metric_name(name: str) -> str:
    """Print accuracies and mean average precisions as the field writes them; other names as they are."""
    return _SHARES.get(name, name)


def metric_text(name: str, value: float) -> str:
    """Print accuracies and precisions as percentages and everything else as a plain number."""
    return percent(value) if name in _SHARES else f"{value:.4f}"


_SHARES = {
    "top1": "top-1",
    "top5": "top-5",
    "voc_ap_50": "VOC AP50",
    "map": "mAP .5:.95",
    "map_50": "mAP .5",
    "map_75": "mAP .75",
    **{f"map_{size}": f"mAP {size}" for size in ("small", "medium", "large")},
    **{f"ar_{size}": f"recall {size}" for size in ("small", "medium", "large")},
    **{f"ar_{most}": f"recall of {most}" for most in (1, 10, 100)},
}
"""Metrics that are shares of 1, and what they are called where people read them."""


def file_lines(files: Sequence[Path]) -> str:
    """List the files that were written, for the end of a printed result."""
    return "\n".join(["look at", *(f"  {printable(str(path))}" for path in files)])


def json_number(value: float | None) -> float | None:
    """Return a plain float, and None where JSON has no number for it (nan, infinities)."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)
