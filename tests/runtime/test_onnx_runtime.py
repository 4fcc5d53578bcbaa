from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import dequantize, quantizations
from mobilenets.errors import CheckpointError, MissingExtraError
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.image.preprocess import normalize
from mobilenets.runtime import onnx_runtime
from mobilenets.runtime.onnx_runtime import open_file, open_predictor, trace

Networks = Callable[..., Checkpoint]


def noise(count: int = 2, sides: tuple[int, int] = (48, 48)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, *sides)).astype(np.float32)


def written(checkpoint: Checkpoint, folder: Path, *, pictures: bool = False) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(to_onnx(checkpoint, pictures=pictures))
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
            np.testing.assert_array_equal(file.run(noise(2, sides))[0], direct.run(noise(2, sides))[0])


def test_int8_is_the_reference_within_its_rounding(random_int8_network: Networks) -> None:
    """One operation may differ by one code; through a whole network of random weights that can grow."""
    checkpoint = random_int8_network("mobilenet_v3_small")
    step = quantizations(checkpoint)[checkpoint.card.plan.ops[-1].name].scale
    with closing(open_predictor(checkpoint, 1)) as predictor:
        assert_codes = np.abs(predictor.run(noise())[0] - reference.run(checkpoint, noise())) / step
    assert assert_codes.max() <= 3


def test_a_file_may_take_pictures(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v2")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    with closing(open_file(written(checkpoint, tmp_path, pictures=True), 1)) as predictor:
        assert predictor.pictures
        expected = reference.run(checkpoint, normalize(pictures, checkpoint.card.preprocess))
        assert_close(predictor.run(pictures)[0], expected)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_float_trace_is_the_references(random_network: Networks, tmp_path: Path, pictures: bool) -> None:
    checkpoint = random_network("mobilenet_v3_small")
    taken = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    batch = normalize(taken, checkpoint.card.preprocess)
    expected: dict[str, np.ndarray] = {}
    reference.run(checkpoint, batch, expected.__setitem__)
    found = trace(written(checkpoint, tmp_path, pictures=pictures), taken if pictures else batch)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        assert_close(found[name], value)


def test_an_int8_trace_is_dequantized(random_int8_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    expected: dict[str, np.ndarray] = {}
    reference.run(checkpoint, noise(), expected.__setitem__)
    found = trace(written(checkpoint, tmp_path), noise())
    assert list(found) == list(expected)
    stem = quantizations(checkpoint)["stem"]
    assert np.abs(found["stem"] - dequantize(expected["stem"], stem)).max() < 1.01 * stem.scale
    assert {value.ndim for value in found.values()} == {4}


def damaged(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_card(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    bytes_: bytes = model.SerializeToString()
    return bytes_


def with_card(text: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        model = onnx.load_model_from_string(content)
        onnx.helper.set_model_props(model, {"mobilenets": text})
        bytes_: bytes = model.SerializeToString()
        return bytes_

    return change


def with_another_output(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"
    bytes_: bytes = model.SerializeToString()
    return bytes_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "cannot open it.*export the model again"),
        (lambda _: b"not a model", "cannot open it"),
        (without_card, "holds no card"),
        (with_card("{"), "card is damaged"),
        (with_card('{"format": 99}'), "newer mobilenets"),
        (with_card('{"format": 1}'), "card is damaged"),
        (with_another_output, "inputs or outputs"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    colour_checkpoint: Checkpoint, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = written(colour_checkpoint, tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_file(path, 1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx: cannot be read"):
        open_file(tmp_path / "nowhere.onnx", None)


def test_a_rewritten_file_cannot_be_traced(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written(colour_checkpoint, tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "stem" else name for name in names]
    onnx.save(model, path)
    with closing(open_file(path, 1)) as predictor:
        predictor.run(noise())
    with pytest.raises(CheckpointError, match="no value of stem"):
        trace(path, noise())


def test_threads_are_the_sessions(colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    seen = []
    start = onnxruntime.InferenceSession.__init__

    def spying(self: object, content: bytes, options: onnxruntime.SessionOptions, providers: list[str]) -> None:
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, providers))
        start(self, content, options, providers=providers)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", spying)
    for threads in (None, 2):
        open_predictor(colour_checkpoint, threads).close()
    assert seen == [(0, 1, ["CPUExecutionProvider"]), (2, 1, ["CPUExecutionProvider"])]


def test_without_onnxruntime_the_extra_is_named(
    colour_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(colour_checkpoint, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*mobilenets\[onnx\]"):
        open_file(path, 1)


def test_a_file_needs_neither_onnx_nor_torch(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = written(colour_checkpoint, tmp_path)
    code = f"""
import sys
from pathlib import Path
sys.modules["onnx"] = sys.modules["torch"] = None
import numpy as np
from {onnx_runtime.__name__} import open_file
print(open_file(Path({str(path)!r}), 1).run(np.zeros((1, 3, 16, 16), np.float32))[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "(1, 3)"


def test_real_weights(shared_data: Path, tmp_path: Path) -> None:
    from mobilenets import convert
    from mobilenets.checkpoint import load

    source = shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    if not source.is_file():
        pytest.skip(f"no {source.name} among the real weights")
    checkpoint = load(convert(source, out=tmp_path / "v2.safetensors").checkpoint)
    assert checkpoint.sample is not None
    picture, logits = checkpoint.sample
    with closing(open_file(written(checkpoint, tmp_path, pictures=True), 1)) as predictor:
        assert_close(predictor.run(picture[np.newaxis])[0], logits[np.newaxis])
