"""The ablations: many small trainings, kept and taken up, and what is made of their results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenets.errors import InputError, MobileNetsError
from mobilenets.reproduce import ablations
from mobilenets.reproduce.ablations import BASE, EXPANSIONS, FACTORS, NONE, RELU6, VARIANTS, budget_for, estimate
from mobilenets.reproduce.outcome import Settings
from mobilenets.reproduce.training import Run, Task, expected_seconds, recipe_for, train_once
from mobilenets.reproduce.trainings import Budget, file_name, run_all
from mobilenets.reproduce.workers import Worker, train_all

TINY = Budget("digits", None, "mobilenet_v2_mnist", 0.1, 1, 1, side=8, channels=1, pictures=64)


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


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_ablations_make_a_page_of_kept_results(tmp_path: Path, data: str) -> None:
    """With every result there, nothing is trained, nor any data opened."""
    settings = Settings(out=tmp_path, data=data, seeds=3)
    budget = budget_for(settings)
    folder = tmp_path / ("ablations" if data == "digits" else "ablations-cifar10")
    folder.mkdir()
    for name, runs in fake_runs({}).items():
        for run in runs:
            path = folder / f"{file_name(name)}-seed{run.seed}.json"
            path.write_text(json.dumps({"budget": budget.terms, "run": run.__dict__}), encoding="utf-8")
    made = ablations.reproduce_ablations(settings)
    assert made.name == folder.name
    assert {row.what for row in made.rows} >= set(VARIANTS)
    assert made.picture is not None
    assert len(VARIANTS) == 3 + len(FACTORS)
    assert data in made.title
    assert "--seeds 3" in made.command


def test_a_command_names_no_folder(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "birds"), pictures=7)
    assert ablations._command(settings) == "mobilenets reproduce ablations --data birds --pictures 7 --out DIR"
    assert budget_for(settings).terms["data"] == "birds"
    assert str(tmp_path) not in json.dumps(budget_for(settings).terms)


def test_results_of_another_budget_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v2-seed0.json"
    path.write_text(json.dumps({"budget": {"epochs": 3}, "run": Run("v2", 0, 0.5, 1, 1).__dict__}), encoding="utf-8")
    with pytest.raises(InputError, match="of another budget"):
        run_all({"v2": ""}, TINY, tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="damaged: delete it"):
        run_all({"v2": ""}, TINY, tmp_path)


def test_trainings_are_kept_and_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds after one: the first is not trained again, and what is said counts it."""
    first = run_all({BASE: ""}, TINY, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("ablations: 1 trainings of 1 epochs on digits, one after the other: about ")
    assert "ablations 1/1: linear" in said
    both = run_all({BASE: ""}, replace(TINY, seeds=2), tmp_path, workers=1)
    assert both[BASE][0] == first[BASE][0]
    assert [run.seed for run in both[BASE]] == [0, 1]
    assert "ablations 2/2: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{file_name(BASE)}-seed{seed}.json" for seed in (0, 1)]
    assert run_all({BASE: ""}, replace(TINY, seeds=2), tmp_path) == both
    assert capsys.readouterr().err == ""


def test_so_many_pictures_of_every_class_and_no_more(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 4)):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (40, 30), (index, 0, 0)).save(tmp_path / part / label / f"{index}.png")
    budget = Budget(str(tmp_path), None, "mobilenet_v2_mnist", 0.1, 1, 1, side=24, pictures=8)
    from mobilenets.reproduce.trainings import _tasks

    (task,) = _tasks([("v", 0)], {"v": "expansion=2"}, budget, tmp_path)
    assert (task.model, task.classes, task.mirrorable) == ("mobilenet_v2_mnist:expansion=2", 2, True)
    with np.load(task.pictures) as arrays:
        assert arrays["train"].shape == (8, 24, 24, 3)
        assert np.bincount(arrays["train_targets"]).tolist() == [4, 4]
        assert arrays["val"].shape == (8, 24, 24, 3)


# -- One training --


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Dark and bright noise, which a network tells apart at once."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pictures") / "p.npz"
    arrays: dict[str, Any] = {}
    for part, count in (("train", 96), ("val", 20)):
        targets = np.arange(count) % 2
        arrays[part] = (random.integers(0, 100, (count, 8, 8, 1)) + 150 * targets[:, None, None, None]).astype(np.uint8)
        arrays[f"{part}_targets"] = targets
    np.savez(path, **arrays)
    return Task("v", "mobilenet_v2_mnist:expansion=2", 0.1, 0, 10, 2, mirrorable=False, pictures=str(path))


def test_a_training_learns_and_is_decided_by_its_seed(task: Task) -> None:
    run = train_once(task)
    assert run.top1 > 0.9
    assert run.loss < 0.6
    again, other = train_once(task), train_once(replace(task, seed=1))
    assert (again.top1, again.loss) == (run.top1, run.loss)
    assert other.loss != run.loss


def test_recipe_is_scratch_for_so_many_epochs(task: Task) -> None:
    recipe = recipe_for(task, 1437, 8)
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.warmup_epochs) == ("scratch", 10, 32, 2.0)
    assert not recipe.augmentation.flip


def test_expectation_grows_with_the_epochs(task: Task) -> None:
    assert expected_seconds(replace(task, epochs=10_000)) > 10 * expected_seconds(replace(task, epochs=10)) > 0


def test_processes_train_what_this_one_does(task: Task) -> None:
    tasks = [replace(task, seed=seed, epochs=1) for seed in range(3)]
    found = sorted(train_all(tasks, 2), key=lambda run: run.seed)
    alone = [train_once(each) for each in tasks]
    assert [(run.seed, run.top1) for run in found] == [(run.seed, run.top1) for run in alone]
    assert [run.loss for run in found] == pytest.approx([run.loss for run in alone], rel=1e-5)


def test_a_failing_process_says_why(task: Task, tmp_path: Path) -> None:
    with Worker() as worker:
        with pytest.raises(MobileNetsError, match="'nonsense'"):
            worker.train(replace(task, model="nonsense"))
        with pytest.raises(MobileNetsError, match=r"v, seed 0: the training's process ended: FileNotFoundError"):
            worker.train(replace(task, pictures=str(tmp_path / "gone.npz")))
