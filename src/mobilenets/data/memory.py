"""Hold pictures in memory in the form in which they are asked for again and again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobilenets.data.pictures import ArrayPictures, FilePictures, HeldPictures, Pictures
from mobilenets.data.scan import followed
from mobilenets.image.preprocess import Preprocess, fit, resize, resized_sides


def held_fitted(pictures: Pictures, preprocess: Preprocess, budget_bytes: int) -> Pictures:
    """Return pictures as `fit` leaves them, in one array, where that takes up to `budget_bytes`; else as they are."""
    size = preprocess.height * preprocess.width * preprocess.channels
    if isinstance(pictures, ArrayPictures) and (pictures.fitted == preprocess or _is_fitted(pictures, preprocess)):
        return replace(pictures, fitted=preprocess)
    if len(pictures) == 0 or len(pictures) * size > budget_bytes:
        return pictures
    pixels = np.empty((len(pictures), preprocess.height, preprocess.width, preprocess.channels), np.uint8)
    for index in followed(range(len(pictures)), "fitting pictures"):
        pixels[index] = fit(pictures.picture(index), preprocess)
    return ArrayPictures(pictures.labels, pictures.targets, _names(pictures), pixels, fitted=preprocess)


def held_short(pictures: Pictures, short_side: int, budget_bytes: int) -> Pictures:
    """Return pictures decoded, their short side no more than `short_side`, where that takes up to `budget_bytes`.

    Else, pictures in files stay there and are decoded each time, JPEGs at the smallest of their scales that suffices.
    """
    if not isinstance(pictures, FilePictures):
        return pictures
    smaller = replace(pictures, at_least=short_side)
    scale = np.minimum(1.0, short_side / pictures.sizes.min(axis=1, initial=1 << 62))
    total = float((pictures.sizes.prod(axis=1) * scale**2).sum()) * pictures.channels
    if total > budget_bytes:
        return smaller
    pixels = tuple(
        _shortened(smaller.picture(index), short_side) for index in followed(range(len(smaller)), "decoding")
    )
    return HeldPictures(pictures.labels, pictures.targets, pictures.names, pixels, pictures.channels)


def channel_statistics(pictures: Pictures, most: int = 5000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel on the 0..1 scale, over up to `most` pictures evenly chosen.

    A channel without variation gets the standard deviation 1, so that it can be divided by.
    """
    chosen = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), most)).round().astype(np.int64))
    count = 0
    total = np.zeros(pictures.channels)
    squares = np.zeros(pictures.channels)
    for index in chosen.tolist():
        values = pictures.picture(index).reshape(-1, pictures.channels).astype(np.float64) / 255
        count += len(values)
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.where(deviation > 1e-6, deviation, 1.0).tolist())


def _is_fitted(pictures: ArrayPictures, preprocess: Preprocess) -> bool:
    """Tell whether `fit` would return these pictures unchanged."""
    sides = (preprocess.height, preprocess.width)
    return (
        pictures.channels == preprocess.channels
        and pictures.pixels.shape[1:3] == sides
        and resized_sides(*sides, preprocess) == sides
    )


def _names(pictures: Pictures) -> tuple[str, ...]:
    return tuple(pictures.name(index) for index in range(len(pictures)))


def _shortened(picture: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    short = min(height, width)
    if short <= short_side:
        return picture
    return resize(picture, (round(height * short_side / short), round(width * short_side / short)), "bilinear")
