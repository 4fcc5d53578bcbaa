"""A detector so small that it learns eight drawn pictures by heart in seconds."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mobilenets.arch import DETECTORS
from mobilenets.arch.detector import Anchors, Detector, Extra
from mobilenets.arch.mobilenet import Conv, InvertedResidual
from mobilenets.checkpoint import Card, Checkpoint, load, read_card, save
from mobilenets.errors import InputError
from mobilenets.evaluate import evaluate
from mobilenets.image import Augmentation, Preprocess
from mobilenets.nn.network import build, to_tensors
from mobilenets.recipe import DETECT
from mobilenets.train import box_outputs, loop, train
from mobilenets.train.optimization import set_learning_rate
from mobilenets.train.start_detector import backbone_of
from tests.train.test_processes import Ranks

SIDE = 64
CLASSES = ("disc", "square")
SHAPES = ((0.25, 1.0), (0.4, 1.0), (0.55, 1.0))
SMALL = replace(
    DETECTORS["ssdlite_mobilenet_v2"],
    name="small",
    rows=(
        Conv(c=16, s=2),
        InvertedResidual(2, 24, 1, 2),
        InvertedResidual(2, 32, 1, 2),
        InvertedResidual(2, 48, 1, 2),
        Conv(c=64, kernel=1),
    ),
    resolution=SIDE,
    small_image_strides=False,
    detector=Detector(
        taps=("block_3_expand", "head"), extras=(Extra(64),), anchors=Anchors("tf", (SHAPES, SHAPES, SHAPES))
    ),
)
LEARN_BY_HEART = replace(
    DETECT,
    name="by-heart",
    batch_size=8,
    learning_rate=0.01,
    weight_decay=0.0,
    ema=0.9,
    warmup_epochs=2,
    least_steps=0,
    augmentation=Augmentation("boxes"),
)

Draw = Callable[[Path, int], Path]


def drawn_picture(random: np.random.Generator) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int, int]]]]:
    """Return a picture with a disc and a square apart from each other, and their class and box."""
    image = Image.fromarray(random.integers(0, 60, (SIDE, SIDE, 3), np.uint8))
    brush = ImageDraw.Draw(image)
    boxes = []
    for number, left in enumerate(random.permutation([0, SIDE // 2]).tolist()):
        side = int(random.integers(16, 28))
        x, y = left + int(random.integers(0, SIDE // 2 - side)), int(random.integers(0, SIDE - side))
        corners = (x, y, x + side, y + side)
        if number == 0:
            brush.ellipse((x, y, x + side - 1, y + side - 1), fill=(230, 200, 40))
        else:
            brush.rectangle((x, y, x + side - 1, y + side - 1), fill=(60, 120, 240))
        boxes.append((number, corners))
    return image, boxes


def draw_data(folder: Path, count: int = 8) -> Path:
    """Write COCO's files, with the same pictures to train and to validate on."""
    random = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        image, boxes = drawn_picture(random)
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for category, (x1, y1, x2, y2) in boxes:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    for part in ("train", "val"):
        (folder / f"{part}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def small(drawn_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return the arguments of a training of the small detector."""
    folder = tmp_path_factory.mktemp("small")
    middle = (0.5, 0.5, 0.5)
    card = Card(SMALL, 1.0, (SIDE, SIDE), CLASSES, Preprocess(SIDE, SIDE, mean=middle, std=middle), task="detection")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save(Checkpoint(card, to_tensors(build(card.plan))), folder / "small.safetensors")
    (folder / "recipe.json").write_text(json.dumps(LEARN_BY_HEART.to_json()))

    def arguments(**changes: Any) -> dict[str, Any]:
        return {
            "data": drawn_data,
            "model": str(folder / "small.safetensors"),
            "weights": "none",
            "recipe": str(folder / "recipe.json"),
            "epochs": 3,
            "workers": 0,
            "channels_last": "on",
            "bf16": "off",
            "compile": "off",
            **changes,
        }

    return arguments


@pytest.fixture(autouse=True)
def undrawn_boxes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(box_outputs, "write_page", lambda *_: [])


@pytest.mark.usefixtures("drawn")
def test_learns_eight_pictures_by_heart(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = train(**small(out=tmp_path / "run", epochs=100))
    assert result.metrics["map_50"] > 0.95
    assert result.images == 8
    card = read_card(result.checkpoint)
    assert card.task == "detection"
    assert card.labels == CLASSES
    assert {metric.name: metric.value for metric in card.metrics}["map_50"] > 0.95
    checkpoint = load(result.checkpoint)
    assert checkpoint.sample is not None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Found, missed, false" in page
    assert "Precision and recall" in page
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert {"val_map", "val_map_50", "val_loss", "train_loss"} <= set(history[-1])
    assert history[-1]["train_top1"] is None


@pytest.mark.slow
def test_the_focal_loss_learns_them_too(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    recipe = tmp_path / "focal.json"
    recipe.write_text(json.dumps(replace(LEARN_BY_HEART, focal=2.0).to_json()))
    result = train(**small(out=tmp_path / "run", recipe=str(recipe), epochs=100))
    assert result.metrics["map_50"] > 0.95
    assert (read_card(result.checkpoint).recipe or {})["focal"] == 2.0


@pytest.mark.slow
def test_two_processes_train_one_detector(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    ranks = Ranks()
    try:
        said = ranks.train(**small(out=tmp_path / "run", epochs=60))
    finally:
        ranks.end()
    assert said["images"] == 8  # none counted twice
    assert said["metrics"]["map_50"] > 0.5
    report = evaluate(str(tmp_path / "run" / "best.safetensors"), str(small()["data"]), out=tmp_path / "alone")
    assert report.metrics["map_50"] == pytest.approx(said["metrics"]["map_50"], abs=1e-3)


def test_an_interrupted_run_ends_with_the_same_weights(
    small: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same_weights: Callable[[Path, Path], bool],
) -> None:
    varied = tmp_path / "varied.json"
    recipe = replace(LEARN_BY_HEART, batch_size=3, augmentation=DETECT.augmentation)
    varied.write_text(json.dumps(recipe.to_json()))
    train(**small(out=tmp_path / "whole", recipe=str(varied)))
    taken = 0

    def counted(optimizer: torch.optim.Optimizer, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == 4:
            signal.raise_signal(signal.SIGINT)
        set_learning_rate(optimizer, rate)

    monkeypatch.setattr(loop, "set_learning_rate", counted)
    with pytest.raises(KeyboardInterrupt):
        train(**small(out=tmp_path / "parts", recipe=str(varied)))
    train(**small(out=tmp_path / "parts", recipe=str(varied), resume=True))
    assert same_weights(tmp_path / "whole", tmp_path / "parts")


def test_other_boxes_are_other_data(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    data = draw_data(tmp_path / "data")
    train(**small(out=tmp_path / "run", data=data, epochs=1))
    document = json.loads((data / "train.json").read_text())
    document["annotations"][0]["bbox"][2] += 1
    (data / "train.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="other pictures, labels or split"):
        train(**small(out=tmp_path / "run", data=data, epochs=1, resume=True))


def test_a_classifiers_name_and_file_become_detectors(
    small: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backbone's weights are taken over with their conventions; heads are new."""
    from mobilenets.arch import ARCHITECTURES

    arch = replace(ARCHITECTURES["mobilenet_v1"], padding="same", bn_eps=0.001)
    card = Card(arch, 0.25, (SIDE, SIDE), ("a", "b", "c"), Preprocess(SIDE, SIDE, mean=(0.1,) * 3, std=(0.2,) * 3))
    source = Checkpoint(card, to_tensors(build(card.plan)))
    save(source, tmp_path / "v1.safetensors")
    arguments = small(
        out=tmp_path / "run", model=str(tmp_path / "v1.safetensors"), weights=None, resolution=96, epochs=1
    )
    train(**(arguments | {"learning_rate": 1e-12}))
    trained = load(tmp_path / "run" / "last.safetensors")
    assert trained.card.arch.name == "ssdlite_mobilenet_v1"
    assert trained.card.arch.padding == "same"
    assert trained.card.arch.bn_eps == 0.001
    assert trained.card.width == 0.25
    assert trained.card.preprocess == Preprocess(96, 96, mean=(0.1,) * 3, std=(0.2,) * 3)
    np.testing.assert_allclose(
        trained.tensors["block_5_depthwise.weight"], source.tensors["block_5_depthwise.weight"], atol=1e-6
    )
    assert "ssdlite_mobilenet_v1 is trained" in capsys.readouterr().err


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_knows_what_it_is_built_on(name: str) -> None:
    base = backbone_of(DETECTORS[name])
    assert base is not None
    assert name.removesuffix("_full").endswith(base)


def test_freezing_and_classes_are_refused(small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--freeze"):
        train(**small(out=tmp_path / "one", freeze=True))
    with pytest.raises(InputError, match="no boxes found"):
        train("digits", model="ssdlite_mobilenet_v2", weights="none", out=tmp_path / "two")
    with pytest.raises(InputError, match="kind boxes, and digits has classes"):
        train("digits", weights="none", recipe="detect", out=tmp_path / "three")
