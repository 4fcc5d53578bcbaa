"""BatchNorm folded into the convolution before it: what runs is a weight and a bias for each operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What a convolution or fully connected layer multiplies by and adds.

    `weight` is float32, (out, in / groups, kernel, kernel) or (out, in); `bias` is float32 (out,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def folded(checkpoint: Checkpoint) -> dict[str, Layer]:
    """Return the layers of a float32 checkpoint by operation, their BatchNorms folded in.

    weight' = weight * gamma / sqrt(var + eps); bias' = beta + (bias - mean) * gamma / sqrt(var + eps). Computed in
    float64 and rounded once.

    Raises:
        CheckpointError: the checkpoint is not float32.
    """
    card, tensors = checkpoint.card, checkpoint.tensors
    if card.precision != "float32":
        raise CheckpointError(f"only float32 checkpoints have BatchNorms to fold, and this one is {card.precision}")
    layers: dict[str, Layer] = {}
    for op in card.plan.ops:
        if op.kind not in ("conv", "linear"):
            continue
        weight = tensors[f"{op.name}.weight"].astype(np.float64)
        bias = tensors[f"{op.name}.bias"].astype(np.float64) if op.bias else np.zeros(op.out[0])
        if op.batch_norm:
            gamma, beta, mean, var = (
                tensors[f"{op.name}.norm.{name}"].astype(np.float64)
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            factor = gamma / np.sqrt(var + card.arch.bn_eps)
            weight *= factor.reshape(-1, *(1,) * (weight.ndim - 1))
            bias = beta + (bias - mean) * factor
        layers[op.name] = Layer(weight.astype(np.float32), bias.astype(np.float32))
    return layers
