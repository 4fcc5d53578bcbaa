"""`convert`, from a file to a checkpoint and what it prints."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
from torchvision import models

from mobilenets import convert
from mobilenets.checkpoint import load
from mobilenets.cli import main
from mobilenets.errors import CheckpointError, ConvertError, InputError, MissingExtraError, MobileNetsError
from mobilenets.image.preprocess import normalize
from mobilenets.nn.convert import formats, torch_files
from mobilenets.nn.convert.labels import imagenet_labels
from mobilenets.nn.convert.layers import Array
from mobilenets.nn.download import digest
from mobilenets.nn.network import from_checkpoint


def network(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = models.mobilenet_v2(width_mult=0.1, num_classes=classes)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return made


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_weights_become_a_checkpoint_that_computes_the_same(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "m.safetensors"
    result = convert(weights, out=out)
    assert result.checkpoint == out
    assert result.origin == "torchvision state dict, weights.pth"
    assert result.model == "mobilenet_v2, width 0.1, 224x224"
    assert result.max_abs_error is not None
    assert result.max_abs_error < 1e-5
    assert (result.top1_agreement, result.compared, result.classes) == (1.0, 8, 5)
    made = load(out)
    assert made.card.parent == digest(weights)
    assert made.card.labels == ("class_0", "class_1", "class_2", "class_3", "class_4")
    assert made.card.preprocess.resize == 256
    assert made.sample is not None
    picture, logits = made.sample
    with torch.no_grad():
        x = torch.from_numpy(normalize(picture[np.newaxis], made.card.preprocess))
        theirs = network().eval()(x)[0].numpy()
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-6)
    assert [entry.name for entry in out.parent.iterdir()] == ["m.safetensors"]


def test_a_thousand_and_one_classes_lose_the_background(tmp_path: Path) -> None:
    torch.save(network(1001).state_dict(), tmp_path / "w.pth")
    (tmp_path / "labels.txt").write_text("background\n" + "".join(f"{name}, too\n" for name in imagenet_labels()))
    result = convert(tmp_path / "w.pth", out=tmp_path / "m")
    assert (result.classes, result.max_abs_error is not None) == (1000, True)
    assert load(tmp_path / "m").card.labels == imagenet_labels()
    convert(tmp_path / "w.pth", out=tmp_path / "named", labels=tmp_path / "labels.txt")
    assert load(tmp_path / "named").card.labels[0] == "tench, too"
    logits = from_checkpoint(load(tmp_path / "m"))(torch.zeros(1, 3, 224, 224))
    with torch.no_grad():
        np.testing.assert_allclose(logits.detach(), network(1001).eval()(torch.zeros(1, 3, 224, 224))[:, 1:], atol=1e-5)


def test_labels_resolution_and_width_are_the_users(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    result = convert(
        weights,
        out=tmp_path / "m",
        labels=tmp_path / "labels.txt",
        resolution=(96, 160),
        width=0.1,
        layout="torchvision",
    )
    card = load(tmp_path / "m").card
    assert card.labels == tuple("abcde")
    assert card.resolution == (card.preprocess.height, card.preprocess.width) == (96, 160)
    assert result.notes == ()
    assert result.max_abs_error is not None
    with pytest.raises(ConvertError, match="not one of the architectures"):
        convert(weights, out=tmp_path / "m", width=0.35)


def test_small_pictures_are_told(weights: Path, tmp_path: Path) -> None:
    result = convert(weights, out=tmp_path / "m", resolution=32)
    assert any("small-image strides" in note for note in result.notes)
    assert result.max_abs_error is not None  # compared at the size that the source is for
    assert result.max_abs_error < 1e-5


def test_the_command_line_prints_one_json_document(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(weights), "--out", str(tmp_path / "m"), "--resolution", "96x128", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checkpoint"] == str(tmp_path / "m")
    assert document["origin"] == "torchvision state dict, weights.pth"
    assert 0 <= document["max_abs_error"] < 1e-5
    assert main(["convert", str(weights), "--out", str(tmp_path / "m")]) == 0
    assert "max abs error" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "none"), "--out", str(tmp_path / "m")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_source_that_cannot_be_run_is_told(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "original", lambda *_: None)
    result = convert(weights, out=tmp_path / "m")
    assert result.max_abs_error is result.top1_agreement is result.compared is None
    assert "cannot be run here" in result.notes[-1]
    assert "not measured" in str(result)


@pytest.mark.parametrize("there", [True, False])
def test_what_computes_something_else_is_not_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """The same layers without their shortcuts: shapes alone would never tell."""
    out = tmp_path / "out" / "m"
    out.parent.mkdir()
    if there:
        out.write_text("precious")

    def without_shortcuts(_layout: str, state: dict[str, torch.Tensor]) -> Any:
        made = network()
        made.load_state_dict(state)
        for module in made.modules():
            if hasattr(module, "use_res_connect"):
                module.use_res_connect = False  # type: ignore[assignment]

        def run(batch: Array) -> Array:
            with torch.no_grad():
                logits: Array = made.eval()(torch.from_numpy(batch)).numpy()
            return logits

        return run

    monkeypatch.setattr(torch_files, "original", without_shortcuts)
    with pytest.raises(ConvertError, match=r"weights\.pth: .*another network: nothing was written"):
        convert(weights, out=out)
    assert [entry.name for entry in out.parent.iterdir()] == (["m"] if there else [])
    assert not there or out.read_text() == "precious"


def test_outs_that_cannot_be_meant(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a folder; name the checkpoint to write, as in --out .*model\.safetensors"):
        convert(weights, out=tmp_path)
    with pytest.raises(InputError, match="the source itself"):
        convert(weights, out=weights)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file.m: cannot be written"):
        convert(weights, out=tmp_path / "file" / "m")
    with pytest.raises(InputError, match="no architecture is called"):
        convert(weights, out=tmp_path / "m", architecture="mobilnet")


def test_without_torch_the_extra_is_named(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mobilenets\[train\]'"):
        convert(weights, out=tmp_path / "m")


def test_a_checkpoint_is_not_converted_again(weights: Path, tmp_path: Path) -> None:
    convert(weights, out=tmp_path / "m")
    with pytest.raises(InputError, match="a mobilenets checkpoint already"):
        convert(tmp_path / "m", out=tmp_path / "n")
    made = load(tmp_path / "m")
    torch.save(from_checkpoint(made).state_dict(), tmp_path / "state.pth")  # ours, but without its card
    with pytest.raises(ConvertError, match="unknown layout"):
        convert(tmp_path / "state.pth", out=tmp_path / "n")
    again = convert(tmp_path / "state.pth", out=tmp_path / "n", architecture="mobilenet_v2")
    assert again.model == "mobilenet_v2, width 0.1, 224x224"
    assert all(np.array_equal(load(tmp_path / "n").tensors[name], made.tensors[name]) for name in made.tensors)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x1c\x00\x00\x00TFL3", "tflite"),
        (b"\x89HDF\r\n\x1a\n", "keras"),
        (b"\x08\x07\x12\x07pytorch", "onnx"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": 1234567}', "torch"),
    ],
)
def test_formats_are_known_by_their_first_bytes(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "no.extension"
    path.write_bytes(head + bytes(100))
    assert formats._format_of(path) == kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [(["m/data.pkl", "m/data/0"], "torch"), (["config.json", "metadata.json", "model.weights.h5"], "keras")],
)
def test_zips_are_known_by_what_is_in_them(tmp_path: Path, names: list[str], kind: str) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    assert formats._format_of(tmp_path / "z") == kind


@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>", "a web page or a Git LFS pointer"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a web page or a Git LFS pointer"),
        (b"\x0a\x0b\x0a\x05input", r"not a TensorFlow graph, or a damaged one"),
        (b"\x89PNG\r\n\x1a\n", "not a file of weights"),
        (b"PK\x03\x04 and nothing more", "damaged zip"),
    ],
    ids=["empty", "html", "lfs", "pb", "png", "zip"],
)
def test_other_files_are_refused_with_what_can_be_read(tmp_path: Path, data: bytes, pattern: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConvertError, match=pattern):
        convert(tmp_path / "x", out=tmp_path / "m")


def test_other_zips_folders_and_wrong_flags_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(ConvertError, match="a zip archive of no known kind"):
        convert(tmp_path / "z", out=tmp_path / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        convert(tmp_path / "folder", out=tmp_path / "m")
    (tmp_path / "t").write_bytes(b"\x1c\x00\x00\x00TFL3")
    with pytest.raises(InputError, match="--layout is for PyTorch"):
        convert(tmp_path / "t", out=tmp_path / "m", layout="timm")


def test_cut_anywhere_a_file_gives_one_clear_line(weights: Path, tmp_path: Path) -> None:
    whole = weights.read_bytes()
    for cut in (0, 1, 3, 4, 30, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(MobileNetsError, match="cut: ") as caught:
            convert(tmp_path / "cut", out=tmp_path / "m")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


REAL = {
    "mobilenet_v1_0.25_224_1_default_1.tflite": ("mobilenet_v1, width 0.25, 224x224", 1000, 1e-4),
    "vww_96_float.tflite": ("mobilenet_v1, width 0.25, 96x96", 2, 1e-4),
    "mobilenet_v2_0.35_128_tfs_channel_first.onnx": ("mobilenet_v2, width 0.35, 128x128", 5, 1e-4),
    "vww_96_int8.tflite": ("mobilenet_v1, width 0.25, 96x96", 2, None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_of_other_formats(shared_data: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    model, classes, most = REAL[name]
    result = convert(shared_data / "weights" / name, out=tmp_path / "m")
    assert (result.model, result.classes) == (model, classes)
    assert result.max_abs_error is not None
    assert result.top1_agreement == 1.0
    if most is None:
        assert "quantized" in result.notes[-1]
    else:
        assert result.max_abs_error < most
    assert load(tmp_path / "m").card.batch_norm == "folded"
