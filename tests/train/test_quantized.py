"""Quantization-aware training: what it saves is what it computes, and it is resumed to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenets.checkpoint import Checkpoint, load, read_card
from mobilenets.data import open_data
from mobilenets.engine import reference
from mobilenets.engine.quantized import dequantize, quantizations, quantize
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import normalize
from mobilenets.image.preprocess import fit
from mobilenets.nn.fake_quantization import FakeQuantizedNetwork, calibrate, fake_quantized
from mobilenets.nn.network import build, from_checkpoint
from mobilenets.recipe import RECIPES
from mobilenets.train import loop, outputs, train
from mobilenets.train.optimization import set_learning_rate
from mobilenets.train.quantized import enter_epoch, from_int8, from_saved, picture_range, to_int8, train_quantized

Tiny = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], bool]
RandomNetwork = Callable[..., Checkpoint]
FAST = {"batch_size": 16, "channels_last": "on", "compile": "off"}


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny float32 network that tells bars apart."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(outputs, "write_page", lambda *_: [])
        patched.setattr(outputs, "write_curves", lambda out, _: out / "curves.png")
        result = train(**tiny(out=tmp_path_factory.mktemp("float") / "run", epochs=12, learning_rate=0.1))
    assert result.metrics["top1"] > 0.9
    return str(result.checkpoint)


def validation(data: str, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Return all validation pictures, normalized, and their classes."""
    val = open_data(data).val
    pictures = np.stack([fit(val.picture(index), checkpoint.card.preprocess) for index in range(len(val))])
    return normalize(pictures, checkpoint.card.preprocess), val.targets


def rounding_network(checkpoint: Checkpoint, granularity: str) -> tuple[FakeQuantizedNetwork, np.ndarray]:
    """Return the network with its ranges found, in eval mode, and the pictures they were found on."""
    made = fake_quantized(from_checkpoint(checkpoint), granularity)  # type: ignore[arg-type]
    batch = np.random.default_rng(4).uniform(-2, 2, (4, *checkpoint.card.plan.input_shape)).astype(np.float32)
    calibrate(made, [torch.from_numpy(batch)], picture_range(checkpoint.card.preprocess))
    return made.eval(), batch


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
def test_every_operation_computes_what_the_int8_network_computes(
    random_network: RandomNetwork, name: str, granularity: str
) -> None:
    """Each is given the int8 network's values, so that one rounding is compared and not a hundred."""
    checkpoint = random_network(name)
    made, batch = rounding_network(checkpoint, granularity)
    int8 = to_int8(made, checkpoint.card)
    codes: dict[str, np.ndarray] = {}
    reference.run(int8, batch, codes.__setitem__)
    ranges = quantizations(int8)
    real = {name: torch.from_numpy(dequantize(value, ranges[name])) for name, value in codes.items()}
    real["input"] = torch.from_numpy(batch)
    different = 0
    for network in (made, from_int8(int8)):
        for op in checkpoint.card.plan.ops:
            with torch.no_grad():
                out = network.compute(op, *(real[source] for source in op.sources)).numpy()
            found = quantize(out.reshape(codes[op.name].shape), ranges[op.name])
            apart = np.abs(found.astype(int) - codes[op.name])
            assert apart.max() <= 1, op.name
            different += int((apart > 0).sum())
    assert different <= 1e-3 * 2 * sum(value.size for value in codes.values())


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_saved_network_is_int8_and_as_good_as_measured(
    trained: str, bar_data: str, tmp_path: Path, granularity: Any
) -> None:
    result = train_quantized(trained, data=bar_data, granularity=granularity, out=tmp_path / "run", epochs=4)
    int8 = load(result.checkpoint)
    assert int8.card.precision == "int8"
    assert int8.card.parent == load(trained).sha256
    assert int8.card.quantization is not None
    assert (int8.card.quantization["method"], int8.card.quantization["granularity"]) == ("qat", granularity)
    channels = int8.card.plan.op("stem").out[0]
    assert int8.tensors["stem.weight_scale"].shape == ((channels,) if granularity == "channel" else (1,))
    batch, targets = validation(bar_data, int8)
    logits = reference.run(int8, batch)
    assert (logits.argmax(1) == targets).mean() == pytest.approx(result.metrics["top1"])
    assert result.metrics["top1"] > 0.9
    with torch.no_grad():
        rounding = from_saved(int8)(torch.from_numpy(batch)).numpy()
    step = quantizations(int8)[int8.card.plan.ops[-1].name].scale
    assert (rounding.argmax(1) == logits.argmax(1)).all()
    assert np.abs(rounding - logits).max() <= 2.01 * step
    assert int8.sample is not None
    picture, output = int8.sample
    again = reference.run(int8, normalize(picture[np.newaxis], int8.card.preprocess))[0]
    np.testing.assert_array_equal(again, output)


