"""The page's decoding and suppression, run by Node, against the package's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES, Plan, plan
from mobilenets.formats.web_folder import detector_json
from mobilenets.image import Preprocess
from mobilenets.image.boxes import iou
from mobilenets.image.detection import Decoder, Found, on_picture
from mobilenets.page import files

NODE = shutil.which("node")
RUNNER = Path(__file__).with_name("boxes.mjs")
CLASSES = 5


def found_by_node(
    folder: Path, cases: list[tuple[Plan, list[np.ndarray], Preprocess, tuple[int, int], float]]
) -> list[list[dict[str, Any]]]:
    if NODE is None:
        pytest.skip("node is not installed: apt-get install nodejs")
    for name in ("boxes.js", "preprocess.js"):
        content = files()[name].replace(b'"./preprocess.js"', b'"./preprocess.mjs"')
        (folder / name.replace(".js", ".mjs")).write_bytes(content)
    described = []
    for number, (layout, maps, preprocess, (height, width), threshold) in enumerate(cases):
        (folder / f"{number}.in").write_bytes(b"".join(each.tobytes() for each in maps))
        described.append(
            {
                "shapes": [each.shape for each in maps],
                "detector": detector_json(layout),
                "preprocess": preprocess.to_json(),
                "size": {"height": height, "width": width},
                "threshold": threshold,
            }
        )
    (folder / "cases.json").write_text(json.dumps(described), encoding="utf-8")
    command = [NODE, str(RUNNER), str(folder / "boxes.mjs"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return answers


def layout_of(name: str, scores: Literal["softmax", "sigmoid"], resolution: tuple[int, int]) -> Plan:
    arch = ARCHITECTURES[name]
    assert arch.detector is not None
    detector = replace(arch.detector, scores=scores, candidates=40, detections=30)
    return plan(replace(arch, detector=detector), width=0.25, resolution=resolution, classes=CLASSES)


def random_maps(layout: Plan, random: np.random.Generator, scores: str) -> list[np.ndarray]:
    """Return maps in which one place in twelve has something on it, and near ones overlap."""
    maps = []
    for name in layout.outputs:
        values = random.normal(0, 1, (1, *layout.op(name).out)).astype(np.float32)
        if name.startswith("scores"):
            planes = values.reshape(-1, CLASSES + 1, *values.shape[2:])
            planes *= 2
            if scores == "softmax":
                planes[:, 0] += np.where(random.random(planes[:, 0].shape) < 1 / 12, -4, 8)
            else:
                planes[:, 1:] -= 5
        maps.append(values)
    return maps


def meant(layout: Plan, maps: list[np.ndarray], preprocess: Preprocess, size: tuple[int, int], least: float) -> Found:
    (found,) = Decoder(layout)(maps)
    return on_picture(found.take(found.scores > least), preprocess, *size)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["ssdlite_mobilenet_v2", "ssdlite320_mobilenet_v3_large"])
def test_the_same_boxes_as_in_python(name: str, scores: Literal["softmax", "sigmoid"], tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    cases = []
    for resolution, resize, least in (((96, 96), None, 0.0), ((128, 96), None, 0.3), ((96, 96), 110, 0.05)):
        layout = layout_of(name, scores, resolution)
        height, width = (int(side) for side in random.integers(80, 400, 2))
        preprocess = Preprocess(*resolution, resize=resize)
        cases.append((layout, random_maps(layout, random, scores), preprocess, (height, width), least))
    several = 0
    for case, answer in zip(cases, found_by_node(tmp_path, cases), strict=True):
        expected = meant(*case)
        several += len(expected)
        assert [each["index"] for each in answer] == expected.classes.tolist()
        assert [each["score"] for each in answer] == pytest.approx(expected.scores.tolist(), abs=1e-5)
        boxes = np.array([each["box"] for each in answer], np.float32)
        np.testing.assert_allclose(boxes, expected.boxes, atol=2e-3)
        whole = (expected.boxes[:, 2:] - expected.boxes[:, :2]).min(axis=1) > 1
        assert np.diag(iou(boxes, expected.boxes))[whole].min() > 0.99
    assert several > 20


def test_nothing_found_and_no_numbers(tmp_path: Path) -> None:
    layout = layout_of("ssdlite_mobilenet_v2", "softmax", (96, 96))
    maps = [np.zeros((1, *layout.op(name).out), np.float32) for name in layout.outputs]
    (nothing,) = found_by_node(tmp_path, [(layout, maps, Preprocess(96, 96), (50, 60), 0.5)])
    assert nothing == []
    maps[1][0, 0, 0, 0] = np.nan
    with pytest.raises(AssertionError, match="its weights are broken"):
        found_by_node(tmp_path, [(layout, maps, Preprocess(96, 96), (50, 60), 0.5)])
