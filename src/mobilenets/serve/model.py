"""One served model: pictures in, items as JSON out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets.arch.cost import cost
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image.decode import decode
from mobilenets.image.preprocess import fit
from mobilenets.machine import cores, describe_machine
from mobilenets.predict import likeliest, named
from mobilenets.runtime import RUNTIMES, Predictor, choose, exported, load, resolve
from mobilenets.runtime.feed import outputs_of
from mobilenets.runtime.preference import ENDLESS
from mobilenets.serve.limits import RefusedError
from mobilenets.serve.reports import Reports

if TYPE_CHECKING:
    from mobilenets.checkpoint import Checkpoint
    from mobilenets.runtime.finding import Finder
    from mobilenets.serve.looking import Looking

BOX_THRESHOLD = 0.5
"""Which boxes are shown where nothing else is asked, as `predict` does."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the network takes it, uint8 (height, width, C), and the pixels it had: (height, width), upright."""

    fitted: npt.NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """What is asked about a picture: how many classes, the least score, and where the network looked."""

    top: int = 5
    threshold: float | None = None
    explain: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A picture and what is asked about it."""

    picture: Picture
    question: Question


@dataclass(frozen=True)
class Answer:
    """An item's fields, as JSON has them, and how long the computation of its batch took."""

    item: dict[str, Any]
    model_ms: float
    together: int = field(default=1)  # how many pictures were in the batch


