"""The verb `prune`: what is dead is gone, the file is a checkpoint like any other, and what moved is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.arch import ARCHITECTURES, cost
from mobilenets.arch.mobilenet import Classifier, Conv, InvertedResidual, Pool, Separable
from mobilenets.checkpoint import Card, Checkpoint, Metric, load, save, tensor_shapes
from mobilenets.compress.activity import logits
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.prune import prune
from mobilenets.show import show

SIDE = 16


def small_checkpoint() -> Checkpoint:
    """Return a random network with two dead depthwise kernels, one in each of its kinds of block."""
    random = np.random.default_rng(0)
    rows = (Conv(c=8, s=2), Separable(c=16), InvertedResidual(2, 16, 2, 1), Pool(), Classifier(dropout=0.0))
    arch = replace(ARCHITECTURES["mobilenet_v2"], name="small", rows=rows)
    metric = Metric("top1", 0.5, "mine", 10)
    fed = Preprocess(SIDE, SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    card = Card(arch, 1.0, (SIDE, SIDE), ("a", "b", "c"), fed, metrics=(metric,), notes=("made by hand",))
    tensors = {}
    for name, shape in tensor_shapes(card.plan).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.2
        values = random.normal(0, scale, shape)
        tensors[name] = (1 + np.abs(values) if name.endswith(("norm.weight", "running_var")) else values).astype("f4")
    tensors["block_1_depthwise.weight"][2] = 0
    tensors["block_3_depthwise.weight"][[4, 31]] = 0
    return Checkpoint(card, tensors)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save(small_checkpoint(), tmp_path / "small.safetensors"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    random = np.random.default_rng(1)
    for index in range(12):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return str(tmp_path / "photos")


def test_dead_kernels_go(model: str, tmp_path: Path) -> None:
    result = prune(model, dead=True)
    assert result.checkpoint == tmp_path / "small-pruned.safetensors"
    before, after = load(model), load(result.checkpoint)
    assert result.parameters_before == cost(before.card.plan).parameters
    assert result.parameters_after == cost(after.card.plan).parameters < result.parameters_before
    assert result.multiply_adds_after == cost(after.card.plan).multiply_adds < result.multiply_adds_before
    assert {(row.name, row.channels, row.proved, row.silent) for row in result.removed} == {
        ("stem", 8, 1, 0),
        ("block_1_depthwise", 8, 1, 0),
        ("block_3_expand", 32, 2, 0),
        ("block_3_depthwise", 32, 2, 0),
    }
    assert result.max_abs_error < 1e-5
    assert (result.top1_agreement, result.images, result.measured_on) == (1.0, 32, "32 drawn pictures")
    pictures = np.random.default_rng(5).integers(0, 256, (4, 23, 17, 3), dtype=np.uint8)
    np.testing.assert_allclose(logits(after, pictures), logits(before, pictures), atol=1e-5)


def test_the_card_tells_its_story(model: str) -> None:
    before = load(model)
    after = load(prune(model, dead=True).checkpoint)
    card = after.card
    assert card.parent == before.sha256
    assert card.labels == before.card.labels
    assert card.metrics == before.card.metrics, "the outputs are the same, so what was measured holds"
    assert card.notes == ("made by hand", "pruned: 6 channels of its layers were proved constant")
    assert card.arch.name == "small_narrowed"
    assert after.sample is not None
    assert after.sample[0].shape == (SIDE, SIDE, 3)
    np.testing.assert_allclose(logits(after, after.sample[0][np.newaxis])[0], after.sample[1], atol=1e-5)


def test_pruning_twice_takes_nothing_more(model: str, tmp_path: Path) -> None:
    once = prune(model, dead=True)
    twice = prune(str(once.checkpoint), dead=True, out=tmp_path / "twice.safetensors")
    assert twice.removed == ()
    assert twice.parameters_after == once.parameters_after
    assert twice.max_abs_error == 0
    assert twice.notes == ("nothing is dead: the network is as it was",)
    assert load(twice.checkpoint).card.arch == load(once.checkpoint).card.arch


def test_what_only_seems_dead_goes_when_asked(tmp_path: Path, data: str) -> None:
    """A channel that noise never wakes and a white picture would."""
    base = small_checkpoint()
    tensors = {name: array.copy() for name, array in base.tensors.items()}
    # The mean of a patch of noise stays near 0: only a picture that is nearly white brings it above 0.7.
    for name, weight, bias in (("stem", 1 / 27, -0.7), ("block_1_depthwise", 1.0, 0.0)):
        tensors[f"{name}.weight"][5] = weight
        tensors[f"{name}.norm.weight"][5], tensors[f"{name}.norm.running_var"][5] = 1, 1
        tensors[f"{name}.norm.bias"][5], tensors[f"{name}.norm.running_mean"][5] = bias, 0
    model = str(save(replace(base, tensors=tensors), tmp_path / "shy.safetensors"))
    plain = prune(model, dead=True, data=data, images=5)
    assert {row.name: row.silent for row in plain.removed}["stem"] == 0
    assert plain.measured_on == "5 pictures of photos"
    result = prune(model, dead=True, silent=True, data=data, images=5)
    stem = next(row for row in result.removed if row.name == "stem")
    assert (stem.proved, stem.silent) == (1, 1)
    assert result.images == 5
    assert result.measured_on == "5 other pictures than those looked at"
    assert any("on 5 pictures; another picture may wake" in note for note in result.notes)
    card = load(result.checkpoint).card
    assert card.metrics == (), "they were measured before"
    assert "were constant on 5 pictures" in card.notes[-1]
    white = np.full((1, SIDE, SIDE, 3), 255, np.uint8)
    difference = np.abs(logits(load(model), white) - logits(load(result.checkpoint), white)).max()
    assert difference > 1e-6, "white would have woken it"


def test_text_and_json(model: str) -> None:
    result = prune(model, dead=True)
    text = str(result)
    assert "block_3_expand" in text
    assert f"{result.parameters_before:,} -> {result.parameters_after:,}" in text
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"checkpoint", "parameters_before", "parameters_after", "max_abs_error"} <= set(document)
    assert document["removed"][0] == {"name": "stem", "channels": 8, "proved": 1, "silent": 0}


def test_show_prints_the_narrowed_table(model: str) -> None:
    shown = show(str(prune(model, dead=True).checkpoint))
    assert [row.settings.get("exp", "") for row in shown.rows] == ["", "", "32", "30", "", ""], "one row a block"
    assert [row.out_shape[0] for row in shown.rows] == [7, 16, 16, 16, 16, 3]
    assert str(shown).count("bottleneck 3x3") == 2


def test_a_pruned_network_trains_on(model: str) -> None:
    torch = pytest.importorskip("torch")
    from mobilenets.nn.network import from_checkpoint

    network = from_checkpoint(load(prune(model, dead=True).checkpoint)).train()
    loss = network(torch.rand(2, 3, SIDE, SIDE)).square().sum()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_refused(model: str, tmp_path: Path, data: str) -> None:
    with pytest.raises(InputError, match="say so with --dead"):
        prune(model)
    with pytest.raises(InputError, match="--silent needs pictures to look at: give some with --data"):
        prune(model, dead=True, silent=True)
    with pytest.raises(InputError, match="--images must be 1 or more, not 0"):
        prune(model, dead=True, images=0)
    with pytest.raises(InputError, match="none can be read beside the 12 looked at"):
        prune(model, dead=True, silent=True, data=data, images=12)
    with pytest.raises(CheckpointError, match="cannot be read"):
        prune(str(tmp_path / "nothing.safetensors"), dead=True)
    assert not list(tmp_path.glob("*-pruned*"))


REAL = (
    "mobilenet_v1_0.25_224_1_default_1.tflite",
    "mobilenet_v1_0.75_192_quant.tflite",
    "mobilenet_v2_1.0_224_quant.tflite",
    "tf2_mobilenet_v2_1.0_224_ptq.tflite",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_networks_stay_the_same(shared_data: Path, tmp_path: Path, name: str) -> None:
    """What is proved: on photographs, on noise, and on the extremes, black, white and stripes."""
    from mobilenets.nn.convert import convert

    model = convert(shared_data / "weights" / name, out=tmp_path / "real.safetensors").checkpoint
    result = prune(str(model), dead=True, data=str(shared_data / "photos500" / "labels.csv"), images=4)
    assert result.parameters_after < result.parameters_before
    assert result.multiply_adds_after < result.multiply_adds_before
    assert all(row.silent == 0 for row in result.removed)
    assert sum(row.proved for row in result.removed) > 0
    assert result.max_abs_error < 1e-5
    before, after = load(model), load(result.checkpoint)
    side = before.card.resolution[0]
    hard = np.zeros((4, side, side, 3), np.uint8)
    hard[1], hard[2, ::2] = 255, 255
    hard[3] = np.random.default_rng(0).integers(0, 256, hard[3].shape)
    np.testing.assert_allclose(logits(after, hard), logits(before, hard), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_silent_channels_of_a_real_network_are_measured_and_not_proved(shared_data: Path, tmp_path: Path) -> None:
    from mobilenets.nn.convert import convert

    source = shared_data / "weights" / "mobilenet_v1_0.75_192_quant.tflite"
    model = str(convert(source, out=tmp_path / "real.safetensors").checkpoint)
    data = str(shared_data / "photos500" / "labels.csv")
    proved = prune(model, dead=True, data=data, images=1, out=tmp_path / "proved.safetensors")
    silent = prune(model, dead=True, silent=True, data=data, images=1, out=tmp_path / "silent.safetensors")
    assert sum(row.proved for row in silent.removed) == sum(row.proved for row in proved.removed)
    assert sum(row.silent for row in silent.removed) > 0, "one photograph leaves channels asleep"
    assert silent.parameters_after < proved.parameters_after
    assert silent.measured_on == "1 other pictures than those looked at"
    assert any("another picture may wake" in note for note in silent.notes)
    from mobilenets.compress import sample

    others = sample.taken(data, load(model).card.preprocess, count=1, after=1).pictures
    moved = np.abs(logits(load(silent.checkpoint), others) - logits(load(model), others)).max()
    assert silent.max_abs_error == pytest.approx(float(moved))
    assert load(silent.checkpoint).card.metrics == ()
    assert "were constant on 1 pictures" in load(silent.checkpoint).card.notes[-1]
