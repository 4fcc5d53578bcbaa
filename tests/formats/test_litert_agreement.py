"""The int8 reference beside LiteRT's int8 kernels on the same file: operation by operation, within one step of 8 bits.

Every operation is given LiteRT's own inputs, so that its own error is what is seen. What follows a step, a whole
network, may differ by more: a code beside the right one in an early layer is another input for all that follow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mobilenets.checkpoint import Checkpoint, load
from mobilenets.engine import reference
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import int8_checkpoint
from mobilenets.engine.quantized import quantization, quantizations, quantize, table
from mobilenets.engine.reference import Int8Arithmetic
from mobilenets.errors import ConvertError
from mobilenets.formats.litert_file import HSwish, to_litert
from mobilenets.formats.litert_graph import watched
from mobilenets.image.decode import decode
from mobilenets.image.drawn import pictures as drawn
from mobilenets.image.preprocess import fit, normalize
from mobilenets.nn.convert import convert
from mobilenets.nn.convert.litert_int8 import read_int8
from mobilenets.nn.convert.tflite_model import open_model

RandomNetwork = Callable[..., Checkpoint]
Kernels = Literal["xnnpack", "builtin", "plain"]
Codes = dict[str, np.ndarray]
PICTURES = 20

RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "plain": OpResolverType.BUILTIN_REF,
}
"""What LiteRT computes with: XNNPACK, its own optimized kernels, or its plain ones, the meaning of TFLite."""


class Watched:
    """LiteRT on an int8 file, every value shown; `names` are the checkpoint's, by the file's."""

    def __init__(self, content: bytes, names: Mapping[str, str], kernels: Kernels = "xnnpack") -> None:
        self.names = names
        self.interpreter = Interpreter(
            model_content=watched(content, names), num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels]
        )

    def run(self, value: np.ndarray) -> Codes:
        """Return the codes of every value, unsigned (N, C, H, W), for an input (N, H, W, C) as the file wants it."""
        source = self.interpreter.get_input_details()[0]
        if tuple(source["shape"]) != value.shape:
            self.interpreter.resize_tensor_input(source["index"], value.shape)
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(source["index"], np.ascontiguousarray(value))
        self.interpreter.invoke()
        codes = {}
        for each in self.interpreter.get_output_details():
            if each["name"] in self.names:
                found = (self.interpreter.get_tensor(each["index"]).astype(int) + 128).astype(np.uint8)
                found = found if found.ndim == 4 else found[:, np.newaxis, np.newaxis]
                codes[self.names[each["name"]]] = found.transpose(0, 3, 1, 2)
        return codes


def own_names(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: name for name in quantizations(checkpoint) if name != "input"}


def signed(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(int) - 128).astype(np.int8).transpose(0, 2, 3, 1)


def until_before(by: Int8Arithmetic, name: str) -> Int8Arithmetic:
    """Return the arithmetic that stops before an operation's table."""
    changed = copy.copy(by)
    codes = dict(by._quantizations)
    codes[name] = codes.pop(f"{name}.before")
    changed._quantizations = codes
    return changed


def differences(checkpoint: Checkpoint, codes: Codes) -> dict[str, int]:
    """Return by how many steps each operation of LiteRT differs from the reference, given the same inputs."""
    by, known = Int8Arithmetic(checkpoint), quantizations(checkpoint)
    worst: dict[str, int] = {}

    def note(name: str, meant: np.ndarray) -> None:
        worst[name] = int(np.abs(meant.astype(int) - codes[name]).max())

    for op in checkpoint.card.plan.ops:
        sources = [codes[name] for name in op.sources]
        before = f"{op.name}.before"
        if before in known:
            note(before, until_before(by, op.name).compute(replace(op, activation=None), *sources))
            note(op.name, table(op.activation, known[before], known[op.name])[codes[before]])
        else:
            note(op.name, by.compute(op, *sources))
    return worst


def assert_agrees(worst: Mapping[str, int]) -> None:
    assert {name: steps for name, steps in worst.items() if steps > 1} == {}


@pytest.mark.parametrize("kernels", list(RESOLVERS))
@pytest.mark.parametrize(
    ("name", "granularity", "h_swish"),
    [
        ("mobilenet_v1", "channel", "int8"),
        ("mobilenet_v2", "channel", "int8"),
        ("mobilenet_v2", "tensor", "int8"),
        ("mobilenet_v3_small", "channel", "int8"),
        ("mobilenet_v3_small", "tensor", "float32"),
        ("mnasnet_a1", "channel", "int8"),
    ],
)
def test_every_operation_of_our_files(
    random_int8_network: RandomNetwork, name: str, granularity: str, h_swish: HSwish, kernels: Kernels
) -> None:
    checkpoint = random_int8_network(name, granularity=granularity)
    batch = np.random.default_rng(5).normal(size=(2, 3, 48, 48)).astype(np.float32)
    entered = reference.arithmetic(checkpoint).enter(batch)
    content = to_litert(checkpoint, h_swish=h_swish)
    codes = {"input": entered} | Watched(content, own_names(checkpoint), kernels).run(signed(entered))
    worst = differences(checkpoint, codes)
    assert set(worst) == set(quantizations(checkpoint)) - {"input"}
    assert_agrees(worst)


def test_a_wrong_number_is_seen(random_int8_network: RandomNetwork) -> None:
    """The comparison finds scales that are 3 % too large, and says where."""
    checkpoint = random_int8_network("mobilenet_v2")
    wrong = "block_3_expand"
    tensors = dict(checkpoint.tensors)
    tensors[f"{wrong}.weight_scale"] = tensors[f"{wrong}.weight_scale"] * np.float32(1.03)
    batch = np.random.default_rng(5).normal(size=(2, 3, 48, 48)).astype(np.float32)
    entered = reference.arithmetic(checkpoint).enter(batch)
    content = to_litert(Checkpoint(checkpoint.card, tensors))
    codes = Watched(content, own_names(checkpoint)).run(signed(entered)) | {"input": entered}
    assert [name for name, steps in differences(checkpoint, codes).items() if steps > 1] == [wrong]


