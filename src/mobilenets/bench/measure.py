"""The measurement: every configuration in a process of its own, taking turns in rounds.

A disturbance of the machine meets all of them alike, and the order changes from round to round, so that nobody always
comes after the same neighbour. Each turn begins with runs that are not counted: the caches are full of somebody else.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobilenets.arch.cost import cost
from mobilenets.bench.children import Child, ChildError
from mobilenets.bench.configuration import BYTES_AS, Configuration, Job
from mobilenets.bench.operations import operation_times
from mobilenets.bench.result import BenchRow
from mobilenets.bench.subject import OPEN_SECONDS, PreparationError, Subject, file_bytes
from mobilenets.bench.timing import summarize

ROUNDS = 10
"""Turns that each configuration gets, if there are as many runs."""

WARM_RUNS = 2
"""Runs at the beginning of a turn that are not counted."""

TURN_SECONDS = 300.0
"""The longest that a turn may take."""


@dataclass
class Progress:
    """What is said on standard error while measuring; a bar where that is a terminal, nothing else otherwise."""

    total: int
    done: int = 0

    def step(self, what: str) -> None:
        """Say what comes next."""
        self.done += 1
        if sys.stderr.isatty():
            end = "\n" if self.done == self.total else ""
            sys.stderr.write(f"\r{self.done}/{self.total} {what:<60.60}{end}")
            sys.stderr.flush()


@dataclass
class _Measured:
    """A configuration on its way from opened to measured, or to an error."""

    configuration: Configuration
    path: Path | None = None
    child: Child | None = None
    times_ms: list[float] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    operations_error: str | None = None

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask the child; where it fails, the error is kept and the child ended."""
        if self.child is None:
            return {}
        try:
            return self.child.ask(dict(request), timeout_s)
        except ChildError as error:
            self.error = str(error)
            self.child.close()
            self.child = None
            return {}


def measure(
    subject: Subject,
    configurations: Sequence[Configuration],
    *,
    folder: Path,
    batch: int,
    repeats: int,
    per_op: bool,
) -> tuple[BenchRow, ...]:
    """Time every configuration `repeats` times, in rounds; return a row for each, in their order.

    A configuration that cannot be made, opened or run is a row with an error. However this ends, by Ctrl-C too, no
    child is left behind.
    """
    rounds = min(ROUNDS, repeats)
    progress = Progress(len(configurations) * (2 + rounds + per_op))
    with ExitStack() as stack:
        measured = [_opened(subject, each, stack, progress, folder=folder, batch=batch) for each in configurations]
        order = random.Random(0)  # noqa: S311 - a shuffle, no secret
        for turn in range(rounds):
            count = repeats // rounds + (turn < repeats % rounds)
            for each in order.sample(measured, len(measured)):
                progress.step(f"round {turn + 1} of {rounds}: {each.configuration}")
                answer = each.ask({"run": count, "warm": WARM_RUNS}, TURN_SECONDS)
                each.times_ms += answer.get("times_ms", [])
        for each in measured:
            progress.step(f"memory: {each.configuration}")
            each.answers |= each.ask({"memory": True}, TURN_SECONDS)
            if per_op:
                progress.step(f"by operation: {each.configuration}")
                _profile(each, repeats)
    return tuple(_row(each, subject, batch) for each in measured)


def _opened(
    subject: Subject, configuration: Configuration, stack: ExitStack, progress: Progress, *, folder: Path, batch: int
) -> _Measured:
    """Start a configuration's child and let it open the model and warm up."""
    progress.step(f"opening {configuration}")
    measured = _Measured(configuration)
    try:
        measured.path = subject.file(configuration.runtime, configuration.precision, folder)
    except PreparationError as error:
        measured.error = str(error)
        return measured
    names = (configuration.runtime, configuration.precision, configuration.threads)
    measured.child = stack.enter_context(Child(Job(str(measured.path), *names, batch, subject.card.resolution)))
    measured.answers = measured.ask({"open": measured.child.job.to_json()}, OPEN_SECONDS)
    return measured


def _profile(measured: _Measured, repeats: int) -> None:
    """Ask for the operations' times; what has been measured so far stays, whatever comes of it."""
    if measured.child is None:
        return
    try:
        measured.answers |= measured.child.ask({"operations": repeats}, OPEN_SECONDS + TURN_SECONDS)
    except ChildError as error:
        measured.operations_error = str(error)


def _row(measured: _Measured, subject: Subject, batch: int) -> BenchRow:
    configuration, answers = measured.configuration, measured.answers
    size = None if measured.path is None else file_bytes(measured.path)
    if measured.error is not None or not measured.times_ms:
        return BenchRow(configuration, batch=batch, file_bytes=size, error=measured.error or "nothing was measured")
    layout, precision = subject.card.plan, BYTES_AS[configuration.precision]
    operations = answers.get("operations_ms", {})
    return BenchRow(
        configuration,
        timing=summarize(measured.times_ms),
        batch=batch,
        load_ms=answers.get("load_ms"),
        peak_bytes=answers.get("peak_bytes"),
        added_bytes=answers.get("added_bytes"),
        running_bytes=answers.get("running_bytes"),
        activation_bytes=batch * cost(layout, precision).peak_activation_bytes,
        file_bytes=size,
        operations=operation_times(layout, operations, precision, batch) if operations else (),
        operations_error=measured.operations_error,
    )
