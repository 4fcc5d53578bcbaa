from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import quantizations
from mobilenets.errors import CheckpointError, MissingExtraError
from mobilenets.formats.onnx_file import to_onnx
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


def test_int8_is_the_reference_within_its_rounding(random_int8_network: Networks) -> None:
    """One operation may differ by one code; through a whole network of random weights that can grow."""
    checkpoint = random_int8_network("mobilenet_v3_small")
    step = quantizations(checkpoint)[checkpoint.card.plan.ops[-1].name].scale
    with closing(open_predictor(checkpoint, 1)) as predictor:
        assert_codes = np.abs(predictor.run(noise())[0] - reference.run(checkpoint, noise())) / step
    assert assert_codes.max() <= 3


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
