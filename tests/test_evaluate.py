from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, Metric, save
from mobilenets.data import Pictures
from mobilenets.errors import InputError
from mobilenets.evaluate import evaluate
from tests.spots import spots_detector

RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def model(colour_checkpoint: Checkpoint, tmp_path: Path) -> str:
    return str(save(colour_checkpoint, tmp_path / "colours.safetensors"))


def paint(folder: Path, names: str, *, seed: int = 0) -> None:
    """Write pictures of a colour, a little varied; "red/blue" is a blue one that is filed as red."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(names.split()):
        label, _, colour = name.partition("/")
        pixels = np.full((20, 24, 3), RGB[colour or label], np.int64) + random.integers(-60, 60, (20, 24, 3))
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / label / f"{number}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of 10 pictures without parts: 4 red of which one is blue, 3 green, 3 blue."""
    folder = tmp_path / "colours"
    paint(folder, "red red red red/blue green green green blue blue blue")
    return folder


def test_every_picture_is_judged_once(model: str, data: Path) -> None:
    report = evaluate(model, str(data))
    assert (report.images, report.top1, report.top5) == (10, 0.9, 1.0)
    assert report.labels == ("red", "green", "blue")  # the model's order, not the folder's
    assert report.confusion == ((3, 0, 1), (0, 3, 0), (0, 0, 3))
    assert [(row.label, row.images, row.precision, row.recall) for row in report.per_class] == [
        ("red", 4, 1.0, 0.75),
        ("green", 3, 1.0, 1.0),
        ("blue", 3, 0.75, 1.0),
    ]
    assert report.loss is not None
    assert report.loss > 0
    assert (report.model, report.data, report.runtime, report.part) == (model, str(data), "torch", "all pictures")
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {"top1", "top5", "images", "per_class"} <= set(document)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(model: str, data: Path, batch_size: int) -> None:
    reports = [evaluate(model, str(data), batch_size=size) for size in (batch_size, 4)]
    first, second = (replace(report, seconds=None, loss=None) for report in reports)
    assert first == second
    assert reports[0].loss == pytest.approx(reports[1].loss)


def test_a_validation_part_is_what_is_judged(model: str, tmp_path: Path) -> None:
    paint(tmp_path / "set" / "train", "red red/green green blue")
    paint(tmp_path / "set" / "val", "red green blue blue/red", seed=1)
    report = evaluate(model, str(tmp_path / "set"))
    assert (report.images, report.top1, report.part) == (4, 0.75, "the validation part")
    whole = evaluate(model, str(tmp_path / "set"), split="all")
    assert (whole.images, whole.part) == (8, "all pictures")


def test_a_model_is_not_judged_on_what_it_was_trained_on(
    colour_checkpoint: Checkpoint, data: Path, tmp_path: Path
) -> None:
    card = replace(colour_checkpoint.card, metrics=(Metric("top1", 1.0, "colours", 3),))
    trained = str(save(replace(colour_checkpoint, card=card), tmp_path / "trained.safetensors"))
    report = evaluate(trained, str(data))
    assert report.images == 3  # of 4, 3 and 3 a fifth, at least one
    assert report.part == "20% held back with seed 0"
    assert report.problems == ()
    whole = evaluate(trained, str(data), split="all")
    assert whole.images == 10
    assert "leave out --split all" in str(whole)
    other_fraction = evaluate(trained, str(data), val_fraction=0.4, seed=3)
    assert (other_fraction.images, other_fraction.part) == (4, "40% held back with seed 3")
    assert "training held back 3 pictures of this data and here it is 4" in str(other_fraction)
    other = data.rename(tmp_path / "other colours")
    assert evaluate(trained, str(other)).images == 10
    assert evaluate(trained, str(other), split="val").images == 3


def test_limits_are_spread_over_the_classes_and_repeatable(model: str, data: Path) -> None:
    report = evaluate(model, str(data), limit=3)
    assert [row.images for row in report.per_class] == [1, 1, 1]
    assert report.part == "3 of 10, all pictures"
    assert evaluate(model, str(data), limit=3).confusion == report.confusion
    assert evaluate(model, str(data), limit=99).part == "all pictures"


