from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import Op
from mobilenets.arch.mobilenet import Activation
from mobilenets.arch.plan import padding
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import (
    Quantization,
    activated,
    bounds,
    dequantize,
    quantization,
    quantize,
    table,
)
from mobilenets.engine.reference import arithmetic, products, run
from mobilenets.errors import CheckpointError
from mobilenets.nn.network import activate, from_checkpoint


def convolution(kernel: int, stride: int, groups: int, channels: int, side: int) -> Op:
    out = -(-side // stride)
    return Op("conv", "conv", ("input",), (channels, side, side), (channels, out, out), kernel, stride, groups=groups)


@pytest.mark.parametrize("rule", ["symmetric", "same"])
@pytest.mark.parametrize(("kernel", "stride", "depthwise"), [(1, 1, False), (3, 2, False), (3, 1, True), (5, 2, True)])
@pytest.mark.parametrize("side", [7, 8])
def test_sums_of_products_are_torchs(rule: str, kernel: int, stride: int, depthwise: bool, side: int) -> None:
    random = np.random.default_rng(0)
    channels = 6
    op = convolution(kernel, stride, channels if depthwise else 1, channels, side)
    x = random.normal(size=(2, channels, side, side))
    weight = random.normal(size=(channels, 1 if depthwise else channels, kernel, kernel))
    before, after = padding(side, kernel, stride, "same" if rule == "same" else "symmetric")
    padded = torch.nn.functional.pad(torch.from_numpy(x), (before, after, before, after))
    expected = torch.nn.functional.conv2d(padded, torch.from_numpy(weight), stride=stride, groups=op.groups)
    np.testing.assert_allclose(products(op, x, weight, rule), expected.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid"])
def test_activations_are_torchs(activation: Activation | None) -> None:
    x = np.linspace(-9, 9, 101)
    np.testing.assert_allclose(activated(x, activation), activate(torch.from_numpy(x.copy()), activation), atol=1e-12)


@given(st.floats(-50, 0), st.floats(0, 50))
def test_a_quantization_covers_its_range_and_has_a_zero(low: float, high: float) -> None:
    made = quantization(low, high)
    assert 0 <= made.zero_point <= 255
    assert dequantize(np.array([made.zero_point], np.uint8), made)[0] == 0
    assert made.low <= low + made.scale
    assert made.high >= high - made.scale
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(dequantize(codes, made), made), codes)


def test_rounding_is_half_to_even_and_what_lies_outside_saturates() -> None:
    unit = Quantization(1.0, 10)
    assert quantize(np.array([0.5, 1.5, 2.5, -0.5, -99.0, 999.0]), unit).tolist() == [10, 12, 12, 10, 0, 255]


def test_clips_are_codes() -> None:
    assert bounds("relu6", Quantization(0.05, 3)) == (3, 123)
    assert bounds("relu", Quantization(0.05, 3)) == (3, 255)
    assert bounds(None, Quantization(0.05, 3)) == (0, 255)


def test_a_table_is_the_activation_of_each_code() -> None:
    before, after = quantization(-5, 5), quantization(-0.4, 5.1)
    expected = activated(dequantize(np.arange(256, dtype=np.uint8), before).astype(np.float64), "hard_swish")
    made = dequantize(table("hard_swish", before, after), after)
    assert np.abs(made - expected).max() <= after.scale * 0.51


def test_int8_by_hand(colour_checkpoint: Checkpoint) -> None:
    """Three colours through a 1x1 convolution, a pool and a classifier, in numbers one can follow."""
    small = int8_colours(colour_checkpoint)
    batch = np.zeros((1, 3, 4, 4), np.float32)
    batch[:, 0] = 0.5
    seen: dict[str, Any] = {}
    logits = run(small, batch, lambda name, value: seen.update({name: value}))
    stem, pool, classifier = (op.name for op in small.card.plan.ops)
    # input code 128 (0.502); x weight 100 of scale 0.01 + bias; the output's scale is 1/128
    assert seen[stem][0, :, 0, 0].tolist() == [round((128 * 100) * (1 / 255 * 0.01) * 128), *[0] * 7]
    assert seen[pool][0, :, 0, 0].tolist() == [64, *[0] * 7]
    assert logits[0].tolist() == pytest.approx([0.5, 0, 0], abs=1 / 128)
    assert seen[classifier].dtype == np.uint8


def int8_colours(checkpoint: Checkpoint) -> Checkpoint:
    """Return the network of three colours with int8 weights; the logit of each is its mean."""
    card = replace(checkpoint.card, precision="int8", quantization={"granularity": "channel"})
    stem, pool, classifier = (op.name for op in card.plan.ops)
    tensors: dict[str, Any] = {}
    for name, scale in (("input", 1 / 255), (stem, 1 / 128), (pool, 1 / 128), (classifier, 1 / 128)):
        tensors[f"{name}.scale"] = np.array([scale], np.float32)
        tensors[f"{name}.zero_point"] = np.zeros(1, np.uint8)
    for name in (stem, classifier):
        shape = checkpoint.tensors[f"{name}.weight"].shape
        weight = np.zeros(shape, np.int8)
        weight.reshape(shape[:2])[range(3), range(3)] = 100
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.int32)
        tensors[f"{name}.weight_scale"] = np.full(shape[0], 0.01, np.float32)
    return Checkpoint(card, tensors)


def test_float_is_the_torch_network(colour_checkpoint: Checkpoint) -> None:
    batch = np.random.default_rng(0).normal(size=(3, 3, 9, 5)).astype(np.float32)
    with torch.no_grad():
        expected = from_checkpoint(colour_checkpoint).double()(torch.from_numpy(batch).double()).numpy()
    np.testing.assert_allclose(run(colour_checkpoint, batch), expected, rtol=1e-6, atol=1e-6)


def test_folding_is_for_float32(colour_checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="this one is int8"):
        folded(int8_colours(colour_checkpoint))


def test_the_arithmetic_is_chosen_by_precision(colour_checkpoint: Checkpoint) -> None:
    entered = arithmetic(int8_colours(colour_checkpoint)).enter(np.ones((1, 3, 1, 1), np.float32))
    assert entered.dtype == np.uint8
    assert entered.tolist() == [[[[255]]] * 3]
