"""The reference runtime: plain numpy, so it is always there. What the operations mean, not how fast they can be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine import reference

PICTURES = 4  # computed at a time: in float64 an expansion of one picture at 224 takes 10 MB


def open_predictor(checkpoint: Checkpoint, threads: int | None) -> ReferencePredictor:
    """Return a predictor for a checkpoint of any precision. BLAS has its own threads: `threads` changes nothing."""
    del threads
    return ReferencePredictor(checkpoint)


class ReferencePredictor:
    """Runs `mobilenets.engine.reference`."""

    pictures = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.card: Card = checkpoint.card
        self._arithmetic = reference.arithmetic(checkpoint)

    def run(self, batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits or maps, float32, of float32 (N, C, H, W)."""
        layout = self.card.plan
        parts = [
            reference.outputs(layout, self._arithmetic, batch[first : first + PICTURES])
            for first in range(0, len(batch), PICTURES)
        ]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def close(self) -> None:
        """Let go of the weights."""
        del self._arithmetic
