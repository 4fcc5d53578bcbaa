"""The LiteRT adapter beyond what every runtime owes (tests/contract)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import quantizations
from mobilenets.errors import CheckpointError, InputError
from mobilenets.formats.litert_file import to_litert
from mobilenets.image.preprocess import normalize
from mobilenets.runtime import litert_runtime, load

RandomNetwork = Callable[..., Checkpoint]


@pytest.fixture
def batch() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(3, 3, 40, 52)).astype(np.float32)


def written(folder: Path, checkpoint: Checkpoint, *, pictures: bool = False) -> Path:
    path = folder / "cats.tflite"
    path.write_bytes(to_litert(checkpoint, pictures=pictures))
    return path


def test_int8_answers_are_the_references(random_int8_network: RandomNetwork, batch: np.ndarray) -> None:
    checkpoint = random_int8_network("mobilenet_v3_small")
    step = quantizations(checkpoint)[checkpoint.card.plan.ops[-1].name].scale
    with closing(litert_runtime.open_predictor(checkpoint, 1)) as predictor:
        found = predictor.run(batch)[0]
    assert np.abs(found - reference.run(checkpoint, batch)).max() <= 3.01 * step
    assert np.ptp(found) > 50 * step


def reading_bytes(checkpoint: Checkpoint) -> Checkpoint:
    """Return an int8 network whose input codes are the bytes of pictures: this narrow one is upset by one step more."""
    preprocess = replace(checkpoint.card.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3)
    scale, zero_point = np.array([1 / 255], np.float32), np.zeros(1, np.uint8)
    entering: dict[str, np.ndarray] = {"input.scale": scale, "input.zero_point": zero_point}
    return Checkpoint(replace(checkpoint.card, preprocess=preprocess), dict(checkpoint.tensors) | entering)


def test_an_int8_file_may_take_pictures(random_int8_network: RandomNetwork, tmp_path: Path) -> None:
    checkpoint = reading_bytes(random_int8_network("mobilenet_v2"))
    pictures = np.random.default_rng(4).integers(0, 256, (2, 37, 44, 3), np.uint8)
    batch = normalize(pictures, checkpoint.card.preprocess)
    path = written(tmp_path, checkpoint, pictures=True)
    with closing(load(path)) as predictor, closing(litert_runtime.open_predictor(checkpoint, 1)) as plain:
        assert predictor.pictures
        found, expected = predictor.run(pictures)[0], plain.run(batch)[0]
        with pytest.raises(InputError):
            predictor.run(batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(np.ptp(expected)))
    traced = litert_runtime.trace(path, batch)
    last = checkpoint.card.plan.ops[-1].name
    np.testing.assert_allclose(traced[last][:, :, 0, 0], found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mnasnet_a1"])
def test_xnnpack_computes_the_whole_graph(
    random_network: RandomNetwork, random_int8_network: RandomNetwork, name: str, precision: str
) -> None:
    """One delegate, from the input to the logits: nothing falls back to slower kernels."""
    checkpoint = (random_network if precision == "float32" else random_int8_network)(name)
    with closing(litert_runtime.open_predictor(checkpoint, 1)) as predictor:
        interpreter = predictor._interpreter
        delegates = [each for each in interpreter._get_ops_details() if each["op_name"] == "DELEGATE"]
        assert len(delegates) == 1
        assert predictor._source["index"] in delegates[0]["inputs"]
        assert list(delegates[0]["outputs"]) == [target["index"] for target in predictor._targets]


def test_a_closed_predictor_refuses(random_network: RandomNetwork, batch: np.ndarray) -> None:
    predictor = litert_runtime.open_predictor(random_network("mobilenet_v1"), None)
    predictor.close()
    predictor.close()
    with pytest.raises(InputError, match="closed"):
        predictor.run(batch)


def test_files_that_cannot_be_opened(random_network: RandomNetwork, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cats\.tflite: cannot be read"):
        litert_runtime.open_file(tmp_path / "cats.tflite", 1)
    path = written(tmp_path, random_network("mobilenet_v1"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"cats\.tflite: .*export it again"):
        litert_runtime.open_file(path, 1)


def test_somebody_elses_file_is_converts_business(shared_data: Path) -> None:
    foreign = shared_data / "weights" / "vww_96_int8.tflite"
    with pytest.raises(CheckpointError, match=r"vww_96_int8\.tflite: .*`mobilenets convert` reads it"):
        load(foreign)
