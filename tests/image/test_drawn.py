from __future__ import annotations

import numpy as np

from mobilenets.image import Preprocess
from mobilenets.image.drawn import pictures


def test_pictures_are_varied_and_always_the_same() -> None:
    drawn = pictures(Preprocess(40, 56), 4)
    assert drawn.shape == (4, 40, 56, 3)
    assert np.array_equal(drawn, pictures(Preprocess(40, 56), 4))
    rough = np.abs(np.diff(drawn.astype(float), axis=2)).mean((1, 2, 3))
    assert min(rough[::2]) > 60  # noise
    assert max(rough[1::2]) < 30  # shapes
    assert drawn[1].std() > 10
