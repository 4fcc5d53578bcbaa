"""ONNX files: written here operation by operation, by PyTorch, quantized, and a real one; against onnxruntime's run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx as onnx_format
from onnx import helper, numpy_helper

from mobilenets.arch import arch_named, plan
from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert import onnx
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify
from mobilenets.nn.convert.labels import classes_of
from mobilenets.nn.convert.layers import Array, Padding, Source
from mobilenets.nn.convert.proof import _logits as logits
from mobilenets.nn.network import Network, build, from_checkpoint
from tests.nn.convert.onnx_writer import Writer

SIDE = 64
Lively = Callable[[Network, Array], Network]


def batch_for(network: Network, count: int) -> Array:
    layout = network.plan
    shape = (count, layout.in_channels, *layout.resolution)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def random_network(lively: Lively, name: str, width: float = 0.5, padding: Padding = "symmetric") -> Network:
    arch = replace(arch_named(name), padding=padding)
    network = build(plan(arch, width=width, resolution=SIDE, classes=7))
    return lively(network, batch_for(network, 4))


def network_of(source: Source) -> Network:
    classes = classes_of(source.classes, source.labels)
    return from_checkpoint(assemble(source, identify(source), classes, origin="a test"))


def saved(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def check(source: Source, network: Network) -> None:
    """Compare the original, its conversion, and onnxruntime's run of the file."""
    batch = batch_for(network, 3)
    expected = logits(network, batch)
    assert np.ptp(expected, axis=0).max() > 0.2  # it does depend on the picture
    assert source.reference is not None
    # Networks of random weights amplify the rounding of every layer, more than trained ones.
    assert np.abs(source.reference(batch) - expected).max() < 2e-3
    assert np.abs(logits(network_of(source), batch) - expected).max() < 2e-3


NETWORKS = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet_b1",
    "efficientnet_lite0",
)


@pytest.mark.parametrize("plain", [False, True], ids=["whole operations", "small steps"])
@pytest.mark.parametrize("name", NETWORKS)
def test_float(name: str, plain: bool, tmp_path: Path, lively: Lively) -> None:
    padding: Padding = "same" if plain else "symmetric"
    network = random_network(lively, name, 1.0 if name == "efficientnet_lite0" else 0.5, padding)
    model = Writer(network, plain=plain).model(softmax=plain, channels_last=plain)
    source = onnx.read(saved(model, tmp_path))
    found = identify(source)
    assert (found.arch.name, found.width, found.resolution) == (name, network.plan.width, (SIDE, SIDE))
    assert found.arch.padding == padding
    assert found.arch.bn_eps == pytest.approx(network.plan.arch.bn_eps)
    assert (source.kind, source.exact, source.batch_norm) == ("ONNX", True, "trained")
    assert (source.mean is not None and source.mean[0]) == (0.5 if plain else 0.485)
    check(source, network)


def test_input_rescaled_inside(tmp_path: Path, lively: Lively) -> None:
    network = random_network(lively, "mobilenet_v2", 0.35)
    source = onnx.read(saved(Writer(network).model(rescale=True), tmp_path))
    assert source.mean == pytest.approx([0.485, 0.456, 0.406], abs=1e-3)
    assert source.std == pytest.approx([0.229, 0.224, 0.225], abs=1e-3)
    assert source.notes == ()
    check(source, network)


def test_any_size_and_a_fixed_batch(tmp_path: Path, lively: Lively) -> None:
    network = random_network(lively, "mobilenet_v2", 0.35)
    model = Writer(network).model()
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[2].dim_param, sides[3].dim_param = "h", "w"
    sides[0].dim_value = 2
    source = onnx.read(saved(model, tmp_path))
    assert source.resolution is None
    assert source.padding == "symmetric"
    assert source.reference is not None
    batch = batch_for(network, 3)  # runs as two and one
    assert np.abs(source.reference(batch) - logits(network, batch)).max() < 2e-3


