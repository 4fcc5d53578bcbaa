"""The memory that a network's activations take in three ways to run it, as `show --memory` says it.

What the engine allocates on this machine stands beside: kernels that are fast there need more than fused blocks must.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.arch import Plan, Precision
from mobilenets.engine.memory import MODES, Memory, Mode, layout
from mobilenets.engine.stages import stages
from mobilenets.errors import InputError, MobileNetsError
from mobilenets.text import printable

if TYPE_CHECKING:
    from mobilenets.engine.allocation import Allocation

NAMES: dict[Mode, str] = {"layerwise": "layer by layer", "fused": "fused blocks", "streamed": "streamed"}
_WHAT: dict[Mode, str] = {
    "layerwise": "whole maps between operations, in place where that is legal",
    "fused": "whole maps between blocks, a few rows inside",
    "streamed": "pixels when they are asked for, nothing twice; the picture comes row by row",
}
BAR = 24  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class MemoryUse:
    """What each way to run a plan needs, and the picture of it where one was asked for.

    Bytes are of activations, for one picture; the picture itself is the caller's.
    """

    plan: Plan
    precision: Precision
    picture: Path | None = None

    @cached_property
    def layouts(self) -> dict[Mode, Memory]:
        """The planned arenas."""
        return {mode: layout(self.plan, self.precision, mode) for mode in MODES}

    @cached_property
    def engine(self) -> Allocation | None:
        """What the engine allocates on this machine; None where it has no kernels for it or for the precision."""
        from mobilenets.engine.target import host

        if self.precision not in ("float32", "int8"):
            return None
        try:
            machine = host().machine
        except MobileNetsError:
            return None
        from mobilenets.engine.allocation import allocation

        return allocation(self.plan, self.precision, machine)

    @cached_property
    def blocks(self) -> dict[str, dict[Mode, int]]:
        """For each block, the bytes in use while it runs; of a streamed one, by all that runs together with it."""
        found: dict[str, dict[Mode, int]] = {}
        in_use = {
            mode: {op: step.bytes for step in memory.steps for op in step.ops} for mode, memory in self.layouts.items()
        }
        for stage in stages(self.plan):
            found[stage.name] = {mode: max(in_use[mode][op.name] for op in stage.ops) for mode in MODES}
        return found

    def __str__(self) -> str:
        picture = self.layouts["layerwise"].picture_bytes
        lines = [f"memory of {self.precision} activations in bytes, beside the picture's {picture:,}"]
        totals = [
            [NAMES[mode], f"{memory.total:,}", f"at {memory.peak.name}", f"{memory.total / 1024:,.0f} KiB", _WHAT[mode]]
            for mode, memory in self.layouts.items()
        ]
        lines.append(_aligned(["", "most", "", "", ""], totals))
        if self.engine is not None:
            one, more = self.engine.bytes(1), self.engine.bytes(3) - self.engine.bytes(2)
            lines.append(f"the engine allocates {one:,} here with one thread, and {more:,} for each further one")
        most = max(size for by in self.blocks.values() for size in by.values())
        rows = [
            [name, *(cell for mode in MODES for cell in (f"{by[mode]:,}", bar(by[mode] / most)))]
            for name, by in self.blocks.items()
        ]
        header = ["block", *(cell for mode in MODES for cell in (NAMES[mode], ""))]
        lines.append(_aligned(header, rows))
        if self.picture is not None:
            lines.append(f"drawn: {printable(str(self.picture))}")
        return "\n\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the totals by way to run, the engine's arena and scratch memory, and each block's bytes in use."""
        return {
            **{mode: memory.total for mode, memory in self.layouts.items()},
            "engine": None if self.engine is None else {**asdict(self.engine), "bytes": self.engine.bytes(1)},
            "precision": self.precision,
            "picture_bytes": self.layouts["layerwise"].picture_bytes,
            "blocks": [{"name": name, **by} for name, by in self.blocks.items()],
            "sections": [
                {"name": step.name, "ops": list(step.ops), "bytes": step.bytes}
                for step in self.layouts["streamed"].steps
            ],
            "picture": None if self.picture is None else str(self.picture),
        }


def bar(share: float) -> str:
    """Draw a share, 0..1, as a bar of characters, an eighth of one being the smallest step.

    >>> bar(1 / 48)
    '▌'
    """
    eighths = max(1, round(share * BAR * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    """Write a table whose columns are aligned left and right in turns: text, number, bar, number, bar."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = []
    for line in [header, *rows]:
        cells = [
            cell.rjust(width) if column % 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def memory_use(plan: Plan, precision: Precision, title: str, out: Path | None) -> MemoryUse:
    """Plan the three ways; draw them into `out` where that is given.

    Args:
        plan: the network.
        precision: of the activations.
        title: of the drawing.
        out: a .png, or a folder for memory.png.

    Raises:
        InputError: `out` is neither.
        MissingExtraError: matplotlib is not installed.
    """
    if out is None:
        return MemoryUse(plan, precision)
    from mobilenets.draw.memory import draw_memory
    from mobilenets.files import write_atomically

    path = out.expanduser()
    if path.is_dir() or not path.suffix:
        path /= "memory.png"
    if path.suffix.lower() != ".png":
        raise InputError(f"--out {out}: the drawing is a .png: name it so, or a folder for memory.png")
    use = MemoryUse(plan, precision, path)
    sizes = {NAMES[mode]: [by[mode] for by in use.blocks.values()] for mode in MODES}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, draw_memory(title, list(use.blocks), sizes))
    return use
