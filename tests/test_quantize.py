from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from mobilenets.arch import ARCHITECTURES
from mobilenets.checkpoint import Card, Checkpoint, Metric, load, save
from mobilenets.data import open_data
from mobilenets.errors import CheckpointError, InputError, MobileNetsError, ParityError
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import fit, normalize
from mobilenets.nn.convert import convert
from mobilenets.nn.network import build, to_tensors
from mobilenets.quantize import Accuracy, quantize

EPOCHS = 5


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small V2 trained on digits, as a training writes it: about 97 % right, with ReLU in place of ReLU6."""
    arch = replace(ARCHITECTURES["mobilenet_v2_mnist"], activation="relu")
    preprocess = Preprocess(16, 16, channels=1, mean=(0.5,), std=(0.5,))
    data = open_data("digits")
    card = Card(arch, 0.35, (16, 16), data.labels, preprocess, in_channels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(card.plan)
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * 23)
        pictures = np.stack([fit(data.train.picture(index), preprocess) for index in range(len(data.train))])
        x, y = torch.from_numpy(normalize(pictures, preprocess)), torch.from_numpy(data.train.targets)
        order = np.random.default_rng(0)
        for _ in range(EPOCHS):
            for part in np.array_split(order.permutation(len(x)), 23):
                loss = torch.nn.functional.cross_entropy(network(x[part]), y[part])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    card = replace(card, metrics=(Metric("top1", 0.97, "digits", len(data.val)),))
    return save(Checkpoint(card, to_tensors(network.eval())), tmp_path_factory.mktemp("digits") / "digits.safetensors")


@pytest.fixture(scope="module")
def unbalanced(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same function with depthwise channels scaled by up to 64 and undone behind: ruin for one scale."""
    float32 = load(digits)
    tensors = {name: array.copy() for name, array in float32.tensors.items()}
    random = np.random.default_rng(0)
    for op in float32.card.plan.ops:
        if op.depthwise:
            factor = (2.0 ** random.integers(-6, 7, op.out[0])).astype(np.float32)
            tensors[f"{op.name}.norm.weight"] *= factor
            tensors[f"{op.name}.norm.bias"] *= factor
            project = op.name.replace("depthwise", "project")
            tensors[f"{project}.weight"] /= factor[:, None, None]
    return save(Checkpoint(float32.card, tensors), tmp_path_factory.mktemp("unbalanced") / "net.safetensors")


def accuracy(of: Accuracy) -> float:
    assert of.top1 is not None
    return of.top1


def test_per_channel_costs_next_to_nothing(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.safetensors"
    result = quantize(str(digits), data="digits", out=out, report=tmp_path / "report")
    assert accuracy(result.before) > 0.95
    assert accuracy(result.after) >= accuracy(result.before) - 0.01
    assert result.agreement > 0.98
    assert result.after.images == len(open_data("digits").val)
    written = load(result.checkpoint)
    assert written.card.precision == "int8"
    assert written.card.parent == load(digits).sha256
    assert written.sample is not None
    assert {"top1", "float32_top1", "float32_agreement"} <= {metric.name for metric in written.card.metrics}
    assert [layer.name for layer in result.layers] == [op.name for op in written.card.plan.ops]
    assert result.bytes_after < 0.45 * result.bytes_before
    assert result.files == (tmp_path / "report" / "layers.png",)
    assert result.files[0].stat().st_size > 5000
    found = json.loads(json.dumps(result.to_json()))
    assert found["after"]["top1"] == result.after.top1
    assert all({"name", "sqnr_db"} <= set(layer) for layer in found["layers"])
    text = str(result)
    assert "per channel" in text
    assert "block_3_depthwise" in text
    assert "76 ms" in text


def test_equalization_saves_what_one_scale_ruins(unbalanced: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.safetensors"
    naive = {"calibration": "minmax", "equalize": "off", "correct_bias": "off", "weights": "max"}
    with pytest.raises(ParityError, match=r"collapsed.*worst layers: block_.*--granularity channel.*--method qat"):
        quantize(str(unbalanced), data="digits", granularity="tensor", out=out, **naive)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    ruined = quantize(
        str(unbalanced),
        data="digits",
        granularity="tensor",
        out=out,
        even_if_collapsed=True,
        **naive,  # type: ignore[arg-type]
    )
    assert accuracy(ruined.after) < accuracy(ruined.before) - 0.05
    assert out.is_file()
    saved = quantize(str(unbalanced), data="digits", granularity="tensor", out=out)
    assert accuracy(saved.after) >= accuracy(saved.before) - 0.02
    chosen = next(trial for trial in saved.tried if trial.chosen)
    assert chosen.way.equalization != "off"
    assert "accelerator" in saved.advice
    facts = load(out).card.quantization
    assert facts is not None
    assert facts["granularity"] == "tensor"


def test_a_stricter_limit_refuses_more(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="collapsed"):
        quantize(str(digits), data="digits", out=tmp_path / "int8.safetensors", max_drop=-100, limit=20, images=16)
    assert list(tmp_path.iterdir()) == []


def test_it_is_the_same_again(digits: Path, tmp_path: Path) -> None:
    first, second = (
        quantize(str(digits), data="digits", out=tmp_path / f"{name}.safetensors", images=24, limit=30) for name in "ab"
    )
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()
    assert replace(first, checkpoint=second.checkpoint) == second


def test_by_default_the_file_is_beside_the_models(digits: Path, tmp_path: Path) -> None:
    copy = tmp_path / "net.safetensors"
    copy.write_bytes(digits.read_bytes())
    settled = {"calibration": "minmax", "equalize": "off", "correct_bias": "on", "weights": "max"}
    result = quantize(str(copy), data="digits", images=16, limit=40, **settled)  # type: ignore[arg-type]
    assert result.checkpoint == tmp_path / "net.int8.safetensors"
    assert len(result.tried) == 1
    with pytest.raises(CheckpointError, match="int8 already"):
        quantize(str(result.checkpoint), data="digits")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"images": 0}, "--images must be 1 or more"),
        ({"limit": 0}, "--limit must be 1 or more"),
        ({"epochs": 2}, "--epochs is for trainings"),
        ({"resume": True}, "--resume is for trainings"),
        ({"data": "no/such/folder"}, "no/such/folder"),
        ({"out": Path()}, "a folder"),
    ],
)
def test_what_cannot_be_meant_is_said(flags: dict[str, object], says: str, digits: Path) -> None:
    with pytest.raises(InputError, match=says):
        quantize(str(digits), **{"data": "digits", **flags})  # type: ignore[arg-type]


