"""Annotations as they should not be: one clear line each, and nothing sound is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilenets.data import open_data
from mobilenets.data.boxed import BoxedPictures
from mobilenets.data.dataset import Data
from mobilenets.errors import InputError

Write = Callable[..., Path]

WIDTH, HEIGHT = 40, 30
GOOD = ("cat", "2", "4", "12", "14")
BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "x"><!ENTITY y "&x;&x;&x;&x;">]>'


def item(name: str, x1: str, y1: str, x2: str, y2: str, extra: str = "") -> str:
    box = f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
    return f"<object><name>{name}</name>{extra}{box}</object>"


def xml(*objects: str, head: str = "", picture: str = "b.png", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"{head}<annotation><filename>{picture}</filename>{sides}{''.join(objects)}</annotation>"


def of_picture(data: Data, name: str) -> list[tuple[str, list[float]]] | None:
    """Return classes and boxes of a picture, None where it is left out."""
    pictures = data.everything
    assert isinstance(pictures, BoxedPictures)
    for index in range(len(pictures)):
        if Path(pictures.name(index)).name == name:
            truth = pictures.truth(index)
            labels = [pictures.labels[number] for number in truth.classes]
            return list(zip(labels, truth.boxes.tolist(), strict=True))
    return None


def opened(root: Path, count: int = 1) -> Data:
    """Open what has so many problems; with --strict the first of them must stop, in one line."""
    data = open_data(root, val_fraction=0.5)
    assert len(data.problems) == count, data.problems
    assert all("\n" not in problem for problem in data.problems)
    with pytest.raises(InputError, match="leave out --strict") as stopped:
        open_data(root, strict=True)
    assert "\n" not in str(stopped.value)
    return data


KEPT: list[tuple[str, list[float]]] = [("cat", [2, 4, 12, 14])]
# What is in b.xml beside a good box; what the line says; what is left on b.png; how many lines.
VOC: dict[str, tuple[str, str, list[tuple[str, list[float]]] | None, int]] = {
    "no area": (xml(item(*GOOD), item("cat", "5", "5", "5", "9")), "b.xml, object 2: a box without area", KEPT, 1),
    "outside": (
        xml(item(*GOOD), item("cat", "50", "5", "60", "9")),
        "object 2: .*outside the picture of 40x30",
        KEPT,
        1,
    ),
    "reaching out": (
        xml(item("cat", "30", "20", "60", "28")),
        "object 1: .*reaches out of the picture of 40x30: cut off",
        [("cat", [30, 20, 40, 28])],
        1,
    ),
    "wrong way round": (
        xml(item("cat", "12", "14", "2", "4")),
        "object 1: its corners .* wrong way round: exchanged",
        KEPT,
        1,
    ),
    "nan": (xml(item(*GOOD), item("cat", "nan", "5", "6", "9")), "object 2: a corner is no number", KEPT, 1),
    "infinite": (xml(item(*GOOD), item("cat", "1", "5", "inf", "9")), "object 2: a corner is no number", KEPT, 1),
    "words": (xml(item(*GOOD), item("cat", "left", "5", "6", "9")), r"object 2: .*no number \(left", KEPT, 1),
    "twice": (xml(item(*GOOD), item(*GOOD)), "object 2: the same box as object 1", KEPT, 1),
    "no name": (xml(item(*GOOD), item("", "5", "5", "6", "9")), "object 2: no name", KEPT, 1),
    "no corner": (xml(item(*GOOD), item("cat", "", "5", "6", "9")), "object 2: no xmin", KEPT, 1),
    "no bndbox": (xml(item(*GOOD), "<object><name>cat</name></object>"), "object 2: no xmin in its bndbox", KEPT, 1),
    "another size": (
        xml(item("cat", "4", "8", "24", "28"), size=(80, 60)),
        "b.png: its boxes were drawn at 80x60 and the picture is 40x30: scaled along",
        KEPT,
        1,
    ),
    "another shape": (xml(item(*GOOD), size=(30, 40)), "b.png: .*drawn at 30x40 .*: taken as they are", KEPT, 1),
    "nothing usable": (xml(item("cat", "5", "5", "5", "9")), "b.png: none of its boxes can be used", None, 2),
    "cut short": (xml(item(*GOOD))[:-30], r"b.xml: not readable XML", None, 2),
    "an entity bomb": (xml(item("&y;", *GOOD[1:]), head=BOMB), "b.xml: declares a document type", None, 2),
    "another kind of XML": ("<svg></svg>", "b.xml: no VOC annotation, but <svg>", None, 2),
    "no picture": (xml(item(*GOOD), picture="gone.png"), "", KEPT, 0),  # found by the name of its file
}


def write_voc(root: Path, write: Write, second: str) -> Path:
    (root / "Annotations").mkdir()
    for number, name in enumerate(("a", "b", "c")):
        write(f"JPEGImages/{name}.png", size=(WIDTH, HEIGHT), seed=number)
        text = second if name == "b" else xml(item(*GOOD), picture=f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


@pytest.mark.parametrize("case", VOC)
def test_voc(case: str, tmp_path: Path, write_picture: Write) -> None:
    text, line, left, count = VOC[case]
    root = write_voc(tmp_path, write_picture, text)
    if not count:
        assert open_data(root, strict=True).problems == ()
        assert of_picture(open_data(root), "b.png") == left
        return
    data = opened(root, count)
    assert sum(bool(re.search(line, problem)) for problem in data.problems) == 1
    assert of_picture(data, "b.png") == left
    assert of_picture(data, "a.png") == of_picture(data, "c.png") == KEPT


def test_voc_files_that_are_missing(tmp_path: Path, write_picture: Write) -> None:
    root = write_voc(tmp_path, write_picture, xml(item(*GOOD)))
    (root / "Annotations" / "d.xml").write_text(xml(item(*GOOD), picture="d.png"))
    write_picture("JPEGImages/e.png", size=(WIDTH, HEIGHT))
    data = opened(root, 2)
    assert "Annotations/d.xml: its picture 'd.png' is not there" in data.problems[0]
    assert "1 pictures without a usable annotation file: 'JPEGImages/e.png'" in data.problems[1]


def test_voc_lists_that_disagree(tmp_path: Path, write_picture: Write) -> None:
    root = write_voc(tmp_path, write_picture, xml(item(*GOOD)))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\ngone\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\nb 1\n")
    data = opened(root, 3)
    assert "train.txt: gone: no Annotations/gone.xml" in data.problems[0]
    assert "val.txt: a is in train.txt already" in data.problems[1]
    assert "1 annotations are in no list of ImageSets/Main: 'c'" in data.problems[2]


def test_difficult_objects_are_crowds(tmp_path: Path, write_picture: Write) -> None:
    hard = item("cat", "20", "10", "30", "20", extra="<difficult>1</difficult>")
    data = open_data(write_voc(tmp_path, write_picture, xml(item(*GOOD), hard)))
    assert isinstance(data.everything, BoxedPictures)
    assert sorted(truth.crowd.tolist() for truth in data.everything.truths) == [[False], [False], [False, True]]


def coco(**changes: Any) -> dict[str, Any]:
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(3)],
        "annotations": [{"id": n, "image_id": n, "category_id": 5, "bbox": [2, 4, 10, 10]} for n in range(3)],
        "categories": [{"id": 5, "name": "cat"}],
    }
    for key, more in changes.items():
        document[key] = [*document[key], *more]
    return document


def write_coco(root: Path, write: Write, document: object) -> Path:
    for number in range(3):
        write(f"{number}.png", size=(WIDTH, HEIGHT), seed=number)
    (root / "boxes.json").write_text(json.dumps(document))
    return root


COCO: dict[str, tuple[dict[str, Any], str]] = {
    "unknown image": (
        {"annotations": [{"image_id": 9, "category_id": 5, "bbox": [1, 1, 2, 2]}]},
        "annotation 4: of image 9",
    ),
    "unknown category": (
        {"annotations": [{"image_id": 1, "category_id": 6, "bbox": [1, 1, 2, 2]}]},
        r"annotation 4 \(1.png\): category 6 is not among",
    ),
    "three numbers": (
        {"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 1, 2]}]},
        r"annotation 4 \(1.png\): bbox must be four numbers",
    ),
    "no number": (
        {"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 1, "2", 2]}]},
        "bbox must be four numbers",
    ),
    "negative width": (
        {"annotations": [{"image_id": 1, "category_id": 5, "bbox": [20, 5, -8, 5]}]},
        "wrong way round: exchanged",
    ),
    "nan": (
        {"annotations": [{"image_id": 1, "category_id": 5, "bbox": [float("nan"), 1, 2, 2]}]},
        "a corner is no number",
    ),
    "no such file": ({"images": [{"id": 8, "file_name": "gone.png"}]}, "image 4: gone.png: no such file"),
    "no file name": ({"images": [{"id": 8}]}, "image 4: no id and file_name"),
    "an id twice": ({"images": [{"id": 1, "file_name": "2.png"}]}, "image 4: its id 1 is taken by 1.png"),
    "a file twice": ({"images": [{"id": 8, "file_name": "2.png"}]}, "image 4: 2.png is there twice"),
    "a category without name": ({"categories": [{"id": 6}]}, "category 2: no id and name"),
}


@pytest.mark.parametrize("case", COCO)
def test_coco(case: str, tmp_path: Path, write_picture: Write) -> None:
    changes, line = COCO[case]
    data = opened(write_coco(tmp_path, write_picture, coco(**changes)))
    assert re.search(line, data.problems[0]), data.problems
    for number in range(3):
        assert (of_picture(data, f"{number}.png") or [])[:1] == KEPT


def test_coco_keeps_crowds_and_areas(tmp_path: Path, write_picture: Write) -> None:
    crowd = {"image_id": 1, "category_id": 5, "bbox": [20, 5, 8, 5], "iscrowd": 1, "area": 12}
    data = open_data(write_coco(tmp_path, write_picture, coco(annotations=[crowd])))
    assert isinstance(data.everything, BoxedPictures)
    (truth,) = (truth for truth in data.everything.truths if len(truth) == 2)
    assert truth.crowd.tolist() == [False, True]
    assert truth.areas.tolist() == [100, 12]


def test_coco_that_is_none(tmp_path: Path, write_picture: Write) -> None:
    write_coco(tmp_path, write_picture, coco() | {"categories": {}})
    with pytest.raises(InputError, match="no list 'categories'"):
        open_data(tmp_path)
    (tmp_path / "boxes.json").write_text(json.dumps(coco())[:-9] + '"categories"')
    with pytest.raises(InputError, match="not JSON"):
        open_data(tmp_path)


YOLO = {
    "too few fields": ("0 0.5 0.5 0.2", "line 2: 4 fields"),
    "words": ("0 0.5 0.5 0.2 wide", "line 2: not all numbers"),
    "unknown class": ("3 0.5 0.5 0.2 0.2", "line 2: class 3 is none of the 1"),
    "half a class": ("0.5 0.5 0.5 0.2 0.2", "line 2: class 0.5 is none"),
    "pixels": ("0 20 15 10 10", "line 2: in pixels, it seems"),
    "nan": ("0 nan 0.5 0.2 0.2", "line 2: a corner is no number"),
    "no area": ("0 0.5 0.5 0 0.2", "line 2: a box without area"),
}


@pytest.mark.parametrize("case", YOLO)
def test_yolo(case: str, tmp_path: Path, write_picture: Write) -> None:
    row, line = YOLO[case]
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    for name in ("a", "b", "c"):
        write_picture(f"images/{name}.png", size=(WIDTH, HEIGHT), seed=ord(name))
        text = "0 0.175 0.3 0.25 0.333333333\n"
        (tmp_path / "labels" / f"{name}.txt").write_text(text + (row if name == "b" else ""))
    data = opened(tmp_path)
    assert f"labels/b.txt, {line}" in data.problems[0]
    found = of_picture(data, "b.png")
    assert found is not None
    np.testing.assert_allclose(found[0][1], KEPT[0][1], atol=1e-4)


def test_yolo_outlines_become_boxes(tmp_path: Path, write_picture: Write) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("cat\n")
    for name in ("a", "b"):
        write_picture(f"images/{name}.png", size=(WIDTH, HEIGHT), seed=ord(name))
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.1 0.2 0.5 0.1 0.3 0.6\n")
    found = of_picture(open_data(tmp_path), "a.png")
    assert found is not None
    np.testing.assert_allclose(found[0][1], [4, 3, 20, 18], atol=1e-4)


def test_yaml_that_cannot_be_used(tmp_path: Path) -> None:
    for text, line in (("names: [a, b", "not readable YAML"), ("names: 3\n", "names must be a list")):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(InputError, match=line):
            open_data(tmp_path)


CSV = {
    "no file": (",cat,1,1,5,5", "boxes.csv line 5: no file"),
    "gone": ("gone.png,cat,1,1,5,5", "boxes.csv line 5: gone.png: no such file"),
    "no label": ("b.png,,1,1,5,5", r"boxes.csv line 5 (b.png): a box without a label"),
    "no number": ("b.png,cat,1,1,5,", r"boxes.csv line 5 (b.png): a corner is no number"),
    "too few fields": ("b.png,cat,1,1", r"boxes.csv line 5 (b.png): a corner is no number"),
    "no area": ("b.png,cat,7,1,7,9", r"boxes.csv line 5 (b.png): a box without area"),
}


@pytest.mark.parametrize("case", CSV)
def test_csv(case: str, tmp_path: Path, write_picture: Write) -> None:
    row, line = CSV[case]
    rows = ["file,label,x1,y1,x2,y2"]
    for name in ("a.png", "b.png", "c.png"):
        write_picture(name, size=(WIDTH, HEIGHT), seed=ord(name[0]))
        rows.append(f"{name},cat,2,4,12,14")
    (tmp_path / "boxes.csv").write_text("\n".join([*rows, row]) + "\n")
    data = opened(tmp_path)
    assert line in data.problems[0]
    assert of_picture(data, "b.png") == KEPT


def test_csv_may_name_pictures_without_boxes(tmp_path: Path, write_picture: Write) -> None:
    for name in ("a.png", "b.png"):
        write_picture(name, size=(WIDTH, HEIGHT), seed=ord(name[0]))
    (tmp_path / "boxes.csv").write_text("file,label,xmin,ymin,xmax,ymax\na.png,cat,2,4,12,14\nb.png,,,,,\n")
    data = open_data(tmp_path / "boxes.csv")
    assert of_picture(data, "b.png") == []
    assert data.problems == ()


def test_a_picture_that_is_broken_is_left_out(tmp_path: Path, write_picture: Write) -> None:
    root = write_voc(tmp_path, write_picture, xml(item(*GOOD)))
    (root / "JPEGImages" / "b.png").write_bytes(b"no picture")
    data = opened(root)
    assert "b.png" in data.problems[0]
    assert of_picture(data, "b.png") is None


def test_nothing_usable(tmp_path: Path, write_picture: Write) -> None:
    write_voc(tmp_path, write_picture, xml())
    for name in ("a", "c"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml(picture=f"{name}.png"))
    with pytest.raises(InputError, match="no usable boxes"):
        open_data(tmp_path)


def test_there_are_twenty_cases_and_more() -> None:
    assert len(VOC) + len(COCO) + len(YOLO) + len(CSV) > 20
