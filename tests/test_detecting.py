"""`predict`, `detect` and `evaluate` with a detector whose answers are known."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.detections import Detection, Detections
from mobilenets.draw.boxes import DrawnBox, draw_boxes, to_jpeg
from mobilenets.errors import InputError
from mobilenets.evaluate import evaluate
from mobilenets.predict import detect, predict
from mobilenets.runtime import load
from tests.spots import COLOURS, SIDE, spots_detector, spotted


@pytest.fixture
def spots(tmp_path: Path) -> str:
    """Return the path of a detector that finds single pixels of a colour."""
    return str(save(spots_detector(), tmp_path / "spots.safetensors"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(spotted((4, 8, 0), (12, 3, 2))).save(folder / "two.png")
    Image.fromarray(spotted()).save(folder / "none.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_boxes_are_where_the_spots_are(spots: str, pictures: Path) -> None:
    found = predict(spots, str(pictures / "two.png"), runtime="torch")
    ((red, blue),) = (item.detections for item in found)
    assert {red.label, blue.label} == {"red", "blue"}
    by_label = {each.label: each for each in (red, blue)}
    assert by_label["red"].box == pytest.approx((2.5, 6.5, 6.5, 10.5))
    assert by_label["blue"].box == pytest.approx((10.5, 1.5, 14.5, 5.5))
    assert by_label["red"].score == pytest.approx(np.exp(5) / (1 + np.exp(5) + 2 * np.exp(-5)), rel=1e-5)
    assert by_label["blue"].index == 2
    assert found.to_json()[0]["detections"][0].keys() == {"label", "index", "score", "box"}


def test_boxes_are_in_pixels_of_the_picture(spots: str) -> None:
    """Twice as wide and three times as high, the picture is stretched to the network; its boxes are stretched back."""
    large = np.repeat(np.repeat(spotted((4, 8, 1)), 3, axis=0), 2, axis=1)
    with closing(load(spots, "torch")) as predictor:
        ((found,),) = detect(predictor, [large])
    assert found.label == "green"
    assert found.box == pytest.approx((5, 19.5, 13, 31.5))


def test_every_runtime_and_batch_finds_the_same(spots: str, pictures: Path) -> None:
    names = [str(pictures / "two.png"), str(pictures / "none.png")]
    reference = predict(spots, *names, runtime="reference", batch_size=1)
    other = predict(spots, *names, runtime="torch", batch_size=2)
    for one, two in zip(reference, other, strict=True):
        assert [each.label for each in one.detections] == [each.label for each in two.detections]
        for left, right in zip(one.detections, two.detections, strict=True):
            assert left.box == pytest.approx(right.box, abs=1e-3)


def test_scores_below_the_least_are_left_out(spots: str, pictures: Path) -> None:
    assert len(predict(spots, str(pictures / "two.png"), min_score=0.999)[0].detections) == 0
    assert len(predict(spots, str(pictures / "two.png"), min_score=0.01)[0].detections) == 2
    with pytest.raises(InputError, match="--min-score"):
        predict(spots, str(pictures / "two.png"), min_score=2)


def test_pictures_are_drawn_and_broken_ones_named(spots: str, pictures: Path, tmp_path: Path) -> None:
    found = predict(spots, str(pictures), out=tmp_path / "drawn")
    assert [path.name for path in found.files] == ["none.jpg", "two.jpg"]
    with Image.open(tmp_path / "drawn" / "two.jpg") as drawn:
        assert drawn.size == (SIDE, SIDE)
    broken, none, _ = found
    assert broken.error is not None
    assert none.detections == ()
    assert "nothing found" in str(found)
    assert "cannot be read" in str(found)
    assert found.to_json()[0]["detections"] == []


def write_data(folder: Path, *, wrong: bool = False) -> Path:
    """Write two pictures of two spots each with their boxes; with `wrong`, one box is of another colour."""
    folder.mkdir()
    rows = ["file,label,x1,y1,x2,y2,split"]
    for number, part in enumerate(("val", "test")):
        Image.fromarray(spotted((4 + number, 8, 0), (12, 3, 2))).save(folder / f"{number}.png")
        rows.append(f"{number}.png,red,{2.5 + number},6.5,{6.5 + number},10.5,{part}")
        rows.append(f"{number}.png,{'green' if wrong else 'blue'},10.5,1.5,14.5,5.5,{part}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    return folder / "boxes.csv"


def test_all_right_is_one(spots: str, tmp_path: Path) -> None:
    report = evaluate(spots, str(write_data(tmp_path / "data")), out=tmp_path / "out")
    assert (report.map, report.map_50, report.images, report.boxes) == (1, 1, 1, 2)
    assert report.part == "the validation part"
    assert {"map", "map_50", "per_class", "ar_100", "voc_ap_50"} <= set(report.to_json())
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<li>") == 1
    assert "2 found" in page


def test_the_test_part_by_name_and_what_is_wrong(spots: str, tmp_path: Path) -> None:
    data = str(write_data(tmp_path / "data", wrong=True))
    report = evaluate(spots, data, split="test", out=tmp_path / "out")
    assert report.part == "the test part"
    assert report.map_50 == pytest.approx(0.5)  # red found; green not; of blue there are no boxes
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 missed" in page
    assert "1 false" in page


def test_what_does_not_fit_is_refused(spots: str, colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    data = str(write_data(tmp_path / "data"))
    classifier = str(save(colour_checkpoint, tmp_path / "colours.safetensors"))
    with pytest.raises(InputError, match="classifies pictures"):
        evaluate(classifier, data)
    for label in COLOURS:
        (tmp_path / "classes" / label).mkdir(parents=True)
        Image.fromarray(spotted()).save(tmp_path / "classes" / label / "a.png")
    with pytest.raises(InputError, match="no boxes found"):
        evaluate(spots, str(tmp_path / "classes"))
    with pytest.raises(InputError, match="no test part"):
        evaluate(classifier, str(tmp_path / "classes"), split="test")


def test_the_command_prints_json(spots: str, pictures: Path) -> None:
    command = [sys.executable, "-m", "mobilenets", "predict", spots, str(pictures / "two.png"), "--json"]
    done = subprocess.run([*command, "--runtime", "reference"], capture_output=True, check=True, text=True)
    (item,) = json.loads(done.stdout)
    assert {each["label"] for each in item["detections"]} == {"red", "blue"}


def test_drawn_boxes_have_the_colours_asked_for() -> None:
    picture = np.full((100, 120, 1), 255, np.uint8)
    boxes = [DrawnBox((10, 20, 60, 70), "", "#ff0000"), DrawnBox((70, 30, 110, 90), "cat", "#0000ff", dashed=True)]
    drawn = draw_boxes(picture, boxes)
    assert drawn.shape == (100, 120, 3)
    assert drawn[20, 10:59].tolist() == [[255, 0, 0]] * 49
    assert drawn[45, 35].tolist() == [255, 255, 255]
    blue = (drawn == [0, 0, 255]).all(axis=2)
    assert blue.any()
    assert blue[30:90].sum() > 0
    assert not blue[92:].any()
    assert draw_boxes(picture, boxes, longest=60).shape == (50, 60, 3)
    assert Image.open(io.BytesIO(to_jpeg(drawn))).format == "JPEG"


def test_detections_print_what_they_are() -> None:
    item = Detections("a.jpg", (Detection("cat", 0, 0.5, (1, 2, 3, 4)),))
    assert str(item).splitlines() == ["a.jpg", "   50.00 %  cat  at 1, 2, 3, 4"]
    assert Detections("a.jpg", error="gone").to_json() == {"image": "a.jpg", "detections": [], "error": "gone"}
