"""Each thing that can be wrong with a layer is planted, and found where it is and nowhere else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenets.arch import ARCHITECTURES, arch_named
from mobilenets.arch.mobilenet import Classifier, Conv, InvertedResidual, Pool, Separable
from mobilenets.checkpoint import Card, Checkpoint, save, tensor_shapes
from mobilenets.compress import activity, sample
from mobilenets.compress.activity import Activity
from mobilenets.diagnose import DiagnoseResult, cells, diagnose
from mobilenets.diagnose.advice import advise, noteworthy
from mobilenets.diagnose.layers import LayerFacts, Spread, examine
from mobilenets.engine import reference
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import normalize

SIDE = 16


def small_checkpoint(seed: int = 0) -> Checkpoint:
    """Return a network of 7 layers: a separable block of 8 to 16 channels and an inverted residual of 32 inside."""
    random = np.random.default_rng(seed)
    rows = (Conv(c=8, s=2), Separable(c=16), InvertedResidual(2, 16, 1, 1), Pool(), Classifier(dropout=0.0))
    arch = replace(ARCHITECTURES["mobilenet_v2"], name="small", rows=rows)
    card = Card(arch, 1.0, (SIDE, SIDE), ("a", "b", "c"), Preprocess(SIDE, SIDE, mean=(0.5,) * 3, std=(0.5,) * 3))
    tensors = {}
    for name, shape in tensor_shapes(card.plan).items():
        if len(shape) > 1:
            values = random.uniform(0.5, 1, shape) * random.choice([-1, 1], shape) * np.sqrt(3 / np.prod(shape[1:]))
        elif name.endswith(("norm.weight", "running_var")):
            values = np.ones(shape)
        elif name.endswith("norm.bias"):
            values = np.full(shape, 0.3)
        else:
            values = np.zeros(shape)
        tensors[name] = values.astype(np.float32)
    return Checkpoint(card, tensors)


def changed(checkpoint: Checkpoint, changes: Mapping[str, tuple[int, float | np.ndarray]]) -> Checkpoint:
    """Return the network with one channel of each of some tensors set."""
    tensors = dict(checkpoint.tensors)
    for name, (channel, value) in changes.items():
        tensors[name] = tensors[name].copy()
        tensors[name][channel] = value
    return replace(checkpoint, tensors=tensors)


def facts(checkpoint: Checkpoint) -> dict[str, LayerFacts]:
    pictures = sample.drawn(checkpoint.card.preprocess, 16).pictures
    return {layer.name: layer for layer in examine(checkpoint, activity.observe(checkpoint, pictures))}


@pytest.fixture(scope="module")
def healthy() -> dict[str, LayerFacts]:
    return facts(small_checkpoint())


# -- What is observed --


def test_what_is_observed_is_what_the_reference_computes() -> None:
    checkpoint = small_checkpoint()
    pictures = sample.drawn(checkpoint.card.preprocess, 11).pictures  # two batches
    seen = activity.observe(checkpoint, pictures)
    names = []

    def watch(name: str, value: np.ndarray) -> None:
        names.append(name)
        over = (0, 2, 3)
        np.testing.assert_allclose(seen[name].low, value.min(over), atol=1e-5)
        np.testing.assert_allclose(seen[name].high, value.max(over), atol=1e-5)
        np.testing.assert_allclose(seen[name].firing, (value > 0).mean(over), atol=1e-3)
        np.testing.assert_allclose(seen[name].saturated, (value >= 6).mean(over), atol=1e-3)
        assert np.array_equal(seen[name].range.high, seen[name].high)

    expected = reference.run(checkpoint, normalize(pictures, checkpoint.card.preprocess), watch)
    assert names == [op.name for op in checkpoint.card.plan.ops] == list(seen)
    np.testing.assert_allclose(activity.logits(checkpoint, pictures), expected, atol=1e-5)


def test_pictures_taken_are_others_after_the_first(tmp_path: Path) -> None:
    for index in range(10):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{index}.png,{'ab'[index % 2]}\n" for index in range(10)), encoding="utf-8"
    )
    fed = Preprocess(SIDE, SIDE)
    first = sample.taken(str(tmp_path), fed, count=6)
    second = sample.taken(str(tmp_path), fed, count=6, after=6)
    assert (first.what, second.what) == (f"6 pictures of {tmp_path.name}", f"4 pictures of {tmp_path.name}")
    reds = [{int(each) for each in part.pictures[:, 0, 0, 0]} for part in (first, second)]
    assert reds[0] | reds[1] == set(range(10))
    assert not reds[0] & reds[1]
    with pytest.raises(InputError, match="none can be read beside the 10 looked at before"):
        sample.taken(str(tmp_path), fed, count=6, after=10)


# -- One illness at a time --


def test_a_healthy_network(healthy: dict[str, LayerFacts]) -> None:
    assert [layer.kind for layer in healthy.values()] == [
        "convolution",
        "depthwise",
        "pointwise",
        "pointwise",
        "depthwise",
        "pointwise",
        "linear",
    ]
    for layer in healthy.values():
        assert (layer.dead_kernels, layer.duplicates, layer.removable) == ((), (), 0)
        assert layer.weights is not None
        assert layer.weights.bits_lost < 1
    assert not any(noteworthy(healthy[name]) for name in ("block_2_project", "classifier"))
    assert healthy["block_2_project"].saturated is None
    assert healthy["stem"].saturated is not None


def test_a_dead_channel(healthy: dict[str, LayerFacts]) -> None:
    found = facts(changed(small_checkpoint(), {"block_2_expand.norm.bias": (5, -1000.0)}))
    assert set(found["block_2_expand"].dead) == {*healthy["block_2_expand"].dead, 5}
    assert found["block_2_expand"].removable == 1, "the bounds prove it"
    assert found["block_2_depthwise"].removable == 1, "and its depthwise kernel with it"
    assert 5 in found["block_2_depthwise"].constant, "which gives its bias"
    assert found["block_2_expand"].dead_kernels == ()


def test_a_dead_depthwise_kernel() -> None:
    found = facts(changed(small_checkpoint(), {"block_1_depthwise.weight": (3, 0.0)}))
    assert found["block_1_depthwise"].dead_kernels == (3,)
    assert found["block_1_depthwise"].constant == (3,)
    assert found["stem"].dead_kernels == ()
    assert found["stem"].removable == found["block_1_depthwise"].removable == 1


def test_a_kernel_whose_batch_norm_scale_died() -> None:
    found = facts(changed(small_checkpoint(), {"block_2_depthwise.norm.weight": (7, 1e-9)}))
    assert found["block_2_depthwise"].dead_kernels == (7,)


def test_most_kernels_of_a_layer_may_be_dead() -> None:
    base = small_checkpoint()
    tensors = dict(base.tensors)
    tensors["block_2_depthwise.weight"] = tensors["block_2_depthwise.weight"].copy()
    tensors["block_2_depthwise.weight"][4:] *= 1e-6
    found = facts(replace(base, tensors=tensors))
    assert found["block_2_depthwise"].dead_kernels == tuple(range(4, 32))
    tensors["block_2_depthwise.weight"] = np.zeros_like(tensors["block_2_depthwise.weight"])
    whole = facts(replace(base, tensors=tensors))["block_2_depthwise"]
    assert len(whole.dead_kernels) == 32
    assert whole.weights is None
    assert whole.activations is None


def test_saturation() -> None:
    base = changed(small_checkpoint(), {"block_1_pointwise.norm.bias": (2, 1000.0)})
    found = facts(base)["block_1_pointwise"]
    assert found.saturated is not None
    assert found.saturated >= 1 / 16
    assert 2 in found.constant


def test_a_wide_kernel_costs_the_others_bits(healthy: dict[str, LayerFacts]) -> None:
    before = healthy["block_2_depthwise"].weights
    base = small_checkpoint()
    wide = base.tensors["block_2_depthwise.weight"][9] * 64
    found = facts(changed(base, {"block_2_depthwise.weight": (9, wide)}))["block_2_depthwise"]
    assert before is not None
    assert found.weights is not None
    assert found.weights.bits_lost == pytest.approx(np.log2(found.weights.widest / before.median), abs=0.05)
    assert found.weights.bits_lost > 5
    assert noteworthy(found)
    (line, *_) = advise([found], "m", "d")
    assert "block_2_depthwise" in line
    assert "--granularity channel" in line
    assert f"{found.weights.bits_lost:.1f} in" in line


def test_a_duplicate_is_a_multiple_with_its_bias() -> None:
    base = small_checkpoint()
    twin = 2.5 * base.tensors["block_1_pointwise.weight"][4]
    alike = {"block_1_pointwise.weight": (11, twin), "block_1_pointwise.norm.bias": (11, 2.5 * 0.3)}
    assert facts(changed(base, alike))["block_1_pointwise"].duplicates == ((11, 4),)
    other_bias = alike | {"block_1_pointwise.norm.bias": (11, -3.0)}
    assert facts(changed(base, other_bias))["block_1_pointwise"].duplicates == ()
    opposite = {"block_1_pointwise.weight": (11, -twin), "block_1_pointwise.norm.bias": (11, -2.5 * 0.3)}
    assert facts(changed(base, opposite))["block_1_pointwise"].duplicates == ()


def test_a_large_bias_alone_makes_no_duplicate() -> None:
    large = {"block_1_pointwise.norm.bias": (4, 90.0)}
    both = changed(changed(small_checkpoint(), large), {"block_1_pointwise.norm.bias": (11, 95.0)})
    assert facts(both)["block_1_pointwise"].duplicates == ()


def test_dead_channels_may_have_the_widest_weights() -> None:
    base = small_checkpoint()
    wide = base.tensors["block_2_depthwise.weight"][5] * 32
    ill = {"block_2_expand.norm.bias": (5, -1000.0), "block_2_depthwise.weight": (5, wide)}
    found = facts(changed(base, ill))["block_2_depthwise"]
    assert found.weights is not None
    assert 3.5 < found.bits_lost_to_dead < found.weights.bits_lost
    assert any(
        f"cost the living ones {found.bits_lost_to_dead:.1f} bits in block_2_depthwise" in line
        for line in advise([found], "m", None)
    )
    assert facts(base)["block_2_depthwise"].bits_lost_to_dead == 0


def test_equal_depthwise_kernels_are_no_duplicates() -> None:
    base = small_checkpoint()
    same = base.tensors["block_2_depthwise.weight"][0]
    assert facts(changed(base, {"block_2_depthwise.weight": (1, same)}))["block_2_depthwise"].duplicates == ()


def test_spread() -> None:
    spread = Spread(8.0, 2.0, 0.5)
    assert (spread.bits_lost, spread.most_bits_lost) == (2.0, 4.0)
    assert spread.to_json()["bits_lost"] == 2.0


def test_hard_swish_is_dead_at_zero_and_not_below() -> None:
    rows = (Conv(c=4, activation="hard_swish"), Pool(), Classifier())
    arch = replace(ARCHITECTURES["mobilenet_v3_small"], rows=rows, divisor=1)
    card = Card(arch, 1.0, (8, 8), ("a",), Preprocess(8, 8))
    tensors = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes(card.plan).items()}
    low, high = np.array([0.0, -0.375, 0.0, 0.0]), np.array([0.0, -0.1, 2.0, 0.0])
    zeros = np.zeros(4)
    one = Activity(np.zeros(1), np.ones(1), np.ones(1), np.zeros(1))
    activities = {"stem": Activity(low, high, zeros, zeros), "classifier": one}
    assert examine(Checkpoint(card, tensors), activities)[0].dead == (0, 3)


# -- The verb --


def photographs(folder: Path, count: int = 6) -> str:
    random = np.random.default_rng(0)
    for index in range(count):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[index % 2] / f"{index}.png")
    return str(folder)


@pytest.fixture
def model(tmp_path: Path) -> str:
    ill = {
        "block_1_depthwise.weight": (3, 0.0),
        "block_2_expand.norm.bias": (5, -1000.0),
        "block_2_depthwise.weight": (9, 40.0),
    }
    return str(save(changed(small_checkpoint(), ill), tmp_path / "ill.safetensors"))


def test_the_verb_on_pictures(model: str, tmp_path: Path) -> None:
    result = diagnose(model, photographs(tmp_path / "photos"), images=4)
    assert (result.images, result.measured_on) == (4, "4 pictures of photos")
    assert result.totals["dead_depthwise_kernels"] == 1
    assert result.totals["depthwise_channels"] == 40
    document: dict[str, Any] = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in result.layers]
    by_name = {layer["name"]: layer for layer in document["layers"]}
    assert by_name["block_1_depthwise"]["dead_kernels"] == 1
    assert by_name["block_1_depthwise"]["dead_kernel_channels"] == [3]
    assert by_name["block_2_expand"]["dead"] >= 1
    assert by_name["block_2_depthwise"]["range"]["weights"]["bits_lost"] > 3
    assert {"name", "kind", "channels", "dead", "dead_kernels", "saturated", "range", "duplicates"} <= set(
        document["layers"][0]
    )
    assert any("prune" in line and "--dead" in line for line in document["advice"])
    assert not any("drawn" in line for line in document["advice"])


def test_the_verb_without_pictures_says_so(model: str) -> None:
    result = diagnose(model)
    assert result.measured_on == "32 drawn pictures"
    assert result.advice[-1].startswith("what is said of outputs is so on drawn pictures: give DATA")
    text = str(result)
    assert "on 32 drawn pictures" in text
    assert re.search(r"^block_1_depthwise +depthwise +8 ", text, re.MULTILINE)
    assert "1 of 40 depthwise kernels lost their weights" in text
    assert not re.search(r"^classifier", text, re.MULTILINE), "only what is noteworthy"


def test_a_page_and_a_picture_are_written(model: str, tmp_path: Path) -> None:
    result = diagnose(model, out=tmp_path / "made")
    assert [path.name for path in result.files] == ["diagnose.html", "diagnose.png"]
    with Image.open(result.files[1]) as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image.convert("L").resize((200, 60))))) > 20, "something is drawn"
    page = html.unescape(result.files[0].read_text(encoding="utf-8"))
    assert page.count("<tr>") == len(result.layers) + 1
    assert "http" not in page.replace("http-equiv", "")
    for line in result.advice:
        assert line in page


def test_a_strange_name_cannot_break_the_page(tmp_path: Path) -> None:
    path = save(small_checkpoint(), tmp_path / "<b>&.safetensors")
    page = diagnose(str(path), out=tmp_path).files[0].read_text(encoding="utf-8")
    assert "<b>&." not in page


def test_every_layer_has_cells_for_the_header(healthy: dict[str, LayerFacts]) -> None:
    from mobilenets.diagnose import HEADER

    assert {len(cells(layer)) for layer in healthy.values()} == {len(HEADER)}


def test_nothing_to_say() -> None:
    nothing = DiagnoseResult("m", "a", "1 picture", 1, (), tuple(advise([], "m", "d")))
    assert nothing.advice == (
        "nothing stands out: no layer is dead, saturated, duplicate, or of channels that differ much in range",
    )
    assert str(nothing).endswith(nothing.advice[0])


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v3_small", "mnasnet_a1"])
def test_other_architectures(name: str, tmp_path: Path) -> None:
    card = Card(arch_named(name), 0.25, (32, 32), ("a", "b"), Preprocess(32, 32))
    random = np.random.default_rng(0)
    tensors = {}
    for tensor, shape in tensor_shapes(card.plan).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = random.normal(1 if tensor.endswith(("norm.weight", "running_var")) else 0, scale, shape)
        tensors[tensor] = np.abs(values) if tensor.endswith("running_var") else values
    model = save(
        Checkpoint(card, {key: each.astype(np.float32) for key, each in tensors.items()}), tmp_path / "m.safetensors"
    )
    result = diagnose(str(model))
    assert len(result.layers) == sum(op.kind in ("conv", "linear") for op in card.plan.ops)
    json.dumps(result.to_json(), allow_nan=False)


def test_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images must be 1 or more, not 0"):
        diagnose(model, images=0)
    with pytest.raises(InputError, match="no such data set"):
        diagnose(model, str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        diagnose(str(tmp_path / "nothing.safetensors"))


# -- Real weights: the figures of docs/diagnose.md --


@pytest.mark.slow
def test_dead_filters_of_the_real_networks(shared_data: Path, tmp_path: Path) -> None:
    """No depthwise kernel of V1 0.25 lost its weights; filters of its stem did."""
    from mobilenets.nn.convert import convert

    out = tmp_path / "v1.safetensors"
    convert(shared_data / "weights" / "mobilenet_v1_0.25_224_1_default_1.tflite", out=out)
    result = diagnose(str(out), images=8)
    assert result.totals["dead_depthwise_kernels"] == 0
    assert result.layers[0].name == "stem"
    assert len(result.layers[0].dead_kernels) == 2
