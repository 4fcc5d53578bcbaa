"""What every channel of a network puts out on pictures: how low, how high, how often above zero, how often at 6."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenets.arch import Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress import arithmetic
from mobilenets.compress.bounds import Bounds
from mobilenets.data.scan import followed
from mobilenets.engine.folding import folded
from mobilenets.image.preprocess import normalize
from mobilenets.nn.network import from_checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """One operation's output over all pixels of all pictures, float64 (C,) each.

    `firing` and `saturated` are the shares, 0..1, of a channel's values that are above 0, and at 6 or above.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    firing: NDArray[np.float64]
    saturated: NDArray[np.float64]

    @property
    def range(self) -> Bounds:
        """The lowest and the highest value of every channel."""
        return Bounds(self.low, self.high)


class _Tally:
    """Adds up one operation's output."""

    def __init__(self, channels: int) -> None:
        self.low = torch.full((channels,), torch.inf)
        self.high = torch.full((channels,), -torch.inf)
        self.firing = torch.zeros(channels, dtype=torch.int64)
        self.saturated = torch.zeros(channels, dtype=torch.int64)
        self.values = 0  # of each channel

    def add(self, out: Tensor) -> None:
        over = (0, 2, 3)
        self.low = torch.minimum(self.low, out.amin(over))
        self.high = torch.maximum(self.high, out.amax(over))
        self.firing += (out > 0).sum(over)
        self.saturated += (out >= 6).sum(over)
        self.values += out.numel() // out.shape[1]

    def result(self) -> Activity:
        low, high, firing, saturated = (
            each.double().numpy() for each in (self.low, self.high, self.firing, self.saturated)
        )
        return Activity(low, high, firing / self.values, saturated / self.values)


def observe(checkpoint: Checkpoint, pictures: NDArray[np.uint8]) -> dict[str, Activity]:
    """Run a network over pictures and return what every operation puts out, by name.

    Args:
        checkpoint: float32.
        pictures: uint8 (N, H, W, C), at least one, as `image.fit` leaves them.

    Raises:
        CheckpointError: the checkpoint is not float32.
    """
    layout = checkpoint.card.plan
    by = arithmetic.FloatArithmetic(checkpoint.card, folded(checkpoint))
    tallies = {op.name: _Tally(op.out[0]) for op in layout.ops}

    def watch(op: Op, _before: Tensor, after: Tensor) -> None:
        tallies[op.name].add(after)

    for start in followed(range(0, len(pictures), arithmetic.BATCH), "watching every layer, in batches"):
        part = pictures[start : start + arithmetic.BATCH]
        arithmetic.run(layout, by, normalize(part, checkpoint.card.preprocess), watch)
    return {name: tally.result() for name, tally in tallies.items()}


@torch.inference_mode()
def logits(checkpoint: Checkpoint, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the logits (N, classes) of pictures, uint8 (N, H, W, C), computed in float64.

    Two networks that should give the same are compared with these: in float32 another order of a sum alone differs by
    1e-5 and more.
    """
    network = from_checkpoint(checkpoint).double()
    batches = arithmetic.split(pictures)
    parts = [network(torch.from_numpy(normalize(part, checkpoint.card.preprocess)).double()) for part in batches]
    together: NDArray[np.float64] = torch.cat(parts).numpy()
    return together
