"""From raw maps to boxes, beside torchvision's detector."""

from __future__ import annotations

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES, DETECTORS, plan
from mobilenets.errors import InputError
from mobilenets.image import Preprocess
from mobilenets.image.detection import Decoder, Found, anchors, on_picture
from mobilenets.image.preprocess import fit

CLASSES = 5
LAYOUT = plan(DETECTORS["ssdlite320_mobilenet_v3_large"], classes=CLASSES)


def raw_maps(seed: int, pictures: int = 2) -> list[np.ndarray]:
    """Return maps as a network of five classes puts them out, confident of few things."""
    random = np.random.default_rng(seed)
    maps = []
    for name in LAYOUT.outputs:
        values = random.normal(size=(pictures, *LAYOUT.op(name).out)).astype(np.float32)
        maps.append(values * (1 if name.startswith("boxes") else 3))
    for scores in maps[1::2]:
        scores[:, :: CLASSES + 1] += 6  # the background is likely
    return maps


def by_place(maps: list[np.ndarray], values: int) -> np.ndarray:
    """Return (N, A, values) place by place, as torchvision counts: level, row, column, anchor."""
    parts = [
        each.reshape(len(each), -1, values, *each.shape[2:]).transpose(0, 3, 4, 1, 2).reshape(len(each), -1, values)
        for each in maps
    ]
    return np.concatenate(parts, axis=1)


def test_anchors_are_torchvisions() -> None:
    import torch
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    theirs = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    sides = [LAYOUT.op(name).out[1:] for name in LAYOUT.outputs[0::2]]
    images = ImageList(torch.zeros(1, 3, 320, 320), [(320, 320)])
    (expected,) = theirs(images, [torch.zeros(1, 1, *side) for side in sides])
    ours, start, level_anchors = anchors(LAYOUT), 0, []
    for height, width in sides:
        count = 6 * height * width
        level_anchors.append(ours[start : start + count].reshape(6, -1, 4).transpose(1, 0, 2).reshape(-1, 4))
        start += count
    np.testing.assert_allclose(np.concatenate(level_anchors), expected.numpy(), atol=1e-3)


def test_tensorflows_anchors_are_squares_of_the_shorter_side() -> None:
    arch = DETECTORS["ssdlite_mobilenet_v2"]
    boxes = anchors(plan(arch, resolution=(320, 480)))
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert sizes[0].tolist() == pytest.approx([32, 32])  # scale 0.1, ratio 1
    assert boxes[0].tolist() == pytest.approx([8 - 16, 8 - 16, 8 + 16, 8 + 16])  # centred in a cell of 16 pixels
    assert len(boxes) == sum(
        count
        * 1
        * plan(arch, resolution=(320, 480)).op(name).out[1]
        * plan(arch, resolution=(320, 480)).op(name).out[2]
        for name, count in zip(plan(arch, resolution=(320, 480)).outputs[0::2], (3, 6, 6, 6, 6, 6), strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_detections_are_torchvisions(seed: int) -> None:
    """Softmax, threshold, the best of each class, decoding, clipping, suppression class by class: the same boxes."""
    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    maps = raw_maps(seed)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    images = ImageList(torch.zeros(2, 3, 320, 320), [(320, 320)] * 2)
    places = [torch.zeros(1, 1, *each.shape[2:]) for each in maps[0::2]]
    generator = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
    theirs = model.postprocess_detections(
        {
            "bbox_regression": torch.from_numpy(by_place(maps[0::2], 4)),
            "cls_logits": torch.from_numpy(by_place(maps[1::2], CLASSES + 1)),
        },
        generator(images, places) * 2,
        [(320, 320)] * 2,
    )
    for ours, expected in zip(Decoder(LAYOUT)(maps), theirs, strict=True):
        assert len(ours) == len(expected["scores"]) > 20
        np.testing.assert_allclose(ours.scores, expected["scores"].numpy(), rtol=1e-5)
        np.testing.assert_array_equal(ours.classes, expected["labels"].numpy() - 1)
        np.testing.assert_allclose(ours.boxes, expected["boxes"].numpy(), atol=2e-3)


def test_sigmoid_scores_leave_the_background_out() -> None:
    from dataclasses import replace

    arch = DETECTORS["ssdlite320_mobilenet_v3_large"]
    assert arch.detector is not None
    layout = plan(replace(arch, detector=replace(arch.detector, scores="sigmoid")), classes=1)
    maps = [np.full((1, *layout.op(name).out), -9.0, np.float32) for name in layout.outputs]
    maps[1][0, 1, 4, 7] = 2.0  # the class of the first anchor at row 4, column 7
    maps[1][0, 0] = 50.0  # whatever is said of the background
    maps[0][:] = 0
    (found,) = Decoder(layout)(maps)
    assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-2.0))])
    assert found.classes.tolist() == [0]
    assert (found.boxes[0, :2] + found.boxes[0, 2:]).tolist() == pytest.approx([2 * 7.5 * 16, 2 * 4.5 * 16])


@pytest.mark.parametrize(
    "preprocess", [Preprocess(64, 96), Preprocess(64, 64, resize=64), Preprocess(64, 64, resize=80)]
)
def test_boxes_go_back_to_the_pixels_they_came_from(preprocess: Preprocess) -> None:
    """A white rectangle on black is found again, as the network sees it, and led back to the picture."""
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[40:90, 70:130] = 255
    seen = fit(picture, preprocess)[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    (back,) = on_picture(Found(box, np.zeros(1, np.int64), np.ones(1, np.float32)), preprocess, 120, 200).boxes
    np.testing.assert_allclose(back, [70, 40, 130, 90], atol=2.0)


def test_classifiers_have_no_anchors() -> None:
    with pytest.raises(InputError, match="classifies"):
        anchors(plan(ARCHITECTURES["mobilenet_v2"]))
