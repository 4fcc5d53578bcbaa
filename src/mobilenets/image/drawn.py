"""Pictures drawn by formula, for comparing two networks where there are no photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobilenets.image.preprocess import Preprocess


def pictures(preprocess: Preprocess, count: int) -> NDArray[np.uint8]:
    """Draw pictures, uint8 (count, height, width, channels), always the same: noise, and blurred shapes in turn.

    Networks respond to noise alone with nearly one class; smooth areas and edges, as in photographs, move them.
    """
    random = np.random.default_rng(20180113)  # the date of the V2 paper's first version
    height, width, channels = preprocess.height, preprocess.width, preprocess.channels
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    drawn = np.empty((count, height, width, channels), np.uint8)
    for index in range(count):
        if index % 2 == 0:
            drawn[index] = random.integers(0, 256, (height, width, channels))
            continue
        scene = np.zeros((height, width, channels))
        for _ in range(12):
            colour = random.uniform(-128, 128, channels)
            fy, fx, phase = random.uniform(-6, 6), random.uniform(-6, 6), random.uniform(0, 6)
            wave = np.sin(2 * np.pi * (fy * y + fx * x) + phase)
            top, left = random.uniform(0, 1, 2)
            inside = np.hypot(y - top, x - left) < random.uniform(0.1, 0.6)
            scene += np.where(inside, wave, 0)[:, :, np.newaxis] * colour
        drawn[index] = np.clip(128 + scene, 0, 255)
    return drawn
