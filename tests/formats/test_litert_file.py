"""TFLite files of ours: what is in them, and that LiteRT computes with them what the reference says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from mobilenets.arch import CLASSIFIERS, Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import quantizations, quantize
from mobilenets.errors import CheckpointError
from mobilenets.formats.litert_file import read_card, to_litert
from mobilenets.formats.litert_graph import packed
from mobilenets.formats.litert_numbers import Int8Numbers
from mobilenets.image.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from mobilenets.nn.convert import tflite
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify
from mobilenets.nn.convert.labels import classes_of

RandomNetwork = Callable[..., Checkpoint]
FILE = Path("cats.tflite")


def noise(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, channels, height, width)).astype(np.float32)


def run(content: bytes, value: np.ndarray) -> np.ndarray:
    """Feed the file (N, H, W, C) of whatever type it wants, at any size."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(source["index"], value.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(value))
    interpreter.invoke()
    found: np.ndarray = interpreter.get_tensor(target["index"])
    return found


def int8_logits(content: bytes, checkpoint: Checkpoint, value: np.ndarray) -> np.ndarray:
    """Return the codes of an int8 file's logits, unsigned as the checkpoint's."""
    found = run(content, value)
    assert found.dtype == np.int8
    assert found.shape == (len(value), len(checkpoint.card.labels))
    return found.astype(int) + 128


def signed(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(int) - 128).astype(np.int8).transpose(0, 2, 3, 1)


def meant_codes(checkpoint: Checkpoint, batch: np.ndarray) -> np.ndarray:
    seen: dict[str, np.ndarray] = {}
    reference.run(checkpoint, batch, lambda name, codes: seen.update({name: codes}))
    last = seen[checkpoint.card.plan.ops[-1].name]
    return last.reshape(len(batch), -1).astype(int)


def model_of(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content, 0)


