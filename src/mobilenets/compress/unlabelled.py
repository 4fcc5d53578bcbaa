"""A folder of pictures without labels: enough to calibrate by, and to see how often two networks agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data import Data
from mobilenets.image.decode import SUFFIXES, decode


@dataclass(frozen=True, eq=False)
class PlainPictures:
    """Pictures by their files, every target 0 for want of a better one."""

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    channels: int

    @property
    def targets(self) -> NDArray[np.int64]:
        """Zeros, int64 (N,)."""
        return np.zeros(len(self.paths), np.int64)

    @property
    def sides(self) -> None:
        """Not looked at."""

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 (H, W, channels); raises InputError where it cannot be decoded."""
        return decode(self.paths[index], channels=self.channels)

    def target(self, index: int) -> int:  # noqa: ARG002 - the protocol's
        """Return 0."""
        return 0

    def name(self, index: int) -> str:
        """Return the file's name."""
        return self.paths[index].name

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> PlainPictures:
        """Return the pictures at these indices."""
        return replace(self, paths=tuple(self.paths[index] for index in indices))

    def relabelled(self, labels: tuple[str, ...], mapping: NDArray[np.int64]) -> PlainPictures:  # noqa: ARG002
        """Return the same pictures: there is nothing to map."""
        return replace(self, labels=labels)


def plain_folder(data: str, labels: tuple[str, ...], channels: int) -> Data | None:
    """Open a folder with pictures directly in it and no folders of classes; None for anything else."""
    folder = Path(data).expanduser()
    if not folder.is_dir() or (folder / "labels.csv").is_file() or any(each.is_dir() for each in folder.iterdir()):
        return None
    paths = sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.name[0] != ".")
    if not paths:
        return None
    pictures = PlainPictures(labels, tuple(paths), 1 if channels == 1 else 3)
    name = folder.resolve().name
    return Data(name, labels, pictures, pictures.take([]), pictures, own_val=False, mirrorable=True, problems=())
