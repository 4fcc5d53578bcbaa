"""Many small trainings with one budget, each kept in a file of its own, so that interrupted work goes on."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.text import duration, percent
from mobilenets.train import train


@dataclass(frozen=True)
class Budget:
    """What each training gets, and how often it is repeated with another seed.

    `side` and `channels` are the pictures' as the network takes them: small ones as they are, larger ones shrunk.
    """

    data: str
    root: Path | None
    model: str
    width: float
    epochs: int
    seeds: int
    side: int = 32
    channels: int = 3

    @property
    def terms(self) -> dict[str, Any]:
        """What must be the same for two results to be compared."""
        return {"data": self.data, "model": self.model, "width": self.width, "epochs": self.epochs}


@dataclass(frozen=True)
class Run:
    """A finished training: the last epoch's top-1 (a fraction) and loss on the validation pictures."""

    variant: str
    seed: int
    top1: float
    loss: float
    seconds: float


def run_all(variants: Mapping[str, str], budget: Budget, out: Path | None) -> dict[str, list[Run]]:
    """Train every variant (its name, and the options of its architecture) with seeds 0, 1, ...; return all results.

    Results are kept in `out`, one JSON file a training, and taken from there; a training that was interrupted goes on
    where it was. Without `out` nothing is kept.

    Raises:
        InputError: `out` holds trainings with another budget.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return run_all(variants, budget, Path(folder))
    total, spent, trained = len(variants) * budget.seeds, 0.0, 0
    results: dict[str, list[Run]] = {name: [] for name in variants}
    for seed in range(budget.seeds):  # seed by seed: whoever stops early has every variant as often
        for name, options in variants.items():
            path = out / f"{_file_name(name)}-seed{seed}.json"
            run = _read(path, budget)
            if run is None:
                run = _train(name, options, seed, budget, path)
                spent, trained = spent + run.seconds, trained + 1
                done = sum(map(len, results.values())) + 1
                left = duration((total - done) * spent / trained)
                line = f"ablations {done}/{total}: {name}, seed {seed}: {percent(run.top1)}; at most {left} left"
                print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress
            results[name].append(run)
    return results


def _file_name(name: str) -> str:
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


def _train(name: str, options: str, seed: int, budget: Budget, path: Path) -> Run:
    """Train once, or go on with it; keep the result, and drop what the training left."""
    folder = path.with_suffix("")
    # Trainings of seconds would print thousands of lines; of longer ones the epochs are worth reading.
    silence = redirect_stderr(io.StringIO()) if budget.data == "digits" else nullcontext()
    with silence:
        result = train(
            budget.data,
            model=budget.model + (f":{options}" if options else ""),
            width=budget.width,
            weights="none",
            recipe="scratch",
            epochs=budget.epochs,
            patience=0,
            seed=seed,
            out=folder,
            resume=(folder / "state.pt").is_file(),
            root=budget.root,
            bf16="off",
            channels_last="on",
            compile="off",
        )
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    last = history[-1]
    run = Run(name, seed, last["val_top1"], last["val_loss"], result.seconds)
    write_atomically(path, json.dumps({"budget": budget.terms, "run": asdict(run)}, indent=2) + "\n")
    shutil.rmtree(folder)
    return run
