"""V2's Tables 5 and 6 and V3's Table 6: what SSD's and SSDLite's heads cost on a MobileNet at 320x320.

The papers print totals and leave the layout to the TensorFlow Object Detection API, with which they trained. What is
counted here is that library's, the tables of `mobilenets.arch.ssdlite`: six maps, the first at the expansion of the
block with output stride 16, the second at the last layer, then four more of 512, 256, 256 and 128 channels, each a 1x1
convolution to half of them and a 3x3 one at stride 2. A head looks at every map for the boxes (4 numbers) and the
classes (background included), 3 anchors a place on the first map and 6 on the others. SSDLite puts a depthwise and a
1x1 convolution for every 3x3 one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mobilenets.arch import DETECTORS, Op, plan
from mobilenets.arch.cost import multiply_adds, parameters
from mobilenets.draw import FAINT, RIGHT, WRONG, figure_style, to_png
from mobilenets.reproduce.outcome import Reproduction, Row, Settings, compared

RESOLUTION = 320
COCO_90 = 90
"""The classes that COCO's numbering and TensorFlow's heads have, of which COCO uses 80."""


@dataclass(frozen=True)
class Part:
    """Some convolutions of a detector: weights without biases and BatchNorm, multiply-adds, biases."""

    name: str
    parameters: int
    multiply_adds: int
    biases: int = 0


def detector_parts(name: str, *, width: float = 1.0, classes: int | None = None, lite: bool = True) -> list[Part]:
    """Return the parts of a detector at 320x320: the backbone, the heads, one a map, then the extra stages.

    Args:
        name: one of `DETECTORS`.
        width: the multiplier of its channels.
        classes: without the background; as many as its table has by default.
        lite: with SSDLite's separable convolutions, otherwise with SSD's full ones.
    """
    arch = DETECTORS[name]
    detector = arch.detector
    assert detector is not None
    if not lite:
        detector = replace(detector, heads="ssd")
    layout = plan(replace(arch, detector=detector), width=width, resolution=RESOLUTION, classes=classes)
    backbone: list[Op] = []
    heads: list[list[Op]] = [[] for _ in detector.anchors.counts]
    extras: list[list[Op]] = [[] for _ in detector.extras]
    for op in layout.ops:
        kind, _, rest = op.name.partition("_")
        of = {"boxes": heads, "scores": heads, "extra": extras}.get(kind)
        (backbone if of is None else of[int(rest.partition("_")[0]) - 1]).append(op)
    return [
        _part("backbone", backbone),
        *(_part(f"head {_size(ops[0].source_shape)}", ops) for ops in heads),
        *(_part(f"extra {_size(ops[-1].out)}", ops) for ops in extras),
    ]


def _part(name: str, ops: list[Op]) -> Part:
    biases = sum(op.out[0] for op in ops if op.bias)
    batch_norm = sum(2 * op.out[0] for op in ops if op.batch_norm)
    weights = sum(map(parameters, ops)) - biases - batch_norm
    return Part(name, weights, sum(map(multiply_adds, ops)), biases)


def _size(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"


def _sum(name: str, parts: list[Part]) -> Part:
    return Part(
        name,
        sum(part.parameters for part in parts),
        sum(part.multiply_adds for part in parts),
        sum(part.biases for part in parts),
    )


ASSUMED = (
    "The paper does not print the layout. Counted is that of the TensorFlow Object Detection API, with which it was "
    "trained: maps of 20x20 (576 channels), 10x10 (1280), 5x5 (512), 3x3 (256), 2x2 (256) and 1x1 (128); 3 anchors a "
    "place on the first and 6 on the others; 80 classes and the background; weights without biases and BatchNorm."
)
TWICE = (
    "counted twice in the paper: the layout that meets the three other numbers costs half of it, and with 0.35 B the "
    "whole detector would have 0.96 B, where Table 6 prints 0.8 B"
)


def reproduce_v2_table5(_settings: Settings) -> Reproduction:
    """Count SSD's and SSDLite's heads on MobileNetV2."""
    section = "Table 5"
    parts = {lite: detector_parts("ssdlite_mobilenet_v2", lite=lite)[1:] for lite in (False, True)}
    ssd, lite = _sum("SSD", parts[False]), _sum("SSDLite", parts[True])
    both = "multiplications and additions counted apart"
    rows = (
        compared("SSD", ssd.parameters / 1e6, "14.8", "M parameters", section=section),
        compared("SSD", ssd.multiply_adds / 1e9, "1.25", "B multiply-adds", section=section),
        compared("SSDLite", lite.parameters / 1e6, "2.1", "M parameters", section=section),
        compared("SSDLite", lite.multiply_adds / 1e9, "0.35", "B multiply-adds", section=section, note=TWICE),
        compared(f"SSDLite, {both}", 2 * lite.multiply_adds / 1e9, "0.35", "B operations", section=section),
        *(
            Row(part.name, part.parameters / 1e6, None, "M parameters", section="SSDLite, part by part")
            for part in parts[True]
        ),
    )
    return Reproduction(
        name="v2-table5",
        title="MobileNetV2, Table 5: the heads of SSD and SSDLite",
        says=(
            "arXiv:1801.04381 section 6.2 replaces the 3x3 convolutions of SSD's prediction layers by depthwise "
            "separable ones, and calls the result SSDLite: a seventh of the parameters."
        ),
        rows=rows,
        notes=(ASSUMED,),
        picture=_draw(parts[False], parts[True]),
        caption="Parameters of the heads and the extra layers, map by map",
    )


def reproduce_v2_table6(_settings: Settings) -> Reproduction:
    """Count the detectors of V2's Table 6."""
    section = "Table 6: COCO, 320x320"
    rows: list[Row] = []
    for what, params, madds, score in (
        ("SSD300", "36.1", "35.2", "23.2"),
        ("SSD512", "36.1", "99.5", "26.8"),
        ("YOLOv2", "50.7", "17.5", "21.6"),
    ):
        rows += [
            Row(what, None, params, "M parameters", section=section),
            Row(what, None, madds, "B multiply-adds", section=section),
            Row(what, None, score, "mAP", section=section),
        ]
    for what, name, params, madds, score, pixel in (
        ("MNet V1 + SSDLite", "ssdlite_mobilenet_v1", "5.1", "1.3", "22.2", "270"),
        ("MNet V2 + SSDLite", "ssdlite_mobilenet_v2", "4.3", "0.8", "22.1", "200"),
    ):
        whole = _sum(what, detector_parts(name))
        rows += [
            compared(what, whole.parameters / 1e6, params, "M parameters", section=section),
            compared(what, whole.multiply_adds / 1e9, madds, "B multiply-adds", section=section),
            Row(what, None, score, "mAP", section=section),
            Row(what, None, pixel, "ms, Pixel 1", section=section),
        ]
    return Reproduction(
        name="v2-table6",
        title="MobileNetV2, Table 6: detection on COCO",
        says="arXiv:1801.04381 section 6.2 compares SSDLite on V1 and on V2 with SSD and YOLOv2 on COCO.",
        rows=tuple(rows),
        notes=(
            ASSUMED,
            "V1's maps are 20x20x512 (block 11) and 10x10x1024.",
            "mAP and times are as published: nothing is detected here.",
        ),
    )


