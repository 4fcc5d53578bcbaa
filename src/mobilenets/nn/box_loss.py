"""What a detector learns from: true boxes matched with anchors, and the loss of its heads (SSD, section 2.2).

Anchors are in the order of `mobilenets.image.detection`: level by level, anchor by anchor, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mobilenets.arch.detector import Detector

BACKGROUND, IGNORED = 0, -1
"""What an anchor is to be: nothing, or whatever it likes; classes count from 1."""
CROWD = -2.0
"""In the last column of targets, as `mobilenets.data.box_augment` writes it; other rows below 0 fill up."""

POSITIVE_IOU = 0.5
"""An anchor that overlaps a true box by as much is to find it, as is the one that overlaps it best."""
CROWD_SHARE = 0.5
"""An anchor with as much of its area in a crowd is left alone."""
LEAST_NEGATIVES = 3
"""Anchors of a picture that are taught to be background even where no anchor matches a box."""
FOCAL_ALPHA = 0.25
"""How much anchors with an object weigh in the focal loss, against 1 less this for the others (arXiv:1708.02002)."""


def flat_heads(outputs: Sequence[Tensor], anchors_per_place: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    """Return box differences (N, A, 4) and scores (N, A, classes + 1) of a detector's maps: boxes, scores, boxes..."""

    def joined(maps: Sequence[Tensor], values: int) -> Tensor:
        parts = [
            each.reshape(len(each), count, values, -1).transpose(2, 3).reshape(len(each), -1, values)
            for each, count in zip(maps, anchors_per_place, strict=True)
        ]
        return torch.cat(parts, dim=1).float()

    return joined(outputs[0::2], 4), joined(outputs[1::2], classes + 1)


@torch.no_grad()
def matched(anchors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Say what each anchor is to find.

    An anchor is given the box that it overlaps most, if by `POSITIVE_IOU`; every box besides gets the anchor that
    overlaps it most, unless another box overlaps that one even more.

    Args:
        anchors: float32 (A, 4), pixels.
        targets: float32 (N, M, 5): boxes in pixels, and class index, `CROWD`, or another number below 0 for none.

    Returns:
        What: int64 (N, A), a class from 1 on, `BACKGROUND` or `IGNORED`. Where: float32 (N, A, 4), the box of an anchor
        with a class.
    """
    boxes, codes = targets[..., :4], targets[..., 4]
    shared = _shared(anchors, boxes)  # (N, M, A)
    own = _areas(anchors)
    overlaps = shared / (_areas(boxes)[..., None] + own - shared)
    real = codes >= 0
    overlaps = torch.where(real[..., None], overlaps, -1.0)
    best = overlaps.argmax(dim=2, keepdim=True)
    # A box's best anchor counts as overlapping by more than 1, so that it wins over every merely good one.
    lifted = torch.where(real[..., None], overlaps.gather(2, best) + 2, -1.0)
    overlaps = overlaps.scatter(2, best, lifted)
    highest, which = overlaps.max(dim=1)  # (N, A)
    positive = highest >= POSITIVE_IOU
    what = torch.where(positive, codes.gather(1, which).long() + 1, BACKGROUND)
    crowd = codes == CROWD
    if bool(crowd.any()):
        inside = torch.where(crowd[..., None], shared / own, 0.0).amax(dim=1)
        what = torch.where(~positive & (inside >= CROWD_SHARE), IGNORED, what)
    return what, boxes.gather(1, which[..., None].expand(-1, -1, 4))


def detection_loss(
    differences: Tensor,
    scores: Tensor,
    what: Tensor,
    where: Tensor,
    anchors: Tensor,
    detector: Detector,
    *,
    negatives: float = 3.0,
    focal: float = 0.0,
) -> Tensor:
    """Return the loss of a batch per matched anchor: smooth L1 of boxes and cross-entropy of classes.

    Args:
        differences: (N, A, 4), what the heads say of boxes.
        scores: (N, A, classes + 1), what they say of classes.
        what: as :func:`matched` says.
        where: same.
        anchors: (A, 4), pixels.
        detector: whose coder and scores are used.
        negatives: of the background, the worst so many times the matched anchors of a picture count.
        focal: the power of the focal loss, with which all anchors count; 0 for cross-entropy and `negatives`.
    """
    positive = what > 0
    count = positive.sum().clamp(min=1)
    expected = _encoded(where[positive], anchors.expand(len(what), -1, -1)[positive], detector)
    box_loss = functional.smooth_l1_loss(differences[positive], expected, reduction="sum")
    each = _class_losses(scores, what, detector, focal)
    chosen = what != IGNORED if focal else positive | _hardest(each.detach(), what, negatives)
    return (box_loss + each[chosen].sum()) / count


def _class_losses(scores: Tensor, what: Tensor, detector: Detector, focal: float) -> Tensor:
    """Return the loss of what is said of classes at every anchor, (N, A)."""
    wanted = what.clamp(min=0)
    if detector.scores == "sigmoid":
        one_hot = functional.one_hot(wanted, scores.shape[2])[..., 1:].to(scores.dtype)
        entropy = functional.binary_cross_entropy_with_logits(scores[..., 1:], one_hot, reduction="none")
        if not focal:
            return entropy.sum(dim=2)
        weight = one_hot * FOCAL_ALPHA + (1 - one_hot) * (1 - FOCAL_ALPHA)
        return (weight * (1 - torch.exp(-entropy)) ** focal * entropy).sum(dim=2)
    entropy = functional.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    if not focal:
        return entropy
    weight = torch.where(wanted > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return weight * (1 - torch.exp(-entropy)) ** focal * entropy


def _hardest(losses: Tensor, what: Tensor, negatives: float) -> Tensor:
    """Return which background anchors count, (N, A): those of each picture with the highest losses."""
    among = torch.where(what == BACKGROUND, losses, -torch.inf)
    ranks = among.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    most = (negatives * (what > 0).sum(dim=1)).clamp(min=LEAST_NEGATIVES)
    return (ranks < most[:, None]) & (what == BACKGROUND)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _shared(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the area that each box (N, M, 4) shares with each anchor (A, 4): (N, M, A)."""
    low = torch.maximum(boxes[..., None, :2], anchors[:, :2])
    high = torch.minimum(boxes[..., None, 2:], anchors[:, 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _encoded(boxes: Tensor, anchors: Tensor, detector: Detector) -> Tensor:
    """Return how boxes (P, 4) differ from their anchors (P, 4), as the heads are to say it."""
    sizes, own = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    steps = torch.cat([moved / own, torch.log(sizes.clamp(min=1e-3) / own)], dim=1)
    return steps * torch.tensor(detector.coder, device=boxes.device)
