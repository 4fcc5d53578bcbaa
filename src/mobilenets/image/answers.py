"""What a detector's heads say, anchor by anchor: out of the flat answers that networks are compared by."""

from __future__ import annotations

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
    start = 0
    for index, name in enumerate(layout.outputs):
        values = (COORDINATES, layout.classes + 1)[index % 2]
        channels, height, width = layout.op(name).out
        said = answers[:, start : start + channels * height * width]
        start += channels * height * width
        planes = said.reshape(len(answers), -1, values, height * width)  # (N, anchors, values, places)
        parts[index % 2].append(planes.transpose(0, 1, 3, 2).reshape(len(answers), -1, values))
    boxes, scores = (np.concatenate(each, axis=1) for each in parts)
    return boxes, scores
