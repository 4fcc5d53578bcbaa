from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilenets.data import open_data
from mobilenets.data.arrays import read_npz
from mobilenets.errors import InputError

Array = NDArray[Any]

X = np.random.default_rng(0).integers(0, 256, (20, 8, 6), np.uint8)
Y = np.arange(20) % 4


def save(path: Path, arrays: Mapping[str, Array]) -> None:
    np.savez(path, allow_pickle=True, **arrays)


def test_x_and_y_are_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    data = open_data(tmp_path / "a.npz")
    assert data.labels == ("0", "1", "2", "3")
    assert (len(data.train), len(data.val)) == (16, 4)
    assert data.train.sides == (8, 6)
    assert data.train.channels == 1
    assert (data.everything.picture(7) == X[7, :, :, np.newaxis]).all()


@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")]
)
def test_parts_are_kept(tmp_path: Path, keys: tuple[str, str, str, str]) -> None:
    colour = np.repeat(X[..., np.newaxis], 3, axis=-1)
    save(tmp_path / "a.npz", dict(zip(keys, (colour, Y[:, np.newaxis], colour[:5], Y[:5]), strict=True)))
    data = open_data(tmp_path / "a.npz")
    assert data.own_val
    assert (len(data.train), len(data.val), data.train.channels) == (20, 5, 3)


def test_train_and_test_files_side_by_side(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=X, y=Y.astype(np.uint8))
    np.savez(tmp_path / "test.npz", x=X[:6], y=Y[:6])
    data = open_data(tmp_path)
    assert (len(data.train), len(data.val), data.own_val) == (20, 6, True)


def test_classes_are_named_by_an_array_or_by_the_targets(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat", "dog"])
    for key, values in (("labels", names), ("classes", names.astype(np.bytes_))):
        save(tmp_path / "a.npz", {"x": X, "y": Y, key: values})
        assert open_data(tmp_path / "a.npz").labels == tuple(names)
    np.savez(tmp_path / "a.npz", x=X, y=names[Y])
    data = open_data(tmp_path / "a.npz", labels=["dog", "cat", "bee", "ant", "eel"])
    assert data.everything.targets.tolist() == (3 - Y).tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "no arrays x and y"),
        ({"x": X}, "x without y"),
        ({"x": X / 255, "y": Y}, "x is float64: save pictures as uint8"),
        ({"x": X[0], "y": Y}, r"x has shape \(8, 6\)"),
        ({"x": X[:0], "y": Y[:0]}, r"x has shape \(0, 8, 6\)"),
        ({"x": np.zeros((20, 3, 32, 32), np.uint8), "y": Y}, "32 channels: save it as"),
        ({"x": X, "y": Y[:5]}, "20 pictures and 5 targets"),
        ({"x": X, "y": Y - 1}, "the target -1: class indices count from 0"),
        ({"x": X, "y": Y / 2}, "y is float64: save targets as whole numbers"),
        ({"x": X, "y": np.eye(4)[Y]}, r"y has shape \(20, 4\): save one target a picture"),
        ({"x": X, "y": Y, "labels": np.array(["a", "b"])}, "target 3 for 2 class names"),
        ({"x": X, "y": Y, "labels": np.arange(4)}, "save class names as text"),
        (
            {"x": X, "y": np.array(["a", "b"])[Y % 2], "labels": np.array(["a", "c"])},
            "target 'b' is not among its class",
        ),
        ({"x": X, "y": np.full(20, 10**7)}, "10000000 is no class index"),
        ({"x_train": X, "y_train": Y, "x_test": X[..., None].repeat(3, -1), "y_test": Y}, "1 channels to train on, 3"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    save(tmp_path / "a.npz", arrays)
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "a.npz")


class Trap:
    """Would run code if anything unpickled it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([Trap()], dtype=object), y=Y)
    with pytest.raises(InputError, match="pickled objects, which are never read"):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"b\.npz: not a readable \.npz"):
        read_npz(tmp_path / "b.npz")


def test_a_plain_npy_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        read_npz(tmp_path / "a.npz")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=5),
    end=st.integers(0, 5000),
)
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path: Path, changes: list[tuple[int, int]], end: int
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    path.write_bytes(content[: end if end < len(content) else None])
    try:
        arrays = read_npz(path)
    except InputError as error:
        message = str(error)
    else:
        assert arrays.train.pixels.dtype == np.uint8
        return
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1


def test_mnist_arrays(shared_data: Path) -> None:
    data = open_data("mnist", root=shared_data)
    assert (len(data.train), len(data.val), data.train.sides, data.train.channels) == (60000, 10000, (28, 28), 1)
    assert data.labels == tuple("0123456789")
    assert not data.mirrorable
    assert np.bincount(data.val.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
