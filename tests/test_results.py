from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from mobilenets.results import (
    Classification,
    ClassReport,
    ConvertResult,
    Prediction,
    Predictions,
    Report,
    TrainResult,
)

CAT = Classification("pets/cat.jpg", (Prediction("tabby", 281, 0.8125), Prediction("tiger cat", 282, 0.125)))
BROKEN = Classification("pets/broken.jpg", error="pets/broken.jpg: not a picture, remove it")


def report(labels: tuple[str, ...] = ("ant", "bee", "wasp"), **changes: Any) -> Report:
    counts = {"ant": (8, 2, 0), "bee": (0, 9, 1), "wasp": (0, 0, 0)}
    rows = tuple(ClassReport(label, sum(counts[label]), 10, 0.8, 0.7, 0.75) for label in labels)
    made = Report(
        17 / 20, 1.0, 20, labels, rows, tuple(counts[label] for label in labels), loss=0.4321, model="m", data="d"
    )
    return replace(made, **changes)


def large_report() -> Report:
    labels = tuple(f"class {index}" for index in range(100))
    rows = tuple(
        ClassReport(label, 0 if index == 7 else 5, 5, 0.5, 0.5, index / 100) for index, label in enumerate(labels)
    )
    return Report(0.5, 0.75, 495, labels, rows, tuple((0,) * 100 for _ in labels))


def test_predictions_print_percentages_and_store_fractions() -> None:
    predictions = Predictions((CAT, BROKEN))
    text = str(predictions)
    assert "81.25 %  tabby" in text
    assert "not a picture" in text
    assert text.endswith("1 of 2 pictures could not be read")
    assert predictions.to_json() == [
        {
            "image": "pets/cat.jpg",
            "predictions": [
                {"label": "tabby", "index": 281, "score": 0.8125},
                {"label": "tiger cat", "index": 282, "score": 0.125},
            ],
        },
        {"image": "pets/broken.jpg", "predictions": [], "error": "pets/broken.jpg: not a picture, remove it"},
    ]
    assert [item.image for item in predictions] == ["pets/cat.jpg", "pets/broken.jpg"]
    assert (len(predictions), predictions[0], predictions.failed) == (2, CAT, (BROKEN,))


def test_a_classification_says_exactly_one_thing() -> None:
    with pytest.raises(ValueError, match=r"x\.jpg"):
        Classification("x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        Classification("x.jpg", CAT.predictions, error="broken")


def test_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CAT.image = "dog.jpg"  # type: ignore[misc]


def test_a_report_prints_its_numbers() -> None:
    text = str(
        report(
            part="the validation part",
            seconds=4.0,
            runtime="torch",
            problems=("wasp: no pictures",),
            files=(Path("out/report.html"),),
        )
    )
    for expected in (
        "m on d",
        "85.00 %",
        "0.4321",
        "20 (the validation part)",
        "4.00 s, 5.0 images a second",
        "wasp: no pictures",
        "out/report.html",
    ):
        assert expected in text
    assert "top-5" not in text  # three classes: it would always be 100 %
    assert [line.split() for line in text.splitlines() if line.startswith("ant ")] == [
        ["ant", "10", "80.00", "%", "70.00", "%", "75.00", "%"],
        ["ant", "bee", "2"],
    ]
    wasp = next(line for line in text.splitlines() if line.startswith("wasp "))
    assert wasp.split()[:5] == ["wasp", "0", "80.00", "%", "-"]


def test_a_report_is_json() -> None:
    data = json.loads(json.dumps(report(loss=float("nan")).to_json(), allow_nan=False))
    assert (data["top1"], data["top5"], data["images"], data["loss"]) == (0.85, 1.0, 20, None)
    assert data["per_class"][0] == {
        "label": "ant", "images": 10, "predicted": 10, "precision": 0.8, "recall": 0.7, "f1": 0.75,
    }  # fmt: skip
    assert data["confusion"] == [[8, 2, 0], [0, 9, 1], [0, 0, 0]]


def test_a_report_of_many_classes_prints_the_weakest() -> None:
    lines = str(large_report()).splitlines()
    assert "the 20 weakest of 100 classes" in lines
    shown = [int(line.split()[1]) for line in lines if line.startswith("class ") and line.split()[1].isdigit()]
    assert shown == [index for index in range(21) if index != 7]  # class 7 has no pictures: nothing is known of it
    assert "top-5" in str(large_report())
    perfect = replace(large_report(), per_class=tuple(replace(row, f1=1.0) for row in large_report().per_class))
    assert "weakest" not in str(perfect)


def test_confused_pairs_are_sorted() -> None:
    assert report().confused() == (("ant", "bee", 2), ("bee", "wasp", 1))
    assert report().confused(1) == (("ant", "bee", 2),)


def test_a_report_whose_parts_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        report(labels=("ant", "bee"), per_class=())
    with pytest.raises(ValueError, match="columns"):
        report(confusion=((1,), (1,), (1,)))


def test_a_train_result_prints_and_is_json() -> None:
    result = TrainResult(
        Path("runs/ants/best.safetensors"),
        {"top1": 0.9412, "loss": 0.21},
        754.2,
        model="mobilenet_v2",
        data="ants_bees",
        epochs=8,
        images=153,
        files=(Path("runs/ants/report.html"),),
        problems=("imageNotFound.gif: too small",),
        notes=("stopped early",),
    )
    text = str(result)
    for expected in (
        "mobilenet_v2 on ants_bees",
        "top-1   94.12 %",
        "0.2100",
        "12 min 34 s (8 epochs)",
        "imageNotFound",
        "report.html",
    ):
        assert expected in text
    data = json.loads(json.dumps(result.to_json()))
    assert data["checkpoint"] == "runs/ants/best.safetensors"
    assert data["metrics"] == {"top1": 0.9412, "loss": 0.21}
    assert data["seconds"] == 754.2


def test_a_convert_result_prints_and_is_json() -> None:
    result = ConvertResult(
        Path("v2.safetensors"), "torchvision state dict", parameters=3_504_872, max_abs_error=2.5e-6, compared=8
    )
    assert "2.5e-06 over 8 pictures" in str(result)
    assert "3,504,872" in str(result)
    assert json.loads(json.dumps(result.to_json()))["max_abs_error"] == 2.5e-6
    unmeasured = replace(result, max_abs_error=None, notes=("tensorflow is not installed",))
    assert "not measured" in str(unmeasured)
    assert "tensorflow is not installed" in str(unmeasured)
    assert unmeasured.to_json()["max_abs_error"] is None


def test_names_cannot_move_the_cursor() -> None:
    hostile = Classification("x\x1b]0;title\x07.jpg", (Prediction("a\rb", 0, 1.0),))
    assert "\x1b" not in str(hostile)
    assert "\r" not in str(hostile)


def test_results_need_no_numpy() -> None:
    code = "import sys, mobilenets.results; sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'PIL', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_metric_of_a_detector_has_a_name() -> None:
    from mobilenets.results import metric_name, metric_text

    sizes = ("small", "medium", "large")
    names = ["map", "map_50", "map_75", "voc_ap_50", "ar_1", "ar_10", "ar_100"]
    names += [f"{kind}_{size}" for kind in ("map", "ar") for size in sizes]
    assert all(metric_name(name) != name and metric_text(name, 0.5) == "50.00 %" for name in names)
    assert (metric_name("loss"), metric_text("loss", 0.5)) == ("loss", "0.5000")
