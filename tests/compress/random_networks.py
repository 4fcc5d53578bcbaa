"""Narrow networks with random weights, and channels of them made dead, for tests of what finds those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from mobilenets.arch import arch_named
from mobilenets.checkpoint import Card, Checkpoint, tensor_shapes
from mobilenets.engine import reference
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import normalize

SIDE = 32


VARIANTS = (
    "mobilenet_v2:shortcut=expansion",
    "mobilenet_v2:shortcut=none,bottleneck_activation=relu6",
    "mobilenet_v2_cifar:projection_shortcut=true,expands_always=true",
    "mobilenet_v1:activation=hard_swish,padding=same",
)


# One of every kind of block; the tables that are left out differ from these in numbers alone.
KINDS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet_a1", "efficientnet_lite0", *VARIANTS)


def random_checkpoint(name: str, seed: int = 0, *, batch_norm: str = "trained", width: float = 0.25) -> Checkpoint:
    """Return a narrow network with random weights whose biases are above zero, so that no channel is dead by chance."""
    random = np.random.default_rng(seed)
    preprocess = Preprocess(SIDE, SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    card = Card(arch_named(name), width, (SIDE, SIDE), tuple("abcde"), preprocess, batch_norm=batch_norm)
    tensors = {}
    for tensor, shape in tensor_shapes(card.plan).items():
        if len(shape) > 1:
            values = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif tensor.endswith("running_var"):
            values = random.uniform(0.5, 1.5, shape)
        elif tensor.endswith("norm.weight"):
            values = random.uniform(0.8, 1.2, shape)
        elif tensor.endswith("norm.running_mean"):
            values = np.zeros(shape)
        else:
            values = random.uniform(0.1, 0.4, shape)
        tensors[tensor] = values.astype(np.float32)
    return Checkpoint(card, tensors)


kept_checkpoint = cache(random_checkpoint)


def planted(checkpoint: Checkpoint, dead: Mapping[str, list[int]]) -> Checkpoint:
    """Return the network with some operations' kernels all zero."""
    tensors = dict(checkpoint.tensors)
    for name, channels in dead.items():
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"].copy()
        tensors[f"{name}.weight"][channels] = 0
    return replace(checkpoint, tensors=tensors)


def drowned(checkpoint: Checkpoint, name: str, channels: list[int], by: float = 1000.0) -> Checkpoint:
    """Return the network with the biases of some channels so low that no picture brings them above zero."""
    tensors = dict(checkpoint.tensors)
    tensors[f"{name}.norm.bias"] = tensors[f"{name}.norm.bias"].copy()
    tensors[f"{name}.norm.bias"][channels] -= by
    return replace(checkpoint, tensors=tensors)


def batch(seed: int = 0, count: int = 2, side: int = SIDE) -> npt.NDArray[np.float32]:
    """Return pictures of noise, normalized: all that an interval of pixels allows, black and white among it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    pixels[0, : side // 2] = 0
    pixels[0, side // 2 :] = 255
    return normalize(pixels, Preprocess(side, side, mean=(0.5,) * 3, std=(0.25,) * 3))


def assert_same(first: Checkpoint, second: Checkpoint, *, side: int = SIDE) -> None:
    pictures = batch(side=side)
    before, after = reference.run(first, pictures), reference.run(second, pictures)
    assert np.ptp(before, axis=0).max() > 1e-4, "the pictures are told apart at all"
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * max(1.0, float(np.abs(before).max()) / 10))
