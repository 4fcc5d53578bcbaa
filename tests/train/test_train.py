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

from mobilenets.arch import ARCHITECTURES
from mobilenets.checkpoint import Checkpoint, load, read_card, save
from mobilenets.errors import InputError, MobileNetsError
from mobilenets.image import normalize
from mobilenets.nn.network import build, from_checkpoint, to_tensors
from mobilenets.recipe import Recipe
from mobilenets.train import loop, run, train
from mobilenets.train.optimization import set_learning_rate
from mobilenets.train.state import write_state

Tiny = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], bool]


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let Ctrl-C arrive while step number `step`, of all steps taken, is under way."""
    taken = 0
    original = set_learning_rate

    def counted(optimizer: torch.optim.Optimizer, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            signal.raise_signal(signal.SIGINT)
        original(optimizer, rate)

    monkeypatch.setattr(loop, "set_learning_rate", counted)


@pytest.mark.usefixtures("drawn")
def test_learns_and_leaves_everything_behind(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(**tiny(out=out, epochs=12, learning_rate=0.1))
    assert result.metrics["top1"] > 0.9  # a third by chance
    assert result.checkpoint == out / "best.safetensors"
    assert result.epochs == 12
    assert result.images == 47
    assert {path.name for path in out.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "history.json",
        "curves.png",
        "report.html",
        "report.json",
        "tensorboard",
    }
    history = json.loads((out / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, 13))
    assert max(entry["val_top1"] for entry in history) == pytest.approx(result.metrics["top1"])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert result.files[0] == out / "report.html"
    document = result.to_json()
    assert document["metrics"]["top1"] == result.metrics["top1"]


def test_the_checkpoint_says_what_it_is_and_proves_it(tiny: Tiny, tmp_path: Path) -> None:
    result = train(**tiny(out=tmp_path / "run"))
    checkpoint = load(result.checkpoint)
    card = checkpoint.card
    assert card.labels == ("top", "middle", "bottom")
    assert card.resolution == (9, 9)
    assert {metric.name: metric.value for metric in card.metrics} == pytest.approx(dict(result.metrics), abs=1e-6)
    assert {metric.dataset for metric in card.metrics} == {"bars"}
    assert card.recipe is not None
    assert card.recipe["run"]["seed"] == 0
    replayed = Recipe.from_json({key: value for key, value in card.recipe.items() if key != "run"})
    assert (replayed.epochs, replayed.batch_size) == (3, 16)
    assert checkpoint.sample is not None
    picture, logits = checkpoint.sample
    with torch.no_grad():
        again = from_checkpoint(checkpoint)(torch.from_numpy(normalize(picture[np.newaxis], card.preprocess)))
    np.testing.assert_allclose(again[0].numpy(), logits, rtol=1e-5, atol=1e-6)


def test_a_recipe_is_replayed_from_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    first = train(**tiny(out=tmp_path / "first", learning_rate=0.03, patience=7))
    again = tiny(out=tmp_path / "second", recipe=str(first.checkpoint))
    del again["epochs"], again["batch_size"]
    second = train(**again)
    recipes = [read_card(result.checkpoint).recipe for result in (first, second)]
    assert recipes[0] is not None
    assert recipes[1] is not None
    assert {**recipes[0], "run": None} == {**recipes[1], "run": None}
    assert load(first.checkpoint).tensors.keys() == load(second.checkpoint).tensors.keys()


def test_same_seed_same_weights_other_seed_others(tiny: Tiny, same_weights: Same, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(**tiny(out=tmp_path / name, seed=seed, epochs=1))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("step", [1, 4, 6, 11, 18])  # six steps an epoch: first, within, between, and the last
def test_interrupted_and_resumed_ends_with_the_same_weights(
    tiny: Tiny, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    train(**tiny(out=tmp_path / "whole"))
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(KeyboardInterrupt, match=r"--resume$"):
            train(**tiny(out=tmp_path / "broken"))
    result = train(**tiny(out=tmp_path / "broken", resume=True))
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
    assert result.epochs == 3
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "broken")]
    for entries in zip(*histories, strict=True):
        assert len({(entry["train_loss"], entry["val_loss"], entry["train_top1"]) for entry in entries}) == 1


@pytest.mark.parametrize("recipe", ["simple", "v2-paper", "finetune"])
def test_every_optimizer_is_resumed(
    tiny: Tiny, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    train(**tiny(out=tmp_path / "whole", recipe=recipe, epochs=2))
    with monkeypatch.context() as patched:
        interrupt_at(patched, 9)
        with pytest.raises(KeyboardInterrupt):
            train(**tiny(out=tmp_path / "broken", recipe=recipe, epochs=2))
    train(**tiny(out=tmp_path / "broken", resume=True, epochs=None))  # what was asked for need not be repeated
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_mixup_and_early_stop_are_resumed(
    tiny: Tiny, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        **Recipe("mixed", 30, 16, "adamw", 1e-9, patience=2).to_json(),
        "augmentation": {"kind": "crop", "flip": True, "mixup": 0.4, "cutmix": 1.0},
    }
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(recipe))
    arguments = tiny(recipe=str(path))
    del arguments["epochs"], arguments["batch_size"]
    whole = train(**arguments, out=tmp_path / "whole")
    assert whole.epochs is not None
    assert whole.epochs < 30
    assert "stopped early" in str(whole)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 9)
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, out=tmp_path / "broken")
    assert train(**arguments, out=tmp_path / "broken", resume=True).epochs == whole.epochs
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_a_finished_run_is_only_reported_again(tiny: Tiny, tmp_path: Path) -> None:
    first = train(**tiny(out=tmp_path / "run"))
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    again = train(**tiny(out=tmp_path / "run", resume=True))
    assert again.metrics == first.metrics
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_resume_where_nothing_is_saved_begins(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(**tiny(out=tmp_path / "run", resume=True, epochs=1)).epochs == 1
    assert "from the beginning" in capsys.readouterr().err


def test_a_run_is_never_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    train(**tiny(out=tmp_path / "run", epochs=1))
    with pytest.raises(InputError, match=r"holds a training run: .*--resume, or choose another --out"):
        train(**tiny(out=tmp_path / "run", epochs=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 5}, r"--epochs 3, not 5: leave --epochs out"),
        ({"seed": 9}, r"--seed 0, not 9"),
        ({"data": "digits"}, r"has DATA .*bars.npz, not digits"),
    ],
)
def test_resuming_with_other_flags_is_refused(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train(**tiny(out=tmp_path / "run"))
    with pytest.raises(InputError, match=message):
        train(**tiny(out=tmp_path / "run", resume=True, **changes))


def test_resuming_with_other_pictures_is_refused(tiny: Tiny, tmp_path: Path, bar_data: str) -> None:
    data = tmp_path / "bars.npz"
    arrays = dict(np.load(bar_data))
    np.savez(data, **arrays)
    train(**tiny(out=tmp_path / "run", data=str(data)))
    np.savez(data, **{**arrays, "x_train": arrays["x_train"][:90], "y_train": arrays["y_train"][:90]})
    with pytest.raises(InputError, match="other pictures, labels or split"):
        train(**tiny(out=tmp_path / "run", data=str(data), resume=True))


def test_a_loss_that_is_no_number_ends_training_and_leaves_the_last_good_state(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "wild.json"
    path.write_text(json.dumps(Recipe("wild", 40, 16, "sgd", 1000.0, weight_decay=10.0).to_json()))
    with pytest.raises(InputError, match=r"no longer a number .*lower --learning-rate \(it was 1000\)"):
        train(**tiny(out=tmp_path / "run", recipe=str(path), epochs=40))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["network"].values())


def test_starting_from_weights_of_other_classes_replaces_the_classifier(
    tiny: Tiny, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = load(tiny_model)
    other = tmp_path / "other.safetensors"
    save(Checkpoint(replace(known.card, labels=("top", "middle", "up")), known.tensors), other)
    train(**tiny(out=tmp_path / "kept", weights=None, epochs=1))
    assert "classifier" not in capsys.readouterr().err
    train(**tiny(out=tmp_path / "replaced", weights=str(other), epochs=1))
    assert "classifier replaced" in capsys.readouterr().err
    assert read_card(tmp_path / "kept" / "best.safetensors").parent == known.sha256


def test_weights_fit_a_form_with_other_strides(tiny: Tiny, tiny_model: str, tmp_path: Path) -> None:
    """The form for small pictures differs from the paper's table in strides alone, and these have no weights."""
    paper, small = (ARCHITECTURES[name] for name in ("mobilenet_v2", "mobilenet_v2_cifar"))
    card = replace(read_card(tiny_model), arch=paper, width=0.1)
    save(Checkpoint(card, to_tensors(build(card.plan))), tmp_path / "paper.safetensors")
    options = {"weights": str(tmp_path / "paper.safetensors"), "epochs": 1}
    train(**tiny(out=tmp_path / "run", model=small.name, **options))
    assert read_card(tmp_path / "run" / "last.safetensors").arch.rows == small.rows
    with pytest.raises(InputError, match="these are of mobilenet_v2, not of mobilenet_v2_mnist"):
        train(**tiny(out=tmp_path / "other", model="mobilenet_v2_mnist", **options))