def photos(folder: Path, count: int, checkpoint: Checkpoint) -> np.ndarray:
    """Return pictures spread over the classes, uint8 (N, height, width, 3)."""
    paths = sorted(each for each in folder.rglob("*") if each.suffix.lower() in {".jpg", ".jpeg", ".png"})
    assert len(paths) >= count
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, count).astype(int)]
    return np.stack([fit(decode(path), checkpoint.card.preprocess) for path in chosen])


def vendor(path: Path, fitted: np.ndarray | None = None) -> tuple[dict[str, int], float]:
    """Compare the reference with LiteRT on a file as it was published.

    Returns:
        By how many steps each operation differs at most; the share of pictures with the same best class at the end.
    """
    reading = read_int8(path)
    checkpoint, tensors = reading.checkpoint, open_model(path).tensors
    litert = Watched(path.read_bytes(), {tensors[index].name: name for name, index in reading.values.items()})
    last = checkpoint.card.plan.ops[-1]
    worst: dict[str, int] = {}
    same = []
    for picture in drawn(checkpoint.card.preprocess, 3) if fitted is None else fitted:
        entered = quantize(
            normalize(picture[np.newaxis], checkpoint.card.preprocess), quantizations(checkpoint)["input"]
        )
        bytes_wanted = litert.interpreter.get_input_details()[0]["dtype"] == np.uint8
        codes = {"input": entered} | litert.run(picture[np.newaxis] if bytes_wanted else signed(entered))
        np.testing.assert_array_equal(codes["input"], entered)
        codes[last.name] = codes[last.name][:, -last.out[0] :]  # the checkpoint has no background class
        for name, steps in differences(checkpoint, codes).items():
            worst[name] = max(worst.get(name, 0), steps)
        batch = normalize(picture[np.newaxis], checkpoint.card.preprocess)
        same.append(reference.run(checkpoint, batch).argmax() == codes[last.name].argmax())
    assert set(worst) == {op.name for op in checkpoint.card.plan.ops}
    return worst, float(np.mean(same))


def test_every_operation_of_a_small_file_as_it_was_published(shared_data: Path) -> None:
    """MLPerf Tiny's person detector."""
    worst, same = vendor(shared_data / "weights" / "vww_96_int8.tflite")
    assert_agrees(worst)
    assert same == 1


def test_a_published_file_written_again_computes_the_same_bits(shared_data: Path) -> None:
    """Codes and scales survive the way from the file to a checkpoint to a file: LiteRT gives the same logits."""
    path = shared_data / "weights" / "vww_96_int8.tflite"
    reading = read_int8(path)
    theirs = Watched(path.read_bytes(), {open_model(path).tensors[reading.values["classifier"]].name: "classifier"})
    ours = Watched(to_litert(reading.checkpoint), {"classifier": "classifier"})
    for picture in drawn(reading.checkpoint.card.preprocess, 4):
        given = (picture[np.newaxis].astype(int) - 128).astype(np.int8)
        np.testing.assert_array_equal(ours.run(given)["classifier"], theirs.run(given)["classifier"])


def test_asymmetric_weights_are_not_kept(shared_data: Path) -> None:
    with pytest.raises(ConvertError, match="symmetric ones: use `mobilenets convert`"):
        read_int8(shared_data / "weights" / "mobilenet_v1_0.75_192_quant.tflite")
    with pytest.raises(ConvertError, match="use `mobilenets convert`"):
        read_int8(shared_data / "weights" / "mobilenet_v1_0.25_224_1_default_1.tflite")


@pytest.mark.slow
def test_every_operation_of_v2_as_it_was_published(shared_data: Path) -> None:
    """Twenty photographs, MobileNetV2 1.0 at 224 with TensorFlow's own quantization."""
    path = shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    worst, same = vendor(path, photos(shared_data / "photos500", PICTURES, read_int8(path).checkpoint))
    assert_agrees(worst)
    assert same >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_every_operation_of_v2_quantized_by_us(
    shared_data: Path, tmp_path: Path, granularity: Literal["channel", "tensor"]
) -> None:
    """Twenty photographs, real weights, our own quantization and our own file."""
    converted = convert(
        shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite", out=tmp_path / "v2.safetensors"
    )
    original = load(converted.checkpoint)
    fitted = photos(shared_data / "photos500", PICTURES, original)
    batch = normalize(fitted, original.card.preprocess)
    ends: dict[str, tuple[float, float]] = {"input": (float(batch.min()), float(batch.max()))}

    def see(name: str, value: np.ndarray) -> None:
        low, high = ends.get(name, (0.0, 0.0))
        ends[name] = (min(low, float(value.min())), max(high, float(value.max())))

    for picture in batch[:4]:
        reference.run(original, picture[np.newaxis], see)
    ranges = {name: quantization(*pair) for name, pair in ends.items()}
    checkpoint = int8_checkpoint(original.card, folded(original), ranges, granularity)
    litert = Watched(to_litert(checkpoint), own_names(checkpoint))
    worst: dict[str, int] = {}
    for picture in batch:
        entered = reference.arithmetic(checkpoint).enter(picture[np.newaxis])
        codes = {"input": entered} | litert.run(signed(entered))
        for name, steps in differences(checkpoint, codes).items():
            worst[name] = max(worst.get(name, 0), steps)
    assert_agrees(worst)
