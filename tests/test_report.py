from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.errors import InputError
from mobilenets.metrics import judge, measure
from mobilenets.report import WrongPicture, write_report
from mobilenets.results import Report

HOSTILE = "<script>alert(1)</script>\"'&"
HISTORY = [{"epoch": epoch, "train_loss": 1 / epoch, "val_top1": 1 - 1 / (epoch + 1)} for epoch in (1, 2, 3)]


class Page(HTMLParser):
    """Collects what the tests ask about: elements, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def small_report(label: str = "ant", problems: tuple[str, ...] = ()) -> Report:
    logits = np.log([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])
    return measure(judge(logits, [0, 1, 1, 2]), [label, "bee", "wasp"], model="m", data="d", problems=problems)


def full_page(path: Path, label: str = "ant") -> str:
    random = np.random.default_rng(0)
    photo, digit = random.integers(0, 256, (300, 400, 3), np.uint8), random.integers(0, 256, (8, 8, 1), np.uint8)
    written = write_report(
        path,
        small_report(label, problems=(f"{label}: a broken file",)),
        title=f"Run of {label}",
        history=HISTORY,
        wrong=[WrongPicture(f"{label}.jpg", photo, "wasp", label, 0.875), WrongPicture("d.png", digit, "a", "b", 0.5)],
        recipe={"name": "finetune", "augment": ["flip", label], "warm_up": None},
        command=f"mobilenets train '{label}'",
        machine={"processor": label},
    )
    assert written == path
    return path.read_text(encoding="utf-8")


def test_a_page_has_every_part(tmp_path: Path) -> None:
    page = Page(full_page(tmp_path / "new folder" / "report.html"))
    for expected in (
        "Run of ant",
        "top-1 50.00 %",
        "images 4",
        "Training",
        "best 75.00 %, epoch 3",
        "Most often confused",
        "Most confidently wrong",
        "ant 87.50 %",
        "ant.jpg",
        "ant: a broken file",
        "mobilenets train 'ant'",
        'augment ["flip", "ant"]',
        "warm up none",
        "processor ant",
    ):
        assert expected in page.text, expected
    assert page.tags.count("svg") == 3  # two panels of curves and the matrix
    assert page.tags.count("img") == 2
    assert "top-5" not in page.text


def test_the_class_table_carries_numbers_to_sort_by(tmp_path: Path) -> None:
    html = full_page(tmp_path / "report.html")
    table = html[html.index('<table class="sortable">') :]
    rows = re.findall(r"<tr><td data-value.*?</tr>", table, re.DOTALL)
    values = [re.findall(r'data-value="([^"]*)"', row) for row in rows]
    assert values == [
        ["ant", "1", "0.5", "1.0", "0.6666666666666666"],
        ["bee", "2", "0.5", "0.5", "0.5"],
        ["wasp", "1", "-1", "0.0", "0.0"],  # never predicted: precision is unknown, and sorts below 0
    ]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    html = full_page(tmp_path / "report.html")
    page = Page(html)
    addresses = [
        value for _, name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset", "action"}
    ]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert {"link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest", html)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'")


def test_everything_from_data_is_escaped(tmp_path: Path) -> None:
    harmless, hostile = Page(full_page(tmp_path / "a.html")), Page(full_page(tmp_path / "b.html", HOSTILE))
    # Neither an element nor an attribute more than a harmless name makes.
    assert hostile.tags == harmless.tags
    names = [[(t, n) for t, n, _ in page.attributes if t != "text"] for page in (hostile, harmless)]
    assert names[0] == names[1]  # text: drawings place a long label by other means than a short one
    assert not [name for _, name, _ in hostile.attributes if name.startswith("on")]
    assert hostile.text.count(HOSTILE) >= 6


def test_thumbnails_are_small_and_tiny_pictures_exact(tmp_path: Path) -> None:
    page = Page(full_page(tmp_path / "report.html"))
    urls = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    photo, digit = (Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls)
    assert (photo.format, photo.size) == ("JPEG", (240, 180))
    assert (digit.format, digit.size) == ("PNG", (8, 8))
    assert [value for tag, name, value in page.attributes if (tag, name) == ("img", "class")] == ["pixels"]


def test_what_is_empty_is_left_out(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", small_report())
    page = Page(path.read_text(encoding="utf-8"))
    assert "m on d" in page.text
    headings = [text for text in page.texts if text in {"Training", "How it was made", "Most confidently wrong"}]
    assert headings == []
    assert "Problems found" not in page.text


def test_a_page_of_a_thousand_classes_stays_small(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    targets = random.integers(0, 1000, 2000)
    report = measure(judge(random.normal(size=(2000, 1000)), targets), [f"class {index}" for index in range(1000)])
    path = write_report(tmp_path / "report.html", report)
    assert path.stat().st_size < 1_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("tr") > 1000
    assert "top-5" in page.text


def test_a_failed_write_keeps_the_old_page(tmp_path: Path) -> None:
    folder = tmp_path / "report.html"
    folder.mkdir()
    (folder / "kept.txt").touch()
    with pytest.raises(InputError, match=r"report\.html: "):
        write_report(folder, small_report())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
