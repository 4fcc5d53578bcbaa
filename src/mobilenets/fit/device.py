"""The latency table in use: a file that was handed over, or this device's own, kept in the cache, filled on demand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mobilenets.arch import Plan
from mobilenets.bench.configuration import Configuration
from mobilenets.bench.probes import like, probes
from mobilenets.bench.table import SAME, Table, of_this_machine, of_this_release, read_table, release, table_for
from mobilenets.bench.tabulate import Effort, tabulate
from mobilenets.errors import InputError
from mobilenets.files import cache_folder
from mobilenets.fit.latency import FEWEST, LatencyModel, latency_model
from mobilenets.machine import describe_machine

NETWORKS = 96
"""General networks in a table that is made on demand."""
LIKE = 24
"""Narrowed forms of a network that is to be adapted, measured beside them."""

Say = Callable[[str], None]


@dataclass
class Device:
    """Where networks are to run, and what is known of its speed.

    `own` says whether it is this machine: another's table can be read here and not extended.
    """

    runtime: str
    threads: int
    path: Path
    table: Table
    own: bool
    say: Say
    deadline: float | None = None

    def configuration(self, precision: str) -> Configuration:
        """Return what is timed at a precision."""
        return Configuration(self.runtime, precision, self.threads)

    def model(self, precision: str) -> LatencyModel | None:
        """Return the latency model of a precision; None where the table has no networks of it."""
        timed = self.table.of(self.configuration(precision))
        return latency_model(timed) if len(timed) >= FEWEST else None

    def model_is_missing(self, precision: str) -> bool:
        """Say whether the table has too few networks of a precision to predict from."""
        return len(self.table.of(self.configuration(precision))) < FEWEST

    def fill(self, precision: str, networks: int = NETWORKS, layouts: Sequence[Plan] = ()) -> None:
        """Measure general networks, and these, as far as the table lacks them.

        Raises:
            InputError: the table is of another device and has no networks in this configuration.
        """
        configuration = self.configuration(precision)
        if not self.own:
            if not self.table.of(configuration):
                raise InputError(f"{self.path}: has nothing measured in {configuration}: measure it on that device")
            return
        wanted = [*islice(probes(), networks), *layouts]
        if self.table.missing(configuration, wanted):
            self.say(f"measuring {configuration} on this machine, once: {self.path}")
        effort = Effort(deadline=self.deadline)
        self.table = tabulate(self.table, configuration, wanted, path=self.path, effort=effort, say=self.say)

    def fill_around(self, precision: str, layout: Plan, number: int = LIKE) -> None:
        """Measure a network and narrowed forms of it too, so that its neighbourhood is known best."""
        self.fill(precision, layouts=(layout, *like(layout, number)))

    def measure(self, layout: Plan, precision: str) -> float | None:
        """Return the milliseconds of one network, measured now and kept in the table; None of another device."""
        if not self.own:
            return None
        configuration = self.configuration(precision)
        path = self.path
        self.table = tabulate(self.table, configuration, [layout], path=path, effort=Effort(rounds=15), say=self.say)
        missing = self.table.missing(configuration, [layout])
        timed = self.table.networks.get(configuration, ())
        if missing:
            self.say(f"{configuration}: the machine is busy, so this time is longer than it will be")
        return next((each.ms for each in reversed(timed) if each.layout.ops == layout.ops), None)


def device(runtime: str, threads: int, table: Path | None, say: Say, minutes: float | None = None) -> Device:
    """Return the device to fit to: the one a table was made on, or this one.

    Raises:
        InputError: the file is no latency table, or has nothing of this runtime.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    if table is not None and table.exists():
        found = read_table(table)
        own = of_this_machine(found) and of_this_release(found, runtime)
        return Device(runtime, threads, table, found, own, say, deadline)
    path = own_path(runtime) if table is None else table
    return Device(runtime, threads, path, table_for(path), own=True, say=say, deadline=deadline)


def own_path(runtime: str) -> Path:
    """Return where this device's table of a runtime is kept: one for each processor and release of the runtime."""
    machine = describe_machine()
    described = [machine.get(name, "") for name in SAME] + [*release(runtime)]
    digest = hashlib.sha256(repr(described).encode()).hexdigest()[:12]
    return cache_folder() / "latency" / f"{runtime}-{digest}.json"
