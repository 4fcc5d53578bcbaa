"""Data sets known by name: scikit-learn's digits, and MNIST, Fashion-MNIST and CIFAR-10 as torchvision reads them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets.data.arrays import Arrays, pictures_of
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Known:
    """A named data set: torchvision's class for it, if any, and whether mirrored pictures keep their class."""

    torchvision_class: str | None
    mirrorable: bool


KNOWN = {
    "digits": Known(None, mirrorable=False),
    "mnist": Known("MNIST", mirrorable=False),
    "fashion_mnist": Known("FashionMNIST", mirrorable=True),
    "cifar10": Known("CIFAR10", mirrorable=True),
}


def default_root() -> Path:
    """Return where downloaded data sets are kept when no --root is given: a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "mobilenets" / "data"


def read_digits() -> ArrayPictures:
    """Return scikit-learn's 1,797 digits, 8 x 8, one channel, their values 0..16 scaled to 0..255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "train") from None
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return pictures_of(pixels, bunch.target, tuple(str(name) for name in bunch.target_names), "digits")


def read_torchvision(name: str, root: Path) -> Arrays:
    """Return a data set as torchvision stores it below `root`, downloaded there (and checked by MD5) where absent.

    Raises InputError naming --root where it is neither there nor to be had.
    """
    kind = KNOWN[name].torchvision_class
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingExtraError("torchvision", "train") from None
    load = getattr(datasets, str(kind))
    parts = []
    for train in (True, False):
        try:
            part = load(str(root), train=train, download=False)
        except RuntimeError:  # what torchvision raises for absent or altered files
            part = _download(load, name, root, train=train)
        except Exception as error:  # noqa: BLE001 - altered files make its readers raise anything
            raise InputError(
                f"{name}: the files in {root} are broken ({_line(error)}): delete them, or give --root"
            ) from None
        parts.append(part)
    labels = tuple(str(label).removesuffix(f" - {_WORDS[index]}") for index, label in enumerate(parts[0].classes))
    train_pictures, val_pictures = (
        pictures_of(np.asarray(part.data, np.uint8), np.asarray(part.targets, np.int64), labels, prefix)
        for part, prefix in zip(parts, ("train", "test"), strict=True)
    )
    return Arrays(train_pictures, val_pictures)


# torchvision names MNIST's classes "0 - zero", "1 - one" ...
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _download(load: type, name: str, root: Path, *, train: bool) -> object:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return load(str(root), train=train, download=True)
    except Exception as error:  # noqa: BLE001 - urllib, sockets, disks and torchvision's own RuntimeError
        raise InputError(
            f"{name}: not in {root}, and its download failed ({_line(error)}): give --root, a folder that holds it"
        ) from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
