"""The heat map in ONNX files against the same thing by differences of the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mobilenets.arch import Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.formats.onnx_heat import HEAT, head_of
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
Network = Callable[..., Checkpoint]


def outputs(content: bytes, batch: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": batch}), strict=True))


def slopes(checkpoint: Checkpoint, pooled: np.ndarray, class_index: int) -> np.ndarray:
    """Return by how much a logit changes with each pooled feature, float64 (C,), by central differences."""
    by, head = reference.arithmetic(checkpoint), head_of(checkpoint.card.plan)
    assert head is not None
    layers: list[Op] = [each for each in (head.dense, head.classifier) if each is not None]
    step = 1e-3  # small, lest a ReLU switch on the way
    moved = np.concatenate([pooled + step * np.eye(len(pooled)), pooled - step * np.eye(len(pooled))])
    value = moved[:, :, np.newaxis, np.newaxis].astype(np.float32)
    for op in layers:
        value = by.compute(op, value)
    logits = value.reshape(len(moved), -1)[:, class_index].astype(np.float64)
    return (logits[: len(pooled)] - logits[len(pooled) :]) / (2 * step)


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_small_minimalistic"]
)
def test_heat_is_what_each_place_adds_to_the_logit(name: str, random_network: Network) -> None:
    checkpoint = random_network(name)
    batch = normalize(pictures(checkpoint.card.preprocess, 4), checkpoint.card.preprocess)[2:]
    found = outputs(to_onnx(checkpoint, heat=True), batch)
    seen: dict[str, np.ndarray] = {}
    reference.run(checkpoint, batch, watch=seen.__setitem__)
    head = head_of(checkpoint.card.plan)
    assert head is not None
    features = seen[head.features].astype(np.float64)
    best = np.argsort(-found["logits"], axis=1, kind="stable")[:, :5]
    assert found[HEAT].shape == (2, 5, *features.shape[2:])
    for picture in range(2):
        pooled = features[picture].mean((1, 2))
        for place, class_index in enumerate(best[picture]):
            expected = np.tensordot(slopes(checkpoint, pooled, int(class_index)), features[picture], 1)
            np.testing.assert_allclose(found[HEAT][picture, place], expected, atol=5e-2 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_small_minimalistic"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_heat_of_an_int8_network_is_that_of_its_values(
    name: str, granularity: str, random_int8_network: Network
) -> None:
    checkpoint = random_int8_network(name, granularity=granularity)
    batch = normalize(pictures(checkpoint.card.preprocess, 2), checkpoint.card.preprocess)
    plain, found = outputs(to_onnx(checkpoint), batch), outputs(to_onnx(checkpoint, heat=True), batch)
    np.testing.assert_array_equal(found["logits"], plain["logits"])  # what is added disturbs nothing
    if name == "mobilenet_v2":  # one linear layer: the heat's mean and the bias are the logit, up to its 8 bits
        op, tensors = checkpoint.card.plan.ops[-1], checkpoint.tensors
        source = checkpoint.card.plan.op(op.sources[0]).name
        bias = tensors[f"{op.name}.bias"] * tensors[f"{op.name}.weight_scale"] * tensors[f"{source}.scale"]
        best = np.argsort(-found["logits"], axis=1, kind="stable")[:, :5]
        expected = np.take_along_axis(found["logits"], best, 1) - bias[best]
        np.testing.assert_allclose(found[HEAT].mean((2, 3)), expected, atol=0.05 * float(np.ptp(plain["logits"])))
    assert np.isfinite(found[HEAT]).all()
    assert np.ptp(found[HEAT]) > 0


def test_heat_is_there_only_when_asked_for(colour_checkpoint: Checkpoint) -> None:
    assert set(outputs(to_onnx(colour_checkpoint, heat=True), np.ones((1, 3, 16, 16), np.float32))) == {"logits", HEAT}
    assert set(outputs(to_onnx(colour_checkpoint), np.ones((1, 3, 16, 16), np.float32))) == {"logits"}