def test_the_source_is_never_written_over(digits: Path) -> None:
    with pytest.raises(InputError, match="choose another --out"):
        quantize(str(digits), data="digits", out=digits)


def test_data_of_other_classes_is_refused(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = save(colour_checkpoint, tmp_path / "colours.safetensors")
    with pytest.raises(MobileNetsError, match="not among the model's 3"):
        quantize(str(path), data="digits")


def test_data_of_another_kind_is_called_that_first(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    classifier = str(save(colour_checkpoint, tmp_path / "colours.safetensors"))
    for part in ("images", "labels"):
        (tmp_path / "boxes" / part).mkdir(parents=True)
    Image.new("RGB", (64, 64), (250, 0, 0)).save(tmp_path / "boxes" / "images" / "0.png")
    (tmp_path / "boxes" / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (tmp_path / "boxes" / "data.yaml").write_text("names: [spot]\ntrain: images\nval: images\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"boxes has boxes, and .* classifies pictures: name data of its kind"):
        quantize(classifier, data=str(tmp_path / "boxes"))


@pytest.mark.parametrize("out", ["taken/int8.safetensors", "/proc/nowhere/int8.safetensors"])
def test_an_out_that_cannot_be_written_is_known_before_the_work(
    out: str, colour_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(colour_checkpoint, tmp_path / "colours.safetensors")
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"is a file: choose|cannot be written to"):
        quantize("colours.safetensors", data="no such data", out=Path(out))


def test_pictures_without_labels_judge_by_agreement(digits: Path, tmp_path: Path) -> None:
    data, folder = open_data("digits").val, tmp_path / "plain"
    folder.mkdir()
    for index in range(40):
        Image.fromarray(data.picture(index)[..., 0]).save(folder / f"{index}.png")
    settled = {"calibration": "minmax", "equalize": "off", "correct_bias": "on", "weights": "max"}
    result = quantize(str(digits), data=str(folder), out=tmp_path / "int8.safetensors", **settled)  # type: ignore[arg-type]
    assert result.before.top1 is None
    assert result.after.top5 is None
    assert result.after.images == 32
    assert result.agreement > 0.9
    assert "top-1" not in str(result)
    assert json.loads(json.dumps(result.to_json()))["before"] == {"top1": None, "top5": None, "images": 32}
    assert "top1" not in {metric.name for metric in load(result.checkpoint).card.metrics}


@pytest.mark.slow
def test_training_with_rounding(digits: Path, tmp_path: Path) -> None:
    result = quantize(
        str(digits), data="digits", granularity="tensor", method="qat", epochs=2, out=tmp_path / "int8.safetensors"
    )
    assert result.method == "qat"
    assert accuracy(result.after) > 0.9
    assert load(result.checkpoint).card.precision == "int8"


@pytest.mark.slow
@pytest.mark.parametrize(("granularity", "most"), [("channel", 0.008), ("tensor", 0.02)])
def test_real_photographs(
    shared_data: Path, tmp_path: Path, granularity: Literal["channel", "tensor"], most: float
) -> None:
    """The figures are in benchmarks/results/quantization.json."""
    source = tmp_path / "v2.safetensors"
    convert(shared_data / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.tflite", out=source)
    photographs = str(shared_data / "photos500" / "labels.csv")
    result = quantize(str(source), data=photographs, granularity=granularity)
    assert round(accuracy(result.before) - accuracy(result.after), 6) <= most
    assert result.after.images == 400
