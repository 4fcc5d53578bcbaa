"""A network and pictures so small that a whole training takes a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Classifier, Conv, InvertedResidual, Pool
from mobilenets.checkpoint import Card, Checkpoint, save, tensor_shapes
from mobilenets.image import Preprocess
from mobilenets.nn.network import build, to_tensors
from mobilenets.train import outputs

CLASSES = ("top", "middle", "bottom")
TINY = replace(
    ARCHITECTURES["mobilenet_v2"],
    name="tiny",
    rows=(
        Conv(c=8, s=2),
        InvertedResidual(2, 8, 1, 1),
        InvertedResidual(2, 16, 1, 1),
        Pool(),
        Classifier(dropout=0.2),
    ),
)


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return grey pictures, uint8 (count, 9, 9), with a bright bar in the top, middle or bottom third, and which."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % len(CLASSES)
    pixels = random.integers(0, 120, (count, 9, 9), dtype=np.uint8)
    for picture, target in zip(pixels, targets, strict=True):
        picture[3 * target : 3 * target + 3] += 100
    return pixels, targets


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread, as the workers share the cores, and its random state to each test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def drawn() -> None:
    """Let a test have its curves and its page, which take longer than the training."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave curves and page out of all tests that do not ask for them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(outputs, "write_page", lambda *_: [])
        monkeypatch.setattr(outputs, "write_curves", lambda out, _: out / "curves.png")


@pytest.fixture(scope="session")
def bar_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of 96 + 48 pictures of bars."""
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    x, y = bars(96, seed=0)
    x_val, y_val = bars(47, seed=1)
    np.savez(path, x_train=x, y_train=y, x_val=x_val, y_val=y_val, labels=np.array(CLASSES))
    return str(path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a checkpoint of a network with random weights, for nine by nine grey pictures."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    card = Card(TINY, 1.0, (9, 9), CLASSES, Preprocess(9, 9, 1, mean=(0.5,), std=(0.5,)), in_channels=1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build(card.plan)
    tensors = to_tensors(network)
    assert set(tensors) == set(tensor_shapes(card.plan))
    save(Checkpoint(card, tensors), path)
    return str(path)


@pytest.fixture(scope="session")
def tiny(bar_data: str, tiny_model: str) -> Callable[..., dict[str, Any]]:
    """Return the arguments of a training of a second: `train(**tiny(out=..., epochs=3))`."""

    def arguments(**changes: Any) -> dict[str, Any]:
        return {
            "data": bar_data,
            "model": tiny_model,
            "weights": "none",
            "epochs": 3,
            "batch_size": 16,
            "channels_last": "on",
            "bf16": "off",
            "compile": "off",
            **changes,
        }

    return arguments


def tensors_of(path: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of a checkpoint."""
    from mobilenets.checkpoint import load

    return {name: value.tobytes() for name, value in load(path).tensors.items()}


@pytest.fixture(scope="session")
def same_weights() -> Callable[[Path, Path], bool]:
    """Return the comparison of two runs: best and last checkpoint equal to the last bit, and what was measured."""

    def same(one: Path, other: Path) -> bool:
        return all(
            tensors_of(one / name) == tensors_of(other / name) for name in ("best.safetensors", "last.safetensors")
        )

    return same
