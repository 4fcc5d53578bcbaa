"""SSDLite on the family's networks: the detectors of the papers, as tables.

Read it beside the papers:

- MobileNetV2, arXiv:1801.04381, section 6.2 and Table 6: on V1 and V2 at 320x320
- MobileNetV3, arXiv:1905.02244, section 6.3 and Table 6: on V3, where the channels between the last two stages
  ("C4 and C5") are halved, because 1,000 classes need them and 90 do not

The papers leave taps, extra stages and anchors to the TensorFlow Object Detection API; they are its
`ssd_mobilenet_v*_feature_extractor` and `ssd_anchor_generator`: the first map is the expansion of the first block of
the stage with stride 32 (V1, which has none, gives the last block before it), the second the last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from mobilenets.arch.detector import Anchors, Detector, Extra, tf_anchors, torchvision_anchors
from mobilenets.arch.mobilenet import CLASSIFIERS, Arch, Bneck, Conv, Pool, Row

__all__ = ["DETECTORS", "Anchors", "Detector", "Extra", "on_backbone", "with_heads"]

EXTRAS = (Extra(512), Extra(256), Extra(256), Extra(128))
RESOLUTION = 320
COCO_80, COCO_90 = 80, 90
"""COCO's classes as V2's paper counts them, and as the library numbers them, with ten unused ones, in V3's paper."""


def with_heads(arch: Arch, name: str, paper: str, *, tap: str, classes: int, last: str = "head") -> Arch:
    """Make SSDLite of a classifier's table: what it has up to its pooling, and the library's six maps.

    Below width 1.0 the last convolution is scaled like every other, as the library does, and keeps no 1,280 channels.

    Args:
        arch: the classifier.
        name: of the detector.
        paper: where it is printed.
        tap: the operation whose output is the first map.
        classes: without the background.
        last: the operation whose output is the second map.
    """
    rows = _features(arch.rows)
    if isinstance(rows[-1], Conv) and rows[-1].widening == "grow":
        rows = (*rows[:-1], replace(rows[-1], widening="scale"))
    detector = Detector(taps=(tap, last), extras=EXTRAS, anchors=tf_anchors())
    return replace(arch, name=name, paper=paper, rows=rows, resolution=RESOLUTION, classes=classes, detector=detector)


def on_backbone(detector: Arch, backbone: Arch) -> Arch:
    """Return a detector with the conventions of a classifier's weights: padding, epsilon, activations, strides.

    The rows of the table stay the detector's own; they are the classifier's, or narrower behind the first map.
    """
    return replace(
        detector,
        divisor=backbone.divisor,
        base_width=backbone.base_width,
        activation=backbone.activation,
        se=backbone.se,
        padding=backbone.padding,
        bn_eps=backbone.bn_eps,
        bottleneck_activation=backbone.bottleneck_activation,
        shortcut=backbone.shortcut,
        projection_shortcut=backbone.projection_shortcut,
        expansion=backbone.expansion,
        expands_always=backbone.expands_always,
    )


def _features(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return the rows in front of the pooling."""
    return rows[: next(index for index, row in enumerate(rows) if isinstance(row, Pool))]


def _halved_tail(arch: Arch, first: int) -> Arch:
    """Halve the channels of a V3 detector from row `first` on, whose expansion is the first map and stays whole."""
    rows: list[Row] = list(arch.rows[:first])
    for index, row in enumerate(arch.rows[first:]):
        assert isinstance(row, Bneck | Conv)
        halved = replace(row, c=row.c // 2)
        rows.append(replace(halved, exp=halved.exp // 2) if isinstance(halved, Bneck) and index else halved)
    return replace(arch, rows=tuple(rows))


_V2_PAPER, _V3_PAPER = "arXiv:1801.04381 Table 6", "arXiv:1905.02244 Table 6"

SSDLITE_V1 = with_heads(
    CLASSIFIERS["mobilenet_v1"],
    "ssdlite_mobilenet_v1",
    _V2_PAPER,
    tap="block_11_pointwise",
    last="block_13_pointwise",
    classes=COCO_80,
)
SSDLITE_V2 = with_heads(
    CLASSIFIERS["mobilenet_v2"], "ssdlite_mobilenet_v2", _V2_PAPER, tap="block_14_expand", classes=COCO_80
)
SSDLITE_V3_LARGE_FULL = with_heads(
    CLASSIFIERS["mobilenet_v3_large"],
    "ssdlite_mobilenet_v3_large_full",
    _V3_PAPER,
    tap="block_13_expand",
    classes=COCO_90,
)
SSDLITE_V3_SMALL_FULL = with_heads(
    CLASSIFIERS["mobilenet_v3_small"],
    "ssdlite_mobilenet_v3_small_full",
    _V3_PAPER,
    tap="block_9_expand",
    classes=COCO_90,
)
SSDLITE_V3_LARGE = replace(
    _halved_tail(SSDLITE_V3_LARGE_FULL, 13), name="ssdlite_mobilenet_v3_large", paper=f"{_V3_PAPER}, reduced tail"
)
SSDLITE_V3_SMALL = replace(
    _halved_tail(SSDLITE_V3_SMALL_FULL, 9), name="ssdlite_mobilenet_v3_small", paper=f"{_V3_PAPER}, reduced tail"
)
SSDLITE_EFFICIENTNET_LITE0 = with_heads(
    CLASSIFIERS["efficientnet_lite0"],
    "ssdlite_efficientnet_lite0",
    "arXiv:1905.11946 Table 1, in its Lite form, with the heads of arXiv:1801.04381",
    tap="block_12_expand",
    classes=COCO_80,
)

SSDLITE320_V3_LARGE = replace(
    SSDLITE_V3_LARGE,
    name="ssdlite320_mobilenet_v3_large",
    paper="arXiv:1905.02244 Table 6, reduced tail, in torchvision's form",
    detector=Detector(
        taps=("block_13_expand", "head"),
        extras=EXTRAS,
        anchors=torchvision_anchors(),
        score_threshold=0.001,
        nms_iou=0.55,
        candidates=300,
        detections=300,
    ),
)

_ALL = (
    SSDLITE_V1,
    SSDLITE_V2,
    SSDLITE_V3_LARGE,
    SSDLITE_V3_LARGE_FULL,
    SSDLITE_V3_SMALL,
    SSDLITE_V3_SMALL_FULL,
    SSDLITE_EFFICIENTNET_LITE0,
    SSDLITE320_V3_LARGE,
)

DETECTORS: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in _ALL})
