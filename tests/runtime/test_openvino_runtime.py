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
from mobilenets.engine.quantized import dequantize, quantizations
from mobilenets.errors import CheckpointError
from mobilenets.formats.openvino_file import to_openvino
from mobilenets.image.preprocess import normalize
from mobilenets.runtime import openvino_runtime
from mobilenets.runtime.openvino_runtime import open_file, open_predictor, trace

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


def test_answers_known_beforehand(colour_checkpoint: Checkpoint) -> None:
    batch = np.zeros((2, 3, 16, 16), np.float32)
    batch[0, 1] = 0.5
    batch[1, 2, :8] = 1.0
    with closing(open_predictor(colour_checkpoint, 1)) as predictor:
        np.testing.assert_allclose(predictor.run(batch)[0], [[0, 4, 0], [0, 0, 4]], atol=1e-5)
        assert not predictor.pictures
        assert predictor.run(batch[:0])[0].shape == (0, 3)


def test_a_file_says_what_its_checkpoint_says(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v2")
    with closing(open_predictor(checkpoint, 1)) as direct, closing(open_file(written(checkpoint, tmp_path), 1)) as file:
        assert file.card == checkpoint.card
        for sides in ((48, 48), (33, 57)):
            assert_close(file.run(noise(2, sides))[0], direct.run(noise(2, sides))[0], 1e-6)


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


def test_a_file_may_take_pictures(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v2")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    with closing(open_file(written(checkpoint, tmp_path, pictures=True), 1)) as predictor:
        assert predictor.pictures
        expected = reference.run(checkpoint, normalize(pictures, checkpoint.card.preprocess))
        assert_close(predictor.run(pictures)[0], expected)


def test_a_float_trace_is_the_references(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v3_small")
    expected: dict[str, np.ndarray] = {}
    reference.run(checkpoint, noise(), expected.__setitem__)
    found = trace(written(checkpoint, tmp_path), noise())
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        assert_close(found[name], value)


def test_an_int8_trace_is_of_real_numbers(random_int8_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    expected: dict[str, np.ndarray] = {}
    reference.run(checkpoint, noise(), expected.__setitem__)
    found = trace(written(checkpoint, tmp_path), noise())
    assert list(found) == list(expected)
    stem = quantizations(checkpoint)["stem"]
    assert np.abs(found["stem"] - dequantize(expected["stem"], stem)).max() < 1.01 * stem.scale
    assert {value.ndim for value in found.values()} == {4}


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


def test_a_file_needs_neither_onnx_nor_torch(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written(colour_checkpoint, tmp_path)
    code = f"""
import sys
from pathlib import Path
sys.modules["onnx"] = sys.modules["torch"] = None
import numpy as np
from {openvino_runtime.__name__} import open_file
print(open_file(Path({str(path)!r}), 1).run(np.zeros((1, 3, 16, 16), np.float32))[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "(1, 3)"


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
