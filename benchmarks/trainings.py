"""How good a network gets, on which data, in how many minutes: whole trainings by the `train` verb.

    python -m benchmarks.trainings NAME DATA [OUT [WEIGHTS]]

NAME is one of those in TRAININGS below; DATA is where its pictures are; WEIGHTS is a checkpoint to begin with. A run in
OUT that was interrupted, or has ended, is gone on with, so that the curve of a long training is kept. Writes
benchmarks/results/training_NAME.json with the history of every epoch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mobilenets
from benchmarks.environment import ROOT, Figure, write
from mobilenets.checkpoint import read_card


@dataclass(frozen=True)
class Training:
    """What is trained, and the least that is wanted of it."""

    title: str
    wanted: str
    options: dict[str, Any] = field(default_factory=dict)
    data_is_root: bool = False  # DATA is the --root of a data set known by name
    finds_boxes: bool = False  # a detector, judged on the test part


PHOTOGRAPHS = {"model": "efficientnet_lite0", "resolution": 224}
QUICK = {"weights": "none", "resolution": 32, "channels_last": "on", "compile": "on", "bf16": "off"}
RECIPES = ROOT / "benchmarks" / "recipes"
TRAININGS = {
    "digits": Training("scikit-learn's digits, held out", "98.5 %"),
    "mnist": Training(
        "MNIST, V2's MNIST form, recipe simple, 3 epochs",
        "99.0 %",
        {"model": "mobilenet_v2_mnist", "weights": "none", "recipe": "simple", "epochs": 3},
        data_is_root=True,
    ),
    "photographs": Training("ants and bees, EfficientNet-Lite0 at 224, all weights", "94 %", PHOTOGRAPHS),
    "photographs_frozen": Training(
        "ants and bees, EfficientNet-Lite0 at 224, classifier alone", "beside it", PHOTOGRAPHS | {"freeze": True}
    ),
    "photographs_v2": Training("ants and bees, V2 1.0 converted from TFLite, all weights", "94 %", {"resolution": 224}),
    "cifar10": Training(
        "CIFAR-10, V2's CIFAR form with 1x1 shortcuts, width 0.5",
        "88 % in 60 minutes of 2 cores",
        QUICK
        | {
            "model": "mobilenet_v2_cifar:projection_shortcut=true",
            "width": 0.5,
            "recipe": str(RECIPES / "cifar10_hour.json"),
        },
    ),
    "cifar10_finetuned": Training(  # WEIGHTS are MobileNetV2's of ImageNet
        "CIFAR-10, V2's CIFAR form, from ImageNet weights",
        "88 % in 60 minutes of 2 cores",
        QUICK | {"model": "mobilenet_v2_cifar", "recipe": str(RECIPES / "cifar10_finetuned.json")},
    ),
    "blood_cells": Training(  # WEIGHTS are MobileNetV2's of ImageNet
        "BCCD, SSDLite on V2 1.0 at 320, from ImageNet weights",
        "85 % in 60 minutes of 2 cores",
        {"model": "ssdlite_mobilenet_v2", "resolution": 320, "channels_last": "on", "compile": "off", "bf16": "off"},
        finds_boxes=True,
    ),
}


def main() -> None:
    """Train, or go on, and write the figures."""
    name, place = sys.argv[1], sys.argv[2]
    out = Path(sys.argv[3]) if len(sys.argv) > 3 else ROOT / "runs" / f"training_{name}"
    training = TRAININGS[name]
    options = dict(training.options)
    data = place
    if training.data_is_root:
        data, options["root"] = name, Path(place)
    if len(sys.argv) > 4:
        options["weights"] = sys.argv[4]
    if (out / "state.pt").exists():  # what the run was begun with is stored there
        result = mobilenets.train(data, out=out, resume=True)
    else:
        result = mobilenets.train(data, out=out, **options)
    history = json.loads((out / "history.json").read_text(encoding="utf-8"))
    more = details(result, history)
    if training.finds_boxes:
        report = mobilenets.evaluate(str(result.checkpoint), data, split="test", runtime="torch")
        more["test"] = report.to_json() | {"model": "", "data": ""}
        measured = box_figures(training, report, history)
    else:
        measured = figures(training, result.metrics["top1"], history)
    write(f"training_{name}", measured, more)


def figures(training: Training, top1: float, history: list[dict[str, Any]]) -> list[Figure]:
    """Return the accuracy and the minutes."""
    minutes = round(history[-1]["seconds"] / 60, 1)
    title = f"{training.title}: top-1 after {minutes:g} minutes"
    return [Figure(title, round(100 * top1, 2), "%", training.wanted)]


def box_figures(training: Training, report: mobilenets.DetectionReport, history: list[dict[str, Any]]) -> list[Figure]:
    """Return COCO's two numbers on the test part, and the minutes."""
    minutes = round(history[-1]["seconds"] / 60, 1)
    return [
        Figure(
            f"{training.title}: AP50 on test after {minutes:g} minutes",
            round(100 * (report.map_50 or 0), 2),
            "%",
            training.wanted,
        ),
        Figure(f"{training.title}: AP@[.5:.95] on test", round(100 * (report.map or 0), 2), "%", "reported"),
    ]


def details(result: mobilenets.TrainResult, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the JSON keeps beside the figures."""
    card = read_card(result.checkpoint)
    return {
        "metrics": dict(result.metrics),
        "images": result.images,
        "epochs": result.epochs,
        "arch": card.arch.name,
        "width": card.width,
        "resolution": list(card.resolution),
        "recipe": card.recipe,
        "history": history,
    }


if __name__ == "__main__":
    main()