@pytest.mark.parametrize(("flag", "arguments"), [("--limit", {"limit": 0}), ("--batch-size", {"batch_size": 0})])
def test_flags_out_of_range_are_named(model: str, data: Path, flag: str, arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{flag} must be 1 or more, not 0"):
        evaluate(model, str(data), **arguments)  # type: ignore[arg-type]


def test_classes_the_model_does_not_know_are_named(model: str, data: Path) -> None:
    (data / "red").rename(data / "purple")
    with pytest.raises(InputError, match="purple"):
        evaluate(model, str(data))


def test_data_of_another_kind_are_called_that_first(model: str, data: Path, tmp_path: Path) -> None:
    """Boxes of other classes, too: that the classes are others is the smaller trouble."""
    for part in ("images", "labels"):
        (tmp_path / "boxes" / part).mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (64, 64), (250, 0, 0)).save(tmp_path / "boxes" / "images" / f"{index}.png")
        (tmp_path / "boxes" / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (tmp_path / "boxes" / "data.yaml").write_text("names: [spot]\ntrain: images\nval: images\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"boxes has boxes, and .* classifies pictures: name a detector"):
        evaluate(model, str(tmp_path / "boxes"))
    detector = str(save(spots_detector(), tmp_path / "detector.safetensors"))
    with pytest.raises(InputError, match=r"no boxes found, and .* finds boxes: name data with boxes"):
        evaluate(detector, str(data))


def test_classes_may_be_indices(model: str, tmp_path: Path) -> None:
    pixels = np.array([RGB["green"], RGB["blue"], RGB["red"]], np.uint8)[:, None, None, :].repeat(8, 1).repeat(8, 2)
    np.savez(tmp_path / "set.npz", x=pixels, y=np.array([1, 2, 0]))
    report = evaluate(model, str(tmp_path / "set.npz"))
    assert (report.top1, report.images) == (1.0, 3)


def test_grey_pictures_are_judged_by_a_colour_model(model: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", x=np.full((4, 8, 8), 99, np.uint8), y=np.array([0, 1, 2, 2]))
    report = evaluate(model, str(tmp_path / "grey.npz"))
    assert report.confusion == ((1, 0, 0), (1, 0, 0), (2, 0, 0))  # grey is as red as green: the first class wins
    assert report.loss == pytest.approx(np.log(3), rel=1e-4)


def test_broken_files_are_listed_and_strict_stops(model: str, data: Path) -> None:
    (data / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    report = evaluate(model, str(data))
    assert report.images == 10
    assert any("broken.jpg" in problem for problem in report.problems)
    assert "broken.jpg" in str(report)
    with pytest.raises(InputError, match=r"broken\.jpg"):
        evaluate(model, str(data), strict=True)


def test_files_that_break_after_opening_are_left_out_and_strict_stops(
    model: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large sets are not decoded when they are opened: what is broken then shows only here."""
    from mobilenets.data import pictures as kinds

    def failing(self: kinds.HeldPictures | kinds.ArrayPictures, index: int) -> np.ndarray:
        if self.name(index) == "green/5.png":
            raise InputError("green/5.png: broken picture")
        picture: np.ndarray = self.pixels[index]
        return picture

    for kind in (kinds.HeldPictures, kinds.ArrayPictures):
        monkeypatch.setattr(kind, "picture", failing)
    report = evaluate(model, str(data), batch_size=4)
    assert (report.images, report.problems) == (9, ("green/5.png: broken picture (skipped)",))
    assert report.confusion == ((3, 0, 1), (0, 2, 0), (0, 0, 3))
    with pytest.raises(InputError, match=r"green/5\.png"):
        evaluate(model, str(data), strict=True)

    def all_failing(self: Pictures, index: int) -> np.ndarray:
        raise InputError(f"{self.name(index)}: broken picture")

    for kind in (kinds.HeldPictures, kinds.ArrayPictures):
        monkeypatch.setattr(kind, "picture", all_failing)
    with pytest.raises(InputError, match="none of the 10 pictures can be read"):
        evaluate(model, str(data))


def test_a_page_and_a_matrix_are_written(model: str, data: Path, tmp_path: Path) -> None:
    report = evaluate(model, str(data), out=tmp_path / "out")
    assert report.files == (tmp_path / "out" / "report.html", tmp_path / "out" / "confusion.png")
    page = report.files[0].read_text(encoding="utf-8")
    assert "90.00 %" in page
    assert re.search(r"Most confidently wrong.*red/3\.png", page, re.DOTALL)
    assert f"mobilenets evaluate {model} {data} --split auto --val-fraction 0.2 --seed 0" in page
    with Image.open(report.files[1]) as matrix:
        assert matrix.format == "PNG"
    assert str(report.files[0]) in str(report)
