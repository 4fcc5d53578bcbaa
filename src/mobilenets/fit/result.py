"""What `fit` returns: the frontier, what was chosen from it, and why not the next better one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.fit.budget import Budget
from mobilenets.results import file_lines, json_number
from mobilenets.text import duration, percent, printable, table

if TYPE_CHECKING:
    from mobilenets.fit.candidates import Candidate  # with numpy, which --help does without


@dataclass(frozen=True)
class Choice:
    """A network and what it costs. `top1` is a fraction; `top1_source` says whose, or that it was measured here."""

    model: str
    width: float
    resolution: tuple[int, int]
    precision: str
    predicted_ms: float | None
    measured_ms: float | None
    ram_bytes: int
    flash_bytes: int
    multiply_adds: int
    top1: float | None
    top1_source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return an item of `frontier`, or `chosen`."""
        return {
            "model": self.model,
            "width": self.width,
            "resolution": list(self.resolution),
            "precision": self.precision,
            "predicted_ms": json_number(self.predicted_ms),
            "measured_ms": json_number(self.measured_ms),
            "ram_bytes": self.ram_bytes,
            "flash_bytes": self.flash_bytes,
            "multiply_adds": self.multiply_adds,
            "top1": json_number(self.top1),
            "top1_source": self.top1_source,
        }

    def cells(self, mark: str = "") -> list[str]:
        """Return the row of a printed table."""
        height, side = self.resolution
        times = ["-" if ms is None else f"{ms:.2f}" for ms in (self.predicted_ms, self.measured_ms)]
        costs = [f"{self.ram_bytes / 1024:,.1f}", f"{self.flash_bytes / 1e6:,.2f}", f"{self.multiply_adds / 1e6:,.1f}"]
        top1 = "-" if self.top1 is None else percent(self.top1)
        return [mark + self.model, self.precision, f"{self.width:g}", f"{height}x{side}", *times, *costs, top1]


COLUMNS = (
    *("network", "precision", "width", "input", "predicted ms", "measured ms"),
    *("RAM KiB", "flash MB", "M multiply-adds", "top-1"),
)


def choice_of(candidate: Candidate, measured_ms: float | None = None) -> Choice:
    """Return a candidate as what is printed."""
    return Choice(
        model=candidate.model,
        width=candidate.layout.width,
        resolution=candidate.layout.resolution,
        precision=candidate.precision,
        predicted_ms=candidate.predicted_ms,
        measured_ms=measured_ms,
        ram_bytes=candidate.ram_bytes,
        flash_bytes=candidate.flash_bytes,
        multiply_adds=candidate.multiply_adds,
        top1=candidate.expected.top1 / 100,
        top1_source=candidate.expected.source,
    )


@dataclass(frozen=True)
class FitResult:
    """Hold the chosen network, and the frontier that it was chosen from, the cheapest first.

    `why` are sentences: what the choice is, why the next better network does not fit, how far predictions are off.
    `trace` has a row for each step of a search. `checkpoint` is None where nothing was trained.
    """

    model: str
    method: str
    budget: Budget
    runtime: str
    threads: int
    chosen: Choice
    frontier: tuple[Choice, ...]
    why: tuple[str, ...]
    seconds: float
    checkpoint: Path | None = None
    trace: tuple[Mapping[str, Any], ...] = ()
    machine: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        on = f" ({self.runtime}, {self.threads} thread{'' if self.threads == 1 else 's'})" if self.runtime else ""
        rows = [each.cells("* " if _same(each, self.chosen) else "  ") for each in self.frontier]
        if not any(_same(each, self.chosen) for each in self.frontier):
            rows.append(self.chosen.cells("* "))
        parts = [f"{self.method}: {self.budget}{on}", table(COLUMNS, rows, left=2), "\n".join(self.why)]
        if self.checkpoint is not None:
            parts.append(f"saved  {printable(str(self.checkpoint))}")
        parts += ["\n".join(f"note: {printable(note)}" for note in self.notes), f"time   {duration(self.seconds)}"]
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Return frontier, choice, checkpoint and how it came about."""
        return {
            "model": self.model,
            "method": self.method,
            "budget": self.budget.to_json(),
            "runtime": self.runtime,
            "threads": self.threads,
            "chosen": self.chosen.to_json(),
            "frontier": [each.to_json() for each in self.frontier],
            "why": list(self.why),
            "seconds": json_number(self.seconds),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "trace": [dict(each) for each in self.trace],
            "machine": dict(self.machine or {}),
            "notes": list(self.notes),
            "files": [str(path) for path in self.files],
        }


def _same(one: Choice, other: Choice) -> bool:
    def key(each: Choice) -> Sequence[object]:
        return (each.model, each.width, each.resolution, each.precision, each.multiply_adds)

    return key(one) == key(other)