class ServedModel:
    """A predictor and what else is said of it. `answer` is called by `workers` threads at a time, the rest by any.

    Several batches at a time with one thread each take less than one batch at a time with all threads: nothing waits at
    the end of an operation for the slowest thread. So where the runtime allows it there is a second predictor for them,
    and the first one, with all threads, is for a picture that is alone.
    """

    def __init__(self, name: str, model: str, runtime: str | None, threads: int | None) -> None:
        self.name, self.threads = name, threads
        self.checkpoint: Checkpoint | None = None if exported(model) else resolve(model)
        source: str | Checkpoint = model if self.checkpoint is None else self.checkpoint
        precision = "float32" if self.checkpoint is None else self.checkpoint.card.precision
        self.runtime = choose(runtime, source, precision=precision, pictures=ENDLESS)
        self._predictor: Predictor = load(source, self.runtime, threads)
        self.card = self._predictor.card
        if self.card.preprocess.channels not in {1, 3}:
            channels = self.card.preprocess.channels
            raise InputError(f"{model}: takes {channels} channels, and picture files have 1 or 3: it cannot be served")
        path = Path(model).expanduser()
        self.bytes = path.stat().st_size if path.is_file() else None
        self.reports = Reports(path)
        self.workers = (threads or cores()) if RUNTIMES[self.runtime].concurrent else 1
        self._narrow: Predictor | None = load(source, self.runtime, 1) if self.workers > 1 else None
        self._working, self._counting, self._explaining = 0, Lock(), Lock()
        self._looking: Looking | None = None
        self._looking_lock = Lock()

    def read(self, content: bytes, name: str, pixel_limit: int) -> Picture:
        """Decode and fit a picture; raises InputError, saying why, for what is none or has too many pixels."""
        decoded = decode(content, channels=self.card.preprocess.channels, name=name, pixel_limit=pixel_limit)
        return Picture(fit(decoded, self.card.preprocess), (decoded.shape[0], decoded.shape[1]))

    def warm_up(self) -> None:
        """Compute once what runtimes prepare on their first picture."""
        shape = (self.card.preprocess.height, self.card.preprocess.width, self.card.preprocess.channels)
        for predictor in (self._predictor, self._narrow):
            if predictor is not None:
                outputs_of(predictor, [np.zeros(shape, np.uint8)])

    def answer(self, tasks: Sequence[Task]) -> list[Answer]:
        """Compute one batch."""
        began = time.perf_counter()
        places = [place for place, task in enumerate(tasks) if task.question.explain]
        others = [place for place, task in enumerate(tasks) if not task.question.explain]
        items: dict[int, dict[str, Any]] = {}
        if others:
            with self._chosen(len(others)) as predictor:
                items |= zip(others, self._answered([tasks[place] for place in others], predictor), strict=True)
        if places:
            with self._explaining:
                items |= zip(places, self._explained([tasks[place] for place in places]), strict=True)
        model_ms = round(1000 * (time.perf_counter() - began), 3)
        return [Answer(items[place], model_ms, len(tasks)) for place in range(len(tasks))]

    @contextmanager
    def _chosen(self, pictures: int) -> Iterator[Predictor]:
        """Give the predictor for so many pictures: the one with all threads for one that is alone."""
        with self._counting:
            self._working += 1
            alone = pictures == 1 and self._working == 1
        try:
            yield self._predictor if alone or self._narrow is None else self._narrow
        finally:
            with self._counting:
                self._working -= 1

    def _answered(self, tasks: Sequence[Task], predictor: Predictor) -> list[dict[str, Any]]:
        fitted = [task.picture.fitted for task in tasks]
        if self.card.task != "detection":
            (logits,) = outputs_of(predictor, fitted)
            return self._classified(tasks, logits)
        items = []
        all_found = self._finders[predictor].find(fitted, [task.picture.size for task in tasks])
        for task, found in zip(tasks, all_found, strict=True):
            threshold = BOX_THRESHOLD if task.question.threshold is None else task.question.threshold
            detections = [each for each in named(found, self.card.labels) if each.score > threshold]
            items.append({"detections": [each.to_json() for each in detections]} | _size(task.picture))
        return items

    def _explained(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        logits, heats = self.open_looking()([task.picture.fitted for task in tasks])
        items = self._classified(tasks, logits)
        return [{**item, "heat": heat} for item, heat in zip(items, heats, strict=True)]

    def _classified(self, tasks: Sequence[Task], logits: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        best = likeliest(logits, self.card.labels, max(task.question.top for task in tasks))
        items = []
        for task, ranked in zip(tasks, best, strict=True):
            asked, least = task.question, task.question.threshold or 0.0
            kept = [each for place, each in enumerate(ranked[: asked.top]) if not place or each.score >= least]
            items.append({"predictions": [each.to_json() for each in kept]} | _size(task.picture))
        return items

    @cached_property
    def _finders(self) -> dict[Predictor, Finder]:
        from mobilenets.runtime.finding import Finder

        return {each: Finder(each) for each in (self._predictor, self._narrow) if each is not None}

    @property
    def explains(self) -> bool:
        """Whether it can say where it looked: classifiers of which the weights are at hand, not exported files."""
        from mobilenets.formats.onnx_heat import head_of

        return self.checkpoint is not None and self.card.task == "classification" and bool(head_of(self.card.plan))

    def open_looking(self) -> Looking:
        """Return what tells where the network looked; the first time that takes a while. Raises RefusedError (422)."""
        from mobilenets.serve.looking import looking

        with self._looking_lock:
            if self._looking is None and self.checkpoint is not None:
                self._looking = looking(self.checkpoint, self.runtime)
        if self._looking is None:
            raise RefusedError(422, f"{self.name} cannot say where it looked: only checkpoints of classifiers can")
        return self._looking

    def summary(self) -> dict[str, Any]:
        """Return an item of the list of models."""
        return {
            "name": self.name,
            "task": self.card.task,
            "architecture": self.card.arch.name,
            "runtime": self.runtime,
            "precision": self.card.precision,
            "resolution": list(self.card.resolution),
            "classes": len(self.card.labels),
        }

    def described(self) -> dict[str, Any]:
        """Return the card, what runs it, and what can be asked."""
        costs = cost(self.card.plan, "int8" if self.card.precision == "int8" else "float32")
        return {
            **self.card.to_json(),
            "name": self.name,
            "runtime": self.runtime,
            "threads": self.threads,
            "parameters": costs.parameters,
            "multiply_adds": costs.multiply_adds,
            "bytes": self.bytes,
            "machine": describe_machine(),
            "report": self.reports.there,
            "explain": self.explains,
        }

    def close(self) -> None:
        """Free the model."""
        for predictor in (self._predictor, self._narrow):
            if predictor is not None:
                predictor.close()


def _size(picture: Picture) -> dict[str, int]:
    return {"width": picture.size[1], "height": picture.size[0]}


def open_models(models: Sequence[str], runtime: str | None, threads: int | None) -> dict[str, ServedModel]:
    """Load what is to be served, by name: `NAME=MODEL`, or MODEL, which is then called as `name_and_model` says.

    Raises InputError where none or two of one name are given, and what `mobilenets.load` raises.
    """
    if not models:
        raise InputError("name a model to serve: a checkpoint, an exported file, or published weights")
    opened: dict[str, ServedModel] = {}
    for each in models:
        name, model = name_and_model(each)
        if name in opened:
            raise InputError(f"two models are called {name}: name one of them, as in other={model}")
        opened[name] = ServedModel(name, model, runtime, threads)
        opened[name].warm_up()
    return opened


def name_and_model(model: str) -> tuple[str, str]:
    """Split `NAME=MODEL`; a model without a name gets its file's, without folder and ending.

    >>> name_and_model("cats=runs/cats/best.safetensors"), name_and_model("runs/cats/best.safetensors")
    (('cats', 'runs/cats/best.safetensors'), ('best', 'runs/cats/best.safetensors'))
    """
    given, equals, path = model.partition("=")
    if equals and "/" not in given and given:
        if not path:
            raise CheckpointError(f"{model}: no model behind the name: write {given}=PATH")
        return given, path
    return Path(model).stem or model, model
