"""Pictures in NumPy's `.npz`: one file, or train.npz and test.npz side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data.labels import index_labels, ordered, tidy
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError

# Names of the arrays by part, in the order they are looked for; the last row is MedMNIST's.
_TRAIN_KEYS = (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y"))
_VAL_KEYS = (("x_val", "y_val"), ("x_test", "y_test"), ("val_images", "val_labels"), ("test_images", "test_labels"))
_NAME_KEYS = ("labels", "classes", "label_names", "class_names")
_MOST_CHANNELS = 16  # beyond, the last axis is more likely a width: (N, C, H, W)


@dataclass(frozen=True)
class Part:
    """Arrays of one part: pixels uint8 (N, H, W, C); targets int64 (N,), or names of classes (N,)."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64] | NDArray[np.str_]


@dataclass(frozen=True)
class Arrays:
    """What `.npz` files hold: pictures for training, for validation where they have any, with the same labels."""

    train: ArrayPictures
    val: ArrayPictures | None


def read_npz(path: Path) -> Arrays:
    """Read `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test` (`x_val`...), from one file.

    x is uint8 (N, H, W) or (N, H, W, C); y is whole numbers from 0, (N,) or (N, 1), or names of classes. An array
    `labels` or `classes` names the classes. Raises InputError for anything else; pickled objects are never read.
    """
    content = _read(path)
    train = _part(content, _TRAIN_KEYS, path)
    if train is None:
        raise InputError(
            f"{path}: no arrays x and y (or x_train and y_train): it holds {', '.join(content) or 'nothing'}"
        )
    return _labelled(train, _part(content, _VAL_KEYS, path), _class_names(content, path), path)


def read_npz_pair(train_path: Path, test_path: Path) -> Arrays:
    """Read `x` and `y` of two files, the second for validation; raises InputError as `read_npz` does."""
    parts = []
    names: tuple[str, ...] | None = None
    for path in (train_path, test_path):
        content = _read(path)
        part = _part(content, (("x", "y"),), path)
        if part is None:
            raise InputError(f"{path}: no arrays x and y: it holds {', '.join(content) or 'nothing'}")
        parts.append(part)
        names = names or _class_names(content, path)
    return _labelled(parts[0], parts[1], names, train_path)


def pictures_of(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], labels: tuple[str, ...], prefix: str
) -> ArrayPictures:
    """Return pictures named prefix/0, prefix/1, ...; pixels (N, H, W) gain their one channel."""
    whole = pixels[..., np.newaxis] if pixels.ndim == 3 else pixels
    names = tuple(f"{prefix}/{index}" for index in range(len(whole)))
    return ArrayPictures(labels, targets.astype(np.int64), names, np.ascontiguousarray(whole))


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: check the path") from None
    except MemoryError:
        raise InputError(f"{path}: its arrays do not fit in memory: save fewer or smaller pictures") from None
    except Exception as error:  # noqa: BLE001 - broken archives raise ValueError, BadZipFile, zlib.error, EOFError...
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise InputError(f"{path}: holds pickled objects, which are never read: save plain arrays") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable .npz ({reason}): save it again with numpy.savez") from None


def _part(content: Mapping[str, NDArray[np.generic]], keys: tuple[tuple[str, str], ...], path: Path) -> Part | None:
    for picture_key, target_key in keys:
        if picture_key in content:
            if target_key not in content:
                raise InputError(f"{path}: {picture_key} without {target_key}: save the targets beside the pictures")
            pixels = _checked_pixels(content[picture_key], f"{path}: {picture_key}")
            targets = _checked_targets(content[target_key], f"{path}: {target_key}")
            if len(pixels) != len(targets):
                raise InputError(f"{path}: {len(pixels):,} pictures and {len(targets):,} targets: save one target each")
            return Part(pixels, targets)
    return None


def _checked_pixels(values: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    if values.dtype != np.uint8:
        raise InputError(f"{where} is {values.dtype}: save pictures as uint8, 0 to 255")
    if values.ndim not in (3, 4) or values.size == 0:
        raise InputError(f"{where} has shape {values.shape}: save pictures as (N, H, W) or (N, H, W, C)")
    pixels = np.ascontiguousarray(values.astype(np.uint8, copy=False))
    if pixels.ndim == 3:
        return pixels[..., np.newaxis]
    if pixels.shape[3] > _MOST_CHANNELS:
        raise InputError(f"{where} has shape {values.shape}, {values.shape[3]} channels: save it as (N, H, W, C)")
    return pixels


def _checked_targets(values: NDArray[np.generic], where: str) -> NDArray[np.int64] | NDArray[np.str_]:
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise InputError(f"{where} has shape {values.shape}: save one target a picture, (N,)")
    if flat.dtype.kind == "U":
        return flat.astype(np.str_)
    if flat.dtype.kind not in "iu":
        raise InputError(f"{where} is {values.dtype}: save targets as whole numbers from 0, or as names")
    if len(flat) and int(flat.min()) < 0:
        raise InputError(f"{where} has the target {flat.min()}: class indices count from 0")
    return flat.astype(np.int64)


def _class_names(content: Mapping[str, NDArray[np.generic]], path: Path) -> tuple[str, ...] | None:
    for key in _NAME_KEYS:
        if key in content:
            values = content[key]
            if values.ndim != 1 or values.dtype.kind not in "US":
                raise InputError(f"{path}: {key} is {values.dtype} {values.shape}: save class names as text, (K,)")
            text = values if values.dtype.kind == "U" else np.char.decode(values.astype(np.bytes_), "utf-8")
            return tuple(tidy(str(name)) for name in text)
    return None


def _labelled(train: Part, val: Part | None, names: tuple[str, ...] | None, path: Path) -> Arrays:
    if val is not None and train.pixels.shape[3] != val.pixels.shape[3]:
        raise InputError(
            f"{path}: {train.pixels.shape[3]} channels to train on, {val.pixels.shape[3]} to validate: make them equal"
        )
    parts = [part for part in (train, val) if part is not None]
    if any(part.targets.dtype.kind == "U" for part in parts):
        present = [tidy(str(name)) for part in parts for name in part.targets]
        labels = names or ordered(present)
        unknown = sorted(set(present) - set(labels))
        if unknown:
            raise InputError(f"{path}: target {unknown[0]!r} is not among its class names: correct one of them")
        index = {name: position for position, name in enumerate(labels)}
        targets = [np.array([index[tidy(str(name))] for name in part.targets], np.int64) for part in parts]
    else:
        targets = [part.targets.astype(np.int64) for part in parts]
        largest = max(int(values.max()) for values in targets)
        labels = names or index_labels([str(largest)], str(path))
        if largest >= len(labels):
            raise InputError(f"{path}: target {largest} for {len(labels)} class names: class indices count from 0")
    pictures = [
        pictures_of(part.pixels, values, labels, prefix)
        for part, values, prefix in zip(parts, targets, ("train", "val"), strict=False)
    ]
    return Arrays(pictures[0], pictures[1] if val is not None else None)
