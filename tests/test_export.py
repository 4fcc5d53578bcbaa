from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.cli import main
from mobilenets.errors import InputError, MissingExtraError, ParityError
from mobilenets.evaluate import evaluate
from mobilenets.export import Format, export
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize
from mobilenets.predict import predict
from mobilenets.runtime import choose, feed, load
from mobilenets.show import show

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
WRITERS: dict[Format, tuple[str, str]] = {
    "onnx": ("mobilenets.formats.onnx_file", "to_onnx"),
    "openvino": ("mobilenets.formats.openvino_file", "to_openvino"),
    "litert": ("mobilenets.formats.litert_file", "to_litert"),
}
Network = Callable[..., Checkpoint]


@pytest.fixture(params=list(SUFFIXES))
def to(request: pytest.FixtureRequest) -> Format:
    name: Format = request.param
    try:
        choose(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture
def model(random_network: Network, tmp_path: Path) -> str:
    return str(save(random_network("mobilenet_v2"), tmp_path / "m" / "birds.v2.safetensors"))


@pytest.fixture
def photos(tmp_path: Path, random_network: Network) -> str:
    """Return a folder of two classes of the network's, with drawn pictures of several sizes."""
    preprocess = random_network("mobilenet_v2").card.preprocess
    for index, picture in enumerate(pictures(replace(preprocess, height=70, width=90), 6)):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[: 70 - index]).save(path)
    return str(tmp_path / "photos")


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def spoiled(monkeypatch: pytest.MonkeyPatch, to: Format, change: Callable[[Checkpoint], Checkpoint]) -> None:
    """Let the writer of a format write something else than it is given."""
    module, name = WRITERS[to]
    real = getattr(import_module(module), name)
    monkeypatch.setattr(f"{module}.{name}", lambda checkpoint, **options: real(change(checkpoint), **options))


def with_tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Checkpoint], Checkpoint]:
    def changed(checkpoint: Checkpoint) -> Checkpoint:
        return replace(checkpoint, tensors={**checkpoint.tensors, name: change(checkpoint.tensors[name])})

    return changed


def test_the_file_lies_beside_the_checkpoint_and_knows_what_was_measured(to: Format, model: str, photos: str) -> None:
    result = export(model, to=to, data=photos)
    assert result.path == Path(model).with_suffix(SUFFIXES[to])
    written = {"birds.v2.xml", "birds.v2.bin"} if to == "openvino" else {result.path.name}
    assert files_of(Path(model).parent) == {"birds.v2.safetensors", *written}
    assert result.bytes == sum(path.stat().st_size for path in result.files) > 100_000
    assert result.relative_error < 1e-4
    assert result.max_abs_error < 1e-3
    assert (result.top1_agreement, result.images, result.compared_on) == (1.0, 6, "photos")
    with closing(load(model, "torch")) as made_from, closing(load(result.path)) as exported:
        card = exported.card
        drawn = list(pictures(card.preprocess, 3))
        expected, logits = feed.logits_of(made_from, drawn), feed.logits_of(exported, drawn)
        assert (card.labels, card.preprocess) == (made_from.card.labels, made_from.card.preprocess)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(np.ptp(expected)))
    facts = {metric.name: metric.value for metric in card.metrics}
    assert facts["max_abs_error"] == result.max_abs_error
    assert facts["top1_agreement"] == 1.0
    assert card.parent is not None
    assert result.runtime in card.notes[-1]
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"path", "bytes", "max_abs_error", "top1_agreement"} <= set(document)
    assert str(result.path) in str(result)


def test_a_file_may_take_pictures(to: Format, model: str, tmp_path: Path) -> None:
    result = export(model, to=to, pictures=True, out=tmp_path / f"p{SUFFIXES[to]}")
    assert "uint8" in result.takes
    assert (result.images, result.compared_on) == (8, "drawn pictures")
    with closing(load(result.path)) as exported, closing(load(model, "torch")) as made_from:
        assert exported.pictures
        drawn = pictures(exported.card.preprocess, 2)
        (logits,), (expected,) = exported.run(drawn), made_from.run(normalize(drawn, exported.card.preprocess))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(np.ptp(expected)))


def test_an_int8_network_is_the_same_in_int8(to: Format, random_int8_network: Network, tmp_path: Path) -> None:
    made = save(random_int8_network("mobilenet_v3_small"), tmp_path / "m.safetensors")
    result = export(str(made), to=to)
    assert result.precision == "int8"
    assert result.relative_error < 0.05
    assert result.files[-1].stat().st_size < made.stat().st_size * 2  # the .bin, where there is one


