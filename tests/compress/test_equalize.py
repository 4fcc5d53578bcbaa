from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress.arithmetic import FloatArithmetic
from mobilenets.compress.equalize import equalized, pairs, with_relu
from mobilenets.compress.post_training import logits
from mobilenets.compress.statistics import observe_channels
from mobilenets.engine.folding import Layer, folded
from mobilenets.image.drawn import pictures

RandomNetwork = Callable[..., Checkpoint]


def unbalanced(layers: dict[str, Layer], card: Card, seed: int = 0) -> dict[str, Layer]:
    """Return layers that compute the same with ReLU, their depthwise channels scaled by up to 32 or 1/32."""
    changed = dict(layers)
    random = np.random.default_rng(seed)
    for op in card.plan.ops:
        if not op.name.endswith("_project"):
            continue
        before = card.plan.op(op.sources[0])
        if before.name not in layers or before.activation != "relu":
            continue
        factor = (2.0 ** random.integers(-5, 6, before.out[0])).astype(np.float32)
        first, then = layers[before.name], layers[op.name]
        changed[before.name] = Layer(first.weight * factor[:, None, None, None], first.bias * factor)
        changed[op.name] = Layer(then.weight / factor[:, None, None], then.bias)
    return changed


def spread(layers: Mapping[str, Layer], name: str) -> float:
    """Return the largest channel's range over the median one's."""
    ranges = np.abs(layers[name].weight).reshape(len(layers[name].weight), -1).max(1)
    return float(ranges.max() / np.median(ranges))


def test_what_can_be_scaled() -> None:
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    found = {pair.first: pair.readers for pair in pairs(layout)}
    assert found["block_2_expand"] == ("block_2_depthwise",)
    assert found["block_2_depthwise"] == ("block_2_project",)
    assert found["head"] == ("classifier",)  # through the pooling
    assert "block_2_project" not in found  # a shortcut adds it up
    assert "classifier" not in found
    v1 = {pair.first: pair.readers for pair in pairs(plan(ARCHITECTURES["mobilenet_v1"]))}
    assert v1["block_3_pointwise"] == ("block_4_depthwise",)
    squeezed = {pair.first: pair.readers for pair in pairs(plan(ARCHITECTURES["mobilenet_v3_small"]))}
    assert set(squeezed["block_1_depthwise"]) == {"block_1_se_reduce", "block_1_project"}
    assert "block_4_expand" not in squeezed  # h-swish


def test_relu_replaces_relu6_everywhere() -> None:
    v2 = ARCHITECTURES["mobilenet_v2"]
    changed = with_relu(replace(v2, bottleneck_activation="relu6"))
    assert {op.activation for op in plan(changed).ops} == {"relu", None}
    assert with_relu(ARCHITECTURES["mobilenet_v3_small"]) == ARCHITECTURES["mobilenet_v3_small"]


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet_a1", "efficientnet_lite0"]
)
@pytest.mark.parametrize("relu", [False, True])
def test_the_network_computes_the_same(name: str, relu: bool, random_network: RandomNetwork) -> None:
    checkpoint = random_network(name)
    card = replace(checkpoint.card, arch=with_relu(checkpoint.card.arch)) if relu else checkpoint.card
    layers, seen = folded(checkpoint), pictures(card.preprocess, 6)
    found = equalized(card, layers, observe_channels(card, layers, seen)).layers
    before = logits(card, FloatArithmetic(card, layers), seen)
    after = logits(card, FloatArithmetic(card, found), seen)
    assert np.allclose(before, after, atol=1e-3 * np.abs(before).max())
    assert any(not np.array_equal(found[name].weight, layers[name].weight) for name in layers)


def test_channels_become_alike(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    card = replace(checkpoint.card, arch=with_relu(checkpoint.card.arch))
    layers = unbalanced(folded(checkpoint), card)
    seen = pictures(card.preprocess, 6)
    found = equalized(card, layers, observe_channels(card, layers, seen)).layers
    names = [op.name for op in card.plan.ops if op.depthwise]
    before, after = (np.mean([spread(each, name) for name in names]) for each in (layers, found))
    assert before > 10
    assert after < before / 3


def test_with_relu6_no_value_is_pushed_into_the_clip(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    card, layers = checkpoint.card, folded(checkpoint)
    seen = pictures(card.preprocess, 6)
    before = observe_channels(card, layers, seen)
    after = observe_channels(card, equalized(card, layers, before).layers, seen)
    for pair in pairs(card.plan):
        if pair.activation == "relu6":
            below = before[pair.first].largest < 6
            assert (after[pair.first].largest[below] < 6).all()
            assert np.allclose(after[pair.first].largest[~below], before[pair.first].largest[~below], rtol=1e-3)


def test_a_constant_channel_with_huge_weights_behind_it_is_tamed(random_network: RandomNetwork) -> None:
    """A depthwise channel that reads nothing but a bias can have the largest weights of its layer."""
    checkpoint = random_network("mobilenet_v2")
    card, layers = checkpoint.card, folded(checkpoint)
    expand, depthwise = layers["block_2_expand"], layers["block_2_depthwise"]
    weight, bias, behind = expand.weight.copy(), expand.bias.copy(), depthwise.weight.copy()
    weight[0], bias[0], behind[0] = 0, 0.01, 50 * np.abs(behind).max()
    layers = {**layers, "block_2_expand": Layer(weight, bias), "block_2_depthwise": Layer(behind, depthwise.bias)}
    found = equalized(card, layers, observe_channels(card, layers, pictures(card.preprocess, 6))).layers
    assert spread(layers, "block_2_depthwise") > 40
    assert spread(found, "block_2_depthwise") < 10