@pytest.mark.parametrize("step", [3, 8, 14, 19])  # six an epoch; the phases change after epochs 1 and 3
def test_interrupted_and_resumed_ends_with_the_same_int8_network(
    trained: str, bar_data: str, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    asked: dict[str, Any] = {"data": bar_data, "model": trained, "recipe": "qat", "granularity": "tensor", "epochs": 4}
    train(**asked, **FAST, out=tmp_path / "whole")  # type: ignore[arg-type]
    taken = 0

    def counted(optimizer: torch.optim.Optimizer, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            raise KeyboardInterrupt
        set_learning_rate(optimizer, rate)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "set_learning_rate", counted)
        with pytest.raises(KeyboardInterrupt, match=r"--granularity tensor.* --resume$"):
            train(**asked, **FAST, out=tmp_path / "broken")  # type: ignore[arg-type]
    train(bar_data, out=tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_statistics_are_frozen_first_and_ranges_later(tiny_model: str) -> None:
    recipe = replace(RECIPES["qat"], epochs=10, batch_norm_share=0.3, following_share=0.7)
    checkpoint = load(tiny_model)
    network, batch = rounding_network(checkpoint, "channel")
    network.train()

    def changed(epoch: int) -> tuple[bool, bool]:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        enter_epoch(network, recipe, epoch)
        network(torch.from_numpy(batch) * (1 + epoch))
        moved = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
        assert not any(name.startswith("ranges.input") for name in moved)
        return any("running" in name for name in moved), any("ranges" in name for name in moved)

    seen = [changed(epoch) for epoch in range(recipe.epochs)]
    assert seen == [(True, True)] * 3 + [(False, True)] * 4 + [(False, False)] * 3


def test_a_network_that_does_not_round_has_no_phases(tiny_model: str) -> None:
    enter_epoch(build(load(tiny_model).card.plan), RECIPES["qat"], 9)


def test_the_recipe_is_replayed_from_the_int8_file(trained: str, bar_data: str, tmp_path: Path) -> None:
    first = train_quantized(trained, data=bar_data, granularity="tensor", out=tmp_path / "a", epochs=1)
    again = train(
        bar_data,
        model=trained,
        recipe=str(first.checkpoint),
        bf16="off",
        channels_last="on",
        compile="off",
        out=tmp_path / "b",
    )
    card = read_card(again.checkpoint)
    assert card.precision == "int8"
    assert card.recipe is not None
    assert card.recipe["granularity"] == "tensor"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipe": "qat", "weights": "none"}, "begins with a trained float32 network"),
        ({"recipe": "qat", "freeze": True}, "--freeze trains the classifier alone"),
        ({"recipe": "qat", "bf16": "on"}, "--bf16 on has too few digits"),
        ({"recipe": "simple", "granularity": "tensor"}, "--granularity is for --recipe qat: recipe simple"),
        ({"recipe": "qat", "granularity": "pixel"}, "--granularity must be channel or tensor, not 'pixel'"),
    ],
)
def test_flags_that_contradict_are_named(
    trained: str, bar_data: str, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(bar_data, model=trained, out=tmp_path / "run", **flags)


def test_an_int8_network_is_not_trained_on(trained: str, bar_data: str, tmp_path: Path) -> None:
    first = train_quantized(trained, data=bar_data, out=tmp_path / "a", epochs=1)
    with pytest.raises(CheckpointError, match="the weights are int8"):
        train_quantized(first.checkpoint, data=bar_data, out=tmp_path / "b", epochs=1)


def test_pictures_lie_between_black_and_white_whatever_the_channel() -> None:
    preprocess = load_preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    low, high = picture_range(preprocess)
    values = normalize(np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)]), preprocess)
    assert (low, high) == pytest.approx((float(values.min()), float(values.max())))


def load_preprocess(mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    from mobilenets.image import Preprocess

    return Preprocess(4, 4, mean=mean, std=std)
