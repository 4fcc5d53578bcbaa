"""MODEL is a name or a path: what is wrong with either is said in one line, the same in every command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.cli import VERBS, main

COMMANDS: Mapping[str, str] = {
    "show": "show MODEL",
    "train": "train digits --model MODEL --out run",
    "evaluate": "evaluate MODEL digits",
    "predict": "predict MODEL photo.jpg",
    "serve": "serve MODEL --port 0",
    "convert": "convert MODEL --out converted.safetensors",
    "quantize": "quantize MODEL --data digits",
    "export": "export MODEL --to onnx",
    "bench": "bench MODEL",
    "tune": "tune MODEL",
    "fit": "fit MODEL --multiply-adds 100M",
    "diagnose": "diagnose MODEL",
    "prune": "prune MODEL --dead",
}
NAMES_ONLY = ("tune",)
FILES_ONLY = ("convert",)
NO_EXPORTED_FILES = ("quantize", "export")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour_checkpoint: Checkpoint) -> Path:
    """Work in a folder with everything that a MODEL should not be, and with no weights in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "notes.txt").write_text("a text\n", encoding="utf-8")
    whole = save(colour_checkpoint, tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:100])  # inside its header
    return tmp_path


def refusal(verb: str, model: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command says of a MODEL."""
    code = main([model if word == "MODEL" else word for word in COMMANDS[verb].split()])
    printed = capsys.readouterr()
    assert (code, printed.out) == (1, "")
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("mobilenets: ")
    return printed.err.removeprefix("mobilenets: ").rstrip("\n")


def test_every_command_with_a_model_is_here() -> None:
    assert {*COMMANDS, "reproduce"} == {*VERBS}


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("model", ["missing.safetensors", "missing.tflite", "runs/missing", "~/no-such-folder/missing"])
def test_a_path_to_nothing(verb: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb in NO_EXPORTED_FILES and model.endswith(".tflite"):
        assert "name the checkpoint" in refusal(verb, model, capsys)
    else:
        said = refusal(verb, model, capsys)
        assert "no such file" in said.lower()
        assert "missing" in said


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_folder(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(verb, "pictures", capsys)
    assert said.startswith("pictures: ")
    assert "a folder" in said or "Is a directory" in said


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("model", ["empty.safetensors", "notes.txt", "cut.safetensors"])
def test_a_file_that_is_no_model(verb: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(verb, model, capsys)
    assert said.startswith(f"{model}: ")
    if verb in NAMES_ONLY:
        assert "the name of an architecture is wanted" in said
    elif verb not in FILES_ONLY:
        assert "not a checkpoint" in said or "truncated" in said


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_file_that_may_not_be_read(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "cut.safetensors"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert refusal(verb, path.name, capsys).startswith(path.name)


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in FILES_ONLY])
def test_a_mistyped_name(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(verb, "mobilenet_v22", capsys)
    assert "'mobilenet_v22': did you mean mobilenet_v2" in said


@pytest.mark.parametrize("model", ["pictures", "missing.safetensors", "runs/missing"])
def test_weights_to_train_from(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits", "--weights", model, "--out", "run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mobilenets: {model}: ")
    assert "no published weights" not in said
