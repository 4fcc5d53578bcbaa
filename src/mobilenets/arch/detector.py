"""What makes a detector of a network, as data: which maps are looked at, by what, and where boxes are expected.

SSD (arXiv:1512.02325) looks at several feature maps of one network: at some of its own (*taps*) and at those of
*extra* stages behind it. At every place of every map there is a small set of *anchors*, boxes of given size and shape;
for each, a *head* says how a box differs from it (four numbers) and what is in it (a score for each class and one for
the background). SSDLite (arXiv:1801.04381, section 6.2) puts a depthwise and a 1x1 convolution for every 3x3 one.

Everything behind the heads (softmax, decoding, non-maximum suppression) is no part of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

BACKGROUND = 0
"""The place of the background among the scores of an anchor; a network's labels do not count it."""

COORDINATES = 4
"""Numbers that place a box: how its centre (x, y) and its size (w, h) differ from its anchor's, in this order."""

Form = Literal["tf", "torchvision"]


@dataclass(frozen=True, slots=True)
class Extra:
    """A stage behind the network: 1x1 to half of `c` channels, then `kernel` x `kernel` at stride `s` to all."""

    c: int
    kernel: int = 3
    s: int = 2


@dataclass(frozen=True, slots=True)
class Anchors:
    """The boxes expected at every place of every map, its centre theirs.

    `levels` has for every map its anchors in the order of the heads' channels, each a scale and an aspect ratio: width
    = scale * sqrt(ratio), height = scale / sqrt(ratio). In the form "tf" these are shares of the picture's shorter
    side, so that a box of ratio 1 is a square of pixels; in the form "torchvision" shares of the picture's width and
    height, and boxes are cut off at its edges.
    """

    form: Form
    levels: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many anchors a place has, map by map."""
        return tuple(len(level) for level in self.levels)


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector on a network's table."""

    taps: tuple[str, ...]  # operations whose outputs are the first maps; the last tap must be the table's last row
    extras: tuple[Extra, ...]  # each makes one more map
    anchors: Anchors
    heads: Literal["ssdlite", "ssd"] = "ssdlite"
    activation: Literal["relu", "relu6", "hard_swish"] = "relu6"  # of extra stages and of depthwise layers in heads
    coder: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)  # what (x, y, w, h) differences are multiplied by
    scores: Literal["softmax", "sigmoid"] = "softmax"
    score_threshold: float = 0.01  # boxes below it are dropped before the suppression
    nms_iou: float = 0.6  # of two boxes of one class that overlap by more, the better one stays
    candidates: int = 400  # boxes of a class that enter the suppression, the best ones
    detections: int = 100  # boxes kept of a picture


def tf_anchors(levels: int = 6, smallest: float = 0.2, largest: float = 0.95) -> Anchors:
    """Return the anchors of the TensorFlow Object Detection API's `ssd_anchor_generator`, in its order.

    Scales go evenly from `smallest` to `largest`. The first map has three boxes, of which the square one is of scale
    0.1; every other has one each of ratio 1, 2, 1/2, 3 and 1/3, and a square between its own scale and the next (SSD
    section 2.2).

    >>> tf_anchors().levels[0]
    ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))
    >>> tf_anchors().counts
    (3, 6, 6, 6, 6, 6)
    """
    scales = [smallest + (largest - smallest) * index / (levels - 1) for index in range(levels)] + [1.0]
    made: list[tuple[tuple[float, float], ...]] = [((0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5))]
    for scale, following in pairwise(scales[1:]):
        ratios = ((scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3))
        made.append((*ratios, (math.sqrt(scale * following), 1.0)))
    return Anchors("tf", tuple(made))


def torchvision_anchors(levels: int = 6, smallest: float = 0.2, largest: float = 0.95) -> Anchors:
    """Return the default boxes of torchvision's `ssdlite320_mobilenet_v3_large`, in its order: six on every map.

    >>> torchvision_anchors().counts
    (6, 6, 6, 6, 6, 6)
    """
    scales = [smallest + (largest - smallest) * index / (levels - 1) for index in range(levels)] + [1.0]
    made = tuple(
        ((scale, 1.0), (math.sqrt(scale * following), 1.0), *((scale, ratio) for ratio in (2.0, 0.5, 3.0, 1 / 3)))
        for scale, following in pairwise(scales)
    )
    return Anchors("torchvision", made)