def codes_of(content: bytes) -> Counter[str]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = model_of(content)
    return Counter(names[model.operatorCodes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet_a1"])
@pytest.mark.parametrize("sides", [(33, 58), (50, 47)])
def test_float_at_odd_sizes(random_network: RandomNetwork, name: str, padding: str, sides: tuple[int, int]) -> None:
    checkpoint = random_network(name, padding=padding)
    batch = noise(2, *sides)
    meant = reference.run(checkpoint, batch)
    found = run(to_litert(checkpoint), batch.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(found, meant, rtol=0, atol=1e-4 * float(np.abs(meant).max()))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_int8_at_an_odd_size(random_int8_network: RandomNetwork, padding: str, granularity: str) -> None:
    checkpoint = random_int8_network("mobilenet_v2", padding=padding, granularity=granularity)
    batch = noise(2, 33, 58)
    content = to_litert(checkpoint)
    entered = reference.arithmetic(checkpoint).enter(batch)
    found = int8_logits(content, checkpoint, signed(entered))
    assert np.abs(found - meant_codes(checkpoint, batch)).max() <= 3  # the other padding is off by some 100
    assert np.ptp(found) > 50


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_operation_for_one_of_the_plan(random_network: RandomNetwork, name: str) -> None:
    """No transposes, no BatchNorms, nothing else that a converter leaves behind."""
    channels = CLASSIFIERS[name].in_channels
    checkpoint = random_network(name, channels=channels)
    ops = checkpoint.card.plan.ops

    def count(condition: Callable[[Op], bool]) -> int:
        return sum(condition(op) for op in ops)

    gates = count(lambda op: op.activation == "hard_sigmoid")
    expected = Counter(
        CONV_2D=count(lambda op: op.kind in ("conv", "linear") and not op.depthwise),
        DEPTHWISE_CONV_2D=count(lambda op: op.depthwise),
        PAD=count(lambda op: op.stride > 1),
        MEAN=count(lambda op: op.kind == "pool"),
        ADD=count(lambda op: op.kind == "add") + gates,
        MUL=count(lambda op: op.kind == "scale") + gates,
        HARD_SWISH=count(lambda op: op.activation == "hard_swish"),
        LOGISTIC=count(lambda op: op.activation == "sigmoid"),
        RESHAPE=1,
    )
    assert codes_of(to_litert(checkpoint)) == +expected


def test_tensorflows_padding_needs_no_operation(random_network: RandomNetwork) -> None:
    assert "PAD" not in codes_of(to_litert(random_network("mobilenet_v2", padding="same")))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_int8_files_are_int8_throughout(random_int8_network: RandomNetwork, name: str) -> None:
    content = to_litert(random_int8_network(name))
    types = {each.type for each in model_of(content).subgraphs[0].tensors}
    assert types == {schema.TensorType.INT8, schema.TensorType.INT32}
    assert not {"QUANTIZE", "DEQUANTIZE", "CAST"} & set(codes_of(content))


def test_only_h_swish_is_computed_in_float_where_it_is_asked_for(random_int8_network: RandomNetwork) -> None:
    checkpoint = random_int8_network("mobilenet_v3_small")
    plain, asked = codes_of(to_litert(checkpoint)), codes_of(to_litert(checkpoint, h_swish="float32"))
    h_swishes = plain["HARD_SWISH"]
    assert asked - plain == Counter(QUANTIZE=h_swishes, DEQUANTIZE=h_swishes)
    assert plain - asked == Counter()
    assert to_litert(random_int8_network("mobilenet_v2"), h_swish="float32") == to_litert(
        random_int8_network("mobilenet_v2")
    )


def test_names_shapes_and_signature(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    content = to_litert(checkpoint)
    graph = model_of(content).subgraphs[0]
    tensors = {each.name.decode(): each for each in graph.tensors}
    assert len(tensors) == len(graph.tensors)
    for op in checkpoint.card.plan.ops:
        assert list(tensors[op.name].shape) == [1, *op.out[1:], op.out[0]]
    assert [graph.tensors[index].name for index in (*graph.inputs, *graph.outputs)] == [b"input", b"logits"]
    assert list(tensors["input"].shapeSignature) == [-1, -1, -1, 3]
    assert list(tensors["pool"].shapeSignature)[1:3] == [1, 1]
    interpreter = Interpreter(model_content=content)
    picture = noise(1, 48, 48).transpose(0, 2, 3, 1)
    answer = interpreter.get_signature_runner("serving_default")(input=picture)
    np.testing.assert_array_equal(answer["logits"], run(content, picture))


def test_constants_are_aligned(random_int8_network: RandomNetwork) -> None:
    """To 16 bytes, as the schema demands: microcontrollers read them where they lie."""
    content = to_litert(random_int8_network("mobilenet_v3_small"))
    root = schema.Model.GetRootAs(content, 0)
    starts = []
    for index in range(root.BuffersLength()):
        buffer = root.Buffers(index)
        if buffer.DataLength():
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert len(starts) > 100
    assert not any(start % 16 for start in starts)


def test_the_card_comes_back_without_torch(random_int8_network: RandomNetwork, tmp_path: Path) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    path = tmp_path / FILE
    path.write_bytes(to_litert(checkpoint))
    assert read_card(path.read_bytes(), path) == checkpoint.card
    code = (
        "import sys; from pathlib import Path; from mobilenets.formats.litert_file import read_card\n"
        "path = Path(sys.argv[1]); print(read_card(path.read_bytes(), path).arch.name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mobilenet_v2", "False"]


def test_files_that_are_not_ours_are_refused(random_network: RandomNetwork) -> None:
    content = to_litert(random_network("mobilenet_v1"))
    model = model_of(content)
    model.metadata = None
    with pytest.raises(CheckpointError, match=r"cats\.tflite: a TFLite file.*`mobilenets convert` reads it"):
        read_card(packed(model), FILE)
    with pytest.raises(CheckpointError, match=r"cats\.tflite: is not a TFLite file"):
        read_card(b"PK" * 100, FILE)
    for damaged in (content[:5000], content[:9], content[:4] + b"TFL3" + b"\xff" * 400):
        with pytest.raises(CheckpointError, match=r"cats\.tflite: .*export it again"):
            read_card(damaged, FILE)
    garbled = content.replace(b'{"arch": {', b'{"arch": [')
    assert garbled != content
    with pytest.raises(CheckpointError, match=r"cats\.tflite: its card is damaged"):
        read_card(garbled, FILE)


def fed(checkpoint: Checkpoint, mean: tuple[float, ...], std: tuple[float, ...]) -> Checkpoint:
    """Return the checkpoint with another normalization, and for int8 an input quantization that fits it."""
    preprocess = replace(checkpoint.card.preprocess, mean=mean, std=std)
    tensors = dict(checkpoint.tensors)
    if checkpoint.card.precision == "int8":
        ends = normalize(np.array([0, 255], np.uint8).repeat(3).reshape(2, 1, 1, 3), preprocess)
        scale = (ends.max() - ends.min()) / 255
        tensors["input.scale"] = np.array([scale], np.float32)
        tensors["input.zero_point"] = np.rint(-ends.min() / scale).reshape(1).astype(np.uint8)
    return Checkpoint(replace(checkpoint.card, preprocess=preprocess), tensors)


NORMALIZATIONS = [((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), (IMAGENET_MEAN, IMAGENET_STD)]


@pytest.mark.parametrize(("mean", "std"), NORMALIZATIONS)
def test_float_pictures(random_network: RandomNetwork, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    checkpoint = fed(random_network("mobilenet_v2"), mean, std)
    pictures = np.random.default_rng(2).integers(0, 256, (2, 41, 50, 3), np.uint8)
    batch = normalize(pictures, checkpoint.card.preprocess)
    plain = run(to_litert(checkpoint), batch.transpose(0, 2, 3, 1))
    found = run(to_litert(checkpoint, pictures=True), pictures)
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * float(np.abs(plain).max()))


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")
@pytest.mark.parametrize(("mean", "std"), NORMALIZATIONS)
def test_int8_pictures(random_int8_network: RandomNetwork, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Every byte becomes the code that its normalization has, or the one beside it."""
    checkpoint = fed(random_int8_network("mobilenet_v2"), mean, std)
    content = to_litert(checkpoint, pictures=True)
    one_step = mean != IMAGENET_MEAN
    assert ("QUANTIZE" in codes_of(content), "CAST" in codes_of(content)) == (True, not one_step)
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    source = interpreter.get_input_details()[0]
    assert source["dtype"] == np.uint8
    interpreter.resize_tensor_input(source["index"], pictures.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], pictures)
    interpreter.invoke()
    (entered,) = (each["index"] for each in interpreter.get_tensor_details() if each["name"] == "normalized")
    found = interpreter.get_tensor(entered).astype(int) + 128
    batch = normalize(pictures, checkpoint.card.preprocess)
    meant = quantize(batch, quantizations(checkpoint)["input"]).transpose(0, 2, 3, 1)
    assert np.abs(found - meant).max() <= 1
    assert interpreter.get_output_details()[0]["dtype"] == np.int8


def test_an_input_finer_than_pixels_is_normalized_in_float(random_int8_network: RandomNetwork) -> None:
    """One requantization would put such codes several steps beside what they should be."""
    checkpoint = fed(random_int8_network("mobilenet_v2"), (0.5,) * 3, (0.5,) * 3)
    fine = Checkpoint(checkpoint.card, {**checkpoint.tensors, "input.scale": np.array([0.0009], np.float32)})
    assert Int8Numbers(checkpoint).pixels(checkpoint.card.preprocess) is not None
    assert Int8Numbers(fine).pixels(fine.card.preprocess) is None
    assert "CAST" in codes_of(to_litert(fine, pictures=True))


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet_a1"])
def test_convert_reads_them_back(random_network: RandomNetwork, tmp_path: Path, name: str) -> None:
    """Another reader of TFLite recognises the network, and what it makes of it computes the same."""
    checkpoint = random_network(name, padding="same")
    path = tmp_path / FILE
    path.write_bytes(to_litert(checkpoint))
    source = tflite.read(path)
    layout = identify(source, name=str(path))
    back = assemble(source, layout, classes_of(source.classes, None), origin="there and back")
    assert (layout.arch.name, layout.width) == (name, 0.25)
    batch = noise(2, 48, 48)
    np.testing.assert_allclose(reference.run(back, batch), reference.run(checkpoint, batch), rtol=0, atol=1e-4)
