"""What 8 bits cost: float32 beside int8, on photographs with labels and against somebody else's int8 file.

    python -m benchmarks.quantization FOLDER

FOLDER has tf2_mobilenet_v2_1.0_224_ptq.tflite, vww_96.h5, vww_96_int8.tflite, and photos500: labels.csv and images.
MobileNetV2 1.0 is quantized per channel, per tensor, and per tensor as it is done naively: ranges and weight scales by
the extremes, nothing equalized, no bias corrected. A hundred of the photographs calibrate, the other 400 are judged.
They were chosen by others to be classifiable: the differences say something, the accuracies themselves do not.

The person detector has no photographs with its labels here. How often an int8 network gives the float32 network's
answer is measured instead, for ours and for the one that MLPerf Tiny publishes, on the same 400.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import Figure, write
from mobilenets.checkpoint import load
from mobilenets.compress.arithmetic import FloatArithmetic, Int8Arithmetic
from mobilenets.compress.judging import divide, fitted
from mobilenets.compress.post_training import logits
from mobilenets.compress.unlabelled import plain_folder
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import Granularity
from mobilenets.image.preprocess import normalize
from mobilenets.nn.convert import convert
from mobilenets.nn.convert.formats import read_source
from mobilenets.quantize import QuantizeResult, quantize

NAIVE: dict[str, Any] = {
    "calibration": "minmax",
    "equalize": "off",
    "correct_bias": "off",
    "weights": "max",
    "even_if_collapsed": True,
}
WAYS: dict[str, tuple[Granularity, dict[str, Any], str]] = {
    "per channel": ("channel", {}, "at most 0.8"),
    "per tensor, equalized, biases corrected": ("tensor", {}, "at most 2.0"),
    "per tensor, naively": ("tensor", NAIVE, "for comparison"),
}
IMAGES = 128


def main() -> None:
    """Measure both networks and write the figures."""
    folder = Path(sys.argv[1])
    figures: list[Figure] = []
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as made:
        photographs(folder, Path(made), figures, details)
        person(folder, Path(made), figures, details)
    print(write("quantization", figures, details))


def photographs(folder: Path, made: Path, figures: list[Figure], details: dict[str, object]) -> None:
    """Quantize MobileNetV2 in every way."""
    source = made / "mobilenet_v2.safetensors"
    convert(folder / "tf2_mobilenet_v2_1.0_224_ptq.tflite", out=source)
    data = str(folder / "photos500" / "labels.csv")
    for name, (granularity, settled, wanted) in WAYS.items():
        result = quantize(
            str(source), data=data, granularity=granularity, out=made / "int8.safetensors", images=IMAGES, **settled
        )
        before, after = result.before.top1, result.after.top1
        assert before is not None
        assert after is not None
        what = f"MobileNetV2 1.0 on 400 photographs, int8 {name}: top-1 below float32's {100 * before:.2f}"
        figures.append(Figure(what, round(100 * (before - after), 2), "points", wanted))
        details[name] = summary(result)
        print(f"{what}: {figures[-1].value:g} points, same answer {100 * result.agreement:.1f} %", flush=True)


def summary(result: QuantizeResult) -> dict[str, object]:
    """Return a result without what names a temporary file."""
    kept = ("granularity", "before", "after", "agreement", "calibration_images", "bytes_before", "bytes_after", "tried")
    document = result.to_json()
    worst = sorted(result.layers, key=lambda layer: layer.own_sqnr_db)[:5]
    return {name: document[name] for name in kept} | {"worst_layers": [layer.to_json() for layer in worst]}


def person(folder: Path, made: Path, figures: list[Figure], details: dict[str, object]) -> None:
    """Quantize MLPerf Tiny's person detector, and compare with MLPerf's own int8 file."""
    source, out = made / "vww.safetensors", made / "vww.int8.safetensors"
    convert(folder / "vww_96.h5", out=source)
    data = str(folder / "photos500" / "images")
    result = quantize(str(source), data=data, out=out, images=IMAGES)
    float32, int8 = load(source), load(out)
    opened = plain_folder(data, float32.card.labels, float32.card.in_channels)
    assert opened is not None
    judged = divide(opened, float32.card, IMAGES, seed=0).judged
    pictures = fitted(judged, float32.card, range(len(judged)), strict=True).pictures
    theirs = read_source(folder / "vww_96_int8.tflite").reference
    assert theirs is not None
    wanted = logits(float32.card, FloatArithmetic(float32.card, folded(float32)), pictures).argmax(1)
    ours = logits(int8.card, Int8Arithmetic(int8), pictures).argmax(1)
    published = np.asarray(theirs(normalize(pictures, float32.card.preprocess))).reshape(len(pictures), -1).argmax(1)
    for name, answers, reference in (
        ("ours and float32", ours, wanted),
        ("MLPerf's and float32", published, wanted),
        ("ours and MLPerf's", ours, published),
    ):
        share = 100 * float((answers == reference).mean())
        what = f"Person detector (V1 0.25 at 96), int8, same answer on 400 photographs: {name}"
        figures.append(Figure(what, round(share, 2), "%", "ours as MLPerf's" if name.startswith("ours and f") else ""))
        print(f"{what}: {share:.2f} %", flush=True)
    details["person detector"] = summary(result)
    details["person detector, share of persons"] = {
        "float32": float(wanted.mean()),
        "ours": float(ours.mean()),
        "MLPerf's": float(published.mean()),
    }


if __name__ == "__main__":
    main()
