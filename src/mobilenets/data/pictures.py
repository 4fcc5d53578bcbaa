"""A sequence of labelled pictures, wherever their pixels are: in one array, in memory one by one, or in files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import InputError
from mobilenets.image.decode import decode
from mobilenets.image.preprocess import Preprocess

# Far beyond any picture, and small enough that a zip bomb cannot fill the memory.
_LARGEST_MEMBER_BYTES = 1 << 30


class Pictures(Protocol):
    """What training and evaluation know of a data set: labelled pictures by index."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; targets index them."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class index of every picture, int64 (N,)."""

    @property
    def channels(self) -> int:
        """Channels of every picture."""

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of all pictures, or their medians; None where there are no pictures."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, channels); raises InputError naming a file that cannot be decoded."""

    def target(self, index: int) -> int:
        """Return the class index of one picture."""

    def name(self, index: int) -> str:
        """Return the path of one picture within its data set, or another name unique in it."""

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Pictures:
        """Return the pictures at these indices, in this order."""

    def relabelled(self, labels: tuple[str, ...], mapping: NDArray[np.int64]) -> Pictures:
        """Return the same pictures with other labels; mapping[old target] is the new target."""


@dataclass(frozen=True)
class Source:
    """Where the bytes of one picture are: a file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    def read(self) -> Path | bytes:
        """Return what `decode` takes: the file's path, or the member's bytes."""
        return self.path if self.member is None else _read_member(self.path, self.member)

    def size_bytes(self) -> int:
        """Return the size of the (uncompressed) file, 0 where there is none."""
        if self.member is not None:
            return archive(self.path).getinfo(self.member).file_size
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def archive(path: Path) -> zipfile.ZipFile:
    """Return the opened zip archive, kept open for this process; raises InputError where it is none."""
    try:
        return _archive_of_process(path, os.getpid())  # a forked process must not share the file's position
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable zip archive ({error}): copy or download it again") from None


@lru_cache(maxsize=8)
def _archive_of_process(path: Path, process: int) -> zipfile.ZipFile:  # noqa: ARG001 - part of the cache's key
    return zipfile.ZipFile(path)


def _read_member(path: Path, member: str) -> bytes:
    opened = archive(path)
    if opened.getinfo(member).file_size > _LARGEST_MEMBER_BYTES:
        raise InputError(f"{path}: {member}: larger than {_LARGEST_MEMBER_BYTES:,} bytes: remove it")
    try:
        return opened.read(member)
    except Exception as error:  # noqa: BLE001 - zlib.error, BadZipFile, RuntimeError (encrypted), NotImplementedError
        raise InputError(f"{path}: {member}: cannot be unpacked ({error}): make the archive again") from None


@dataclass(frozen=True, eq=False)
class _Labelled:
    """What all kinds share; a kind adds its pixels, and says in `_chosen` which fields go with which picture."""

    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def target(self, index: int) -> int:
        """Return the class index of one picture."""
        return int(self.targets[index])

    def name(self, index: int) -> str:
        """Return the path of one picture within its data set, or another name unique in it."""
        return self.names[index]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """Return the pictures at these indices, in this order."""
        chosen = np.asarray(indices, np.int64)
        names = tuple(self.names[index] for index in chosen)
        return replace(self, targets=self.targets[chosen], names=names, **self._chosen(chosen))

    def relabelled(self, labels: tuple[str, ...], mapping: NDArray[np.int64]) -> Self:
        """Return the same pictures with other labels; mapping[old target] is the new target."""
        return replace(self, labels=labels, targets=mapping[self.targets])

    def _chosen(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ArrayPictures(_Labelled):
    """Pictures of one size in one array: `pixels` uint8 (N, H, W, C).

    `fitted` is the preprocessing whose `fit` they have been through already, if any.
    """

    pixels: NDArray[np.uint8]
    fitted: Preprocess | None = None

    @property
    def channels(self) -> int:
        """Channels of every picture."""
        return int(self.pixels.shape[3])

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of all pictures."""
        return (int(self.pixels.shape[1]), int(self.pixels.shape[2])) if len(self) else None

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, C)."""
        picture: NDArray[np.uint8] = self.pixels[index]
        return picture

    def _chosen(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        return {"pixels": self.pixels[indices]}


@dataclass(frozen=True, eq=False)
class HeldPictures(_Labelled):
    """Pictures of any size, decoded and held in memory one by one: uint8 (H, W, C) each."""

    pixels: tuple[NDArray[np.uint8], ...]
    channels: int = 3

    @property
    def sides(self) -> tuple[int, int] | None:
        """Median height and width."""
        return median_sides(np.array([picture.shape[:2] for picture in self.pixels]))

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, C)."""
        return self.pixels[index]

    def _chosen(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        return {"pixels": tuple(self.pixels[index] for index in indices)}


@dataclass(frozen=True, eq=False)
class FilePictures(_Labelled):
    """Pictures decoded from their files each time they are asked for.

    `sizes` is the upright height and width of each, int64 (N, 2), as their headers say. With `at_least`, JPEGs may be
    decoded smaller as long as their short side keeps that many pixels.
    """

    sources: tuple[Source, ...]
    sizes: NDArray[np.int64]
    channels: int = 3
    at_least: int | None = None

    @property
    def sides(self) -> tuple[int, int] | None:
        """Median height and width."""
        return median_sides(self.sizes)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Decode one picture to uint8 (H, W, channels); raises InputError naming a file that is broken or gone."""
        source = self.sources[index]
        return decode(source.read(), channels=self.channels, name=source.label, at_least=self.at_least)

    def _chosen(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        return {"sources": tuple(self.sources[index] for index in indices), "sizes": self.sizes[indices]}


@dataclass(frozen=True, eq=False)
class JoinedPictures:
    """Pictures of several collections of the same labels and channels.

    Picture i is number `places[i, 1]` of `parts[places[i, 0]]`; places is int64 (N, 2).
    """

    parts: tuple[Pictures, ...]
    places: NDArray[np.int64]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; targets index them."""
        return self.parts[0].labels

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class index of every picture, int64 (N,)."""
        targets = np.empty(len(self), np.int64)
        for number, part in enumerate(self.parts):
            of_part = self.places[:, 0] == number
            targets[of_part] = part.targets[self.places[of_part, 1]]
        return targets

    @property
    def channels(self) -> int:
        """Channels of every picture."""
        return self.parts[0].channels

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width typical of the largest part."""
        return max(self.parts, key=len).sides

    def __len__(self) -> int:
        return len(self.places)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, channels)."""
        part, inner = self._place(index)
        return part.picture(inner)

    def target(self, index: int) -> int:
        """Return the class index of one picture."""
        part, inner = self._place(index)
        return part.target(inner)

    def name(self, index: int) -> str:
        """Return the name of one picture."""
        part, inner = self._place(index)
        return part.name(inner)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> JoinedPictures:
        """Return the pictures at these indices, in this order."""
        return JoinedPictures(self.parts, self.places[np.asarray(indices, np.int64)])

    def relabelled(self, labels: tuple[str, ...], mapping: NDArray[np.int64]) -> JoinedPictures:
        """Return the same pictures with other labels; mapping[old target] is the new target."""
        return JoinedPictures(tuple(part.relabelled(labels, mapping) for part in self.parts), self.places)

    def _place(self, index: int) -> tuple[Pictures, int]:
        part, inner = self.places[index]
        return self.parts[part], int(inner)


def joined(*parts: Pictures) -> Pictures:
    """Return the pictures of all parts, one after another; a single non-empty part as it is."""
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    places = [
        np.stack([np.full(len(part), number), np.arange(len(part))], axis=1) for number, part in enumerate(filled)
    ]
    return JoinedPictures(tuple(filled), np.concatenate(places).astype(np.int64))


def median_sides(sizes: NDArray[np.int64]) -> tuple[int, int] | None:
    """Return the median height and width of sizes (N, 2), or None for none."""
    if len(sizes) == 0:
        return None
    height, width = np.median(sizes, axis=0)
    return int(height), int(width)


def located(folders: Iterable[Path], name: str) -> Path | None:
    """Return the file that a table means by `name`, in the first folder that has it; some are made on Windows."""
    if not name or "\0" in name:
        return None
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in folders:
            try:
                if (folder / spelling).is_file():
                    return folder / spelling
            except OSError:  # a name too long for the file system
                continue
    return None
