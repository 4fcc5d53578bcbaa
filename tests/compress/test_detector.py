"""A float32 detector beside its int8 form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobilenets
from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.compress.detector import divergence, found_again, same_objects
from mobilenets.engine import reference
from mobilenets.errors import InputError
from mobilenets.image.answers import as_maps, by_anchor
from mobilenets.image.detection import Found

Networks = Callable[..., Checkpoint]


def test_answers_anchor_by_anchor(random_network: Networks) -> None:
    """The numbers of an anchor are those at its place in its map, channel by channel."""
    layout = random_network("ssdlite_mobilenet_v2").card.plan
    size = sum(np.prod(layout.op(name).out) for name in layout.outputs)
    answers = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    maps = as_maps(layout, answers)
    assert [each.shape[1:] for each in maps] == [layout.op(name).out for name in layout.outputs]
    np.testing.assert_array_equal(reference.flat(maps), answers)
    boxes, scores = by_anchor(layout, answers)
    places = [each.shape[2] * each.shape[3] for each in maps[::2]]
    assert boxes.shape == (2, 3 * places[0] + 6 * sum(places[1:]), 4)
    assert scores.shape == (*boxes.shape[:2], 8)
    # The second anchor's third place on the second map.
    row = 3 * places[0] + places[1] + 2
    np.testing.assert_array_equal(boxes[1, row], maps[2][1].reshape(6, 4, -1)[1, :, 2])
    np.testing.assert_array_equal(scores[1, row], maps[3][1].reshape(6, 8, -1)[1, :, 2])


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_divergence(scores: str, random_network: Networks) -> None:
    made = random_network("ssdlite_mobilenet_v2")
    detector = replace(made.card.arch.detector, scores=scores)  # type: ignore[type-var]
    layout = replace(made.card, arch=replace(made.card.arch, detector=detector)).plan
    batch = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    answers = 4 * reference.run(made, batch)
    noise = np.random.default_rng(1).normal(size=answers.shape).astype(np.float32)
    assert divergence(layout, answers, answers) == 0
    near, far = (divergence(layout, answers, answers + share * noise) for share in (0.01, 0.1))
    assert 0 < near < far / 10
    assert same_objects(layout, answers, answers) == 1
    assert same_objects(layout, answers, answers + 20 * noise) < 0.9


def found(*rows: tuple[float, float, float, float, int, float]) -> Found:
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Found(values[:, :4], values[:, 4].astype(np.int64), values[:, 5])


def test_found_again() -> None:
    meant = [found((0, 0, 10, 10, 1, 0.9), (20, 20, 30, 30, 0, 0.6), (50, 50, 60, 60, 0, 0.3)), found()]
    assert found_again(meant, meant) == 1
    assert found_again(meant, [found((1, 0, 10, 10, 1, 0.5)), found((20, 20, 30, 30, 0, 0.9))]) == 0.5
    assert found_again(meant, [found((0, 0, 10, 10, 0, 0.9)), found()]) == 0
    assert found_again([found()], [found((0, 0, 10, 10, 0, 0.9))]) == 1


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """Return a CSV of twelve pictures, each a bright square on noise."""
    random = np.random.default_rng(0)
    lines = ["file,label,x1,y1,x2,y2"]
    for index in range(12):
        x, y, side = random.integers(0, 30), random.integers(0, 30), random.integers(15, 30)
        picture = random.integers(0, 100, (64, 64, 3)).astype(np.uint8)
        picture[y : y + side, x : x + side] = 250
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'abcdefg'[index % 7]},{x},{y},{x + side},{y + side}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "boxes.csv"


def test_a_detector_is_quantized(random_network: Networks, boxes: Path, tmp_path: Path) -> None:
    model = save(random_network("ssdlite_mobilenet_v2"), tmp_path / "float32.safetensors")
    result = mobilenets.quantize(
        str(model), data=str(boxes), calibration="mse", correct_bias="off", equalize="off", even_if_collapsed=True
    )
    data = result.to_json()
    assert data["before"].keys() >= {"map", "map_50", "images"}
    assert "of the sure boxes found again" in str(result)
    assert "mAP .5" in str(result)
    made = load(result.checkpoint)
    assert (made.card.task, made.card.precision) == ("detection", "int8")
    assert {metric.name for metric in made.card.metrics} >= {"map", "map_50"}
    assert made.sample is not None
    assert len(made.sample[1]) == sum(np.prod(made.card.plan.op(name).out) for name in made.card.plan.outputs)
    with pytest.raises(InputError, match="--method qat is for classifiers"):
        mobilenets.quantize(str(model), data=str(boxes), method="qat")
    classifier = save(random_network("mobilenet_v2"), tmp_path / "classifier.safetensors")
    with pytest.raises(InputError, match=r"has boxes, and .* classifies pictures"):
        mobilenets.quantize(str(classifier), data=str(boxes))


@pytest.mark.parametrize("to", ["onnx", "openvino", "litert"])
def test_a_detector_is_exported(to: str, random_network: Networks, tmp_path: Path) -> None:
    model = save(random_network("ssdlite_mobilenet_v2"), tmp_path / "model.safetensors")
    result = mobilenets.export(str(model), to=to, pictures=to == "litert")  # type: ignore[arg-type]
    assert result.task == "detection"
    assert "of the range of boxes or scores" in str(result)
    assert mobilenets.load(result.path).card.task == "detection"


def test_what_is_not_for_detectors_or_only_for_them(random_network: Networks, tmp_path: Path) -> None:
    detector = save(random_network("ssdlite_mobilenet_v2"), tmp_path / "detector.safetensors")
    classifier = save(random_network("mobilenet_v2"), tmp_path / "classifier.safetensors")
    with pytest.raises(InputError, match="--nms is for detectors"):
        mobilenets.export(str(classifier), to="onnx", nms=True)
    with pytest.raises(InputError, match="--nms is for --to onnx"):
        mobilenets.export(str(detector), to="litert", nms=True)
    with pytest.raises(InputError, match="only classifiers are pruned"):
        mobilenets.prune(str(detector), dead=True)
    assert mobilenets.export(str(detector), to="onnx", nms=True).path.is_file()


def test_a_detector_is_timed_and_diagnosed(random_network: Networks, tmp_path: Path) -> None:
    detector = str(save(random_network("ssdlite_mobilenet_v2"), tmp_path / "detector.safetensors"))
    pytest.importorskip("onnxruntime")
    timed = mobilenets.bench(detector, runtimes="onnx", precisions="float32", repeats=1, per_op=True)
    assert [row.error for row in timed.rows] == [None]
    assert {"boxes_1", "scores_6", "extra_4_project"} <= {each.name for each in timed.rows[0].operations}
    found = mobilenets.diagnose(detector, images=4, out=tmp_path / "diagnosed")
    assert {"boxes_1_depthwise", "extra_1_squeeze"} <= {layer.name for layer in found.layers}
    assert "ssdlite_mobilenet_v2" in str(found)
    assert (tmp_path / "diagnosed" / "diagnose.html").is_file()
