"""The names of a source's classes, and TensorFlow's extra first class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from mobilenets.errors import ConvertError, InputError

BACKGROUND = frozenset({"background", "dummy"})
"""What label files call the first of TensorFlow's 1,001 ImageNet classes."""

_IMAGENET = 1000
_LARGEST_FILE_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class Classes:
    """The labels that a checkpoint gets; whether the source's class 0 goes; a note where names had to be invented."""

    labels: tuple[str, ...]
    drops_background: bool = False
    note: str | None = None


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 names of ILSVRC 2012's classes, in the order of their WordNet ids, each once."""
    text = files("mobilenets.nn").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a text file of one label a line, UTF-8; empty lines at its end do not count.

    Raises:
        InputError: missing, no text, empty, or an empty line between labels.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise InputError(f"{path}: too large for a file of labels: give a text file of one label a line")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text file: labels are one a line") from None
    labels = tuple(line.strip() for line in text.rstrip().splitlines())
    if not labels or "" in labels:
        where = f"line {labels.index('') + 1} is empty" if labels else "it is empty"
        raise InputError(f"{path}: {where}: labels are one a line, in the order of the classes")
    return labels


def detected_classes(count: int, labels: tuple[str, ...] | None, where: str = "") -> Classes:
    """Decide on the labels of a detector of `count` classes; the background, which it has too, is none of them.

    Raises:
        ConvertError: there are not as many labels as classes.
    """
    if labels is not None and len(labels) == count + 1 and labels[0].strip("_").lower() in BACKGROUND:
        labels = labels[1:]
    if labels is None:
        return _invented(count)
    return _as_many(count, labels, where)


def _invented(count: int) -> Classes:
    invented = tuple(f"class_{index}" for index in range(count))
    return Classes(invented, note=f"the source does not name its {count} classes: give them with --labels FILE")


def _as_many(count: int, labels: tuple[str, ...], where: str) -> Classes:
    if len(labels) != count:
        raise ConvertError(f"{where}{len(labels):,} labels for {count:,} classes: give one a line, in their order")
    return Classes(labels)


def classes_of(count: int, labels: tuple[str, ...] | None, where: str = "") -> Classes:
    """Decide on the labels of a source with `count` classes.

    1,001 classes are ImageNet's with TensorFlow's background first, which is dropped, unless the labels name them
    otherwise; 1,000 without labels are ImageNet's. Other classes without labels are called class_0, class_1, ...

    Raises:
        ConvertError: there are not as many labels as classes.
    """
    with_background = _IMAGENET + 1
    if labels is None:
        if count in {_IMAGENET, with_background}:
            return Classes(imagenet_labels(), drops_background=count == with_background)
        return _invented(count)
    named_background = len(labels) == with_background and labels[0].strip().lower() in BACKGROUND
    if count == with_background and (named_background or len(labels) == _IMAGENET):
        return Classes(labels[1:] if named_background else labels, drops_background=True)
    if count == _IMAGENET and named_background:
        return Classes(labels[1:])
    return _as_many(count, labels, where)
