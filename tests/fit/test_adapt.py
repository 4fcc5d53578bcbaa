"""Adapting: what belongs together is narrowed together, what matters stays, and the way can be interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mobilenets
from mobilenets import checkpoint as files
from mobilenets.arch.cost import cost
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.narrow import groups
from mobilenets.errors import CheckpointError, InputError
from mobilenets.fit import adapt as adapting
from mobilenets.fit import tuning
from mobilenets.fit.budget import Budget
from mobilenets.fit.narrowing import EVERYTHING, Activity, Proposal, importance, narrowed, proposals
from mobilenets.fit.resources import Resources
from mobilenets.fit.result import FitResult

SIDE = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that reads digits a little."""
    out = tmp_path_factory.mktemp("trained")
    options = {"model": "mobilenet_v2_mnist", "width": 0.25, "resolution": SIDE, "epochs": 3, "workers": 0}
    return mobilenets.train("digits", out=out / "run", compile="off", bf16="off", **options).checkpoint  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Checkpoint:
    return files.load(trained)


def resources(checkpoint: Checkpoint, **bounds: float) -> Resources:
    return Resources(Budget(**bounds), checkpoint.card, "float32", None)  # type: ignore[arg-type]


def multiply_adds(checkpoint: Checkpoint) -> int:
    return cost(checkpoint.card.plan).multiply_adds


def test_every_proposal_saves_enough_and_no_wider_one_would(checkpoint: Checkpoint) -> None:
    counted = resources(checkpoint, multiply_adds=1.0)
    layout = checkpoint.card.plan
    target = 0.95 * multiply_adds(checkpoint)
    offered = proposals(layout, counted, "multiply_adds", target)
    assert offered[-1].name == EVERYTHING
    assert len(offered) >= 4
    by_name = {group.members[0]: group for group in groups(layout)}
    activity = {op.name: Activity(np.zeros(op.out[0]), np.ones(op.out[0])) for op in layout.ops}
    for each in offered[:-1]:
        made = narrowed(checkpoint, each, activity)
        (count,) = each.counts.values()
        assert count % 8 == 0
        assert count < by_name[each.name].channels
        assert multiply_adds(made) <= 1.01 * target  # a coincidence may keep one channel more


def test_what_its_readers_make_least_of_goes(checkpoint: Checkpoint) -> None:
    layout = checkpoint.card.plan
    group = next(each for each in groups(layout) if each.members[0].endswith("expand") and each.channels >= 48)
    size = np.arange(group.channels, dtype=np.float64)[::-1].copy()
    activity = {op.name: Activity(np.zeros(op.out[0]), np.ones(op.out[0])) for op in layout.ops}
    for member in group.members:
        activity[member] = Activity(np.zeros(group.channels), size)
    tensors = dict(checkpoint.tensors)
    for reader, _ in group.readers:
        tensors[f"{reader}.weight"] = np.ones_like(tensors[f"{reader}.weight"])
    alike = replace(checkpoint, tensors=tensors)
    made = narrowed(alike, Proposal("", {group.members[0]: 8}), activity)
    name = f"{group.members[0]}.weight"
    assert np.array_equal(made.tensors[name], alike.tensors[name][:8])


def test_importance_is_size_times_what_is_read() -> None:
    from mobilenets.compress.narrow import Group

    group = Group(("a",), 2, (("b", "a"),))
    weights = {"b": np.array([[[[3.0]], [[0.0]]], [[[4.0]], [[1.0]]]], np.float32)}
    assert importance(group, weights, {"a": Activity(np.zeros(2), np.array([2.0, 5.0]))}).tolist() == [10.0, 5.0]


