"""An exported folder in a browser: the model runs there, and says what it says in Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.errors import MissingExtraError, WeightsError
from mobilenets.export import export
from mobilenets.image import Preprocess
from mobilenets.image.boxes import iou
from mobilenets.image.drawn import pictures
from mobilenets.predict import predict
from tests.spots import spots_detector, spotted
from tests.web_tools import need_web_tools

Network = Callable[..., Checkpoint]
Hosted = Callable[[Path], str]


@pytest.fixture(scope="module", autouse=True)
def runtime() -> None:
    need_web_tools()


@pytest.fixture(scope="module")
def model(random_network: Network, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a checkpoint with its exported folder beside it."""
    path = save(random_network("mobilenet_v2"), tmp_path_factory.mktemp("birds") / "birds.safetensors")
    export(str(path), to="web", images=1)
    return str(path)


@pytest.fixture
def address(hosted: Hosted, model: str) -> str:
    """Return where the exported folder is served."""
    return hosted(Path(model).with_name("birds_web"))


@pytest.fixture
def drawn(tmp_path: Path) -> list[Path]:
    """Return pictures of several shapes: colour, transparent, grey."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    shapes = pictures(Preprocess(150, 200), 4)
    paths = [folder / f"{index}.png" for index in range(4)]
    for path, picture in zip(paths, shapes, strict=True):
        Image.fromarray(picture).save(path)
    Image.fromarray(shapes[3]).convert("L").save(paths[0])
    alpha = np.where(np.mgrid[0:150, 0:200][1] < 90, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([shapes[1], alpha])).save(paths[2])
    return paths


def compare(visit: Any, model: str, paths: list[Path], within: float) -> None:
    """Choose pictures one after the other, and compare what the page says with what Python says."""
    for path, expected in zip(paths, predict(model, *map(str, paths), runtime="onnx"), strict=True):
        visit.choose(path)
        visit.page.locator(f"img[alt='{path.name}']").wait_for()
        found = visit.answer()
        scores = {each.label: each.score for each in expected.predictions}
        assert [name for name, _ in found] == list(scores), path.name
        assert found == [(name, pytest.approx(score, abs=within)) for name, score in scores.items()], path.name
        assert visit.page.locator("[data-time=total]").inner_text().endswith(" ms")


def offline(visit: Any) -> None:
    """Wait until every file is kept."""
    visit.page.locator("html[data-offline=ready]").wait_for(state="attached")
    visit.ready()


def test_the_page_says_what_python_says_with_threads_and_without_a_network(
    visit: Any, address: str, model: str, drawn: list[Path]
) -> None:
    page = visit(address)
    offline(page)
    assert page.page.evaluate("crossOriginIsolated")  # by the service worker: the server sends no such headers
    assert page.page.locator("#where").inner_text().endswith("also offline")
    compare(page, model, drawn, 1e-3)
    page.page.context.set_offline(True)
    page.page.reload()
    page.ready()
    compare(page, model, drawn[:1], 1e-3)
    page.page.locator("#heat").fill("60")
    painted = "canvas => canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[3]"
    assert page.page.locator("canvas").evaluate(painted) > 0


def test_a_second_model_in_8_bits_is_compared(
    visit: Any, hosted: Hosted, random_network: Network, random_int8_network: Network, drawn: list[Path], tmp_path: Path
) -> None:
    for name, checkpoint in (
        ("float", random_network("mobilenet_v3_small")),
        ("bytes", random_int8_network("mobilenet_v1")),
    ):
        path = save(checkpoint, tmp_path / f"{name}.safetensors")
        export(str(path), to="web", out=tmp_path / "page", images=1)
    page = visit(hosted(tmp_path / "page"))
    offline(page)
    page.choose(drawn[1])
    page.answer()
    page.page.locator("#compare").click()
    scores = [dict(page.answer(view)) for view in (0, 1)]
    chips = page.page.locator(".chips")
    assert ["float32" in chips.nth(0).inner_text(), "int8" in chips.nth(1).inner_text()] == [True, True]
    assert scores[0] != scores[1]
    (expected,) = predict(str(tmp_path / "bytes.safetensors"), str(drawn[1]), runtime="onnx")
    best = expected.predictions[0]
    assert scores[1][best.label] == pytest.approx(best.score, abs=0.05)  # one of the codes beside it


def test_a_file_that_is_no_picture_is_said_to_be_none(
    visit: Any, address: str, model: str, drawn: list[Path], tmp_path: Path
) -> None:
    page = visit(address)
    offline(page)
    bad = tmp_path / "notes.png"
    bad.write_text("these are notes", encoding="utf-8")
    page.choose(bad)
    page.page.locator(".view .unable", has_text="notes.png: not a picture that this browser can read").wait_for()
    compare(page, model, drawn[:1], 1e-3)  # and it goes on
    assert page.page.locator(".view .unable").is_hidden()


def test_the_camera_is_looked_at_in_the_browser(visit: Any, address: str) -> None:
    page = visit(address)
    offline(page)
    page.page.locator("#camera").click()
    assert len(page.answer()) == 5
    page.page.locator(".spark:not([hidden])").wait_for(state="attached")  # five times are known
    assert "network" in page.page.locator(".steps").inner_text()
    page.page.locator("#camera").click()
    page.page.locator(".stage img:not([hidden])").wait_for()


def test_a_detector_finds_in_the_browser_what_it_finds_in_python(visit: Any, hosted: Hosted, tmp_path: Path) -> None:
    model = save(spots_detector(), tmp_path / "spots.safetensors")
    result = export(str(model), to="web", images=2)
    assert result.top1_agreement == 1
    path = tmp_path / "many.png"
    shown = spotted(*((x, y, (x + y) % 3) for x in (2, 7, 13) for y in (3, 6, 12)))
    brightness = np.linspace(1, 0.7, 256).reshape(16, 16, 1)  # so that no two are equally sure
    Image.fromarray((shown * brightness).astype(np.uint8).repeat(20, axis=0).repeat(30, axis=1)).save(path)
    (expected,) = predict(str(model), str(path), runtime="onnx")
    assert len(expected.detections) > 5
    page = visit(hosted(result.path), width=390, height=844)
    offline(page)
    page.choose(path)
    found = page.answer()
    assert [label for label, _ in found] == [each.label for each in expected.detections]
    assert [score for _, score in found] == pytest.approx([each.score for each in expected.detections], abs=1e-3)
    read = "all => all.map(each => each.dataset.box.split(' ').map(Number))"
    boxes = np.array(page.page.locator(".bars .score").evaluate_all(read), np.float32)
    meant = np.array([each.box for each in expected.detections], np.float32)
    assert np.diag(iou(boxes, meant)).min() > 0.99
    assert "boxes" in page.page.locator(".steps").inner_text()
    painted = (
        "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 0)"
    )
    assert page.page.locator("canvas").evaluate(painted)
    assert page.page.locator("#heat-setting").is_hidden()


def test_photographs_have_the_same_five_classes_as_in_python(
    visit: Any, hosted: Hosted, shared_data: Path, tmp_path: Path
) -> None:
    try:
        folder = export("efficientnet_lite0", to="web", out=tmp_path / "page", images=1).path
    except (WeightsError, MissingExtraError) as error:
        pytest.skip(str(error))
    page = visit(hosted(folder))
    offline(page)
    photographs = sorted(path for path in (shared_data / "images").iterdir() if path.suffix in {".bmp", ".jpg"})
    assert len(photographs) == 5
    compare(page, "efficientnet_lite0", photographs, 1e-3)
    assert json.loads((folder / "models.json").read_bytes()) == {"models": ["efficientnet_lite0"]}
