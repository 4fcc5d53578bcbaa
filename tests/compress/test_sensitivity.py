from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.calibrate import ranges
from mobilenets.compress.drawing import draw_layers
from mobilenets.compress.sensitivity import LayerError, decibel, layer_errors
from mobilenets.compress.statistics import observe
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import int8_checkpoint
from mobilenets.engine.quantized import Quantization
from mobilenets.image.drawn import pictures

RandomNetwork = Callable[..., Checkpoint]


def errors(checkpoint: Checkpoint, *, coarse: str | None = None, narrow: str | None = None) -> dict[str, LayerError]:
    """Quantize with one layer's weights at a scale far too large, or one output's range far too small."""
    card, layers = checkpoint.card, folded(checkpoint)
    seen = pictures(card.preprocess, 6)
    codes = ranges(card, observe(card, layers, seen), "minmax")
    scales = {}
    if coarse is not None:
        scales[coarse] = np.full(1, np.abs(layers[coarse].weight).max() / 1.5, np.float32)
    if narrow is not None:
        codes[narrow] = Quantization(codes[narrow].scale / 20, codes[narrow].zero_point)
    made = int8_checkpoint(card, layers, codes, "tensor" if coarse else "channel", scales=scales)
    return {layer.name: layer for layer in layer_errors(card, layers, made, seen)}


def test_every_operation_in_order(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v3_small")
    found = errors(checkpoint)
    assert list(found) == [op.name for op in checkpoint.card.plan.ops]
    assert all(
        (found[op.name].weight_sqnr_db is None) == (op.kind not in ("conv", "linear"))
        for op in checkpoint.card.plan.ops
    )
    first = found["stem"]
    assert first.sqnr_db == pytest.approx(first.own_sqnr_db)  # nothing is before it
    assert all(layer.weight_sqnr_db > 30 for layer in found.values() if layer.weight_sqnr_db is not None)
    assert all(layer.clipped_share < 0.01 for layer in found.values())


def test_the_layer_at_fault_is_found(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    found = errors(checkpoint, coarse="block_5_project")
    worst = min(found.values(), key=lambda layer: layer.own_sqnr_db)
    assert worst.name == "block_5_project"
    assert worst.hurts
    assert (
        min((each for each in found.values() if each.weight_sqnr_db is not None), key=lambda e: e.weight_sqnr_db or 0)
        == worst
    )
    assert found["block_6_expand"].own_sqnr_db > worst.own_sqnr_db + 5 > found["block_6_expand"].sqnr_db


def test_clipping_is_told_apart(random_network: RandomNetwork) -> None:
    found = errors(random_network("mobilenet_v2"), narrow="block_4_project")
    assert found["block_4_project"].clipped_share > 0.3
    assert found["block_4_project"].hurts
    assert sum(layer.clipped_share > 0.05 for layer in found.values()) == 1


def test_decibel_is_bounded() -> None:
    assert decibel(1, 0) == 120
    assert decibel(0, 1) == -120
    assert decibel(10, 1) == pytest.approx(10)


def test_the_picture_has_a_bar_for_each(random_network: RandomNetwork) -> None:
    layers = errors(random_network("mobilenet_v2"), coarse="block_5_project")
    picture = np.asarray(Image.open(io.BytesIO(draw_layers(tuple(layers.values())))).convert("RGB")).astype(int)
    orange = (picture[..., 0] - picture[..., 2] > 100).sum()
    blue = (picture[..., 2] - picture[..., 0] > 60).sum()
    assert blue > orange > 100
