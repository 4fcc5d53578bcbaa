"""A trained detector after every conversion: the same boxes in every runtime, and what 8 bits cost on the test part.

    python -m benchmarks.detector MODEL DATA [OUT]

MODEL is a float32 detector, such as `benchmarks.trainings blood_cells` makes; DATA has boxes and a test part. It is
exported to ONNX, OpenVINO and LiteRT, and what every file finds on the test pictures is laid beside what torch finds,
box by box. Then it is quantized, calibrated on the training part, and both are judged on the test part.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets.data import open_data
from mobilenets.detections import Detection
from mobilenets.image.boxes import iou
from mobilenets.predict import detect
from mobilenets.runtime import load

Format = Literal["onnx", "openvino", "litert"]
FORMATS: dict[Format, str] = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
}
SUFFIXES = {"onnx": "onnx", "openvino": "xml", "litert": "tflite"}
MIN_SCORE = 0.05
LEAST_IOU, MOST_SCORE = 0.99, 1e-3


@dataclass(frozen=True)
class Difference:
    """Say how far the boxes of one file are from torch's. Lone boxes have no partner among the other's."""

    boxes: int
    lone: int
    lone_best_score: float
    least_iou: float
    most_score: float


def main() -> None:
    """Compare, quantize, judge, write."""
    model, data = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as made:
        out = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(made)
        differences = exported(model, data, Path(made))
        figures, details = precisions(model, data, out)
    same = [
        Figure(
            f"{FORMATS[to]} beside torch: of {each.boxes} boxes, those unlike (IoU > .99, score within 1e-3)",
            each.lone,
            "boxes",
            "0",
        )
        for to, each in differences.items()
    ]
    spread = {to: vars(each) for to, each in differences.items()}
    for figure in [*same, *figures]:
        print(f"{figure.what}: {figure.value:g} {figure.unit}")
    write("detector", [*same, *figures], {"exports": spread, **details})


def exported(model: str, data: str, made: Path) -> dict[Format, Difference]:
    """Export to every format, and compare what is found on the test part with what torch finds."""
    expected = found_by(model, data, "torch")
    differences = {}
    for to in FORMATS:
        result = mobilenets.export(model, to=to, out=made / f"detector.{SUFFIXES[to]}")
        differences[to] = difference(expected, found_by(str(result.path), data, None))
    return differences


def found_by(model: str, data: str, runtime: str | None) -> list[tuple[Detection, ...]]:
    """Return what is found on every picture of the test part."""
    with closing(load(model, runtime)) as predictor:
        test = open_data(data, labels=predictor.card.labels).test
        assert test is not None
        pictures = [test.picture(index) for index in range(len(test))]
        return [tuple(found) for found in detect(predictor, pictures, min_score=MIN_SCORE)]


def difference(expected: Sequence[tuple[Detection, ...]], found: Sequence[tuple[Detection, ...]]) -> Difference:
    """Pair boxes of one class that overlap most, and say how far the pairs are apart."""
    boxes, lone, best, overlaps, scores = 0, 0, 0.0, [1.0], [0.0]
    for one, two in zip(expected, found, strict=True):
        boxes += len(one)
        for first, second in ((one, two), (two, one)):
            for each in first:
                partner = [other for other in second if other.index == each.index]
                places = np.array([other.box for other in partner], np.float32).reshape(-1, 4)
                shares = iou(np.array([each.box], np.float32), places)[0]
                near = [
                    (float(share), abs(other.score - each.score))
                    for share, other in zip(shares, partner, strict=True)
                    if share > LEAST_IOU and abs(other.score - each.score) < MOST_SCORE
                ]
                if near:
                    overlaps.append(max(near)[0])
                    scores.append(max(near)[1])
                elif abs(each.score - MIN_SCORE) >= MOST_SCORE:  # at the limit either may be left out
                    lone, best = lone + 1, max(best, each.score)
    return Difference(boxes, lone, best, min(overlaps), max(scores))


def precisions(model: str, data: str, out: Path) -> tuple[list[Figure], dict[str, object]]:
    """Quantize, and judge float32 and int8 on the test part in ONNX Runtime."""
    quantized = mobilenets.quantize(model, data=data, out=out / "detector.int8.safetensors")
    before = mobilenets.evaluate(model, data, split="test", runtime="onnx")
    after = mobilenets.evaluate(str(quantized.checkpoint), data, split="test", runtime="onnx")
    title = "on the test part, int8 per channel below float32's"
    figures = [
        Figure(
            f"AP50 {title} {100 * before.map_50:.2f}",
            round(100 * (before.map_50 - after.map_50), 2),
            "points",
            "at most 2.0",
        ),
        Figure(
            f"AP@[.5:.95] {title} {100 * before.map:.2f}",
            round(100 * (before.map - after.map), 2),
            "points",
            "beside it",
        ),
    ]
    return figures, {"float32": dict(before.metrics), "int8": dict(after.metrics), "images": before.images}


if __name__ == "__main__":
    main()
