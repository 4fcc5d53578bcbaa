from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mobilenets.data import Pictures, open_data
from mobilenets.data.memory import channel_statistics, held_fitted, held_short
from mobilenets.data.pictures import ArrayPictures, FilePictures, HeldPictures, joined
from mobilenets.errors import InputError
from mobilenets.image import Preprocess, fit


def kinds(pets: Path) -> dict[str, Pictures]:
    """Return the same ten pictures in every form they can have."""
    files = open_data(pets, keep_bytes=0).everything
    held = open_data(pets).everything
    assert isinstance(files, FilePictures)
    assert isinstance(held, HeldPictures)
    return {"files": files, "held": held, "joined": joined(files.take([0, 1, 2]), held.take(range(3, 10)))}


def test_every_kind_gives_the_same_pictures(pets: Path) -> None:
    reference = kinds(pets)["held"]
    for kind, pictures in kinds(pets).items():
        assert len(pictures) == 10, kind
        assert (pictures.channels, pictures.labels) == (3, ("cats", "dogs")), kind
        assert pictures.sides == ((16, 23) if kind == "joined" else (16, 22)), "of the larger part where joined"
        assert pictures.targets.tolist() == reference.targets.tolist(), kind
        for index in range(10):
            assert (pictures.picture(index) == reference.picture(index)).all(), kind
            assert pictures.name(index) == reference.name(index), kind
            assert pictures.target(index) == reference.target(index), kind


def test_every_kind_can_be_taken_from_and_relabelled(pets: Path) -> None:
    for kind, pictures in kinds(pets).items():
        taken = pictures.take([7, 1]).relabelled(("x", "dogs", "cats"), np.array([2, 1]))
        assert [taken.name(0), taken.name(1)] == ["dogs/2.png", "cats/1.png"], kind
        assert taken.targets.tolist() == [1, 2], kind
        assert taken.labels == ("x", "dogs", "cats"), kind
        assert (taken.picture(0) == pictures.picture(7)).all(), kind
        assert len(pictures.take([])) == 0, kind
    assert kinds(pets)["files"].take([]).sides is None


def test_pictures_of_one_size_are_one_array(write_picture: object, tmp_path: Path) -> None:
    assert callable(write_picture)
    for label in ("a", "b"):
        for index in range(2):
            write_picture(f"{label}/{index}.png", seed=index)
    whole = open_data(tmp_path).everything
    assert isinstance(whole, ArrayPictures)
    assert whole.pixels.shape == (4, 16, 20, 3)


def test_a_file_that_goes_away_is_named(pets: Path) -> None:
    files = kinds(pets)["files"]
    (pets / "cats" / "3.png").unlink()
    with pytest.raises(InputError, match=r"cats/3\.png: no such file"):
        files.picture(3)


def test_fitted_pictures_are_held_within_the_budget(pets: Path) -> None:
    p = Preprocess(12, 12, resize=14)
    for kind, pictures in kinds(pets).items():
        held = held_fitted(pictures, p, 10 * 12 * 12 * 3)
        assert isinstance(held, ArrayPictures), kind
        assert held.fitted == p
        assert held.name(4) == pictures.name(4)
        assert all((held.picture(index) == fit(pictures.picture(index), p)).all() for index in range(10)), kind
        assert held_fitted(pictures, p, 10 * 12 * 12 * 3 - 1) is pictures
        again = held_fitted(held, p, 0)
        assert isinstance(again, ArrayPictures)
        assert again.pixels is held.pixels


def test_pictures_that_fit_already_are_not_copied() -> None:
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    pictures = ArrayPictures(("a",), np.zeros(3, np.int64), ("0", "1", "2"), pixels)
    fitting = held_fitted(pictures, Preprocess(8, 8, 1, mean=(0.5,), std=(0.5,)), 0)
    assert isinstance(fitting, ArrayPictures)
    assert fitting.pixels is pixels
    enlarged = held_fitted(pictures, Preprocess(8, 8, 1, resize=9, mean=(0.5,), std=(0.5,)), 1000)
    assert isinstance(enlarged, ArrayPictures)
    assert enlarged.pixels is not pixels, "fit would enlarge them to 9 and crop"


def test_large_photographs_are_held_no_larger_than_needed(write_picture: object, tmp_path: Path) -> None:
    assert callable(write_picture)
    for label in ("a", "b"):
        write_picture(f"{label}/0.jpg", size=(400, 200))
        write_picture(f"{label}/1.png", size=(90, 60))
    files = open_data(tmp_path, keep_bytes=0).everything
    held = held_short(files, 100, 1 << 20)
    assert isinstance(held, HeldPictures)
    assert [held.picture(index).shape for index in range(4)] == [(100, 200, 3), (60, 90, 3)] * 2
    from_files = held_short(files, 100, 1000)
    assert isinstance(from_files, FilePictures)
    assert from_files.picture(0).shape == (100, 200, 3), "the JPEG decoder halves it"
    assert held_short(held, 10, 0) is held


def test_channel_statistics_are_numpy_s(pets: Path) -> None:
    held = kinds(pets)["held"]
    values = np.concatenate([held.picture(index).reshape(-1, 3) for index in range(10)]) / 255
    mean, std = channel_statistics(held)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(std, values.std(axis=0))
    black = ArrayPictures(("a",), np.zeros(1, np.int64), ("0",), np.zeros((1, 4, 4, 1), np.uint8))
    assert channel_statistics(black) == ((0.0,), (1.0,))
