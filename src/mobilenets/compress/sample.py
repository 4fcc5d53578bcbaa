"""Pictures to look at a network with: some of a data set, or drawn ones where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenets.data import open_data
from mobilenets.data.draws import order
from mobilenets.data.scan import followed
from mobilenets.errors import InputError
from mobilenets.image import Preprocess
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import fit

DRAWN = 32
"""How many pictures are drawn where no data are given: enough to see which channels never fire on noise and shapes."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Pictures, uint8 (N, H, W, C), as `image.fit` leaves them; what to call them; a line for each unreadable one."""

    what: str
    pictures: NDArray[np.uint8]
    problems: tuple[str, ...] = ()


def drawn(preprocess: Preprocess, count: int = DRAWN) -> Sample:
    """Return drawn pictures, noise and blurred shapes, always the same."""
    return Sample(f"{count} drawn pictures", pictures(preprocess, count))


def taken(
    data: str, preprocess: Preprocess, *, count: int, after: int = 0, seed: int = 0, root: Path | None = None
) -> Sample:
    """Return up to `count` pictures of a data set, in an order that the seed decides, the first `after` left out.

    Its labels do not matter. Pictures that cannot be read are left out.

    Raises:
        InputError: no such data, or not a single readable picture is left.
    """
    opened = open_data(data, root=root, seed=seed)
    everything = opened.everything
    places = np.sort(order(seed, 0, len(everything))[after : after + count])
    fitted: list[NDArray[np.uint8]] = []
    problems = [problem for problem in opened.problems if problem.endswith("(skipped)")]  # the rest is about classes
    for index in followed(places.tolist(), "reading pictures"):
        try:
            fitted.append(fit(everything.picture(index), preprocess))
        except InputError as error:
            problems.append(f"{error} (skipped)")
    if not fitted:
        more = f" beside the {after:,} looked at before" if after else ""
        raise InputError(f"{data}: of its {len(everything):,} pictures none can be read{more}: give more pictures")
    return Sample(f"{len(fitted):,} pictures of {opened.name}", np.stack(fitted), tuple(problems))