def test_folded_batch_norm_is_put_back(
    tiny: Tiny, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = load(tiny_model)
    folded = tmp_path / "folded.safetensors"
    save(Checkpoint(replace(known.card, batch_norm="folded"), known.tensors), folded)
    train(**tiny(out=tmp_path / "run", weights=str(folded), epochs=1))
    assert "put back" in capsys.readouterr().err
    card = read_card(tmp_path / "run" / "best.safetensors")
    assert card.batch_norm == "trained"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bf16": "maybe"}, "--bf16 must be auto, on or off"),
        ({"seed": -1}, "--seed must be from 0"),
        ({"epochs": 0}, "--epochs must be from 1"),
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
        ({"learning_rate": -0.1}, "--learning-rate must be from"),
        ({"recipe": "sample"}, "--recipe sample: there are finetune, scratch, v2-paper, simple"),
        ({"width": 2.0, "weights": None}, "--width 2: the weights have width 1"),
        ({"freeze": True}, "--freeze keeps the features as they are, and there are no weights"),
        ({"workers": -1}, "--workers must be 0 or more"),
        ({"threads": 0}, "--threads must be 1 or more"),
    ],
)
def test_bad_values_are_named_by_their_flags(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MobileNetsError, match=message):
        train(**tiny(out=tmp_path / "run", **changes))


