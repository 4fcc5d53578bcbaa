from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.checkpoint import Checkpoint, tensor_specs
from mobilenets.engine.folding import Layer, folded
from mobilenets.engine.int8 import Granularity, int8_checkpoint, quantized_layer, weight_scales
from mobilenets.engine.quantized import Quantization, quantization

SOURCE = Quantization(float(np.float32(6 / 255)), 0)


def layer(seed: int, *, channels: int = 4) -> Layer:
    """Return a layer whose channels are of very different sizes."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-2, 2, (channels, 1, 1, 1))
    weight = random.standard_t(3, (channels, 5, 3, 3)) * sizes
    return Layer(weight.astype(np.float32), random.normal(size=channels).astype(np.float32))


def kept(of: Layer, granularity: Granularity, *, search: bool = False) -> np.ndarray:
    scales = weight_scales(of, granularity, SOURCE, search=search)
    weight, _ = quantized_layer(of, scales, SOURCE)
    return weight * scales.reshape(-1, 1, 1, 1).astype(np.float64)


@given(st.integers(0, 2**32 - 1))
def test_no_weight_is_off_by_more_than_half_a_step(seed: int) -> None:
    of = layer(seed)
    for granularity in ("channel", "tensor"):
        scales = weight_scales(of, granularity, SOURCE)
        off = np.abs(kept(of, granularity) - of.weight)
        assert (off <= 0.5001 * scales.reshape(-1, 1, 1, 1)).all()


@given(st.integers(0, 2**32 - 1))
def test_the_search_is_never_worse(seed: int) -> None:
    of = layer(seed)
    for granularity in ("channel", "tensor"):
        errors = [np.square(kept(of, granularity, search=search) - of.weight).sum() for search in (False, True)]
        assert errors[1] <= errors[0] * (1 + 1e-6)


def test_weights_that_were_8_bits_are_kept_exactly() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(-127, 128, (6, 3, 3, 3))
    codes[:, 0, 0, 0] = 127
    steps = random.uniform(0.001, 1, 6).astype(np.float32)
    of = Layer((codes * steps[:, None, None, None]).astype(np.float32), np.zeros(6, np.float32))
    for search in (False, True):
        scales = weight_scales(of, "channel", SOURCE, search=search)
        assert np.allclose(scales, steps)
        assert np.array_equal(quantized_layer(of, scales, SOURCE)[0], codes)


def test_a_dead_channel_with_a_bias_fits_int32() -> None:
    of = Layer(np.zeros((2, 1, 1, 1), np.float32), np.array([5.0, -3.0], np.float32))
    for granularity in ("channel", "tensor"):
        scales = weight_scales(of, granularity, SOURCE)
        _, bias = quantized_layer(of, scales, SOURCE)
        assert np.allclose(bias * scales.astype(np.float64) * SOURCE.scale, of.bias, rtol=1e-6)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_checkpoint_has_what_its_card_says(
    granularity: Granularity, random_network: Callable[..., Checkpoint]
) -> None:
    float32 = random_network("mobilenet_v3_small")
    card, layers = float32.card, folded(float32)
    names = ["input", *(op.name for op in card.plan.ops)]
    ranges = dict.fromkeys(names + [f"{name}.before" for name in names], quantization(-1, 3))
    known = weight_scales(layers["stem"], granularity, SOURCE) * np.float32(2)
    made = int8_checkpoint(card, layers, ranges, granularity, scales={"stem": known}, facts={"method": "test"})
    specs = tensor_specs(made.card)
    assert {name: (str(array.dtype), array.shape) for name, array in made.tensors.items()} == specs
    assert made.card == replace(
        card, precision="int8", batch_norm="folded", quantization={"method": "test", "granularity": granularity}
    )
    assert np.array_equal(made.tensors["stem.weight_scale"], known)


def test_a_sigmoid_has_the_codes_that_tflite_gives_it(random_int8_network: Callable[..., Checkpoint]) -> None:
    made = random_int8_network("mnasnet_a1")
    gates = [op.name for op in made.card.plan.ops if op.activation == "sigmoid"]
    assert gates
    assert {
        (float(made.tensors[f"{gate}.scale"][0]), int(made.tensors[f"{gate}.zero_point"][0])) for gate in gates
    } == {(1 / 256, 0)}