def test_operations_out_of_order(tmp_path: Path, lively: Lively) -> None:
    network = random_network(lively, "mobilenet_v3_small", 0.75)
    model = Writer(network).model()
    nodes = list(model.graph.node)
    np.random.default_rng(0).shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    source = onnx.read(saved(model, tmp_path))
    batch = batch_for(network, 2)
    assert np.abs(logits(network_of(source), batch) - logits(network, batch)).max() < 2e-3


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "BatchNorm kept"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_torchvision_through_pytorchs_exporter(
    name: str, fold: bool, tmp_path: Path, shaken: Callable[..., nn.Module]
) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = shaken(getattr(models, name)(num_classes=7)).eval()
    path = tmp_path / "exported.onnx"
    with warnings.catch_warnings():  # this exporter is being replaced by one that needs another package
        warnings.simplefilter("ignore")
        picture = torch.zeros(1, 3, SIDE, SIDE)
        torch.onnx.export(model, (picture,), str(path), dynamo=False, opset_version=17, do_constant_folding=fold)
    source = onnx.read(path)
    assert source.batch_norm == ("folded" if fold else "trained")
    assert source.reference is not None
    batch = np.random.default_rng(0).normal(0, 1, (2, 3, SIDE, SIDE)).astype(np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(batch)).numpy()
    largest = np.abs(expected).max()
    assert np.abs(logits(network_of(source), batch) - expected).max() < 1e-4 * largest
    assert np.abs(source.reference(batch) - expected).max() < 1e-4 * largest


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_quantized_in_pairs(
    name: str, per_channel: bool, tmp_path: Path, lively: Lively, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime's quantizer surrounds every operation with pairs, and leaves out the activations they cut off."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    network = random_network(lively, name, 0.5)

    class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left: Iterator[Array] = iter([batch_for(network, 4)])

        def get_next(self) -> dict[str, Array] | None:
            return next(({"picture": batch} for batch in self.left), None)

    path = tmp_path / "quantized.onnx"
    quantization.quantize_static(
        str(saved(Writer(network).model(), tmp_path)),
        str(path),
        Pictures(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=quantization.QuantType.QInt8,
    )
    assert caplog is not None  # it warns through logging
    source = onnx.read(path)
    assert (source.kind, source.exact) == ("ONNX, quantized (QDQ)", False)
    ours = network_of(source)
    assert [op.activation for op in ours.plan.ops] == [op.activation for op in network.plan.ops]
    batch = batch_for(network, 8)
    expected = logits(network, batch)
    assert np.corrcoef(logits(ours, batch).ravel(), expected.ravel())[0, 1] > 0.9
    for layer, op in zip(source.layers, (op for op in network.plan.ops if op.kind in ("conv", "linear")), strict=True):
        module = network.get_submodule(op.name)
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().numpy()
            along = 1 if per_channel and op.kind == "conv" else None
            step = 2 * np.abs(weight).max(axis=along) / 254
            assert (np.abs(layer.weight - weight) <= 0.51 * step).all()


class TestRefused:
    @pytest.fixture
    def model(self, lively: Lively) -> Any:
        return Writer(random_network(lively, "mobilenet_v1", 0.1)).model()

    def test_without_the_package(self, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = saved(model, tmp_path)
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(MissingExtraError, match="onnx is needed"):
            onnx.read(path)

    def test_without_the_runtime(self, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = onnx.read(saved(model, tmp_path))
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        assert source.reference is not None
        with pytest.raises(MissingExtraError, match="onnxruntime is needed"):
            source.reference(np.zeros((1, 3, SIDE, SIDE), np.float32))

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(ConvertError, match="cannot be read"):
            onnx.read(tmp_path / "none.onnx")

    def test_truncated_anywhere(self, model: Any, tmp_path: Path) -> None:
        path = saved(model, tmp_path)
        data = path.read_bytes()
        for length in np.linspace(0, len(data) - 1, 40).astype(int):
            path.write_bytes(data[:length])
            with pytest.raises(ConvertError, match=r"damaged|inputs and|nothing makes"):
                onnx.read(path)

    def test_scrambled_anywhere(self, model: Any, tmp_path: Path) -> None:
        path = saved(model, tmp_path)
        data, random = path.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            scrambled = bytearray(data)
            for place in random.integers(0, len(data), random.choice((1, 5, 200))):
                scrambled[place] = random.choice((0, 1, 127, 255))
            path.write_bytes(scrambled)
            refused = ""
            try:
                assert onnx.read(path).layers
            except ConvertError as error:
                refused = str(error)
            assert "\n" not in refused

    def test_integer_operations(self, model: Any, tmp_path: Path) -> None:
        model.graph.node[0].op_type = "QLinearConv"
        with pytest.raises(ConvertError, match=r"integer operations \(QLinearConv\)"):
            onnx.read(saved(model, tmp_path))

    def test_an_operation_unknown_here(self, model: Any, tmp_path: Path) -> None:
        next(node for node in model.graph.node if node.op_type == "Clip").op_type = "Elu"
        with pytest.raises(ConvertError, match=r"'Elu value_.*' is not understood"):
            onnx.read(saved(model, tmp_path))

    def test_a_wider_clip(self, model: Any, tmp_path: Path) -> None:
        for tensor in model.graph.initializer:
            if tensor.dims == [] and numpy_helper.to_array(tensor) == 6:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(8, np.float32), tensor.name))
        with pytest.raises(ConvertError, match="is not understood"):
            onnx.read(saved(model, tmp_path))

    def test_h_sigmoid_of_another_slope(self, tmp_path: Path, lively: Lively) -> None:
        model = Writer(random_network(lively, "mobilenet_v3_small")).model()
        gate = next(node for node in model.graph.node if node.op_type == "HardSigmoid")
        del gate.attribute[:]  # alpha is 0.2 then
        with pytest.raises(ConvertError, match=r"'HardSigmoid value_.*' is not understood"):
            onnx.read(saved(model, tmp_path))

    def test_dilated(self, model: Any, tmp_path: Path) -> None:
        node = next(node for node in model.graph.node if node.name == "block_1_depthwise")
        node.attribute.append(helper.make_attribute("dilations", [2, 2]))
        with pytest.raises(ConvertError, match="block_1_depthwise is dilated"):
            onnx.read(saved(model, tmp_path))

    def test_padding_by_no_rule(self, model: Any, tmp_path: Path) -> None:
        node = next(node for node in model.graph.node if node.name == "block_3_depthwise")
        next(each for each in node.attribute if each.name == "pads").ints[:] = [2, 2, 2, 2]
        with pytest.raises(ConvertError, match=r"pads \(2, 2, 2, 2\)"):
            onnx.read(saved(model, tmp_path))

    def test_several_answers(self, model: Any, tmp_path: Path) -> None:
        model.graph.output.append(onnx_format.ValueInfoProto(name="block_1_depthwise"))
        with pytest.raises(ConvertError, match="2 outputs"):
            onnx.read(saved(model, tmp_path))

    def test_no_picture(self, model: Any, tmp_path: Path) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
        with pytest.raises(ConvertError, match=r"a picture is \(N, 3, height, width\)"):
            onnx.read(saved(model, tmp_path))

    def test_a_circle(self, model: Any, tmp_path: Path) -> None:
        first, second = model.graph.node[2:4]
        first.input[0] = second.output[0]
        with pytest.raises(ConvertError, match="in a circle"):
            onnx.read(saved(model, tmp_path))


def test_real_flowers(shared_data: Path) -> None:
    """V2 0.35 trained on five flowers; BatchNorm is folded in some layers only. Measured here: 1.5e-6."""
    source = onnx.read(shared_data / "weights" / "mobilenet_v2_0.35_128_tfs_channel_first.onnx")
    network = network_of(source)
    layout = network.plan
    assert (layout.arch.name, layout.width, layout.resolution, layout.classes) == ("mobilenet_v2", 0.35, (128, 128), 5)
    assert (layout.arch.padding, source.mean, source.std) == ("same", (0.5,), (0.5,))
    assert source.batch_norm == "folded"
    batch = batch_for(network, 4)
    assert source.reference is not None
    theirs = source.reference(batch)
    assert np.ptp(theirs) > 1
    assert np.abs(logits(network, batch) - theirs).max() < 1e-4
