"""Boxes as annotation files have them, and what of them can be used: one line for everything that cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data.pictures import Source
from mobilenets.image.decode import SUFFIXES

ROUNDING = 1.5  # pixels: VOC counts from 1, and tools round outwards; a box this far out of its picture is no mistake
_SAME_PROPORTION = 0.02
_MOST_PROBLEMS = 200


@dataclass(frozen=True)
class Mark:
    """One box as a file has it.

    `where` names it in messages; `corners` are (x1, y1, x2, y2) in pixels, or in shares of the picture's sides where
    its picture says so. A crowd stands for many objects, or for one that is too hard: it neither counts nor is learned.
    """

    where: str
    label: str
    corners: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None  # of the object itself in square pixels, which COCO sorts sizes by


@dataclass(frozen=True)
class MarkedPicture:
    """One picture before it is decoded, with its boxes; `size` is the (height, width) they were drawn at, if known."""

    name: str
    source: Source
    marks: tuple[Mark, ...]
    relative: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class FoundBoxes:
    """Pictures with boxes by part ("train", "val", "test"), and what was wrong, one line each.

    `labels` are the class names in the file's own order; None where the file has no list of them.
    """

    parts: Mapping[str, tuple[MarkedPicture, ...]]
    problems: tuple[str, ...]
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Truth:
    """What is on a picture: N boxes.

    boxes    float32 (N, 4)  x1, y1, x2, y2 in pixels of the picture, within it
    classes  int64 (N,)      class indices
    crowd    bool (N,)       neither counted nor learned
    areas    float32 (N,)    of the objects, in square pixels
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, chosen: NDArray[np.bool_]) -> Truth:
        """Return the boxes that are chosen."""
        return Truth(self.boxes[chosen], self.classes[chosen], self.crowd[chosen], self.areas[chosen])


def sound(
    picture: MarkedPicture, height: int, width: int, positions: Mapping[str, int]
) -> tuple[Truth | None, list[str]]:
    """Return the usable boxes of a picture of this size, and one line for each that had to be mended or left out.

    A picture whose boxes are all unusable gives None: what is on it is not known. One without boxes gives none.
    `positions` are class indices by name; whoever is not in there is left out.
    """
    problems: list[str] = []
    scale, note = _scale(picture, height, width)
    if note:
        problems.append(f"{picture.name}: {note}")
    kept: dict[tuple[object, ...], Mark] = {}
    for mark in picture.marks:
        mended, reason = _mended(mark, scale, height, width)
        if mended is None or mark.label not in positions:
            reason = reason if mended is None else f"class {mark.label!r} is not among the classes"
            problems.append(f"{mark.where}: {reason} (skipped)")
            continue
        key = (mark.label, *mended.corners)
        if key in kept:
            problems.append(f"{mark.where}: the same box as {kept[key].where.rpartition(', ')[2]} (skipped)")
            continue
        if reason:
            problems.append(f"{mark.where}: {reason}")
        kept[key] = mended
    if picture.marks and not kept:
        return None, [
            *problems,
            f"{picture.name}: none of its boxes can be used, so what is on it is unknown (skipped)",
        ]
    marks = list(kept.values())
    boxes = np.array([mark.corners for mark in marks], np.float32).reshape(-1, 4)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = [float(box) if mark.area is None else mark.area for mark, box in zip(marks, own, strict=True)]
    truth = Truth(
        boxes=boxes,
        classes=np.array([positions[mark.label] for mark in marks], np.int64),
        crowd=np.array([mark.crowd for mark in marks], bool),
        areas=np.array(areas, np.float32),
    )
    return truth, problems


def _scale(picture: MarkedPicture, height: int, width: int) -> tuple[tuple[float, float], str]:
    """Return what x and y are multiplied with, and a line where the boxes were drawn on another size."""
    if picture.relative:
        return (float(width), float(height)), ""
    if picture.size is None or min(picture.size) < 1 or picture.size == (height, width):
        return (1.0, 1.0), ""
    drawn, is_now = f"drawn at {picture.size[1]}x{picture.size[0]}", f"the picture is {width}x{height}"
    down, right = height / picture.size[0], width / picture.size[1]
    if abs(down / right - 1) < _SAME_PROPORTION:
        return (right, down), f"its boxes were {drawn} and {is_now}: scaled along"
    return (1.0, 1.0), f"its boxes were {drawn} and {is_now}: taken as they are; check them"


def _mended(mark: Mark, scale: tuple[float, float], height: int, width: int) -> tuple[Mark | None, str]:
    """Return the mark in pixels within the picture, and what was done; None and why where it is unusable."""
    if not all(math.isfinite(value) for value in mark.corners):
        return None, "a corner is no number: correct or remove it"
    x1, y1, x2, y2 = (value * scale[axis % 2] for axis, value in enumerate(mark.corners))
    text = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    notes = []
    if x2 < x1 or y2 < y1:
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        notes.append(f"its corners {text} were the wrong way round: exchanged")
    if x1 == x2 or y1 == y2:
        return None, f"a box without area {text}: correct or remove it"
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return None, f"{text} lies outside the picture of {width}x{height}: correct or remove it"
    if max(abs(now - before) for now, before in zip(inside, (x1, y1, x2, y2), strict=True)) > ROUNDING:
        notes.append(f"{text} reaches out of the picture of {width}x{height}: cut off")
    area = None if mark.area is None or not 0 < mark.area < math.inf else mark.area * scale[0] * scale[1]
    return replace(mark, corners=inside, area=area), "; ".join(notes)


def shortened(problems: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the problems, those beyond the first two hundred as one line."""
    if len(problems) <= _MOST_PROBLEMS:
        return tuple(problems)
    rest = len(problems) - _MOST_PROBLEMS
    return (*problems[:_MOST_PROBLEMS], f"{where}: {rest:,} more lines like these")


class PictureIndex:
    """The pictures of some folders, found by file name, or by name without ending, in any case of letters."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        for folder in folders:
            for path in pictures_in(folder):
                self._by_name.setdefault(path.name.lower(), path)
                self._by_stem.setdefault(path.stem.lower(), path)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._by_name.values())

    def find(self, *names: str) -> Path | None:
        """Return the picture that the first of the names which has one stands for; their folders do not count."""
        for name in names:
            plain = name.replace("\\", "/").rpartition("/")[2].strip().lower()
            found = self._by_name.get(plain) or self._by_stem.get(plain) or self._by_stem.get(Path(plain).stem)
            if plain and found is not None:
                return found
        return None


def pictures_in(folder: Path) -> list[Path]:
    """Return the files directly in a folder that are named like pictures, sorted; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def relative_name(path: Path, root: Path) -> str:
    """Return a picture's path below the data set's folder, or its whole path where it lies elsewhere."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        return path.as_posix()
