"""Class names, and how those of a data set meet those of a model."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import InputError

# More than any data set has (ImageNet-21k: 21,841): a larger integer in a label column is a mistake, not a class.
_LARGEST_INDEX = 99_999


def tidy(name: str) -> str:
    """Return a class name as it is compared and printed: composed Unicode, printable, without spaces around it.

    macOS stores "é" as two code points where others store one; bytes that are no UTF-8 become a replacement mark.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return unicodedata.normalize("NFC", text).strip()


def ordered(names: Collection[str]) -> tuple[str, ...]:
    """Return distinct names sorted: as numbers where all are whole numbers, else by code point."""
    distinct = set(names)
    if all(is_index(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def is_index(name: str) -> bool:
    """Tell whether a label is written as a whole number of 0 or more."""
    return name.isascii() and name.isdecimal()


def index_labels(names: Collection[str], where: str) -> tuple[str, ...]:
    """Return "0", "1" ... up to the largest of the class indices written in names; raises InputError beyond 99,999."""
    largest = max((int(name) for name in names), default=-1)
    if largest > _LARGEST_INDEX:
        raise InputError(f"{where}: {largest} is no class index: count classes from 0, or write their names")
    return tuple(str(index) for index in range(largest + 1))


def mapping_to(own: Sequence[str], used: NDArray[np.int64], wanted: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return, for every own label, its index among the wanted labels, and -1 for labels that no picture has.

    Names are matched first; where they do not match and all own labels are whole numbers, these are indices into
    `wanted`. Raises InputError naming the classes that the wanted labels do not have.
    """
    names = {int(target): tidy(own[target]) for target in np.unique(used)}
    positions = {tidy(name): index for index, name in enumerate(wanted)}
    unknown = [name for name in names.values() if name not in positions]
    if unknown and all(is_index(name) and int(name) < len(wanted) for name in names.values()):
        found = {target: int(name) for target, name in names.items()}
    elif unknown:
        raise InputError(
            f"{where}: {len(unknown)} of {len(names)} classes are not among the model's {len(wanted)}: {some(unknown)};"
            f" the model knows {some(list(wanted))}: rename the classes, or train on this data"
        )
    else:
        _refuse_ambiguous(list(names.values()), wanted, where)
        found = {target: positions[name] for target, name in names.items()}
    mapping = np.full(len(own), -1, np.int64)
    for target, position in found.items():
        mapping[target] = position
    return mapping


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first few names, quoted, and whether there are more."""
    text = ", ".join(repr(name) for name in names[:most])
    return f"{text}, ..." if len(names) > most else text


def _refuse_ambiguous(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """ImageNet's names have "crane" the bird and "crane" the machine: a name alone cannot choose."""
    counts = Counter(tidy(name) for name in wanted)
    twice = [name for name in names if counts[name] > 1]
    if twice:
        raise InputError(
            f"{where}: the model has more than one class named {some(twice)}: label those pictures by class index"
        )
