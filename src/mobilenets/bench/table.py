"""The latency table of a device: whole networks and how long they took, as a file that can be handed on.

What a block costs is worked out of differences between whole networks (:mod:`mobilenets.fit.latency`): a block that is
timed by itself has other caches, other memory and another clock than the same block in a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mobilenets.arch import Plan, arch_from_json, arch_to_json, plan
from mobilenets.bench.configuration import Configuration
from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.machine import describe_machine, has_instructions

FORMAT = 1
SAME = ("processor", "processor_model", "cores")
"""What of a machine's description must agree for two measurements to be of one device, where both have it."""

DISTURBED = 1.08
"""Where the watched network took this many times its least, the machine was busy: what was timed there is not used."""

UNSTEADY = 1.25
"""Where a network's quieter rounds took this many times its fastest run, it was disturbed itself."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A network and its milliseconds: of the quieter half of the rounds, and the least of all runs.

    `watch_ms` is what the network that is measured with all others took beside it: whether the machine was quiet.
    `parts_ms` is what the runtime's profiler says of its operations, in the plan's order, and last of all that the
    runtime does beside them, such as reordering; empty where there is no profiler. Together they take longer than the
    network, since somebody looks at the clock after each.
    """

    layout: Plan
    ms: float
    min_ms: float
    watch_ms: float
    parts_ms: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads."""
        layout = self.layout
        return {
            "arch": arch_to_json(layout.arch),
            "width": layout.width,
            "resolution": list(layout.resolution),
            "classes": layout.classes,
            "in_channels": layout.in_channels,
            "ms": self.ms,
            "min_ms": self.min_ms,
            "watch_ms": self.watch_ms,
            "parts_ms": list(self.parts_ms),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], known: dict[str, Plan]) -> Timed:
        """Return the network that :meth:`to_json` wrote; `known` has the plans made before, by what they are of."""
        key = json.dumps([data[name] for name in ("arch", "width", "resolution", "classes", "in_channels")])
        if key not in known:
            height, side = data["resolution"]
            known[key] = plan(
                arch_from_json(data["arch"]),
                width=float(data["width"]),
                resolution=(int(height), int(side)),
                classes=int(data["classes"]),
                in_channels=int(data["in_channels"]),
            )
        layout = known[key]
        parts = tuple(float(each) for each in data.get("parts_ms", ()))
        return cls(layout, float(data["ms"]), float(data["min_ms"]), float(data["watch_ms"]), parts)


@dataclass(frozen=True)
class Table:
    """What has been measured on one device: networks by runtime, precision and number of threads."""

    machine: Mapping[str, str] = field(default_factory=describe_machine)
    networks: Mapping[Configuration, tuple[Timed, ...]] = field(default_factory=dict)

    def of(self, configuration: Configuration) -> tuple[Timed, ...]:
        """Return the networks measured in a configuration while the machine was quiet; none if it never was."""
        timed = self.networks.get(configuration, ())
        usual = min((each.watch_ms for each in timed), default=0.0)
        return tuple(each for each in timed if each.watch_ms <= DISTURBED * usual and each.ms <= UNSTEADY * each.min_ms)

    def missing(self, configuration: Configuration, layouts: Iterable[Plan]) -> list[Plan]:
        """Return those networks that are still to be measured, each once."""
        known = {shape(timed.layout) for timed in self.of(configuration)}
        wanted = {shape(layout): layout for layout in layouts}
        return [layout for key, layout in wanted.items() if key not in known]

    def with_networks(self, configuration: Configuration, timed: Sequence[Timed]) -> Table:
        """Return the table with more networks; one that was measured before is replaced."""
        merged = {shape(each.layout): each for each in (*self.networks.get(configuration, ()), *timed)}
        return replace(self, networks={**self.networks, configuration: tuple(merged.values())})

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds."""
        return {
            "format": FORMAT,
            "machine": dict(self.machine),
            "tables": [
                {
                    "runtime": configuration.runtime,
                    "precision": configuration.precision,
                    "threads": configuration.threads,
                    "networks": [each.to_json() for each in timed],
                }
                for configuration, timed in self.networks.items()
            ],
        }


