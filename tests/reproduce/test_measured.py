"""What is measured: operators, split blocks, trainings. Nothing here judges a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mobilenets.arch.cost import multiply_adds
from mobilenets.errors import InputError
from mobilenets.reproduce import ablations, operators, splitting, trainings
from mobilenets.reproduce.ablations import BASE, EXPANSIONS, FACTORS, NONE, RELU6, VARIANTS, estimate
from mobilenets.reproduce.outcome import Settings
from mobilenets.reproduce.trainings import Budget, Run, run_all


def test_every_operator_is_timed_once() -> None:
    found = operators.profile("mobilenet_v2", 1, resolution=32, repeats=2)
    assert len(found.ops) == 53  # 52 convolutions and the classifier
    assert sum(len(found.of_kind(kind)) for kind in operators.KINDS) == len(found.ops)
    assert all(timed.milliseconds > 0 for timed in found.ops)
    first = found.ops[0]
    assert first.gigamadds == pytest.approx(multiply_adds(first.op) / first.milliseconds / 1e6)
    assert first.bytes_moved == 4 * (3 * 32 * 32 + 27 * 32 + 2 * 32 + 32 * first.op.out[1] * first.op.out[2])


@pytest.mark.parametrize("name", ["block_2", "block_3"])
@pytest.mark.parametrize("groups", [2, 5, 7])
def test_split_block_is_the_block(name: str, groups: int) -> None:
    block = splitting.block_of_v2(name)
    x = torch.randn(1, block.picture_shape[0], 10, 12)
    with torch.no_grad():
        torch.testing.assert_close(splitting.run(block, x, groups), splitting.run(block, x, 1))


def test_alive_bytes_are_those_of_living_tensors() -> None:
    x = torch.zeros(1000)
    with splitting.AliveBytes(x) as watched:
        assert watched.peak == 4000
        y = x + 1
        z = y * 2
        assert watched.alive == 12000
        del y
        assert watched.alive == 8000
        z.add_(1)  # in place: nothing new
        view = z[:10]  # a view: nothing new
        assert watched.alive == 8000
        del z
        assert watched.alive == 8000  # the view holds the buffer
        del view
        assert watched.alive == 4000
    assert watched.peak == 12000


def test_splitting_keeps_what_the_formula_says() -> None:
    """Whole: no output yet while both inner tensors are there. In few groups: the formula. In many: two outputs."""
    block = splitting.block_of_v2("block_3")
    pixels = 4 * 56 * 56
    assert splitting.peak_bytes(block, 1) == (24 + 144 + 144) * pixels
    assert splitting.peak_bytes(block, 2) == block.predicted_bytes(2) == (24 + 24 + 72 + 72) * pixels
    assert splitting.peak_bytes(block, 9) == (24 + 2 * 24 + 16) * pixels
    assert block.predicted_bytes(9) == (24 + 24 + 2 * 16) * pixels


def test_interval_is_students() -> None:
    found = estimate([97.0, 98.0, 99.0])
    assert found.mean == 98
    assert found.half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert estimate([1.0]).half is None


def fake_runs(top1: dict[str, tuple[float, ...]]) -> dict[str, list[Run]]:
    names = dict.fromkeys(VARIANTS, (0.90, 0.91, 0.92)) | top1
    return {name: [Run(name, seed, v, 1 - v, 1.0) for seed, v in enumerate(values)] for name, values in names.items()}


def test_verdict_says_what_the_intervals_say() -> None:
    runs = fake_runs({RELU6: (0.80, 0.81, 0.82), EXPANSIONS: (0.95, 0.96, 0.97), NONE: (0.88, 0.93, 0.91)})
    rows = {row.what: row for row in ablations._differences(runs)}
    assert rows["linear - ReLU6: top-1"].agrees is True
    assert rows["linear - ReLU6: loss"].agrees is True
    assert rows["between bottlenecks - between expansions: top-1"].agrees is False
    assert rows["between bottlenecks - none: top-1"].agrees is None
    assert "linear - ReLU6: came out in top-1" in ablations._verdict(runs)
    assert "the other way round" in ablations._verdict(runs)


def test_ablations_make_a_page_of_kept_results(tmp_path: Path) -> None:
    """With every result there, nothing is trained."""
    settings = Settings(out=tmp_path)
    budget = ablations.budget_for(settings)
    for name, runs in fake_runs({}).items():
        for run in runs:
            path = tmp_path / "ablations" / f"{trainings._file_name(name)}-seed{run.seed}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"budget": budget.terms, "run": run.__dict__}), encoding="utf-8")
    made = ablations.reproduce_ablations(settings)
    assert {row.what for row in made.rows} >= set(VARIANTS)
    assert made.picture is not None
    assert len(VARIANTS) == 3 + len(FACTORS)


def test_results_of_another_budget_are_refused(tmp_path: Path) -> None:
    budget = Budget("digits", None, "mobilenet_v2_mnist", 0.5, 8, 1)
    path = tmp_path / "v2-seed0.json"
    path.write_text(json.dumps({"budget": {"epochs": 3}, "run": Run("v2", 0, 0.5, 1, 1).__dict__}), encoding="utf-8")
    with pytest.raises(InputError, match="of another budget"):
        run_all({"v2": ""}, budget, tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="damaged: delete it"):
        run_all({"v2": ""}, budget, tmp_path)


def test_trainings_are_kept_and_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobilenets.train import outputs

    monkeypatch.setattr(outputs, "write_page", lambda *_: [])  # they take longer than the training
    monkeypatch.setattr(outputs, "write_curves", lambda out, _: out / "curves.png")
    budget = Budget("digits", None, "mobilenet_v2_mnist", 0.1, 1, 1)
    first = run_all({BASE: ""}, budget, tmp_path)
    assert "ablations 1/1" in capsys.readouterr().err
    (kept,) = tmp_path.iterdir()  # the training's own folder is gone
    assert kept.suffix == ".json"
    assert run_all({BASE: ""}, budget, tmp_path) == first
    assert capsys.readouterr().err == ""
