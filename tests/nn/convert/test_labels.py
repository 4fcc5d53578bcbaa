from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mobilenets.errors import ConvertError, InputError
from mobilenets.nn.convert.labels import classes_of, imagenet_labels, read_labels

IMAGENET = imagenet_labels()


def test_imagenets_names_are_a_thousand_and_each_once() -> None:
    assert len(IMAGENET) == len(set(IMAGENET)) == 1000
    assert IMAGENET[0] == "tench"
    assert IMAGENET[281] == "tabby"
    assert IMAGENET[999] == "toilet tissue"


def test_imagenets_names_are_torchvisions() -> None:
    meta = pytest.importorskip("torchvision.models._meta")
    assert list(IMAGENET) == meta._IMAGENET_CATEGORIES


def test_imagenets_names_mean_what_tensorflows_file_says(shared_data: Path) -> None:
    """The same animals and things in the same order, under other or longer names."""
    tensorflow = read_labels(shared_data / "weights" / "imagenet_labels.txt")
    assert len(tensorflow) == 1001
    words = [
        ({*theirs.lower().replace(",", " ").split()}, {*ours.lower().split()})
        for theirs, ours in zip(tensorflow[1:], IMAGENET, strict=True)
    ]
    assert sum(bool(theirs & ours) for theirs, ours in words) > 990


def test_names_need_neither_torch_nor_torchvision() -> None:
    code = (
        "import sys; from mobilenets.nn.convert.labels import imagenet_labels as f; f(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat\r\n dog \r\nÄffchen\r\n\r\n".encode())
    assert read_labels(path) == ("cat", "dog", "Äffchen")


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
        (b"x" * 16_000_001, "too large"),
    ],
    ids=["empty", "blank", "hole", "binary", "huge"],
)
def test_bad_label_files_are_named(tmp_path: Path, data: bytes, pattern: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"labels\.txt: {pattern}"):
        read_labels(path)
    with pytest.raises(InputError, match=r"nothing: cannot be read \(No such file or directory\)"):
        read_labels(tmp_path / "nothing")


def test_imagenet_is_assumed_for_its_number_of_classes() -> None:
    assert classes_of(1000, None).labels == IMAGENET
    assert not classes_of(1000, None).drops_background
    with_background = classes_of(1001, None)
    assert (with_background.labels, with_background.drops_background) == (IMAGENET, True)


def test_other_classes_without_names_are_numbered() -> None:
    classes = classes_of(3, None)
    assert classes.labels == ("class_0", "class_1", "class_2")
    assert "--labels FILE" in (classes.note or "")


@pytest.mark.parametrize("first", ["background", "Background", "dummy"])
def test_the_background_goes_from_labels_and_classes(first: str) -> None:
    labels = (first, *IMAGENET)
    assert classes_of(1001, labels) == classes_of(1001, IMAGENET)
    assert classes_of(1001, labels).drops_background
    assert classes_of(1000, labels).labels == IMAGENET
    assert not classes_of(1000, labels).drops_background


def test_a_thousand_and_one_own_classes_stay() -> None:
    labels = tuple(f"thing {index}" for index in range(1001))
    assert classes_of(1001, labels).labels == labels
    assert not classes_of(1001, labels).drops_background
    assert classes_of(2, ("background", "cat")).labels == ("background", "cat")


@pytest.mark.parametrize("count", [2, 999, 1002])
def test_as_many_labels_as_classes(count: int) -> None:
    with pytest.raises(ConvertError, match=rf"^l\.txt: 3 labels for {count:,} classes"):
        classes_of(count, ("a", "b", "c"), "l.txt: ")
