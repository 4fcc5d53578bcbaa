"""How exactly exported files compute what their checkpoints do, on photographs.

    python -m benchmarks.exports PHOTOS WEIGHTS

PHOTOS is a folder or CSV of pictures; WEIGHTS a folder with TFLite files of MobileNetV1 and V2. Every network is
exported to every format by the `export` verb, float32, loaded back by the format's own runtime, and compared with its
checkpoint. There are no pretrained V3 networks here: theirs have random weights, their BatchNorm statistics those of
the photographs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, get_args

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets.arch import arch_named
from mobilenets.checkpoint import Card, Checkpoint, save
from mobilenets.export import Format, export
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import normalize
from mobilenets.parity import pictures_for
from mobilenets.runtime import RUNTIMES

IMAGES = 500
CALIBRATION_IMAGES = 16
NETWORKS = "V1 0.25, V2, V3-Large and -Small (random weights), EfficientNet-Lite0"
TFLITE = {
    "mobilenet_v1_025": "mobilenet_v1_0.25_224_1_default_1.tflite",
    "mobilenet_v2": "tf2_mobilenet_v2_1.0_224_ptq.tflite",
}


def main() -> None:
    """Export every network to every format, compare, and write the figures."""
    photos, weights = sys.argv[1], Path(sys.argv[2])
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for name, model in models(photos, weights, Path(folder)):
            for to in get_args(Format):
                started = perf_counter()
                out = Path(folder) / f"{name}{RUNTIMES[to].suffix}"
                result = export(model, to=to, out=out, data=photos, images=IMAGES)
                row = {"network": name, "to": to, "seconds": round(perf_counter() - started, 1)}
                told = ("bytes", "max_abs_error", "relative_error", "top1_agreement", "images", "runtime")
                rows.append(row | {key: value for key, value in result.to_json().items() if key in told})
                print(rows[-1], flush=True)
    figures = []
    for to in get_args(Format):
        of = [row for row in rows if row["to"] == to]
        worst = float(f"{max(row['relative_error'] for row in of):.2g}")
        same = round(100 * min(row["top1_agreement"] for row in of), 2)
        what = f"{NETWORKS} exported to {to}, {IMAGES} photographs"
        figures.append(Figure(f"{what}: largest error of a logit", worst, "of their range", "under 0.001"))
        figures.append(Figure(f"{what}: same top-1, the worst of them", same, "%", "100 %"))
    print(write("exports", figures, rows))


def models(photos: str, weights: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each network's name and checkpoint."""
    for name, file in TFLITE.items():
        yield name, str(mobilenets.convert(weights / file, out=folder / f"{name}.safetensors").checkpoint)
    for name in ("mobilenet_v3_large", "mobilenet_v3_small"):
        yield f"{name}_random", str(save(calibrated(name, photos), folder / f"{name}.safetensors"))
    yield "efficientnet_lite0", "efficientnet_lite0"


def calibrated(name: str, photos: str) -> Checkpoint:
    """Return a network with random weights whose BatchNorm statistics are those of photographs.

    With arbitrary statistics the signal would die or explode on its way, and every file would be the same.
    """
    import torch

    from mobilenets.nn.network import build, to_tensors

    labels = tuple(str(index) for index in range(1000))
    card = Card(arch_named(name), 1.0, (224, 224), labels, Preprocess(224, 224, resize=256))
    fitted = pictures_for(card, photos, CALIBRATION_IMAGES).fitted
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build(card.plan)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.2)
                module.momentum = 1.0
        network.train()
        network(torch.from_numpy(normalize(fitted, card.preprocess)))
    return Checkpoint(card, to_tensors(network))


if __name__ == "__main__":
    main()
