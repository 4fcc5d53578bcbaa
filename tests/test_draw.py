from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image

from mobilenets import draw
from mobilenets.results import Classification, Confused, Prediction

HISTORY = [
    {"epoch": 1, "train_loss": 1.5, "val_loss": 1.2, "train_top1": 0.5, "val_top1": 0.6, "learning_rate": 0.1},
    {"epoch": 2, "train_loss": 0.9, "val_loss": 1.0, "train_top1": 0.7, "val_top1": 0.8125, "learning_rate": 0.05},
    {
        "epoch": 3,
        "train_loss": 0.6,
        "val_loss": float("nan"),
        "train_top1": 0.9,
        "val_top1": 0.75,
        "learning_rate": 0.0,
    },
]


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    image.load()
    return image


def shares(png: bytes) -> Mapping[str, float]:
    """Return the share of pixels that are exactly blue (right) and exactly orange (wrong)."""
    pixels = np.asarray(opened(png).convert("RGB"))
    rgb = {"right": (0x2F, 0x6F, 0xB5), "wrong": (0xD9, 0x66, 0x2B)}
    return {name: float((pixels == colour).all(axis=2).mean()) for name, colour in rgb.items()}


def text_of(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_curves_draw_a_panel_for_what_there_is() -> None:
    whole, loss_alone = opened(draw.draw_curves(HISTORY)), opened(draw.draw_curves([{"train_loss": 1.0}]))
    assert whole.width == 3 * loss_alone.width
    assert [text_of(svg)[-1] for svg in draw.draw_curve_svgs([{"learning_rate": 0.1, "val_loss": None}])] == [
        "learning rate"
    ]
    assert draw.draw_curve_svgs([]) == ()


def test_curves_name_the_best_epoch() -> None:
    loss, accuracy, rate = draw.draw_curve_svgs(HISTORY)
    assert "best 81.25 %, epoch 2" in text_of(accuracy)
    assert {"training", "validation", "loss"} <= set(text_of(loss))
    assert "learning rate" in text_of(rate)


def test_curves_are_the_same_bytes_each_time() -> None:
    assert draw.draw_curves(HISTORY) == draw.draw_curves(HISTORY)
    assert draw.draw_curve_svgs(HISTORY) == draw.draw_curve_svgs(HISTORY)


def test_svg_colours_come_from_the_page() -> None:
    for svg in (*draw.draw_curve_svgs(HISTORY), draw.draw_confusion_svg([[3, 1], [0, 4]], ["a", "b"])):
        assert "var(--faint)" in svg
        assert not [colour for colour in draw._VARIABLES if colour in svg]
        assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)


def test_ids_of_several_drawings_do_not_clash() -> None:
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in draw.draw_curve_svgs(HISTORY)]
    assert all(ids)
    assert not ids[0] & ids[1]
    for svg in draw.draw_curve_svgs(HISTORY):
        assert set(re.findall(r"#([\w.-]+)", svg)) == set(re.findall(r' id="([^"]+)"', svg))


@pytest.mark.parametrize("classes", [1, 2, 26, 27, 101, 1000])
def test_a_perfect_confusion_matrix_is_blue_and_a_shifted_one_orange(classes: int) -> None:
    labels = [f"class {index}" for index in range(classes)]
    right = shares(draw.draw_confusion(np.eye(classes, dtype=int).tolist(), labels))
    assert right["right"] > 0.0005
    assert right["wrong"] == 0
    if classes > 1:
        shifted = np.roll(np.eye(classes, dtype=int), classes // 2, axis=1).tolist()
        wrong = shares(draw.draw_confusion(shifted, labels))
        assert wrong["wrong"] > 0.0005
        assert wrong["right"] == 0


def test_few_classes_are_counted_and_many_are_listed() -> None:
    counts = np.diag([7] * 20)
    counts[3, 4] = 123
    assert text_of(draw.draw_confusion_svg(counts.tolist(), [f"n{i}" for i in range(20)])).count("123") == 1
    many = np.eye(150, dtype=int).tolist()
    labels = [f"n{i}" for i in range(150)]
    listed = opened(draw.draw_confusion(many, labels, [Confused("n1", "n2", 9)]))
    assert listed.width > opened(draw.draw_confusion(many, labels)).width + 400


def test_classes_of_one_cell_are_summed() -> None:
    counts = np.zeros((1000, 1000), np.int64)
    counts[0, 0], counts[4, 4], counts[2, 999] = 10, 20, 10
    cells = draw._confusion_colours(counts)
    assert cells.shape == (200, 200, 4)
    assert cells[0, 0, 3] == pytest.approx(30 / 40)
    assert cells[0, 199, 3] == pytest.approx(0.15 + 0.85 * np.sqrt(10 / 40))
    assert np.count_nonzero(cells[..., 3]) == 2


@pytest.mark.parametrize(
    "name", ["$\\frac", "<script>alert(1)</script>", "蚂蚁", "a\x00\x1b[2Jb", "x" * 500, "", "_^{"]
)
def test_any_class_name_can_be_drawn(name: str) -> None:
    labels = [name, "b"]
    svg = draw.draw_confusion_svg([[1, 0], [0, 1]], labels)
    assert "<script" not in svg
    ET.fromstring(svg)
    opened(draw.draw_confusion([[1, 0], [0, 1]], labels))


def test_a_contact_sheet_shows_every_picture() -> None:
    red = np.full((30, 40, 3), (255, 0, 0), np.uint8)
    grey = np.full((8, 8, 1), 128, np.uint8)
    items = [
        Classification("a/red.jpg", (Prediction("red", 0, 0.75), Prediction("blue", 1, 0.25))),
        Classification("grey.png", (Prediction("grey", 2, 1.0),)),
    ]
    sheet = np.asarray(opened(draw.draw_predictions([red, grey], items)).convert("RGB"))
    left, right = np.array_split(sheet, 2, axis=1)
    assert (left == (255, 0, 0)).all(axis=2).mean() > 0.3
    assert not (right == (255, 0, 0)).all(axis=2).any()
    assert (right == (128, 128, 128)).all(axis=2).mean() > 0.3


def test_contact_sheets_grow_by_rows_of_four() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    item = Classification("x.png", (Prediction("x", 0, 1.0),))
    one, four, five = (opened(draw.draw_predictions([picture] * n, [item] * n)) for n in (1, 4, 5))
    assert (four.width, four.height) == (4 * one.width, one.height)
    assert five.width == 4 * one.width
    assert abs(five.height - 2 * one.height) <= 1


def test_shorten() -> None:
    assert draw.shorten("chickadee", 9) == "chickadee"
    assert draw.shorten("black-capped chickadee", 9) == "black-ca…"
    assert draw.shorten("a\nb", 9) == "a\\nb"


def test_drawing_touches_no_global_figure() -> None:
    code = (
        "import sys, mobilenets.draw as draw; assert 'matplotlib' not in sys.modules; "
        "draw.draw_confusion([[1]], ['a']); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
