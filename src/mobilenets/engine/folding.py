"""BatchNorm folded into the convolution before it: what runs is a weight and a bias for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def unfolded(card: Card, layers: Mapping[str, Layer]) -> Checkpoint:
    """Return a float32 checkpoint of layers whose BatchNorms are folded in: the BatchNorms of its table only shift.

    Their statistics are the identity (mean 0, variance 1 less epsilon), as the card will say.
    """
    tensors: dict[str, NDArray[np.float32]] = {}
    for op in card.plan.ops:
        if op.name not in layers:
            continue
        layer = layers[op.name]
        tensors[f"{op.name}.weight"] = layer.weight
        if op.batch_norm:
            identity = {"weight": 1.0, "running_mean": 0.0, "running_var": 1 - card.arch.bn_eps}
            for name, value in identity.items():
                tensors[f"{op.name}.norm.{name}"] = np.full(op.out[:1], value, np.float32)
            tensors[f"{op.name}.norm.bias"] = layer.bias
        else:
            tensors[f"{op.name}.bias"] = layer.bias
    return Checkpoint(replace(card, precision="float32", batch_norm="folded", quantization=None), tensors)
