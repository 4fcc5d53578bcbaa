"""Quantization-aware training: an int8 checkpoint from a float32 one, by the same loop as every training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine.folding import Layer
from mobilenets.engine.int8 import Granularity, int8_checkpoint
from mobilenets.engine.quantized import Quantization, quantizations
from mobilenets.image.preprocess import Preprocess, scale_and_shift
from mobilenets.nn.fake_quantization import FakeQuantizedNetwork, calibrate, fake_quantized
from mobilenets.nn.network import Convolution, Dense, Network, from_checkpoint, to_tensors
from mobilenets.recipe import Recipe
from mobilenets.results import TrainResult
from mobilenets.train import train

BEFORE = ".before"
"""Follows an operation's name in a checkpoint, where a network's modules cannot have a dot and say `:before`."""


def train_quantized(
    model: str | Path,
    *,
    data: str | Path,
    granularity: Literal["channel", "tensor"] = "channel",
    out: Path = Path("runs/quantized"),
    recipe: str = "qat",
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    resume: bool = False,
    root: Path | None = None,
    val_fraction: float = 0.2,
    strict: bool = False,
    workers: int | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Train a float32 checkpoint on, rounding as int8 does, and write the int8 checkpoint OUT/best.safetensors.

    The result's `metrics` are of that file, read back, on the validation pictures. See :func:`mobilenets.train`.

    Raises:
        MobileNetsError: the model is not float32, the data cannot be used, or a flag is wrong.
    """
    return train(
        data,
        model=str(model),
        granularity=granularity,
        out=out,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        resume=resume,
        root=root,
        val_fraction=val_fraction,
        strict=strict,
        workers=workers,
        threads=threads,
    )


def network_for(card: Card, recipe: Recipe) -> Network:
    """Return a network of the card's plan as the recipe trains it; its weights, and ranges, are yet to be filled."""
    if recipe.granularity == "none":
        return Network(card.plan)
    return FakeQuantizedNetwork(card.plan, recipe.granularity)


def prepared(network: Network, recipe: Recipe, preprocess: Preprocess, batches: Iterable[Tensor]) -> Network:
    """Return the network as the recipe trains it: itself, or one that rounds, its ranges found on `batches`."""
    if recipe.granularity == "none":
        return network
    made = fake_quantized(network, recipe.granularity)
    calibrate(made, batches, picture_range(preprocess))
    return made


def picture_range(preprocess: Preprocess) -> tuple[float, float]:
    """Return the values of black and of white in a normalized picture: the lowest and the highest of any channel.

    >>> picture_range(Preprocess(32, 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    (-1.0, 1.0)
    """
    scales, shifts = scale_and_shift(preprocess)
    return min(shifts), max(255 * scale + shift for scale, shift in zip(scales, shifts, strict=True))


def enter_epoch(network: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Put a network that rounds into the phase of an epoch, from 0; others have none."""
    if isinstance(network, FakeQuantizedNetwork):
        network.set_phase(
            following=epoch < recipe.following_share * recipe.epochs,
            batch_norm_frozen=epoch >= recipe.batch_norm_share * recipe.epochs,
        )


def to_checkpoint(network: Network, card: Card) -> Checkpoint:
    """Return what is saved of a network in training: itself in float32, or the int8 form of one that rounds."""
    if not isinstance(network, FakeQuantizedNetwork):
        return Checkpoint(card, to_tensors(network))
    return to_int8(network, card)


@torch.no_grad()
def to_int8(network: FakeQuantizedNetwork, card: Card) -> Checkpoint:
    """Return the int8 checkpoint that computes what the network computes, up to float32's rounding of sums.

    Args:
        network: of weights that are rounded per channel or per tensor, its ranges found.
        card: of the float32 network it began as.
    """
    granularity: Granularity = "tensor" if network.rounding == "tensor" else "channel"
    layers = {
        op.name: Layer(*(part.detach().float().cpu().numpy().copy() for part in network.folded(op)))
        for op in card.plan.ops
        if op.kind in ("conv", "linear")
    }
    ranges = {}
    for name in network.ranges:
        scale, zero_point = network.range(name).scale_and_zero_point()
        ranges[name.replace(":before", BEFORE)] = Quantization(float(scale), int(zero_point))
    return int8_checkpoint(card, layers, ranges, granularity, facts={"method": "qat"})


def from_saved(checkpoint: Checkpoint) -> Network:
    """Make the network of a saved checkpoint, in eval mode: what :func:`to_checkpoint` was given, of either kind."""
    return from_int8(checkpoint) if checkpoint.card.precision == "int8" else from_checkpoint(checkpoint)


@torch.no_grad()
def from_int8(checkpoint: Checkpoint) -> FakeQuantizedNetwork:
    """Make a network, in eval mode, that computes in float32 what an int8 checkpoint computes, rounding where it does.

    Sums are float32's, so that a value halfway between two codes may become either.
    """
    layout, tensors = checkpoint.card.plan, checkpoint.tensors
    codes = quantizations(checkpoint)
    network = FakeQuantizedNetwork(layout, "none").eval()
    for op in layout.ops:
        if op.kind not in ("conv", "linear"):
            continue
        steps = tensors[f"{op.name}.weight_scale"].astype(np.float64)
        weight = tensors[f"{op.name}.weight"]
        real = weight * steps.reshape(-1, *(1,) * (weight.ndim - 1))
        bias = torch.from_numpy(tensors[f"{op.name}.bias"] * (steps * codes[op.sources[0]].scale))
        module = network.get_submodule(op.name)
        assert isinstance(module, Convolution | Dense)
        module.weight.copy_(torch.from_numpy(real))
        norm = module.norm if isinstance(module, Convolution) else None
        if norm is not None:  # the identity, but for its shift
            assert norm.running_var is not None
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(bias)
        elif module.bias is not None:
            module.bias.copy_(bias)
    for name in network.ranges:
        found = codes[name.replace(":before", BEFORE)]
        network.range(name).fix(found.scale, found.zero_point)
    return network
