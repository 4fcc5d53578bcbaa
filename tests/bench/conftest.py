from __future__ import annotations

from pathlib import Path

import pytest

from mobilenets.arch import arch_named, plan
from mobilenets.bench.synthetic import random_checkpoint
from mobilenets.checkpoint import Checkpoint, save


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    """A narrow V3-Small with every kind of operation, for 32x32 pictures."""
    layout = plan(arch_named("mobilenet_v3_small"), width=0.25, resolution=32, classes=5)
    return random_checkpoint(layout)


@pytest.fixture(scope="session")
def colour_file(colour_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three operations, which the reference runtime computes in a millisecond."""
    return save(colour_checkpoint, tmp_path_factory.mktemp("bench") / "colours.safetensors")
