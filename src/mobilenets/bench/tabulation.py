"""What `bench --table` does: a latency table filled for every configuration that was asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mobilenets.arch import Plan
from mobilenets.bench.configuration import BFLOAT16, FLOAT32, INT8, Configuration, combined, timed_runtimes
from mobilenets.bench.probes import like, probes
from mobilenets.bench.result import BenchResult
from mobilenets.bench.table import Table, table_for, write_table
from mobilenets.bench.tabulate import RUNS, Effort, tabulate
from mobilenets.errors import InputError
from mobilenets.results import file_lines
from mobilenets.text import printable
from mobilenets.text import table as columns

LIKE = 24
"""Narrowed forms of a named model that are measured beside the general networks."""

Wanted = tuple[Sequence[str] | None, Sequence[str] | None, Sequence[int]]
"""Runtimes and precisions, None for all there are, and numbers of threads."""


@dataclass(frozen=True)
class TableResult(BenchResult):
    """Say what a latency table holds now: networks by configuration, of which `disturbed` are to be measured again."""

    measured: tuple[tuple[Configuration, int, int], ...] = field(default=())

    def __str__(self) -> str:
        rows = [
            [each.runtime, each.precision, str(each.threads), str(count), str(disturbed)]
            for each, count, disturbed in self.measured
        ]
        parts = [columns(("runtime", "precision", "threads", "networks", "disturbed"), rows, left=2)]
        parts += ["\n".join(f"note: {printable(note)}" for note in self.notes)] if self.notes else []
        return "\n\n".join([*parts, file_lines(self.files)])

    def to_json(self) -> dict[str, Any]:
        """Return where the table is and how many networks it holds by configuration."""
        rows = [
            {
                "runtime": each.runtime,
                "precision": each.precision,
                "threads": each.threads,
                "networks": count,
                "disturbed": disturbed,
            }
            for each, count, disturbed in self.measured
        ]
        return {
            "table": str(self.files[0]),
            "rows": rows,
            "machine": dict(self.machine),
            "notes": list(self.notes),
        }


def fill(
    path: Path,
    model: str | None,
    layout: Plan | None,
    wanted: Wanted,
    *,
    networks: int,
    repeats: int,
    minutes: float | None,
) -> TableResult:
    """Measure what the table in `path` lacks; see :func:`mobilenets.bench`.

    Raises:
        InputError: the file is of another device, or a runtime cannot be timed.
        MissingExtraError: a runtime that was named is not installed.
    """
    asked = configurations(wanted)
    table = table_for(path, sorted({each.runtime for each in asked}))
    layouts = [*(() if layout is None else (layout, *like(layout, LIKE))), *islice(probes(), networks)]
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    effort = Effort(rounds=max(3, repeats // RUNS), deadline=deadline)
    notes: list[str] = []
    for each in asked:
        try:
            table = tabulate(table, each, layouts, path=path, effort=effort, say=say)
        except InputError as error:
            if wanted[0] is not None:
                raise
            notes.append(str(error))
    if not any(table.of(each) for each in asked):
        raise InputError(
            f"{path}: nothing could be measured{f' ({notes[0]})' if notes else ''}: give it more --minutes"
        )
    write_table(table, path)
    return _result(table, model, path, tuple(notes))


def configurations(wanted: Wanted) -> tuple[Configuration, ...]:
    """Return what to time: by default, float32 and int8 in every runtime that is installed."""
    from mobilenets.runtime import choose

    runtimes, precisions, threads = wanted
    names = timed_runtimes() if runtimes is None else tuple(choose(name) for name in runtimes)
    if precisions is not None and BFLOAT16 in precisions:
        raise InputError("--precisions of a table are float32 and int8: a checkpoint is one of these")
    return combined(names, precisions or (FLOAT32, INT8), threads, (FLOAT32, INT8))


def say(line: str) -> None:
    """Print a line on standard error; where that is a terminal, over the line before."""
    end = "" if sys.stderr.isatty() else "\n"
    begin = "\r\x1b[K" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{begin}{line}{end}")
    sys.stderr.flush()


def _result(table: Table, model: str | None, path: Path, notes: tuple[str, ...]) -> TableResult:
    measured = tuple(
        (each, len(table.of(each)), len(timed) - len(table.of(each))) for each, timed in table.networks.items()
    )
    return TableResult(
        model=model or "",
        arch="",
        width=1.0,
        resolution=(0, 0),
        batch=1,
        multiply_adds=0,
        rows=(),
        machine=table.machine,
        notes=notes,
        files=(path,),
        measured=measured,
    )
