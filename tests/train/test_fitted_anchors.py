"""Anchors for boxes that the table's own do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from mobilenets.arch import DETECTORS, plan
from mobilenets.arch.naming import arch_from_json, arch_to_json
from mobilenets.data.annotations import Truth
from mobilenets.data.boxed import BoxedPictures
from mobilenets.data.pictures import ArrayPictures
from mobilenets.image import Preprocess
from mobilenets.train.fitted_anchors import MOST_ADDED, with_fitting_anchors

SIDE = 320


def boxed(*shapes: tuple[float, float]) -> BoxedPictures:
    """Return pictures of 640 x 480, each with one box of a shape in its middle, all of one class."""
    count = len(shapes)
    pixels = ArrayPictures(
        ("thing",), np.zeros(count, np.int64), tuple(map(str, range(count))), np.zeros((count, 1, 1, 3), np.uint8)
    )
    truths = [
        Truth(
            np.array([[300 - wide / 2, 200 - high / 2, 300 + wide / 2, 200 + high / 2]], np.float32),
            np.zeros(1, np.int64),
            np.zeros(1, bool),
            np.array([wide * high], np.float32),
        )
        for wide, high in shapes
    ]
    return BoxedPictures(("thing",), pixels, tuple(truths), np.tile([480, 640], (count, 1)))


@pytest.mark.parametrize("name", ["ssdlite_mobilenet_v2", "ssdlite320_mobilenet_v3_large"])
def test_small_and_slim_things_get_anchors(name: str) -> None:
    layout = plan(DETECTORS[name], classes=1)
    pictures = boxed(*[(20.0, 15.0)] * 5, *[(21.0, 15.0)] * 5, *[(280.0, 12.0)] * 5)
    arch, note = with_fitting_anchors(layout, pictures, Preprocess(SIDE, SIDE))
    assert note is not None
    assert arch.detector is not None
    own = DETECTORS[name].detector
    assert own is not None
    added = arch.detector.anchors.levels[0][len(own.anchors.levels[0]) :]
    assert arch.detector.anchors.levels[1:] == own.anchors.levels[1:]
    shapes = sorted((SIDE * scale * ratio**0.5, SIDE * scale / ratio**0.5) for scale, ratio in added)
    assert shapes[0] == pytest.approx((10.25, 10), rel=0.01)  # halved and by two thirds, as the picture is
    assert shapes[1] == pytest.approx((140, 8), rel=0.01)
    assert len(shapes) == 2
    wider = plan(arch, classes=1)
    assert wider.op("scores_1").out[0] == layout.op("scores_1").out[0] + 4
    assert arch_from_json(arch_to_json(arch)) == arch


def test_things_that_fit_get_none() -> None:
    layout = plan(DETECTORS["ssdlite_mobilenet_v2"], classes=1)
    arch, note = with_fitting_anchors(layout, boxed((200.0, 150.0), (300.0, 240.0)), Preprocess(SIDE, SIDE))
    assert note is None
    assert arch == DETECTORS["ssdlite_mobilenet_v2"]


def test_few_are_added_however_odd_things_are() -> None:
    layout = plan(DETECTORS["ssdlite_mobilenet_v2"], classes=1)
    shapes = [(4.0 * 1.9**step, 6.0) for step in range(8)]
    arch, _ = with_fitting_anchors(layout, boxed(*shapes), Preprocess(SIDE, SIDE))
    assert arch.detector is not None
    assert len(arch.detector.anchors.levels[0]) == 3 + MOST_ADDED
