"""What a detector's heads say, anchor by anchor: out of the flat answers that networks are compared by."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.arch.detector import COORDINATES


def by_anchor(layout: Plan, answers: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return box differences (N, A, 4) and scores (N, A, 1 + classes), the background's first.

    Args:
        layout: a detector's plan, at the resolution of the pictures.
        answers: the values of its outputs, flat: float32 (N, values).
    """
    parts: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for index, said in enumerate(as_maps(layout, answers)):
        values, (height, width) = (COORDINATES, layout.classes + 1)[index % 2], said.shape[2:]
        planes = said.reshape(len(answers), -1, values, height * width)  # (N, anchors, values, places)
        parts[index % 2].append(planes.transpose(0, 1, 3, 2).reshape(len(answers), -1, values))
    boxes, scores = (np.concatenate(each, axis=1) for each in parts)
    return boxes, scores


def as_maps(layout: Plan, answers: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return flat answers (N, values) as the outputs they were made of, (N, C, H, W) each."""
    ends = np.cumsum([prod(layout.op(name).out) for name in layout.outputs])
    parts = np.split(answers, ends[:-1], axis=1)
    return tuple(
        part.reshape(len(answers), *layout.op(name).out) for name, part in zip(layout.outputs, parts, strict=True)
    )
