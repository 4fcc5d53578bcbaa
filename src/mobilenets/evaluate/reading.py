"""Pictures as a network takes them, batch by batch, and a line for each that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mobilenets.data import Pictures
from mobilenets.data.scan import followed
from mobilenets.errors import InputError
from mobilenets.image.preprocess import Preprocess, fit
from mobilenets.runtime import feed

Picture = npt.NDArray[np.uint8]


def readable(
    pictures: Pictures, preprocess: Preprocess, batch_size: int, broken: list[str], *, strict: bool
) -> Iterator[dict[int, Picture]]:
    """Yield the pictures that can be read by index, uint8 (H, W, C); add to `broken` what the others have.

    Raises:
        InputError: none can be read; with `strict`, any.
    """

    def read(index: int) -> tuple[int, Picture | InputError]:
        try:
            return index, fit(pictures.picture(index), preprocess)
        except InputError as error:
            return index, error

    everything = followed(range(len(pictures)), "judging pictures")
    for batch in feed.batches(feed.prepared(everything, read, ahead=2 * batch_size), batch_size):
        fitted: dict[int, Picture] = {}
        for index, picture in batch:
            if not isinstance(picture, InputError):
                fitted[index] = picture
            elif strict:
                raise picture
            else:
                broken.append(f"{picture} (skipped)")
        yield fitted
    if len(broken) == len(pictures):
        raise InputError(f"none of the {len(pictures)} pictures can be read: {broken[0]}")