def shape(layout: Plan) -> str:
    """Return a digest of everything about a network that its speed depends on: operations, but not their names."""
    places = {"input": -1} | {op.name: index for index, op in enumerate(layout.ops)}
    described = [
        (
            *(op.kind, op.source_shape, op.out, op.kernel, op.stride, op.padding, op.groups, op.activation),
            tuple(places[source] for source in op.sources),
        )
        for op in layout.ops
    ]
    return hashlib.sha256(repr(described).encode()).hexdigest()[:24]


def read_table(path: Path) -> Table:
    """Read a table that :func:`write_table` wrote.

    Raises:
        InputError: there is no such file, or it is no latency table.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}): make it with mobilenets bench --table {path}"
        ) from None
    except ValueError:
        raise InputError(f"{path}: no latency table (not JSON): make it with mobilenets bench --table FILE") from None
    known: dict[str, Plan] = {}
    try:
        if data["format"] != FORMAT:
            raise InputError(f"{path}: a latency table of format {data['format']}, and this version reads {FORMAT}")
        networks = {
            Configuration(str(each["runtime"]), str(each["precision"]), int(each["threads"])): tuple(
                Timed.from_json(network, known) for network in each["networks"]
            )
            for each in data["tables"]
        }
        return Table({str(key): str(value) for key, value in data["machine"].items()}, networks)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no latency table ({error!r}): make it with mobilenets bench --table FILE") from None


def write_table(table: Table, path: Path) -> Path:
    """Write a table, atomically; return the path."""
    return write_atomically(path, json.dumps(table.to_json(), separators=(",", ":"), allow_nan=False) + "\n")


def table_for(path: Path, runtimes: Sequence[str] = ()) -> Table:
    """Return the table in a file that is to be extended here; an empty one where there is no file.

    Args:
        path: the file.
        runtimes: what is to be measured.

    Raises:
        InputError: the file is of another device, or of another release of a runtime: times of two of them in one table
            mean nothing.
    """
    if not path.exists():
        return Table(describe_machine())
    table = read_table(path)
    if not of_this_machine(table):
        other = table.machine.get("processor", "another machine")
        raise InputError(f"{path}: measured on {other}, which is not this machine: name another file to measure here")
    for runtime in runtimes:
        if not of_this_release(table, runtime):
            package, here = release(runtime)
            raise InputError(
                f"{path}: measured with {package} {table.machine[package]}, and {here} is installed: "
                "name another file to measure here"
            )
    return table


def of_this_machine(table: Table) -> bool:
    """Say whether a table was measured on a machine like this one: its processor, its cores, and what it can do.

    A processor has all instructions that the table names: which ones are named may differ between versions of this
    package.
    """
    here, there = describe_machine(), table.machine
    if not {"processor", "cores"} <= set(there):
        return False
    named = there.get("instructions", "").partition(";")[0].split()
    return all(there.get(name, here.get(name)) == here.get(name) for name in SAME) and has_instructions(named)


def of_this_release(table: Table, runtime: str) -> bool:
    """Say whether what a table has of a runtime, if anything, was measured with the release that is installed here."""
    package, here = release(runtime)
    measured = any(configuration.runtime == runtime for configuration in table.networks)
    return not measured or table.machine.get(package, here) == here


@cache
def release(runtime: str) -> tuple[str, str]:
    """Return the package that computes, and its version; no version where it is not installed."""
    from mobilenets.runtime import RUNTIMES

    module = "mobilenets" if runtime == "engine" else RUNTIMES[runtime].package  # the engine's kernels are our own
    package = metadata.packages_distributions().get(module, [module.replace("_", "-")])[0]
    try:
        return package, metadata.version(package)
    except metadata.PackageNotFoundError:
        return package, ""
