"""What all tests share: real pictures and weights, where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Classifier, Conv, Pool
from mobilenets.checkpoint import Card, Checkpoint, tensor_shapes
from mobilenets.engine.int8 import Granularity
from mobilenets.image import Preprocess
from tests.engine.networks import quantized

_ROOT = Path(__file__).resolve().parents[1]

# No test waits for a compiler that it did not ask for; how the default is chosen is tested without this.
os.environ["MOBILENETS_ENGINE"] = "asked"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real pictures and weights; tests that ask for it are skipped, saying so, without it."""
    folder = Path(os.environ.get("MOBILENETS_TEST_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real pictures and weights in {folder}: set MOBILENETS_TEST_DATA to a folder that has them")
    return folder


COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def colour_checkpoint() -> Checkpoint:
    """Return a network whose answers are known: the logit of each of three colours is 8 times its mean, 0..1.

    It is a 1x1 convolution, a pooling and a classifier, with a BatchNorm that shifts by 1 and is undone behind it.
    """
    arch = replace(
        ARCHITECTURES["mobilenet_v1"], name="colours", rows=(Conv(c=8, kernel=1), Pool(), Classifier(dropout=0.0))
    )
    preprocess = Preprocess(16, 16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    card = Card(arch, 1.0, (16, 16), COLOURS, preprocess)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(card.plan).items()}
    stem, classifier = card.plan.ops[0].name, card.plan.ops[-1].name
    tensors[f"{stem}.weight"][:3] = np.eye(3, dtype=np.float32)[:, :, None, None]
    tensors[f"{stem}.norm.weight"][:] = 1
    tensors[f"{stem}.norm.bias"][:] = 1
    tensors[f"{stem}.norm.running_var"][:] = 1 - arch.bn_eps
    tensors[f"{classifier}.weight"][:, :3] = 8 * np.eye(3)
    tensors[f"{classifier}.bias"][:] = -8
    return Checkpoint(card, tensors)


SIDE = 48
Padding = Literal["symmetric", "same"]
RandomNetwork = Callable[..., Checkpoint]


@cache
def _random_network(name: str, *, channels: int = 3, padding: Padding | None = None) -> Checkpoint:
    import torch

    from mobilenets.nn.network import build, to_tensors

    arch = ARCHITECTURES[name] if padding is None else replace(ARCHITECTURES[name], padding=padding)
    preprocess = Preprocess(SIDE, SIDE, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    task = "classification" if arch.detector is None else "detection"
    card = Card(arch, 0.25, (SIDE, SIDE), tuple("abcdefg"), preprocess, in_channels=channels, task=task)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build(card.plan)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.2)
                module.momentum = 1.0
            elif isinstance(module, torch.nn.Linear):
                module.bias.normal_(0, 0.1)
        network(torch.from_numpy(_noise(8, channels)))
    return Checkpoint(card, to_tensors(network))


def _noise(count: int, channels: int) -> np.ndarray:
    """Return pictures of noise, each channel of another brightness and contrast, float32 (N, channels, 48, 48)."""
    random = np.random.default_rng(9)
    noise = random.normal(size=(count, channels, SIDE, SIDE))
    brightness, contrast = random.normal(size=(2, count, channels, 1, 1))
    pictures: np.ndarray = (brightness + contrast * noise).astype(np.float32)
    return pictures


@cache
def _random_int8_network(
    name: str, *, channels: int = 3, padding: Padding | None = None, granularity: Granularity = "channel"
) -> Checkpoint:
    """Quantize by the smallest and largest value that eight pictures of noise lead to."""
    return quantized(_random_network(name, channels=channels, padding=padding), _noise(8, channels), granularity)


@pytest.fixture(scope="session")
def random_network() -> RandomNetwork:
    """Return a maker of narrow networks with random weights: (architecture's name, *, channels=3, padding=None).

    Their BatchNorm statistics are those of random pictures: with arbitrary ones the signal would die or explode on its
    way, and no runtime could be told from another. `padding` replaces the table's rule.
    """
    return _random_network


@pytest.fixture(scope="session")
def random_int8_network() -> RandomNetwork:
    """Return a maker of the same networks in int8, with one more argument: granularity="channel"."""
    return _random_int8_network
