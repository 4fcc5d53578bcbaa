"""Small data sets made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write_picture(tmp_path: Path) -> Write:
    """Return a function that writes a picture of noise below tmp_path; the suffix says the format."""

    def write(name: str, *, size: tuple[int, int] = (20, 16), seed: int = 0, grey: bool = False) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def pets(write_picture: Write, tmp_path: Path) -> Path:
    """Return a folder of two classes of five pictures each, of several sizes."""
    for label in ("cats", "dogs"):
        for index in range(5):
            write_picture(f"{label}/{index}.png", size=(20 + index, 16), seed=index + 10 * (label == "dogs"))
    return tmp_path
