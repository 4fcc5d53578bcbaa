"""What all tests share: real pictures and weights, where there are any."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Classifier, Conv, Pool
from mobilenets.checkpoint import Card, Checkpoint, tensor_shapes
from mobilenets.image import Preprocess

_ROOT = Path(__file__).resolve().parents[1]


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