def test_the_stored_sample_is_compared_as_well(to: Format, random_network: Network, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v2")
    picture = pictures(checkpoint.card.preprocess, 2)[1]
    with closing(load(checkpoint, "torch")) as predictor:
        output = feed.logits_of(predictor, [picture])[0]
    sound = str(save(replace(checkpoint, sample=(picture, output)), tmp_path / "sound.safetensors"))
    result = export(sound, to=to)
    assert (result.images, result.compared_on) == (9, "drawn pictures and the stored sample")
    other = str(save(replace(checkpoint, sample=(picture, output + 1)), tmp_path / "other.safetensors"))
    with pytest.raises(ParityError, match="off by"):
        export(other, to=to)


CHANGES: dict[str, tuple[str, Callable[[Checkpoint], Checkpoint]]] = {
    "bias": ("block_4_project", with_tensor("block_4_project.norm.bias", lambda bias: bias + 0.5)),
    "weight": ("block_6_depthwise", with_tensor("block_6_depthwise.weight", lambda weight: weight[:, :, ::-1])),
    "padding": (
        "block_2_depthwise",  # the first of stride 2: so small a picture is not halved before
        lambda checkpoint: replace(
            checkpoint, card=replace(checkpoint.card, arch=replace(checkpoint.card.arch, padding="same"))
        ),
    ),
    "activation": (
        "block_1_depthwise",
        with_tensor("block_1_depthwise.norm.bias", lambda bias: bias.clip(None, -0.2)),
    ),
    "classes": ("classifier", with_tensor("classifier.weight", lambda weight: weight[::-1])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_computes_something_else_is_not_written(
    to: Format, model: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    op, spoil = CHANGES[change]
    spoiled(monkeypatch, to, spoil)
    with pytest.raises(ParityError, match=rf"{op} \(.*\) differs first.*nothing was written") as caught:
        export(model, to=to)
    assert "\n" not in str(caught.value)
    assert files_of(Path(model).parent) == {"birds.v2.safetensors"}


def test_wrong_preprocessing_in_the_file_is_found(to: Format, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(checkpoint: Checkpoint) -> Checkpoint:
        wrong = replace(checkpoint.card.preprocess, mean=(0.4, 0.5, 0.6))
        return replace(checkpoint, card=replace(checkpoint.card, preprocess=wrong))

    spoiled(monkeypatch, to, changed)
    with pytest.raises(ParityError, match="stem"):
        export(model, to=to, pictures=True)


def test_a_collapsed_int8_network_is_not_written(
    to: Format, random_int8_network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = save(random_int8_network("mobilenet_v2"), tmp_path / "m.safetensors")
    spoiled(monkeypatch, to, with_tensor("head.weight", np.zeros_like))
    with pytest.raises(ParityError, match=r"collapsed.*head \(conv\) differs first"):
        export(str(made), to=to)
    assert files_of(tmp_path) == {"m.safetensors"}


def test_what_was_there_stays_when_an_export_fails(to: Format, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    export(model, to=to)
    before = {path.name: path.read_bytes() for path in Path(model).parent.iterdir()}
    spoiled(monkeypatch, to, CHANGES["bias"][1])
    with pytest.raises(ParityError):
        export(model, to=to)
    assert {path.name: path.read_bytes() for path in Path(model).parent.iterdir()} == before


def test_the_tolerance_is_the_users(to: Format, model: str) -> None:
    with pytest.raises(ParityError, match="no operation is at fault by itself"):
        export(model, to=to, tolerance=1e-12)


def test_verbs_take_the_file_as_they_take_the_checkpoint(to: Format, model: str, photos: str) -> None:
    path = str(export(model, to=to).path)
    reports = [evaluate(name, photos) for name in (model, path)]
    assert reports[0].confusion == reports[1].confusion
    assert reports[1].runtime == to
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-4)
    found, expected = predict(path, photos), predict(model, photos)
    assert [item.predictions[0].label for item in found] == [item.predictions[0].label for item in expected]
    shown, meant = show(path), show(model)
    assert shown.plan == meant.plan
    assert any(to in note for note in shown.notes)
    with pytest.raises(InputError, match=f"run by {to}"):
        evaluate(path, photos, runtime="torch")
    with pytest.raises(InputError, match="exported already"):
        export(path, to=to)


def test_the_command_prints_one_document(to: Format, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", model, "--to", to, "--json"], verbs={"export": export}) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["top1_agreement"] == 1.0
    assert Path(document["path"]).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out": Path("cats.tflite")}, r"--out cats\.tflite: a file for onnx must end in \.onnx"),
        ({"out": Path()}, "a folder: name a file in it"),
        ({"images": 0}, "--images must be 1 or more"),
        ({"tolerance": 0.0}, "--tolerance is a share"),
        ({"tolerance": float("nan")}, "--tolerance is a share"),
        ({"data": "no-such-folder"}, "no such data set"),
    ],
)
def test_flags_out_of_range_are_named(model: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(model, to="onnx", **arguments)


def test_sizes_are_fixed_where_a_format_can(model: str, tmp_path: Path) -> None:
    result = export(model, to="onnx", fixed=True, out=tmp_path / "fixed.onnx")
    with closing(load(result.path)) as predictor:
        assert predictor.run(np.zeros((2, 3, 48, 48), np.float32))[0].shape == (2, 7)
    with pytest.raises(InputError, match="--fixed"):
        export(model, to="litert", fixed=True)


def test_without_the_runtime_the_extra_is_named(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenets.runtime.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mobilenets\[onnx\]'"):
        export(model, to="onnx")
