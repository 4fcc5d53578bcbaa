from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobilenets import runtime as runtimes
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.errors import CheckpointError, InputError, MissingExtraError, WeightsError
from mobilenets.nn import weights
from mobilenets.runtime import Runtime, choose, load, resolve


def test_a_model_is_a_file_or_a_checkpoint_in_memory(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = save(colour_checkpoint, tmp_path / "colours.safetensors")
    for model in (path, str(path), colour_checkpoint):
        assert resolve(model).card == colour_checkpoint.card
    odd = path.rename(tmp_path / "without ending")
    assert resolve(str(odd)).card == colour_checkpoint.card


def test_a_file_in_the_working_directory_needs_no_ending(
    colour_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(colour_checkpoint, tmp_path / "mobilenet_v2")
    monkeypatch.chdir(tmp_path)
    assert resolve("mobilenet_v2").card.arch.name == "colours"


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for model in ("nowhere.safetensors", os.path.join("some", "model"), tmp_path / "model"):  # noqa: PTH118
        with pytest.raises(CheckpointError, match="cannot be read"):
            resolve(model)
    with pytest.raises(CheckpointError, match="a folder, not a checkpoint"):
        resolve(tmp_path)


def test_a_name_is_looked_up_as_published_weights(
    colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def found(model: str) -> Checkpoint:
        asked.append(model)
        return colour_checkpoint

    monkeypatch.setattr(weights, "checkpoint_for", found)
    assert resolve("mobilenetv2_100.ra_in1k") is colour_checkpoint
    assert resolve("mobilenet_v2") is colour_checkpoint
    assert asked == ["mobilenetv2_100.ra_in1k", "mobilenet_v2"]


def test_names_without_weights_are_refused_with_a_remedy() -> None:
    with pytest.raises(WeightsError, match=r"mobilenet_v9.*did you mean"):
        resolve("mobilenet_v9")
    with pytest.raises(WeightsError, match=r"mobilenet_v2_mnist: nobody published.*train it"):
        resolve("mobilenet_v2_mnist")


def test_unknown_runtimes_are_refused_with_a_hint(colour_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="did you mean torch"):
        load(colour_checkpoint, "pytorch")
    with pytest.raises(InputError, match="there is"):
        load(colour_checkpoint, "abacus")


def test_threads_below_one_are_refused(colour_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="--threads must be 1 or more, not 0"):
        load(colour_checkpoint, threads=0)


def test_the_first_installed_runtime_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Runtime("mobilenets.runtime.absent", "package_that_is_not_installed", "fast")
    monkeypatch.setattr(runtimes, "RUNTIMES", {"absent": absent, **runtimes.RUNTIMES})
    assert choose() == "torch"
    with pytest.raises(MissingExtraError, match=r"pip install 'mobilenets\[fast\]'"):
        choose("absent")
    monkeypatch.setattr(runtimes, "RUNTIMES", {"absent": absent})
    with pytest.raises(MissingExtraError, match="package_that_is_not_installed"):
        choose()
