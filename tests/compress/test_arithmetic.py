from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mobilenets.arch import CLASSIFIERS
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.arithmetic import FloatArithmetic, Int8Arithmetic, run
from mobilenets.engine import reference
from mobilenets.engine.folding import folded

RandomNetwork = Callable[..., Checkpoint]


def batch(checkpoint: Checkpoint, *sides: int) -> np.ndarray:
    shape = (2, checkpoint.card.in_channels, *sides)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_int8_is_the_reference_to_the_bit(name: str, granularity: str, random_int8_network: RandomNetwork) -> None:
    checkpoint = random_int8_network(name, granularity=granularity)
    pictures = batch(checkpoint, 33, 42)
    found = run(checkpoint.card.plan, Int8Arithmetic(checkpoint), pictures)
    assert np.array_equal(found, reference.run(checkpoint, pictures))
    assert len(np.unique(found)) > 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_int8_pads_as_tensorflow_does(name: str, random_int8_network: RandomNetwork) -> None:
    checkpoint = random_int8_network(name, padding="same", channels=1)
    pictures = batch(checkpoint, 30, 41)
    found = run(checkpoint.card.plan, Int8Arithmetic(checkpoint), pictures)
    assert np.array_equal(found, reference.run(checkpoint, pictures))


def test_sums_beyond_what_float32_holds_are_exact(random_int8_network: RandomNetwork) -> None:
    """A bias of 2**29 + 1 needs 30 bits; float32 has 24."""
    made = random_int8_network("mobilenet_v2")
    bias = made.tensors["classifier.bias"].copy()
    bias[0] = 2**29 + 1
    checkpoint = replace(made, tensors={**made.tensors, "classifier.bias": bias})
    layout = checkpoint.card.plan
    seen: dict[str, np.ndarray] = {}
    run(
        layout,
        Int8Arithmetic(checkpoint),
        batch(checkpoint, 32, 32),
        lambda op, b, _: seen.update({op.name: b.numpy()}),
    )
    assert seen["classifier"].dtype == np.float64
    assert np.array_equal(seen["classifier"], np.rint(seen["classifier"]))
    assert (seen["classifier"][:, 0] - 2**29).max() < 2**24


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet_a1"])
def test_float32_is_the_reference_but_for_rounding(name: str, random_network: RandomNetwork) -> None:
    checkpoint = random_network(name)
    pictures = batch(checkpoint, 48, 40)
    found = run(checkpoint.card.plan, FloatArithmetic(checkpoint.card, folded(checkpoint)), pictures)
    assert np.allclose(found, reference.run(checkpoint, pictures), atol=1e-4)
