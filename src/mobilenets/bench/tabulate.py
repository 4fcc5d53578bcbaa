"""Filling a latency table: networks opened a few at a time in one process, taking turns, with one to watch the machine.

Every group holds the same network beside the new ones. Where that one is slower than it was in the other groups, the
machine was busy, and the group's times are not kept.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mobilenets.arch import Plan, arch_named, plan
from mobilenets.bench.children import Child, ChildError
from mobilenets.bench.configuration import INT8, Configuration, Job
from mobilenets.bench.subject import OPEN_SECONDS, write
from mobilenets.bench.synthetic import quick_int8, random_checkpoint
from mobilenets.bench.table import DISTURBED, Table, Timed, write_table
from mobilenets.errors import InputError, MobileNetsError

GROUP = 8
"""Networks that are open at a time, beside the watched one."""
ROUNDS = 9
RUNS = 5
"""Runs of a network in each round."""
ATTEMPTS = 3
"""How often a group is measured while the machine is busy; what is left is measured by whoever asks again."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure, and until when (time.monotonic()); None is no limit."""

    rounds: int = ROUNDS
    runs: int = RUNS
    deadline: float | None = None

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.deadline is not None and time.monotonic() > self.deadline


class Times(NamedTuple):
    """Milliseconds of one network: in the quieter half of the rounds, the fastest run, its operations and all else."""

    ms: float
    min_ms: float
    parts_ms: tuple[float, ...] = ()


def watched() -> Plan:
    """Return the network that is in every group: short, with every kind of operation."""
    return plan(arch_named("mobilenet_v3_small"), resolution=96)


def tabulate(
    table: Table,
    configuration: Configuration,
    layouts: Iterable[Plan],
    *,
    path: Path | None = None,
    effort: Effort | None = None,
    say: Say = lambda _: None,
) -> Table:
    """Measure the networks that a table lacks; return it with them.

    After every group the table is written to `path`, so that whoever interrupts this can go on.

    Raises:
        InputError: the runtime cannot run such networks, or the machine is too busy to tell anything.
    """
    effort = effort or Effort()
    missing = table.missing(configuration, layouts)
    done = 0
    for start in range(0, len(missing), GROUP):
        if effort.over:
            say(f"{configuration}: time is up with {len(missing) - done} networks to go")
            break
        group = missing[start : start + GROUP]
        timed = _group(table, configuration, group, effort, say)
        table = table.with_networks(configuration, timed)
        if path is not None:
            write_table(table, path)
        done += len(group)
        say(f"{configuration}: {done} of {len(missing)} networks measured")
    return table


def _group(table: Table, configuration: Configuration, group: Sequence[Plan], effort: Effort, say: Say) -> list[Timed]:
    """Return the times of a group, of the quietest attempt."""
    usual = min((each.watch_ms for each in table.of(configuration)), default=None)
    with tempfile.TemporaryDirectory(prefix="mobilenets-table-") as folder:
        jobs = [_job(layout, configuration, Path(folder), index) for index, layout in enumerate([watched(), *group])]
        best = measured(jobs, effort)
        for _ in range(1, ATTEMPTS):
            if usual is None or best[0].ms <= DISTURBED * usual:
                break
            say(f"{configuration}: the machine is busy ({best[0].ms / usual:.2f}x the usual time): once more")
            best = min(best, measured(jobs, effort), key=lambda times: times[0].ms)
    watch_ms = best[0].ms
    return [
        Timed(layout, times.ms, times.min_ms, watch_ms, times.parts_ms)
        for layout, times in zip(group, best[1:], strict=True)
    ]


def measured(jobs: Sequence[Job], effort: Effort) -> list[Times]:
    """Return the times of each network.

    Raises:
        InputError: the runtime failed.
    """
    request = {"together": [job.to_json() for job in jobs], "rounds": effort.rounds, "runs": effort.runs}
    try:
        with Child(jobs[0]) as child:
            answer = child.ask(request, OPEN_SECONDS)
    except ChildError as error:
        job = jobs[0]
        raise InputError(f"{job.runtime} cannot time networks in {job.precision}: {error}") from None
    return [
        Times(quiet(rounds), min(min(times) for times in rounds), tuple(parts))
        for rounds, parts in zip(answer["rounds_ms"], answer["parts_ms"], strict=True)
    ]


def quiet(rounds: Sequence[Sequence[float]]) -> float:
    """Return the middle of the rounds' medians in the faster half of the rounds: what other programs took is left out.

    >>> round(quiet([[2.0, 2.1, 9.0], [2.2, 2.3, 2.2], [7.0, 8.0, 9.0]]), 9)
    2.15
    """
    medians = sorted(statistics.median(times) for times in rounds)
    return statistics.median(medians[: (len(medians) + 1) // 2])


def _job(layout: Plan, configuration: Configuration, folder: Path, index: int) -> Job:
    """Write a network with random weights in the form that the runtime opens."""
    checkpoint = random_checkpoint(layout)
    if configuration.precision == INT8:
        checkpoint = quick_int8(checkpoint)
    try:
        path = write(checkpoint, configuration.runtime, folder / f"{index}.safetensors")
    except MobileNetsError as error:
        raise InputError(f"{configuration}: {error}") from None
    names = (configuration.runtime, configuration.precision, configuration.threads)
    return Job(str(path), *names, 1, layout.resolution)
