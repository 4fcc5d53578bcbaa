"""From an upload to an answer: places, decoding off the event loop, the model's queue, the deadline."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mobilenets.detections import Detections
from mobilenets.errors import InputError
from mobilenets.results import Classification
from mobilenets.serve.batching import Batcher
from mobilenets.serve.guard import State
from mobilenets.serve.limits import Limits, Places, RefusedError
from mobilenets.serve.metrics import Metrics
from mobilenets.serve.model import Answer, Question, ServedModel, Task
from mobilenets.serve.upload import Upload

DECODERS = 4
"""Threads that decode pictures, where there are as many cores: each may hold a picture of the largest size."""


class Service:
    """The models, their queues, and what limits them."""

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits) -> None:
        self.models, self.limits = dict(models), limits
        self.state, self.metrics = State(), Metrics()
        self.held = Places(limits.held_bytes, "too many pictures are on their way: try again")
        self.places = {name: Places(limits.waiting, "too many pictures are waiting: try again") for name in models}
        self._batchers = {
            name: Batcher[Task, Answer](name, self._computing(model), limits.batch, model.workers)
            for name, model in models.items()
        }
        self._pool = ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1), thread_name_prefix="pictures")
        for name, places in self.places.items():
            self.metrics.watch_queue(name, lambda places=places: places.taken)  # type: ignore[misc]

    def model(self, name: str | None) -> ServedModel:
        """Return a model by name, the first for None; raises RefusedError (404)."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RefusedError(404, f"no such model here: there is {', '.join(self.models)}")
        return self.models[name]

    async def off_loop(self, function: Any, *arguments: Any) -> Any:
        """Run a function in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def check_room(self, model: ServedModel) -> None:
        """Raise RefusedError (503) where the model's queue is full, before a body is read in vain."""
        with self._places(model, 1):
            pass

    async def predict(self, model: ServedModel, uploads: Sequence[Upload], question: Question) -> list[dict[str, Any]]:
        """Return one item for each picture.

        Raises RefusedError: 422 where none can be read or asked so, 503 where the queue is full, 504 where it takes
        too long.
        """
        if question.explain:
            await self.off_loop(model.open_looking)  # not in the model's thread: others need not wait for it
        with self._places(model, len(uploads)):
            try:
                async with asyncio.timeout(self.limits.deadline_s):
                    items = await asyncio.gather(*(self._one(model, upload, question) for upload in uploads))
            except TimeoutError:
                reason = f"no answer within {self.limits.deadline_s:g} seconds: try again, or send fewer pictures"
                raise RefusedError(504, reason) from None
        errors = [item["error"] for item in items if "error" in item]
        if len(errors) == len(items):
            raise RefusedError(422, errors[0] + (f" (nor can the other {len(errors) - 1})" if errors[1:] else ""))
        return items

    async def _one(self, model: ServedModel, upload: Upload, question: Question) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            picture = await self.off_loop(model.read, upload.content, upload.name, self.limits.pixels)
        except InputError as error:
            self.metrics.unreadable()
            of = Detections if model.card.task == "detection" else Classification
            return of(upload.name, error=str(error)).to_json()
        answer = await asyncio.wrap_future(self._batchers[model.name].submit(Task(picture, question)))
        ms = round(1000 * (time.perf_counter() - began), 3)
        return {"image": upload.name, **answer.item, "ms": ms, "model_ms": answer.model_ms}

    def _computing(self, model: ServedModel) -> Any:
        def compute(tasks: Sequence[Task]) -> list[Answer]:
            answers = model.answer(tasks)
            self.metrics.computed(model.name, len(tasks), answers[0].model_ms / 1000)
            return answers

        return compute

    @contextmanager
    def _places(self, model: ServedModel, count: int) -> Any:
        places = self.places[model.name]
        places.take(count)
        try:
            yield
        finally:
            places.give_back(count)

    def close(self) -> None:
        """Finish what is queued, then free the models."""
        self._pool.shutdown()
        for batcher in self._batchers.values():
            batcher.close()
        for model in self.models.values():
            model.close()
