from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mobilenets.arch import CLASSIFIERS
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import Quantization, dequantize, quantizations
from mobilenets.engine.reference import Int8Arithmetic
from mobilenets.errors import InputError, MissingExtraError
from mobilenets.formats.onnx_file import to_onnx, value_names
from mobilenets.formats.onnx_values import show_values
from mobilenets.image.preprocess import normalize
from mobilenets.nn.network import from_checkpoint

SIDE = 48
Networks = Callable[..., Checkpoint]


def batch(height: int = SIDE, width: int = SIDE, channels: int = 3, count: int = 2) -> np.ndarray:
    random = np.random.default_rng(5)
    contrast = np.exp(random.normal(size=(count, channels, 1, 1)))
    return (contrast * random.normal(size=(count, channels, height, width))).astype(np.float32)


def photographs(count: int = 2, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (count, SIDE, SIDE, channels), np.uint8)


def parsed(content: bytes) -> Any:
    """Parse a file that the checker, with shape inference, has nothing against."""
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return model


def kinds(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def session(content: bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, pictures: np.ndarray) -> dict[str, np.ndarray]:
    loaded = session(content)
    names = [output.name for output in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, {"input": pictures}), strict=True))


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_are_those_of_the_torch_network(random_network: Networks, name: str) -> None:
    checkpoint = random_network(name)
    pictures = batch()
    with torch.no_grad():
        expected = from_checkpoint(checkpoint).double()(torch.from_numpy(pictures).double()).numpy()
    content = to_onnx(checkpoint)
    assert relative(run(content, pictures)["logits"], expected) < 1e-4
    model = parsed(content)
    assert {each.domain for each in model.opset_import} == {""}
    assert kinds(model).keys() <= {
        *("Conv", "Gemm", "Add", "Mul", "GlobalAveragePool", "Flatten"),
        *("Clip", "Relu", "HardSwish", "HardSigmoid", "Sigmoid"),
    }
    activations = Counter(op.activation for op in checkpoint.card.plan.ops)
    assert kinds(model)["Clip"] == activations["relu6"]
    assert kinds(model)["HardSwish"] == activations["hard_swish"]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("sides", [(SIDE, SIDE), (33, 58), (1, 1)])
def test_any_size_and_both_paddings(random_network: Networks, padding: str, sides: tuple[int, int]) -> None:
    checkpoint = random_network("mobilenet_v3_small", padding=padding)
    pictures = batch(*sides)
    assert relative(run(to_onnx(checkpoint), pictures)["logits"], reference.run(checkpoint, pictures)) < 1e-4


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_fixed_size_is_the_cards_alone(random_network: Networks, padding: str) -> None:
    checkpoint = random_network("mobilenet_v2", padding=padding)
    content = to_onnx(checkpoint, resolution="fixed")
    assert relative(run(content, batch())["logits"], reference.run(checkpoint, batch())) < 1e-4
    dims = parsed(content).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 3, SIDE, SIDE]
    assert "auto_pad" not in {each.name for node in parsed(content).graph.node for each in node.attribute}
    with pytest.raises(Exception, match="invalid dimensions"):
        run(content, batch(SIDE + 1, SIDE))


def test_a_resolution_is_dynamic_or_fixed(colour_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="dynamic or fixed, not '224'"):
        to_onnx(colour_checkpoint, resolution="224")  # type: ignore[arg-type]


def test_without_onnx_the_extra_is_named(colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[onnx\]"):
        to_onnx(colour_checkpoint)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_file_holds_the_card(random_network: Networks, random_int8_network: Networks, precision: str) -> None:
    checkpoint = (random_int8_network if precision == "int8" else random_network)("mobilenet_v2")
    model = parsed(to_onnx(checkpoint))
    texts = {entry.key: entry.value for entry in model.metadata_props}
    assert Card.from_json(json.loads(texts["mobilenets"])) == checkpoint.card
    assert [entry.name for entry in (*model.graph.input, *model.graph.output)] == ["input", "logits"]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_normalized_in_the_graph(random_network: Networks, channels: int) -> None:
    checkpoint = random_network("mobilenet_v2", channels=channels)
    mean, std = (0.2, 0.5, 0.7)[:channels], (0.3, 0.2, 0.1)[:channels]
    preprocess = replace(checkpoint.card.preprocess, mean=mean, std=std)
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, preprocess=preprocess))
    pictures = photographs(channels=channels)
    expected = run(to_onnx(checkpoint), normalize(pictures, preprocess))["logits"]
    content = to_onnx(checkpoint, pictures=True)
    assert parsed(content).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert relative(run(content, pictures)["logits"], expected) < 1e-5


