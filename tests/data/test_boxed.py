"""The same three pictures with the same boxes, in each of the formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilenets.data import open_data
from mobilenets.data.annotations import Truth
from mobilenets.data.boxed import BoxedPictures
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError

Write = Callable[..., Path]

WIDTH, HEIGHT = 40, 30
PICTURES = ("a.png", "b.png", "c.png")
BOXES = {
    "a.png": [("cat", (2, 4, 12, 14)), ("dog", (20, 10, 30, 28))],
    "b.png": [("dog", (0, 0, 40, 30))],
    "c.png": [("cat", (5, 5, 10, 10)), ("cat", (25, 15, 35, 25))],
}
PARTS = {"train": ("a.png", "b.png"), "val": ("c.png",)}


def voc_xml(name: str, boxes: list[tuple[str, tuple[int, int, int, int]]], extra: str = "") -> str:
    items = "".join(
        f"<object><name>{label}</name><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2) in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation><filename>{name}</filename>{size}{items}{extra}</annotation>"


def make_voc(root: Path, write: Write) -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(PICTURES):
        write(f"JPEGImages/{name}", size=(WIDTH, HEIGHT), seed=number)
        (root / "Annotations" / name).with_suffix(".xml").write_text(voc_xml(name, BOXES[name]))
    for part, names in PARTS.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{Path(name).stem}\n" for name in names))
    return root


def coco_json(names: tuple[str, ...]) -> dict[str, list[dict[str, object]]]:
    ids = {"cat": 7, "dog": 9}
    annotations: list[dict[str, object]] = []
    for number, name in enumerate(names):
        for label, (x1, y1, x2, y2) in BOXES[name]:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": ids[label], "bbox": box, "iscrowd": 0}
            )
    return {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in ids.items()],
    }


def make_coco(root: Path, write: Write) -> Path:
    (root / "annotations").mkdir()
    for part, names in PARTS.items():
        for name in names:
            write(f"{part}2017/{name}", size=(WIDTH, HEIGHT), seed=PICTURES.index(name))
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(coco_json(names)))
    return root


def make_roboflow(root: Path, write: Write) -> Path:
    for part, names in PARTS.items():
        for name in names:
            write(f"{part}/{name}", size=(WIDTH, HEIGHT), seed=PICTURES.index(name))
        (root / part / "_annotations.coco.json").write_text(json.dumps(coco_json(names)))
    return root


def yolo_text(name: str) -> str:
    lines = []
    for label, (x1, y1, x2, y2) in BOXES[name]:
        values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        lines.append(" ".join([str(("cat", "dog").index(label)), *(f"{value:.9f}" for value in values)]))
    return "\n".join(lines) + "\n"


def make_yolo(root: Path, write: Write) -> Path:
    for part, names in PARTS.items():
        (root / "labels" / part).mkdir(parents=True)
        for name in names:
            write(f"images/{part}/{name}", size=(WIDTH, HEIGHT), seed=PICTURES.index(name))
            (root / "labels" / part / name).with_suffix(".txt").write_text(yolo_text(name))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


def make_yolo_list(root: Path, write: Write) -> Path:
    for part, names in PARTS.items():
        (root / part / "labels").mkdir(parents=True)
        for name in names:
            write(f"{part}/images/{name}", size=(WIDTH, HEIGHT), seed=PICTURES.index(name))
            (root / part / "labels" / name).with_suffix(".txt").write_text(yolo_text(name))
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def make_csv(root: Path, write: Write) -> Path:
    rows = ["file,label,x1,y1,x2,y2,split"]
    for part, names in PARTS.items():
        for name in names:
            write(f"photos/{name}", size=(WIDTH, HEIGHT), seed=PICTURES.index(name))
            rows += [f"photos/{name},{label},{','.join(map(str, box))},{part}" for label, box in BOXES[name]]
    (root / "boxes.csv").write_text("\n".join(rows) + "\n")
    return root / "boxes.csv"


KINDS = {
    "voc": make_voc,
    "coco": make_coco,
    "coco of roboflow": make_roboflow,
    "yolo": make_yolo,
    "yolo with classes.txt": make_yolo_list,
    "csv": make_csv,
}


def contents(pictures: object) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    assert isinstance(pictures, BoxedPictures)
    return {
        Path(pictures.name(index)).name: [
            (pictures.labels[number], tuple(np.round(box, 3).tolist()))
            for number, box in zip(pictures.truth(index).classes, pictures.truth(index).boxes, strict=True)
        ]
        for index in range(len(pictures))
    }


def expected(names: tuple[str, ...]) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    return {name: [(label, tuple(map(float, box))) for label, box in BOXES[name]] for name in names}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_every_format_is_recognised_and_says_the_same(
    make: Callable[[Path, Write], Path], tmp_path: Path, write_picture: Write
) -> None:
    data = open_data(make(tmp_path, write_picture))
    assert data.boxed
    assert data.own_val
    assert data.labels == ("cat", "dog")
    assert data.problems == ()
    assert contents(data.train) == expected(PARTS["train"])
    assert contents(data.val) == expected(PARTS["val"])
    assert data.train.picture(0).shape == (HEIGHT, WIDTH, 3)


def test_xml_beside_pictures_is_split_by_the_seed(tmp_path: Path, write_picture: Write) -> None:
    for number, name in enumerate(PICTURES):
        write_picture(name, size=(WIDTH, HEIGHT), seed=number)
        (tmp_path / name).with_suffix(".xml").write_text(voc_xml(name, BOXES[name]))
    data = open_data(tmp_path, val_fraction=0.4)
    assert not data.own_val
    assert contents(data.everything) == expected(PICTURES)
    assert sorted([*contents(data.train), *contents(data.val)]) == list(PICTURES)


def test_a_single_file_names_a_data_set(tmp_path: Path, write_picture: Write) -> None:
    for number, name in enumerate(PICTURES):
        write_picture(f"images/{name}", size=(WIDTH, HEIGHT), seed=number)
    (tmp_path / "mine.json").write_text(json.dumps(coco_json(PICTURES)))
    assert contents(open_data(tmp_path / "mine.json").everything) == expected(PICTURES)


def test_a_test_part_is_left_alone(tmp_path: Path, write_picture: Write) -> None:
    root = make_voc(tmp_path, write_picture)
    write_picture("JPEGImages/d.png", size=(WIDTH, HEIGHT), seed=4)
    (root / "Annotations" / "d.xml").write_text(voc_xml("d.png", [("cat", (1, 1, 9, 9))]))
    (root / "ImageSets" / "Main" / "test.txt").write_text("d\n")
    data = open_data(root)
    assert data.test is not None
    assert list(contents(data.test)) == ["d.png"]
    assert list(contents(data.everything)) == list(PICTURES)


def test_classes_are_matched_with_a_models(tmp_path: Path, write_picture: Write) -> None:
    data = open_data(make_voc(tmp_path, write_picture), labels=("bird", "dog", "cat"))
    assert data.labels == ("bird", "dog", "cat")
    assert contents(data.val) == expected(("c.png",))
    with pytest.raises(InputError, match="'cat'"):
        open_data(tmp_path, labels=("bird", "dog"))


def test_pictures_without_boxes_belong_to_the_data(tmp_path: Path, write_picture: Write) -> None:
    """What has nothing on it teaches what nothing looks like."""
    root = make_yolo(tmp_path, write_picture)
    write_picture("images/train/empty.png", size=(WIDTH, HEIGHT), seed=5)
    data = open_data(root)
    assert contents(data.train)["empty.png"] == []
    assert data.train.targets.tolist().count(-1) == 1


def test_rarest_class_decides_a_split() -> None:
    """A class that is on few pictures must not fall out of training or validation by chance."""
    truths = [[0], [0, 1], [0], [0], [0, 1], [0]]
    count = len(truths)
    pixels = ArrayPictures(("a", "b"), np.zeros(count, np.int64), tuple("uvwxyz"), np.zeros((count, 4, 4, 3), np.uint8))
    pictures = BoxedPictures(
        ("a", "b"),
        pixels,
        tuple(
            Truth(
                np.zeros((len(each), 4), np.float32),
                np.array(each),
                np.zeros(len(each), bool),
                np.ones(len(each), "f4"),
            )
            for each in truths
        ),
        np.full((count, 2), 4),
    )
    assert pictures.targets.tolist() == [0, 1, 0, 0, 1, 0]
    assert pictures.boxes == 8


def test_blood_cells(shared_data: Path) -> None:
    """Real files as their makers left them: two boxes without area, and splits of their own."""
    data = open_data(shared_data / "bccd", decode_bytes=0, keep_bytes=0)
    assert data.labels == ("Platelets", "RBC", "WBC")
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (205, 87, 72)
    assert len(data.problems) == 2
    assert all("a box without area" in problem for problem in data.problems)
    assert "BloodImage_00338.xml" in "".join(data.problems)
    assert "BloodImage_00343.xml" in "".join(data.problems)