def v3_table6() -> list[Row]:
    """Count the detectors of V3's Table 6 that are made of tables we have."""
    section = "Table 6: SSDLite on COCO, 320x320"
    rows = []
    copied = "V2's own paper; with the 90 classes that meet this table's other lines it has 4.4 M"
    more = "0.62 follows from the 219 M at 224 that Table 3 prints for this backbone, where 217 is the count"
    for what, name, width, params, madds, score, note in (
        ("V1", "ssdlite_mobilenet_v1", 1.0, "5.1", "1.3", "22.2", "from V2's own paper, which had 80 classes"),
        ("V2", "ssdlite_mobilenet_v2", 1.0, "4.3", "0.80", "22.1", copied),
        ("V3", "ssdlite_mobilenet_v3_large_full", 1.0, "4.97", "0.62", "22.0", ""),
        ("V3, reduced", "ssdlite_mobilenet_v3_large", 1.0, "3.22", "0.51", "22.0", ""),
        ("V2 0.35", "ssdlite_mobilenet_v2", 0.35, "0.93", "0.16", "13.7", ""),
        ("V2 0.5", "ssdlite_mobilenet_v2", 0.5, "1.54", "0.27", "16.6", ""),
        ("V3-Small", "ssdlite_mobilenet_v3_small_full", 1.0, "2.49", "0.21", "16.0", ""),
        ("V3-Small, reduced", "ssdlite_mobilenet_v3_small", 1.0, "1.77", "0.16", "16.1", ""),
    ):
        parts = detector_parts(name, width=width, classes=COCO_90)
        whole = _sum(what, parts)
        rows += [
            compared(what, (whole.parameters + whole.biases) / 1e6, params, "M parameters", section=section, note=note),
            compared(
                what,
                whole.multiply_adds / 1e9,
                madds,
                "B multiply-adds",
                section=section,
                note=more if what == "V3" else "",
            ),
            Row(what, None, score, "mAP", section=section),
        ]
    return rows


def _draw(ssd: list[Part], lite: list[Part]) -> bytes:
    """Draw the parameters of every part of both as bars beside one another."""
    with figure_style() as figure_class:
        figure = figure_class(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        places = list(range(len(ssd)))[::-1]
        for parts, colour, label, shift in ((ssd, WRONG, "SSD", 0.2), (lite, RIGHT, "SSDLite", -0.2)):
            widths = [part.parameters / 1e6 for part in parts]
            bars = axes.barh([place + shift for place in places], widths, 0.38, color=colour, label=label)
            axes.bar_label(bars, [f"{width:.2f}" for width in widths], padding=3, fontsize=7.5, color=FAINT)
        axes.set_yticks(places, [part.name for part in ssd])
        axes.set_xlabel("million parameters")
        axes.margins(x=0.1)
        axes.legend(frameon=False, loc="lower right")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        return to_png(figure)
