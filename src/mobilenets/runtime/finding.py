"""Pictures to boxes, with whatever runs the network: the same decoding and suppression behind every runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mobilenets.errors import CheckpointError
from mobilenets.image.detection import Decoder, Found, on_picture
from mobilenets.runtime import Predictor
from mobilenets.runtime.feed import outputs_of


class Finder:
    """A detector and what turns its raw maps into boxes; what is not given is as its table says."""

    def __init__(
        self, predictor: Predictor, *, score_threshold: float | None = None, detections: int | None = None
    ) -> None:
        self._predictor = predictor
        self._decoder = Decoder(predictor.card.plan, score_threshold=score_threshold, detections=detections)

    def find(self, fitted: Sequence[npt.NDArray[np.uint8]], sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """Return what is on each picture, in pixels of the picture as it was before it was fitted.

        Args:
            fitted: as `image.preprocess.fit` leaves them, uint8 (H, W, C).
            sizes: height and width of each before.

        Raises:
            CheckpointError: the network gives no numbers.
        """
        if not fitted:
            return []
        outputs = outputs_of(self._predictor, fitted)
        if not all(np.isfinite(each).all() for each in outputs):
            raise CheckpointError("the model gives no numbers (nan): its weights are broken, train or convert it again")
        preprocess = self._predictor.card.preprocess
        return [on_picture(found, preprocess, *size) for found, size in zip(self._decoder(outputs), sizes, strict=True)]
