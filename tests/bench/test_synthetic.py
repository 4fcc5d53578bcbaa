from __future__ import annotations

import numpy as np
import pytest

from mobilenets.arch import CLASSIFIERS, arch_named, plan
from mobilenets.bench.synthetic import quick_int8, random_checkpoint
from mobilenets.checkpoint import tensor_specs
from mobilenets.engine import reference


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_random_weights_let_the_signal_through(name: str) -> None:
    """No value is denormal or infinite, which would change how long a network takes."""
    layout = plan(arch_named(name), width=0.25, resolution=32, classes=10)
    checkpoint = random_checkpoint(layout)
    tensors = {key: (str(array.dtype), array.shape) for key, array in checkpoint.tensors.items()}
    assert tensors == tensor_specs(checkpoint.card)
    spread: dict[str, float] = {}
    batch = np.random.default_rng(7).normal(size=(2, layout.in_channels, 32, 32)).astype(np.float32)
    logits = reference.run(checkpoint, batch, lambda op, value: spread.update({op: float(value.std())}))
    assert min(spread.values()) > 1e-4
    assert max(spread.values()) < 1e4
    assert np.ptp(logits) > 0


def test_the_same_plan_gives_the_same_weights() -> None:
    layout = plan(arch_named("mobilenet_v2"), width=0.25, resolution=32, classes=10)
    first, second = random_checkpoint(layout), random_checkpoint(layout)
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_quick_int8_is_a_sound_checkpoint_near_its_float(name: str) -> None:
    checkpoint = random_checkpoint(plan(arch_named(name), width=0.25, resolution=32, classes=10))
    eight = quick_int8(checkpoint)
    tensors = {key: (str(array.dtype), array.shape) for key, array in eight.tensors.items()}
    assert tensors == tensor_specs(eight.card)
    assert eight.card.quantization is not None
    assert eight.card.quantization["method"] == "for timing alone"
    batch = np.random.default_rng(7).normal(size=(4, 3, 32, 32)).astype(np.float32)
    floats, codes = reference.run(checkpoint, batch), reference.run(eight, batch)
    assert np.corrcoef(floats.ravel(), codes.ravel())[0, 1] > 0.5
