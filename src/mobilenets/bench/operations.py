"""Time beside work: what every operation takes, what it computes, and what it moves through memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from mobilenets.arch import Op, Plan
from mobilenets.arch.cost import BYTES, Precision, activation_bytes, multiply_adds
from mobilenets.results import json_number
from mobilenets.text import percent, printable, table


@dataclass(frozen=True, slots=True)
class OperationTime:
    """One operation, or several of a kind: milliseconds, their share of all, and the work in them.

    What a runtime does beside the plan's operations, such as reordering its layouts, has neither multiply-adds nor
    bytes. `moved_bytes` is what has to be read (inputs and weights) and written at least.
    """

    name: str
    kind: str
    ms: float
    share: float
    multiply_adds: int
    moved_bytes: int

    @property
    def giga_multiply_adds_per_second(self) -> float:
        """Billions of multiply-adds a second."""
        return self.multiply_adds / self.ms / 1e6 if self.ms else 0.0

    @property
    def gigabytes_per_second(self) -> float:
        """Billions of bytes moved a second."""
        return self.moved_bytes / self.ms / 1e6 if self.ms else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the two rates."""
        return {
            "name": self.name,
            "kind": self.kind,
            "ms": json_number(self.ms),
            "share": json_number(self.share),
            "multiply_adds": self.multiply_adds,
            "moved_bytes": self.moved_bytes,
            "giga_multiply_adds_per_second": json_number(self.giga_multiply_adds_per_second),
            "gigabytes_per_second": json_number(self.gigabytes_per_second),
        }


def operation_times(
    layout: Plan, ms: Mapping[str, float], precision: Precision, batch: int = 1
) -> tuple[OperationTime, ...]:
    """Put times beside the plan's operations, in its order; what is no operation of the plan comes last.

    An operation that its runtime computes as part of another has no time of its own.
    """
    total = sum(ms.values()) or 1.0
    rows = [
        OperationTime(
            op.name,
            kind_of(op),
            ms.get(op.name, 0.0),
            ms.get(op.name, 0.0) / total,
            batch * multiply_adds(op),
            moved_bytes(op, layout, precision, batch),
        )
        for op in layout.ops
    ]
    known = {op.name for op in layout.ops}
    rows += [OperationTime(name, "runtime's own", ms[name], ms[name] / total, 0, 0) for name in ms if name not in known]
    return tuple(rows)


def by_kind(rows: Iterable[OperationTime]) -> tuple[OperationTime, ...]:
    """Add up operations of the same kind, the slowest kind first."""
    kinds: dict[str, list[OperationTime]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    sums = [
        OperationTime(
            kind,
            kind,
            sum(row.ms for row in each),
            sum(row.share for row in each),
            sum(row.multiply_adds for row in each),
            sum(row.moved_bytes for row in each),
        )
        for kind, each in kinds.items()
    ]
    return tuple(sorted(sums, key=lambda row: -row.ms))


def kind_of(op: Op) -> str:
    """Return what an operation is in its block: expand, depthwise, project, squeeze-excite, ...; else its own name.

    >>> from mobilenets.arch import arch_named, plan
    >>> layout = plan(arch_named("mobilenet_v3_small"))
    >>> kind_of(layout.op("block_1_se_reduce")), kind_of(layout.op("block_2_expand")), kind_of(layout.op("stem"))
    ('squeeze-excite', 'expand', 'stem')
    """
    if not op.block:
        return op.name
    part = op.name.removeprefix(f"{op.block}_")
    return "squeeze-excite" if part.partition("_")[0] == "se" else part


def moved_bytes(op: Op, layout: Plan, precision: Precision, batch: int = 1) -> int:
    """Return the bytes an operation reads and writes if nothing stays in a cache: inputs, weights, outputs."""
    sizes = {"input": prod(layout.input_shape) * BYTES[precision]}
    sizes |= {each.name: activation_bytes(each, precision) for each in layout.ops}
    weights = op.out[0] * (op.source_shape[0] // op.groups) * op.kernel**2 if op.kind in ("conv", "linear") else 0
    return batch * (sum(sizes[name] for name in op.sources) + sizes[op.name]) + weights * BYTES[precision]


HEADER = ("operation", "kind", "ms", "share", "M multiply-adds", "G multiply-adds/s", "MB moved", "GB/s")


def operations_text(rows: Iterable[OperationTime], *, kinds: bool = False) -> str:
    """Lay out operations as a table; of kinds, the name is enough."""
    header = HEADER[1:] if kinds else HEADER
    lines = [[row.name, *_cells(row)] if kinds else [printable(row.name), row.kind, *_cells(row)] for row in rows]
    return table(header, lines, left=1 if kinds else 2)


def _cells(row: OperationTime) -> list[str]:
    work = [f"{row.multiply_adds / 1e6:,.2f}", f"{row.giga_multiply_adds_per_second:,.1f}"] if row.multiply_adds else []
    moved = [f"{row.moved_bytes / 1e6:,.2f}", f"{row.gigabytes_per_second:,.1f}"] if row.moved_bytes else []
    return [f"{row.ms:.4f}", percent(row.share), *(work or ["", ""]), *(moved or ["", ""])]
