"""Fitting in two processes, as torchrun starts them, and fitting with a limit of time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import mobilenets
from mobilenets import checkpoint as files
from mobilenets.arch import arch_named, plan
from mobilenets.arch.cost import cost
from mobilenets.bench.synthetic import random_checkpoint
from mobilenets.fit import tuning
from tests.torchrun import torchrun

LAYOUT = plan(arch_named("mobilenet_v2_mnist"), width=0.25, resolution=16)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = random_checkpoint(LAYOUT)
    return files.save(replace(made, card=replace(made.card, labels=tuple("0123456789"))), tmp_path / "base.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adapt", "search"])
def test_two_processes_find_one_network(base: Path, tmp_path: Path, method: str) -> None:
    bound = int(0.85 * cost(LAYOUT).multiply_adds)
    out = tmp_path / "fit"
    flags = {"method": method, "multiply-adds": bound, "runtime": "reference", "out": out, "epochs": 1}
    flags |= {"short-steps": 1, "workers": 0, "minutes": 2}
    said = torchrun("fit", str(base), "digits", *(f"--{name}={value}" for name, value in flags.items()), "--json")
    found = json.loads(said)
    assert found["method"] == method
    made = files.load(Path(found["checkpoint"]))
    assert cost(made.card.plan).multiply_adds == found["chosen"]["multiply_adds"] <= bound
    for way in {row.get("way", "") for row in found["trace"] if "step" in row}:
        steps = [row["step"] for row in found["trace"] if "step" in row and row.get("way", "") == way]
        assert steps == list(range(len(steps)))
    stored = json.loads((out / "fit-state.json").read_text(encoding="utf-8"))
    assert stored["rows"] == found["trace"]
    assert mobilenets.evaluate(found["checkpoint"], "digits").top1 == pytest.approx(found["chosen"]["top1"])


def test_time_that_is_up_ends_with_what_there_is(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "JUDGED", 60)
    options = {"method": "adapt", "multiply_adds": 1000, "runtime": "reference", "short_steps": 1, "workers": 0}
    result = mobilenets.fit(str(base), "digits", out=tmp_path / "fit", minutes=0.0001, epochs=1, **options)  # type: ignore[arg-type]
    assert any("time is up" in note for note in result.notes)
    assert result.checkpoint is not None
    assert result.chosen.multiply_adds == cost(LAYOUT).multiply_adds
    # The size that is told is that of the file, to the byte.
    assert result.chosen.flash_bytes == result.checkpoint.stat().st_size
