"""Matching and losses, beside arithmetic by hand and beside torchvision's matcher and coder."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from mobilenets.arch import DETECTORS, plan
from mobilenets.image.detection import Decoder, anchors, encoded
from mobilenets.nn.box_loss import BACKGROUND, CROWD, IGNORED, detection_loss, flat_heads, matched

LAYOUT = plan(DETECTORS["ssdlite_mobilenet_v2"], width=0.25, classes=3)
DETECTOR = DETECTORS["ssdlite_mobilenet_v2"].detector
ANCHORS = torch.from_numpy(anchors(LAYOUT))


def target(*rows: tuple[float, float, float, float, float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_matching_is_torchvisions() -> None:
    """SSDMatcher gives an anchor its best box above .5, and each box its best anchor."""
    from torchvision.models.detection._utils import SSDMatcher
    from torchvision.ops import box_iou

    random = np.random.default_rng(2)
    corners = random.uniform(0, 200, (7, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + random.uniform(20, 110, (7, 2))], 1).astype(np.float32))
    theirs = SSDMatcher(0.5)(box_iou(boxes, ANCHORS))
    rows = torch.cat([boxes, torch.arange(7.0)[:, None]], dim=1)
    what, where = matched(ANCHORS, rows[None])
    assert torch.equal(what[0] > 0, theirs >= 0)
    found = what[0] > 0
    assert torch.equal(what[0][found] - 1, theirs[found])
    assert torch.equal(where[0][found], boxes[theirs[found]])


def test_every_box_has_an_anchor_and_the_rest_is_background() -> None:
    what, where = matched(ANCHORS, target((100, 100, 104, 103, 2), (-1, -1, -1, -1, -1)))
    assert (what > 0).sum() == 1  # far smaller than every anchor: only the best one
    assert what.max() == 3
    assert (what == BACKGROUND).sum() == len(ANCHORS) - 1
    assert where[what > 0].tolist() == [[100, 100, 104, 103]]


def test_two_boxes_with_the_same_best_anchor() -> None:
    """The one that overlaps it more has it, whichever comes first."""
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    near, far = (0.0, 0.0, 9.0, 9.0, 0.0), (0.0, 0.0, 4.0, 4.0, 1.0)
    assert matched(anchor, target(near, far))[0].tolist() == [[1]]
    assert matched(anchor, target(far, near))[0].tolist() == [[1]]


def test_crowds_are_left_alone() -> None:
    what, _ = matched(ANCHORS, target((0, 0, 160, 320, CROWD), (200, 100, 300, 200, 1)))
    inside = (ANCHORS[:, 2] <= 160) & (ANCHORS[:, 0] >= 0) & (ANCHORS[:, 1] >= 0) & (ANCHORS[:, 3] <= 320)
    assert (what[0][inside] == IGNORED).all()
    assert (what[0] == 2).any()
    right = ANCHORS[:, 0] > 160
    assert (what[0][right] != IGNORED).all()


def test_heads_say_what_the_decoder_reads() -> None:
    """What `encoded` writes at each place of the maps comes back as the boxes they encode."""
    random = np.random.default_rng(0)
    anchor_boxes = ANCHORS.numpy()
    corners = random.uniform(20, 150, (len(anchor_boxes), 2))
    wanted = np.concatenate([corners, corners + random.uniform(20, 150, corners.shape)], 1).astype(np.float32)
    assert DETECTOR is not None
    differences = encoded(wanted, anchor_boxes, DETECTOR)
    np.testing.assert_allclose(Decoder(LAYOUT).boxes(differences.T), wanted, rtol=1e-4, atol=1e-3)
    maps, start = [], 0
    for name, count in zip(LAYOUT.outputs[0::2], DETECTOR.anchors.counts, strict=True):
        _, height, width = LAYOUT.op(name).out
        part = differences[start : start + count * height * width]
        start += len(part)
        maps.append(torch.from_numpy(part.reshape(count, -1, 4).transpose(0, 2, 1).reshape(1, -1, height, width)))
    scores = [
        torch.zeros(1, count * 4, *each.shape[2:]) for count, each in zip(DETECTOR.anchors.counts, maps, strict=True)
    ]
    outputs = [each for pair in zip(maps, scores, strict=True) for each in pair]
    flat, said = flat_heads(outputs, DETECTOR.anchors.counts, 3)
    np.testing.assert_array_equal(flat[0].numpy(), differences)
    assert said.shape == (1, len(anchor_boxes), 4)


@pytest.mark.parametrize("focal", [0.0, 2.0])
@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_loss_by_hand(form: str, focal: float) -> None:
    """Two anchors that match, three that do not; of these, all count with 3 negatives for each."""
    assert DETECTOR is not None
    detector = replace(DETECTOR, scores=form)  # type: ignore[arg-type]
    torch.manual_seed(0)
    scores, what = torch.randn(1, 5, 3), torch.tensor([[1, 0, 2, 0, 0]])
    own = torch.tensor([[0.0, 0, 10, 10]]).repeat(5, 1)
    where = torch.tensor([0.0, 0, 20, 10]).repeat(1, 5, 1)
    loss = detection_loss(torch.zeros(1, 5, 4), scores, what, where, own, detector, focal=focal)
    step, growth = detector.coder[0] * 0.5, detector.coder[2] * math.log(2)  # moved by half a width, twice as wide
    box_loss = 2 * ((step - 0.5) + (growth - 0.5))
    if form == "softmax":
        entropy = functional.cross_entropy(scores[0], what[0], reduction="none")
        weight = torch.where(what[0] > 0, 0.25, 0.75) * (1 - torch.exp(-entropy)) ** focal if focal else 1.0
        class_loss = (weight * entropy).sum()
    else:
        one_hot = functional.one_hot(what[0], 3)[:, 1:].float()
        from torchvision.ops import sigmoid_focal_loss

        class_loss = (
            sigmoid_focal_loss(scores[0][:, 1:], one_hot, gamma=focal, reduction="sum")
            if focal
            else functional.binary_cross_entropy_with_logits(scores[0][:, 1:], one_hot, reduction="sum")
        )
    assert float(loss) == pytest.approx(float(box_loss + class_loss) / 2, rel=1e-5)


def test_hardest_negatives_count() -> None:
    """One match, ten of background: with one negative for each match at least three of a picture count."""
    assert DETECTOR is not None
    scores = torch.zeros(1, 11, 2)
    scores[0, :, 1] = torch.arange(11.0)  # the more it claims an object, the worse for background
    what = torch.zeros(1, 11, dtype=torch.long)
    what[0, 0] = 1
    own = torch.tensor([[0.0, 0, 10, 10]]).repeat(11, 1)
    entropy = functional.cross_entropy(scores[0], what[0], reduction="none")
    for negatives, counted in ((1, 3), (5, 5)):
        loss = detection_loss(torch.zeros(1, 11, 4), scores, what, own[None], own, DETECTOR, negatives=negatives)
        assert float(loss) == pytest.approx(float(entropy[0] + entropy[-counted:].sum()), rel=1e-5)


def test_a_batch_without_boxes_has_a_loss() -> None:
    assert DETECTOR is not None
    what, where = matched(ANCHORS, target((-1, -1, -1, -1, -1)))
    assert (what == BACKGROUND).all()
    count = len(ANCHORS)
    differences, scores = torch.zeros(1, count, 4, requires_grad=True), torch.zeros(1, count, 4, requires_grad=True)
    loss = detection_loss(differences, scores, what, where, ANCHORS, DETECTOR)
    torch.autograd.backward(loss)
    assert scores.grad is not None
    assert float(loss.detach()) == pytest.approx(3 * math.log(4), rel=1e-5)