def test_a_folder_that_cannot_be_written_to_is_named_at_once(tiny: Tiny, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    with pytest.raises(InputError, match=r"is a file: choose a folder with --out"):
        train(**tiny(out=occupied))


def test_a_full_disk_ends_training_and_leaves_the_last_good_state(
    tiny: Tiny, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = write_state
    writes = 0

    def until_full(out: Path, state: dict[str, Any]) -> None:
        nonlocal writes
        writes += 1
        if writes == 3:
            raise InputError(f"{out}/state.pt: cannot be written (No space left on device): free some space")
        original(out, state)

    monkeypatch.setattr(run, "write_state", until_full)
    with pytest.raises(InputError, match="No space left"):
        train(**tiny(out=tmp_path / "broken"))
    monkeypatch.undo()
    train(**tiny(out=tmp_path / "broken", resume=True))
    train(**tiny(out=tmp_path / "whole"))
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_without_validation_pictures_the_last_weights_are_kept(tiny: Tiny, tmp_path: Path, bar_data: str) -> None:
    arrays = dict(np.load(bar_data))
    data = tmp_path / "few.npz"
    np.savez(data, x=arrays["x_train"][:3], y=arrays["y_train"][:3])
    result = train(**tiny(out=tmp_path / "run", data=str(data), epochs=2))
    assert result.metrics == {}
    assert "nothing was measured" in str(result)
    best, last = (load(tmp_path / "run" / name) for name in ("best.safetensors", "last.safetensors"))
    assert all(np.array_equal(best.tensors[name], last.tensors[name]) for name in best.tensors)


def test_the_average_is_what_is_saved(tiny: Tiny, tmp_path: Path) -> None:
    train(**tiny(out=tmp_path / "run", recipe="scratch"))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    last = load(tmp_path / "run" / "last.safetensors").tensors
    for name, value in last.items():
        assert np.array_equal(state["average"][name].numpy(), value)
    assert any(not np.array_equal(state["network"][name].numpy(), value) for name, value in last.items())


def test_weights_do_not_depend_on_what_happened_to_torch_before(tiny: Tiny, same_weights: Same, tmp_path: Path) -> None:
    train(**tiny(out=tmp_path / "a", epochs=1))
    torch.rand(7)
    train(**tiny(out=tmp_path / "b", epochs=1))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert to_tensors(from_checkpoint(load(tmp_path / "a" / "best.safetensors")))