def test_every_output_is_the_references(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v3_large")
    expected: dict[str, np.ndarray] = {}
    reference.run(checkpoint, batch(), expected.__setitem__)
    content = to_onnx(checkpoint, every_output=True)
    parsed(content)
    outputs = run(content, batch())
    names = value_names(checkpoint.card.plan, "float32")
    assert {names[name] for name in expected} == outputs.keys()
    for name, value in expected.items():
        assert relative(outputs[names[name]].reshape(value.shape), value) < 1e-4, name


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize(
    ("name", "padding"),
    [("mobilenet_v1", "same"), ("mobilenet_v2", "same"), ("mobilenet_v3_small", "symmetric"), ("mnasnet_a1", "same")],
)
def test_each_int8_operation_is_the_references_within_one_code(
    random_int8_network: Networks, name: str, padding: str, granularity: str
) -> None:
    """Each is computed by the reference from what ONNX Runtime computed before it, so that no error adds up."""
    checkpoint = random_int8_network(name, padding=padding, granularity=granularity)
    content = to_onnx(checkpoint, every_output=True)
    parsed(content)
    codes = run(content, batch())
    by = Int8Arithmetic(checkpoint)
    codes["input"] = by.enter(batch())
    different, total = 0, 0
    for op in checkpoint.card.plan.ops:
        assert codes[op.name].dtype == np.uint8
        expected = by.compute(op, *(codes[source] for source in op.sources))
        codes[op.name] = codes[op.name].reshape(expected.shape)
        difference = np.abs(codes[op.name].astype(int) - expected)
        assert difference.max() <= 1, op.name
        different, total = different + int(np.count_nonzero(difference)), total + difference.size
    assert different < 1e-3 * total
    last = checkpoint.card.plan.ops[-1]
    np.testing.assert_array_equal(codes["logits"], by.leave(last, codes[last.name]).reshape(len(codes["logits"]), -1))


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mnasnet_a1"])
def test_onnx_runtime_makes_integer_kernels_of_int8(
    random_int8_network: Networks, tmp_path: Path, name: str, granularity: str
) -> None:
    checkpoint = random_int8_network(name, granularity=granularity)
    session(to_onnx(checkpoint), tmp_path / "optimized.onnx")
    found = kinds(onnx.load(tmp_path / "optimized.onnx"))
    plan = Counter(op.kind for op in checkpoint.card.plan.ops)
    assert found["QLinearConv"] == plan["conv"]
    assert found["QLinearAdd"] == plan["add"]
    assert found["QLinearMul"] == plan["scale"]
    assert found["QLinearGlobalAveragePool"] == plan["pool"]
    assert found["QGemm"] == plan["linear"]
    assert not found.keys() & {"Conv", "Gemm", "Add", "Mul", "Clip", "Relu"}
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # the input, the logits


def test_a_scale_too_wide_for_its_clip_gets_one(random_int8_network: Networks) -> None:
    """Files from elsewhere may have codes above 6 behind a ReLU6, or below 0."""
    checkpoint = random_int8_network("mobilenet_v2")
    tensors = dict(checkpoint.tensors)
    tensors["stem.scale"], tensors["stem.zero_point"] = np.array([0.05], np.float32), np.array([9], np.uint8)
    changed = replace(checkpoint, tensors=tensors)
    pictures = 9 * batch()
    stem = run(to_onnx(changed, every_output=True), pictures)["stem"]
    expected = Int8Arithmetic(changed)
    (op,) = (op for op in changed.card.plan.ops if op.name == "stem")
    np.testing.assert_array_equal(stem, expected.compute(op, expected.enter(pictures)))
    assert (stem.min(), stem.max()) == (9, 129)


@pytest.mark.parametrize("exact", [True, False])
def test_int8_takes_pictures_and_pixels_that_are_codes_as_they_are(random_int8_network: Networks, exact: bool) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    preprocess = replace(checkpoint.card.preprocess, mean=(100 / 255,) * 3, std=(0.25,) * 3)
    code = Quantization(float(np.float32(1 / (255 * 0.25))), 100 if exact else 101)
    tensors = {**checkpoint.tensors, "input.zero_point": np.array([code.zero_point], np.uint8)}
    tensors["input.scale"] = np.array([code.scale], np.float32)
    checkpoint = replace(checkpoint, tensors=tensors, card=replace(checkpoint.card, preprocess=preprocess))
    content = to_onnx(checkpoint, pictures=True)
    found = kinds(parsed(content))
    assert ("Cast" not in found) == exact
    assert found["QuantizeLinear"] == len(quantizations(checkpoint)) - exact
    pictures = photographs()
    expected = run(to_onnx(checkpoint), normalize(pictures, preprocess))["logits"]
    np.testing.assert_array_equal(run(content, pictures)["logits"], expected)


def test_values_are_shown_of_a_file_that_hides_them(random_int8_network: Networks) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    content, values = show_values(to_onnx(checkpoint), checkpoint.card, Path("small.onnx"))
    parsed_again = run(content, batch())
    expected = run(to_onnx(checkpoint, every_output=True), batch())
    assert parsed_again.keys() == expected.keys()
    stem = values["stem"]
    assert stem.quantization is not None
    assert stem.quantization == quantizations(checkpoint)["stem"]
    np.testing.assert_array_equal(parsed_again[stem.name], expected["stem"])
    assert dequantize(expected["stem"], stem.quantization).max() <= 6
