"""Pictures with boxes: opened from whichever kind of annotation a folder or file has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data.annotations import FoundBoxes, Truth, shortened, sound
from mobilenets.data.box_csv import find_in_box_csv, is_box_csv
from mobilenets.data.coco import coco_files, find_in_coco, is_coco
from mobilenets.data.labels import ordered, some
from mobilenets.data.pictures import FilePictures, HeldPictures, Pictures, joined
from mobilenets.data.scan import scan
from mobilenets.data.voc import find_in_voc, voc_root
from mobilenets.data.yolo import find_in_yolo, yolo_files
from mobilenets.errors import InputError

NOTHING = -1
"""The target of a picture without boxes."""


@dataclass(frozen=True, eq=False)
class BoxedPictures:
    """Pictures, each with what is on it: `truths[i]` belongs to picture i of `pixels`.

    They are `Pictures` whose target is the rarest class on a picture, for splits and samples to spread; what is
    learned and measured is in the truths.
    """

    labels: tuple[str, ...]
    pixels: Pictures
    truths: tuple[Truth, ...]
    sizes: NDArray[np.int64]  # (N, 2): the height and width of each picture

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def targets(self) -> NDArray[np.int64]:
        """The class on each picture that is on the fewest pictures of all, int64 (N,); -1 without boxes."""
        frequency = np.zeros(len(self.labels), np.int64)
        for truth in self.truths:
            frequency[np.unique(truth.classes)] += 1
        rarest = [
            min(truth.classes.tolist(), key=lambda number: (frequency[number], number), default=NOTHING)
            for truth in self.truths
        ]
        return np.array(rarest, np.int64)

    @property
    def channels(self) -> int:
        """Channels of every picture."""
        return self.pixels.channels

    @property
    def sides(self) -> tuple[int, int] | None:
        """Median height and width."""
        return self.pixels.sides

    @property
    def boxes(self) -> int:
        """How many boxes there are on all pictures."""
        return sum(len(truth) for truth in self.truths)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, channels)."""
        return self.pixels.picture(index)

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of one picture."""
        height, width = self.sizes[index].tolist()
        return height, width

    def truth(self, index: int) -> Truth:
        """Return what is on one picture."""
        return self.truths[index]

    def target(self, index: int) -> int:
        """Return the rarest class on one picture, -1 without boxes."""
        return int(self.targets[index])

    def name(self, index: int) -> str:
        """Return the path of one picture within its data set."""
        return self.pixels.name(index)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> BoxedPictures:
        """Return the pictures at these indices, in this order."""
        chosen = np.asarray(indices, np.int64)
        truths = tuple(self.truths[index] for index in chosen.tolist())
        return BoxedPictures(self.labels, self.pixels.take(chosen), truths, self.sizes[chosen])

    def relabelled(self, labels: tuple[str, ...], mapping: NDArray[np.int64]) -> BoxedPictures:
        """Return the same pictures with other labels; mapping[old class] is the new class."""
        truths = tuple(replace(truth, classes=mapping[truth.classes]) for truth in self.truths)
        return BoxedPictures(labels, self.pixels, truths, self.sizes)


@dataclass(frozen=True)
class OpenedBoxes:
    """The parts of a data set with boxes, where it has them, and one line for whatever was wrong."""

    parts: dict[str, BoxedPictures]
    problems: tuple[str, ...]


def boxes_in(path: Path) -> Callable[[], FoundBoxes] | None:
    """Return what reads the boxes of a folder or file, by whichever kind it is; None where it has no boxes.

    VOC (Annotations/, or XML beside pictures), COCO (.json), YOLO (.yaml, or classes.txt with labels/), a CSV with
    corners.
    """
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv") and is_box_csv(path):
            return lambda: find_in_box_csv(path)
        if path.suffix.lower() == ".json" and is_coco(path):
            return lambda: find_in_coco({"train": path}, path.parent)
        if path.suffix.lower() in (".yaml", ".yml"):
            return lambda: find_in_yolo(path)
        return None
    if not path.is_dir():
        return None
    root = voc_root(path)
    if root is not None:
        return lambda: find_in_voc(root)
    if files := coco_files(path):
        return lambda: find_in_coco(files, path)
    names = yolo_files(path)
    if names is not None:
        return lambda: find_in_yolo(names)
    for table in ("labels.csv", "boxes.csv", "annotations.csv", "_annotations.csv"):
        if is_box_csv(path / table):
            return lambda: find_in_box_csv(path / table)
    return None


def open_boxes(find: Callable[[], FoundBoxes], where: str, keep_bytes: int, decode_bytes: int) -> OpenedBoxes:
    """Read the annotations and look at all pictures; raises InputError where no picture with boxes is left."""
    found = find()
    marked = [picture for pictures in found.parts.values() for picture in pictures]
    scanned = scan(
        [picture.source for picture in marked],
        [picture.name for picture in marked],
        keep_bytes=keep_bytes,
        decode_bytes=decode_bytes,
    )
    usable = [marked[index] for index in scanned.usable]
    labels = found.labels or ordered({mark.label for picture in usable for mark in picture.marks})
    positions = {label: index for index, label in enumerate(labels)}
    problems = [*found.problems, *scanned.problems]
    truths: list[Truth] = []
    kept: list[int] = []
    for place, (picture, (height, width)) in enumerate(zip(usable, scanned.sizes.tolist(), strict=True)):
        truth, more = sound(picture, height, width, positions)
        problems += more
        if truth is not None:
            truths.append(truth)
            kept.append(place)
    if not any(map(len, truths)):
        first = f" ({problems[0]})" if problems else ""
        raise InputError(f"{where}: no usable boxes{first}: check the annotations")
    names = tuple(picture.name for picture in usable)
    nothing = np.full(len(usable), NOTHING, np.int64)
    pixels: Pictures
    if scanned.pixels is not None:
        pixels = HeldPictures(labels, nothing, names, tuple(scanned.pixels), scanned.channels)
    else:
        sources = tuple(picture.source for picture in usable)
        pixels = FilePictures(labels, nothing, names, sources, scanned.sizes, scanned.channels)
    whole = BoxedPictures(labels, pixels.take(kept), tuple(truths), scanned.sizes[kept])
    part_of = [part for part, pictures in found.parts.items() for _ in pictures]
    kept_parts = np.array([part_of[scanned.usable[place]] for place in kept])
    parts = {part: whole.take(np.flatnonzero(kept_parts == part)) for part in found.parts}
    return OpenedBoxes(parts, shortened(problems, where))


def all_boxed(parts: Sequence[BoxedPictures]) -> BoxedPictures:
    """Return the pictures of all parts, one after another."""
    pixels = joined(*(part.pixels for part in parts))
    truths = tuple(truth for part in parts for truth in part.truths)
    return BoxedPictures(parts[0].labels, pixels, truths, np.concatenate([part.sizes for part in parts]))


def unusual(part: BoxedPictures) -> list[str]:
    """Return one line for classes that no box is of, as far as these pictures go."""
    counts = np.zeros(len(part.labels), np.int64)
    for truth in part.truths:
        counts += np.bincount(truth.classes[~truth.crowd], minlength=len(part.labels))
    absent = [part.labels[index] for index in np.flatnonzero(counts == 0)]
    return [f"classes without any box ({len(absent)} of {len(counts)}): {some(absent)}"] if absent else []
