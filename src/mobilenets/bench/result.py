"""What `bench` returns: a row for each configuration, who won, and the machine it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenets.bench.configuration import Configuration
from mobilenets.bench.operations import OperationTime, by_kind, operations_text
from mobilenets.bench.published import Published
from mobilenets.bench.timing import Timing
from mobilenets.bench.verdict import verdict
from mobilenets.results import file_lines, json_number
from mobilenets.text import percent, printable, table


@dataclass(frozen=True)
class BenchRow:
    """One configuration and what was measured of it, or why nothing could be.

    Memory, in bytes, None where the system does not say: `peak_bytes` is the most the process ever had, `added_bytes`
    what of it the runtime and the model brought, `running_bytes` what running added after loading: activations, scratch
    and weights repacked late. `activation_bytes` is computed: the peak of layer-by-layer execution of the batch.
    `file_bytes` is what is opened.
    """

    configuration: Configuration
    timing: Timing | None = None
    batch: int = 1
    load_ms: float | None = None
    peak_bytes: int | None = None
    added_bytes: int | None = None
    running_bytes: int | None = None
    activation_bytes: int | None = None
    file_bytes: int | None = None
    error: str | None = None
    operations: tuple[OperationTime, ...] = ()
    operations_error: str | None = None

    @property
    def images_per_second(self) -> float | None:
        """Pictures a second, by the median."""
        return None if self.timing is None else 1000 * self.batch / self.timing.median_ms

    def to_json(self) -> dict[str, Any]:
        """Return an item of `rows`; what is not known is None."""
        timing = self.timing
        return {
            "runtime": self.configuration.runtime,
            "precision": self.configuration.precision,
            "threads": self.configuration.threads,
            "batch": self.batch,
            "runs": 0 if timing is None else timing.count,
            "median_ms": None if timing is None else json_number(timing.median_ms),
            "min_ms": None if timing is None else json_number(timing.min_ms),
            "p95_ms": None if timing is None else json_number(timing.p95_ms),
            "spread": None if timing is None else json_number(timing.spread),
            "images_per_second": json_number(self.images_per_second),
            "load_ms": json_number(self.load_ms),
            "peak_bytes": self.peak_bytes,
            "added_bytes": self.added_bytes,
            "running_bytes": self.running_bytes,
            "activation_bytes": self.activation_bytes,
            "file_bytes": self.file_bytes,
            "error": self.error,
            "operations": [operation.to_json() for operation in self.operations],
            "kinds": [kind.to_json() for kind in by_kind(self.operations)],
            "operations_error": self.operations_error,
        }

    def cells(self) -> list[str]:
        """Return the row of the printed table."""
        name = [self.configuration.runtime, self.configuration.precision, str(self.configuration.threads)]
        timing = self.timing
        if timing is None:
            return [*name, *("-" for _ in range(5)), *(_megabytes(None) for _ in range(3)), _megabytes(self.file_bytes)]
        times = [f"{value:.2f}" for value in (timing.median_ms, timing.min_ms, timing.p95_ms)]
        rate = f"{self.images_per_second:,.0f}"
        memory = [_megabytes(each) for each in (self.peak_bytes, self.added_bytes, self.running_bytes)]
        return [*name, *times, percent(timing.spread), rate, *memory, _megabytes(self.file_bytes)]


COLUMNS = (
    *("runtime", "precision", "threads", "median ms", "min ms", "p95 ms", "spread"),
    *("images/s", "peak MB", "added MB", "running MB", "file MB"),
)


@dataclass(frozen=True)
class BenchResult:
    """Hold every configuration's row, the sentences that say who won, and the machine.

    `published` is what others measured of the same network elsewhere. `machine` is text by name. The rows are in the
    order in which they were asked for. `slowest_first` is how the operations are printed.
    """

    model: str
    arch: str
    width: float
    resolution: tuple[int, int]
    batch: int
    multiply_adds: int
    rows: tuple[BenchRow, ...]
    machine: Mapping[str, str]
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    slowest_first: bool = False

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences: who is fastest and by how much, and where int8 loses to float32."""
        return verdict([(row.configuration, row.timing) for row in self.rows if row.timing is not None])

    def __str__(self) -> str:
        parts = [self._title(), table(COLUMNS, [row.cells() for row in self.rows], left=2), *self._remarks()]
        parts += [self._operations(row) for row in self.rows if row.operations or row.operations_error]
        longest = max((len(name) for name in self.machine), default=0)
        parts.append("\n".join(f"{name:<{longest}}  {printable(value)}" for name, value in self.machine.items()))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join(part for part in parts if part)

    def _title(self) -> str:
        height, side = self.resolution
        work = f"{self.multiply_adds / 1e6:,.1f} M multiply-adds"
        what = f"width {self.width:g}, {height}x{side}, batch {self.batch}, {work}"
        name = self.arch if self.model == self.arch else f"{self.model}: {self.arch}"
        return f"{printable(name)}, {what}"

    def _remarks(self) -> list[str]:
        """Return what was found in sentences: errors, the verdict, published figures, notes."""
        errors = [f"{row.configuration}: {printable(row.error)}" for row in self.rows if row.error is not None]
        activations = {
            row.configuration.precision: row.activation_bytes for row in self.rows if row.activation_bytes is not None
        }
        held = ", ".join(f"{value / 1e6:.2f} MB in {name}" for name, value in activations.items())
        elsewhere = [
            [each.device, each.precision, f"{each.ms:g}", each.source] for each in self.published if self.batch == 1
        ]
        return [
            "\n".join(["could not be timed", *(f"  {line}" for line in errors)]) if errors else "",
            "\n".join(self.verdict),
            f"activations, layer by layer: {held}" if held else "",
            "published elsewhere\n" + table(["device", "precision", "ms", "source"], _aligned(elsewhere), left=2)
            if elsewhere
            else "",
            "\n".join(f"note: {printable(note)}" for note in self.notes),
        ]

    def _operations(self, row: BenchRow) -> str:
        if row.operations_error is not None:
            return f"{row.configuration}, by operation: {printable(row.operations_error)}"
        rows = sorted(row.operations, key=lambda each: -each.ms) if self.slowest_first else row.operations
        total = sum(each.ms for each in rows)
        whole = f"{total:.2f} ms in operations" + (
            f", {row.timing.median_ms:.2f} ms for the whole network" if row.timing else ""
        )
        kinds = operations_text(by_kind(rows), kinds=True)
        return f"{row.configuration}, by operation ({whole})\n{operations_text(rows)}\n\n{kinds}"

    def to_json(self) -> dict[str, Any]:
        """Return rows, verdict, published figures and machine."""
        return {
            "model": self.model,
            "arch": self.arch,
            "width": self.width,
            "resolution": list(self.resolution),
            "batch": self.batch,
            "multiply_adds": self.multiply_adds,
            "rows": [row.to_json() for row in self.rows],
            "verdict": list(self.verdict),
            "published": [
                {"device": each.device, "precision": each.precision, "ms": each.ms, "source": each.source}
                for each in self.published
            ],
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "files": [str(path) for path in self.files],
        }


def _aligned(rows: list[list[str]]) -> list[list[str]]:
    """Pad the last column, which is text, so that it lines up on the left."""
    width = max(len(row[-1]) for row in rows)
    return [[*row[:-1], row[-1].ljust(width)] for row in rows]


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.1f}"