def test_a_channel_that_never_changes_goes_without_a_trace(checkpoint: Checkpoint) -> None:
    """Its mean is what it always is, and stays in the bias of its reader."""
    from mobilenets.engine import reference

    layout = checkpoint.card.plan
    group = next(each for each in groups(layout) if each.members[0].endswith("expand") and each.channels >= 48)
    tensors = dict(checkpoint.tensors)
    member = group.readers[0][1]
    constant = 16
    tensors[f"{member}.norm.weight"] = tensors[f"{member}.norm.weight"].copy()
    tensors[f"{member}.norm.bias"] = tensors[f"{member}.norm.bias"].copy()
    tensors[f"{member}.norm.weight"][:constant] = 0
    tensors[f"{member}.norm.bias"][:constant] = 0.5
    still = replace(checkpoint, tensors=tensors)
    activity = {op.name: Activity(np.zeros(op.out[0]), np.ones(op.out[0])) for op in layout.ops}
    mean = np.where(np.arange(group.channels) < constant, 0.5, 0.0)
    activity[member] = Activity(mean, np.where(mean > 0, 0.0, 1.0))
    made = narrowed(still, Proposal("", {group.members[0]: group.channels - constant}), activity)
    batch = np.random.default_rng(0).normal(size=(3, 1, SIDE, SIDE)).astype(np.float32)
    assert reference.run(made, batch) == pytest.approx(reference.run(still, batch), abs=1e-4)


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "JUDGED", 100)
    monkeypatch.setattr(adapting, "FINALISTS", 2)
    monkeypatch.setattr(adapting, "FIRST_STEP", 0.2)


def adapted(trained: Path, out: Path, share: float = 0.6, *, resume: bool = False) -> FitResult:
    bound = int(share * multiply_adds(files.load(trained)))
    return mobilenets.fit(
        str(trained),
        "digits",
        method="adapt",
        multiply_adds=bound,
        short_steps=2,
        epochs=1,
        workers=0,
        runtime="reference",
        out=out,
        resume=resume,
    )


def test_the_result_is_within_the_budget_and_an_ordinary_checkpoint(trained: Path, tmp_path: Path) -> None:
    result = adapted(trained, tmp_path / "fit")
    assert result.checkpoint is not None
    made = files.load(result.checkpoint)
    assert multiply_adds(made) <= 0.6 * multiply_adds(files.load(trained))
    assert result.chosen.multiply_adds == multiply_adds(made)
    assert mobilenets.evaluate(str(result.checkpoint), "digits").top1 == pytest.approx(result.chosen.top1)
    assert mobilenets.show(str(result.checkpoint)).to_json()["multiply_adds"] == multiply_adds(made)
    steps = [row["multiply_adds"] for row in result.trace]
    assert steps == sorted(steps, reverse=True)
    assert len(steps) >= 3
    page = (tmp_path / "fit" / "search.html").read_text(encoding="utf-8")
    assert "http-equiv" not in page
    assert page.count("<tr>") == len(steps) + 1
    document = json.loads((tmp_path / "fit" / "fit.json").read_text(encoding="utf-8"))
    assert document["checkpoint"] == str(result.checkpoint)
    assert document["trace"] == [dict(row) for row in result.trace]
    with pytest.raises(InputError, match="--resume"):
        adapted(trained, tmp_path / "fit")
    with pytest.raises(InputError, match="budget"):
        adapted(trained, tmp_path / "fit", 0.5, resume=True)


def test_an_interrupted_way_goes_on_to_the_same_network(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapted(trained, tmp_path / "whole")
    advance = adapting.advance
    calls: Iterator[int] = iter(range(9))

    def interrupted(*arguments: object, **keywords: object) -> object:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return advance(*arguments, **keywords)  # type: ignore[arg-type]

    import sys

    training = sys.modules["mobilenets.fit.training"]
    monkeypatch.setattr(training, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        adapted(trained, tmp_path / "parts")
    assert "http-equiv" in (tmp_path / "parts" / "search.html").read_text(encoding="utf-8")
    parts = adapted(trained, tmp_path / "parts", resume=True)
    assert parts.checkpoint is not None
    assert whole.checkpoint is not None
    one, other = files.load(whole.checkpoint), files.load(parts.checkpoint)
    assert one.card.arch.rows == other.card.arch.rows
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_what_cannot_be_reached_is_said(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be narrowed"):
        adapted(trained, tmp_path, 0.0001)


def test_an_int8_checkpoint_is_not_adapted(random_int8_network: object, tmp_path: Path) -> None:
    assert callable(random_int8_network)
    path = files.save(random_int8_network("mobilenet_v2"), tmp_path / "int8.safetensors")
    with pytest.raises(CheckpointError, match="adapt the float32 checkpoint"):
        mobilenets.fit(str(path), "digits", method="adapt", flash="1KB", out=tmp_path)
