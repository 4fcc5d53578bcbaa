"""A detector whose answers are known, and pictures for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mobilenets.arch import DETECTORS
from mobilenets.arch.detector import Anchors, Detector
from mobilenets.arch.mobilenet import Conv
from mobilenets.checkpoint import Card, Checkpoint, tensor_shapes
from mobilenets.image import Preprocess

SIDE = 16
COLOURS = ("red", "green", "blue")


def spots_detector() -> Checkpoint:
    """Return a detector that finds single pixels of a colour: a box of 4 x 4 around each.

    Every pixel is a place with one anchor; the logit of a colour is 10 times its brightness, 0..1, less 5.
    """
    detector = Detector(taps=("stem",), extras=(), anchors=Anchors("tf", (((4 / SIDE, 1.0),),)), nms_iou=0.5)
    arch = replace(
        DETECTORS["ssdlite_mobilenet_v2"],
        name="spots",
        rows=(Conv(c=8, kernel=1),),
        resolution=SIDE,
        small_image_strides=False,
        detector=detector,
    )
    preprocess = Preprocess(SIDE, SIDE, interpolation="nearest", mean=(0.0,) * 3, std=(1.0,) * 3)
    card = Card(arch, 1.0, (SIDE, SIDE), COLOURS, preprocess, task="detection")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(card.plan).items()}
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor[:] = 1
        elif name.endswith("running_var"):
            tensor[:] = 1 - arch.bn_eps
        elif name.endswith("depthwise.weight"):
            tensor[:, :, 1, 1] = 1
    tensors["stem.weight"][:3, :, 0, 0] = np.eye(3)
    tensors["scores_1.weight"][1:, :3, 0, 0] = 10 * np.eye(3)
    tensors["scores_1.bias"][1:] = -5
    return Checkpoint(card, tensors)


def spotted(*spots: tuple[int, int, int], size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Return a black picture with pixels of a colour: (x, y, which)."""
    picture = np.zeros((*size, 3), np.uint8)
    for x, y, which in spots:
        picture[y, x, which] = 255
    return picture
