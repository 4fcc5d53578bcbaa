"""Boxes out of an ONNX file are those that are decoded and suppressed outside of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import InputError
from mobilenets.formats.card import output_names
from mobilenets.formats.onnx_boxes import DETECTED
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.image.detection import Decoder

onnxruntime = pytest.importorskip("onnxruntime")
Networks = Callable[..., Checkpoint]


def with_detector(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """Vary the heads' data, and let the scores differ more than those of random weights do."""
    arch = checkpoint.card.arch
    detector = replace(arch.detector, **changes)  # type: ignore[type-var]
    tensors = dict(checkpoint.tensors)
    for name, value in checkpoint.tensors.items():
        if name.startswith("scores") and name.count(".") == 1 and "depthwise" not in name:
            tensors[name] = value * np.float32(8)
    return replace(checkpoint, card=replace(checkpoint.card, arch=replace(arch, detector=detector)), tensors=tensors)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ssdlite_mobilenet_v2", {}),
        ("ssdlite_mobilenet_v2", {"scores": "sigmoid", "detections": 7, "candidates": 5, "nms_iou": 0.3}),
        ("ssdlite320_mobilenet_v3_large", {"score_threshold": 0.2, "detections": 40}),
    ],
)
def test_boxes_are_those_of_the_decoder(name: str, changes: dict[str, Any], random_network: Networks) -> None:
    checkpoint = with_detector(random_network(name), **changes)
    layout = checkpoint.card.plan
    session = onnxruntime.InferenceSession(to_onnx(checkpoint, resolution="fixed", nms=True))
    batch = np.random.default_rng(0).normal(size=(3, 3, *layout.resolution)).astype(np.float32)
    names = [*output_names(layout), *DETECTED]
    values = dict(zip(names, session.run(names, {"input": batch}), strict=True))
    expected = Decoder(layout)([values[name] for name in layout.outputs])
    boxes, scores, classes, pictures = (values[name] for name in DETECTED)
    assert boxes.dtype == scores.dtype == np.float32
    assert classes.dtype == pictures.dtype == np.int64
    assert len(boxes) == sum(len(each) for each in expected) > 3
    for index, meant in enumerate(expected):
        own = pictures == index
        np.testing.assert_allclose(scores[own], meant.scores, atol=1e-6)
        np.testing.assert_array_equal(classes[own], meant.classes)
        np.testing.assert_allclose(boxes[own], meant.boxes, atol=1e-3)


def test_it_is_for_detectors_of_a_fixed_size(random_network: Networks) -> None:
    with pytest.raises(InputError, match="fixed resolution"):
        to_onnx(random_network("ssdlite_mobilenet_v2"), nms=True)
    with pytest.raises(InputError, match="for detectors"):
        to_onnx(random_network("mobilenet_v2"), resolution="fixed", nms=True)
