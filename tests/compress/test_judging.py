from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, Metric
from mobilenets.compress.judging import Divided, divide, fitted, limited
from mobilenets.data import Data, Pictures, open_data
from mobilenets.errors import InputError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def write(folder: Path, count: int) -> Path:
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            shade = tuple(part * (100 + index) // 200 for part in colour)
            Image.new("RGB", (20, 20), shade).save(folder / label / f"{index}.png")
    return folder


def names(pictures: Pictures) -> set[str]:
    return {pictures.name(index) for index in range(len(pictures))}


def opened(folder: Path, checkpoint: Checkpoint) -> Data:
    return open_data(folder, labels=checkpoint.card.labels)


def check_apart(divided: Divided) -> None:
    assert not names(divided.calibration) & names(divided.judged)


def test_data_the_model_was_not_trained_on_is_divided(tmp_path: Path, colour_checkpoint: Checkpoint) -> None:
    data = opened(write(tmp_path / "d", 20), colour_checkpoint)
    divided = divide(data, colour_checkpoint.card, 100, seed=3)
    check_apart(divided)
    assert (len(divided.calibration), len(divided.judged)) == (12, 48)  # a fifth, and all others
    assert sorted(np.bincount(divided.calibration.targets)) == [4, 4, 4]
    assert "12" in divided.part
    assert not divided.standing
    again = divide(data, colour_checkpoint.card, 100, seed=3)
    assert [again.calibration.name(i) for i in range(12)] == [divided.calibration.name(i) for i in range(12)]
    assert len(divide(data, colour_checkpoint.card, 5, seed=3).judged) == 55


def test_what_training_held_back_judges(tmp_path: Path, colour_checkpoint: Checkpoint) -> None:
    data = opened(write(tmp_path / "d", 10), colour_checkpoint)
    card = replace(colour_checkpoint.card, metrics=(Metric("top1", 1.0, "d", len(data.val)),))
    for divided in (
        divide(data, card, 100, seed=0),
        divide(data, colour_checkpoint.card, 100, seed=0, trained=True),
    ):
        assert names(divided.judged) == names(data.val)
        assert names(divided.calibration) == names(data.train)
        assert divided.standing


def test_a_validation_part_judges(tmp_path: Path, colour_checkpoint: Checkpoint) -> None:
    write(tmp_path / "d" / "train", 6)
    write(tmp_path / "d" / "val", 2)
    divided = divide(opened(tmp_path / "d", colour_checkpoint), colour_checkpoint.card, 9, seed=0)
    assert (len(divided.calibration), len(divided.judged)) == (9, 6)
    assert divided.standing
    few = limited(divided, 3, seed=0)
    assert len(few.judged) == 3
    assert sorted(few.judged.targets) == [0, 1, 2]
    assert not few.standing


def test_a_single_picture_is_refused(tmp_path: Path, colour_checkpoint: Checkpoint) -> None:
    (tmp_path / "d" / "red").mkdir(parents=True)
    Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_path / "d" / "red" / "only.png")
    with pytest.raises(InputError, match="single picture"):
        divide(opened(tmp_path / "d", colour_checkpoint), colour_checkpoint.card, 9, seed=0)


def test_pictures_that_break_later_are_left_out(tmp_path: Path, colour_checkpoint: Checkpoint) -> None:
    folder = write(tmp_path / "d", 3)
    data = open_data(folder, labels=colour_checkpoint.card.labels, keep_bytes=0)
    (folder / "green" / "1.png").write_bytes(b"no picture any more")
    found = fitted(data.everything, colour_checkpoint.card, range(9), strict=False)
    assert len(found.pictures) == len(found.places) == 8
    assert "1.png" in found.problems[0]
    with pytest.raises(InputError, match=r"1\.png"):
        fitted(data.everything, colour_checkpoint.card, range(9), strict=True)
