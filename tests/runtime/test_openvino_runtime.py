from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.engine import reference
from mobilenets.errors import CheckpointError
from mobilenets.formats.openvino_file import to_openvino
from mobilenets.runtime.openvino_runtime import open_file, open_predictor

Networks = Callable[..., Checkpoint]


def noise(count: int = 2, sides: tuple[int, int] = (48, 48)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, *sides)).astype(np.float32)


def written(checkpoint: Checkpoint, folder: Path, *, pictures: bool = False) -> Path:
    path = folder / "model.xml"
    xml, weights = to_openvino(checkpoint, pictures=pictures)
    path.write_bytes(xml)
    path.with_suffix(".bin").write_bytes(weights)
    return path


def assert_close(actual: np.ndarray, expected: np.ndarray, share: float = 1e-4) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * float(np.abs(expected).max()))


def test_one_picture_of_the_cards_size_is_computed_as_any_other(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    with closing(open_predictor(checkpoint, 1)) as predictor:
        assert list(predictor._compiled) == [True]
        one_by_one = np.concatenate([predictor.run(noise()[index : index + 1])[0] for index in range(2)])
        assert list(predictor._compiled) == [True]
        assert_close(predictor.run(noise())[0], one_by_one, 2e-5)
        assert list(predictor._compiled) == [True, False]
        predictor.run(noise(1, (33, 57)))
        assert list(predictor._compiled) == [True, False]


def test_bf16_is_near_float32(random_network: Networks) -> None:
    """Where the processor lacks it, it is the same as float32."""
    checkpoint = random_network("mobilenet_v3_small")
    with closing(open_predictor(checkpoint, 1, "bf16")) as predictor:
        assert_close(predictor.run(noise())[0], reference.run(checkpoint, noise()), 0.05)


def test_int8_is_near_the_reference(random_int8_network: Networks) -> None:
    """OpenVINO adds a shortcut to a projection that it has not rounded to codes."""
    checkpoint = random_int8_network("mobilenet_v3_small")
    expected = reference.run(checkpoint, noise())
    with closing(open_predictor(checkpoint, 1)) as predictor:
        assert_close(predictor.run(noise())[0], expected, 0.05)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half, "cannot open it.*export the model again"),
        (lambda path: half(path.with_suffix(".bin")), "cannot open it.*export the model again"),
        (lambda path: path.write_bytes(b"not a model"), "cannot open it"),
        (lambda path: path.write_text(path.read_text().replace("<mobilenets", "<others")), "holds no card"),
        (lambda path: path.with_suffix(".bin").unlink(), r"model\.bin: no such file.*keep the two files together"),
        (lambda path: path.unlink(), r"model\.xml: no such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    colour_checkpoint: Checkpoint, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    path = written(colour_checkpoint, tmp_path)
    change(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_file(path, 1)
    assert str(path.with_suffix("")) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_threads_and_precision_are_the_compilations(colour_checkpoint: Checkpoint) -> None:
    for threads in (1, 2):
        predictor = open_predictor(colour_checkpoint, threads)
        assert predictor._compiled[True].get_property("INFERENCE_NUM_THREADS") == threads
        assert predictor._compiled[True].get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
        predictor.close()


def test_a_signal_is_survived_where_networks_came_and_went(random_network: Networks, tmp_path: Path) -> None:
    """Of several of OpenVINO's cores the last to go leaves the thread a stack for signals that was freed."""
    path = save(random_network("mobilenet_v2"), tmp_path / "network.safetensors")
    code = """
import faulthandler, signal, sys
faulthandler.enable()
from mobilenets import load
first, second = load(sys.argv[1], "openvino"), load(sys.argv[1], "openvino")
for predictor in (first, second):
    predictor.close()
del first, second, predictor
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
