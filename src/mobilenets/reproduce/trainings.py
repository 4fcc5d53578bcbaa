"""Many small trainings with one budget, each result kept in a file of its own, so that interrupted work goes on."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.machine import cores
from mobilenets.reproduce.training import Run, Task, expected_seconds
from mobilenets.reproduce.workers import train_all
from mobilenets.text import duration, percent

if TYPE_CHECKING:
    from mobilenets.data import Data, Pictures

MOST_WORKERS = 8
START_SECONDS = 6.0
"""What it takes a process to import torch."""


@dataclass(frozen=True)
class Budget:
    """What each training gets, and how often it is repeated with another seed.

    `side` and `channels` are the pictures' as the network takes them. Of more than `pictures` pictures, so many are
    trained on, and as many judged with, the same number of every class; None takes all.
    """

    data: str
    root: Path | None
    model: str
    width: float
    epochs: int
    seeds: int
    side: int
    channels: int = 3
    pictures: int | None = None

    @property
    def terms(self) -> dict[str, Any]:
        """What must be the same for two results to be compared."""
        terms = asdict(self)
        del terms["root"], terms["seeds"]
        return terms | {"data": Path(self.data).name}


def run_all(
    variants: Mapping[str, str], budget: Budget, out: Path | None, *, workers: int | None = None
) -> dict[str, list[Run]]:
    """Train every variant (its name, and the options of its architecture) with seeds 0, 1, ...; return all results.

    Results are kept in `out`, one JSON file a training, and taken from there. Without `out` nothing is kept. `workers`
    trainings run at a time, one for each core where it is None. What it will take is said before it begins.

    Raises:
        InputError: `out` holds trainings with another budget.
        MobileNetsError: a training failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        paths = {
            (name, seed): folder / f"{file_name(name)}-seed{seed}.json"
            for seed in range(budget.seeds)  # seed by seed: whoever stops early has every variant as often
            for name in variants
        }
        found = {key: _read(path, budget) for key, path in paths.items()}
        missing = [key for key, run in found.items() if run is None]
        if missing:
            told = _tasks(missing, variants, budget, Path(temporary))
            count = min(workers or min(cores(), MOST_WORKERS), len(told))
            _announce(told, budget, count)
            begun = time.monotonic()
            with closing(train_all(told, count)) as finished:
                for done, run in enumerate(finished, len(paths) - len(missing) + 1):
                    found[run.variant, run.seed] = run
                    document = {"budget": budget.terms, "run": asdict(run)}
                    write_atomically(paths[run.variant, run.seed], json.dumps(document, indent=2) + "\n")
                    left = (time.monotonic() - begun) * (len(paths) - done) / (done - len(paths) + len(missing))
                    what = f"ablations {done}/{len(paths)}: {run.variant}, seed {run.seed}: {percent(run.top1)}"
                    _say(f"{what}; about {duration(left)} left")
    return {name: [run for (each, _), run in found.items() if each == name and run is not None] for name in variants}


def file_name(name: str) -> str:
    """Return a name as a file may have it.

    >>> file_name("linear, t = 6")
    'linear-t-6'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _read(path: Path, budget: Budget) -> Run | None:
    """Return a kept result, None where there is none."""
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        terms, run = document["budget"], Run(**document["run"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged: delete it, and the training is done again") from None
    if terms != budget.terms:
        raise InputError(f"{path}: of another budget ({terms}): choose another --out")
    return run


def _tasks(missing: list[tuple[str, int]], variants: Mapping[str, str], budget: Budget, folder: Path) -> list[Task]:
    """Write the pictures of every seed to a file, and return what is to be trained."""
    from mobilenets.data import open_data

    written: dict[int, tuple[Path, Data]] = {}
    for seed in dict.fromkeys(seed for _, seed in missing):
        own = next((data for _, data in written.values() if data.own_val), None)  # such data are no split of the seed
        data = own or open_data(budget.data, root=budget.root, seed=seed)
        parts: dict[str, Any] = {}
        for part, pictures in (("train", data.train), ("val", data.val)):
            parts |= _arrays(part, pictures, budget, seed)
        path = folder / f"pictures-{seed}.npz"
        np.savez(path, **parts)
        written[seed] = path, data
    return [
        Task(
            variant=name,
            model=budget.model + (f":{variants[name]}" if variants[name] else ""),
            width=budget.width,
            seed=seed,
            epochs=budget.epochs,
            classes=len(written[seed][1].labels),
            mirrorable=written[seed][1].mirrorable,
            pictures=str(written[seed][0]),
        )
        for name, seed in missing
    ]


def _arrays(part: str, pictures: Pictures, budget: Budget, seed: int) -> dict[str, Any]:
    """Return the pictures of a part as the network takes them, and their classes: a sample where there are many."""
    from mobilenets.data.split import spread_sample
    from mobilenets.image.preprocess import Preprocess, fit, with_channels

    if budget.pictures is not None and len(pictures) > budget.pictures:
        pictures = pictures.take(spread_sample(pictures.targets, budget.pictures, seed))
    grey = (0.5,) * budget.channels
    view = Preprocess(budget.side, budget.side, budget.channels, resize=budget.side, mean=grey, std=grey)
    pixels = [fit(with_channels(pictures.picture(index), budget.channels), view) for index in range(len(pictures))]
    return {part: np.stack(pixels), f"{part}_targets": pictures.targets}


def _announce(told: list[Task], budget: Budget, workers: int) -> None:
    """Say what is going to be done, and how long it will take here: a few steps of each network were timed."""
    first = {task.variant: task for task in reversed(told)}
    each = {variant: expected_seconds(task) for variant, task in first.items()}
    seconds = START_SECONDS + sum(each[task.variant] for task in told) / workers
    at_a_time = f"{workers} at a time" if workers > 1 else "one after the other"
    _say(
        f"ablations: {len(told)} trainings of {budget.epochs} epochs on {Path(budget.data).name}, {at_a_time}: "
        f"about {duration(seconds)}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress
