"""What every exported file owes: each test writes one in every format, opens it and looks inside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import dequantize, quantizations
from mobilenets.errors import InputError
from mobilenets.image.preprocess import normalize
from mobilenets.runtime import RUNTIMES, load
from tests.contract.installed import installed

Networks = Callable[..., Checkpoint]
FORMATS = [name for name, runtime in RUNTIMES.items() if runtime.suffix]


def random_batch(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)


def random_pictures(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


def assert_close(actual: np.ndarray, expected: np.ndarray, share: float = 1e-4) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * float(np.abs(expected).max()))


def values(checkpoint: Checkpoint, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the reference computes, by operation."""
    found: dict[str, np.ndarray] = {}
    reference.run(checkpoint, batch, found.__setitem__)
    return found


@pytest.fixture(params=FORMATS)
def to(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


@pytest.fixture
def adapter(to: str) -> Any:
    """Return the module with open_predictor, open_file and trace."""
    return import_module(RUNTIMES[to].module)


@pytest.fixture
def written(to: str, tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a checkpoint as a file."""

    def write(checkpoint: Checkpoint, *, pictures: bool = False) -> Path:
        path = tmp_path / f"model{RUNTIMES[to].suffix}"
        made = getattr(import_module(f"mobilenets.formats.{to}_file"), f"to_{to}")(checkpoint, pictures=pictures)
        content, weights = made if isinstance(made, tuple) else (made, None)
        path.write_bytes(content)
        if weights is not None:
            path.with_suffix(".bin").write_bytes(weights)
        return path

    return write


def test_there_are_three() -> None:
    assert sorted(FORMATS) == ["litert", "onnx", "openvino"]


def test_answers_known_beforehand(to: str, colour_checkpoint: Checkpoint) -> None:
    batch = np.zeros((2, 3, 16, 16), np.float32)
    batch[0, 1] = 0.5
    batch[1, 2, :8] = 1.0
    with closing(load(colour_checkpoint, to, 1)) as predictor:
        np.testing.assert_allclose(predictor.run(batch)[0], [[0, 4, 0], [0, 0, 4]], atol=1e-5)
        assert not predictor.pictures
        assert predictor.run(batch[:0])[0].shape == (0, 3)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_is_as_its_checkpoint(
    to: str,
    adapter: Any,
    written: Callable[..., Path],
    precision: str,
    random_network: Networks,
    random_int8_network: Networks,
) -> None:
    checkpoint = (random_network if precision == "float32" else random_int8_network)("mobilenet_v2")
    path = written(checkpoint)
    with closing(adapter.open_predictor(checkpoint, 1)) as made, closing(load(path, threads=1)) as opened:
        assert opened.card == made.card == checkpoint.card
        assert not opened.pictures
        for sides in ((48, 48), (33, 57)):
            batch = random_batch(*sides)
            # OpenVINO compiles for one picture of the card's size apart, and sums in another order there.
            assert_close(opened.run(batch)[0], made.run(batch)[0], 1e-6 if to == "openvino" else 0)


def test_a_file_may_take_pictures(written: Callable[..., Path], random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    with closing(load(written(checkpoint, pictures=True), threads=1)) as predictor:
        assert predictor.pictures
        for sides in ((48, 48), (37, 44)):
            pictures = random_pictures(*sides)
            batch = normalize(pictures, checkpoint.card.preprocess)
            assert_close(predictor.run(pictures)[0], reference.run(checkpoint, batch))
            with pytest.raises(InputError):
                predictor.run(batch)


@pytest.mark.parametrize(
    ("name", "pictures"), [("mobilenet_v2", False), ("mobilenet_v3_small", False), ("mobilenet_v3_small", True)]
)
def test_a_float_trace_is_the_references(
    adapter: Any, written: Callable[..., Path], name: str, pictures: bool, random_network: Networks
) -> None:
    checkpoint = random_network(name)
    taken = random_pictures(40, 52)
    batch = normalize(taken, checkpoint.card.preprocess)
    found = adapter.trace(written(checkpoint, pictures=pictures), taken if pictures else batch)
    expected = values(checkpoint, batch)
    assert [each for each in found if not each.endswith(".before")] == list(expected)
    for op, value in expected.items():
        assert found[op].dtype == np.float32
        assert_close(found[op], value)


def test_an_int8_trace_is_of_real_numbers(
    adapter: Any, written: Callable[..., Path], random_int8_network: Networks
) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    batch = random_batch(48, 48)
    expected = values(checkpoint, batch)
    found = adapter.trace(written(checkpoint), batch)
    assert [each for each in found if not each.endswith(".before")] == list(expected)
    of = quantizations(checkpoint)["stem"]
    assert np.abs(found["stem"] - dequantize(expected["stem"], of)).max() < 1.01 * of.scale
    assert {(value.ndim, value.dtype) for value in found.values()} == {(4, np.dtype(np.float32))}
