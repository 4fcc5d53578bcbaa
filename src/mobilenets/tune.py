"""The `tune` verb: the engine's tiles searched for on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.errors import InputError
from mobilenets.text import printable, table

if TYPE_CHECKING:
    from mobilenets.engine.choices import Timed


@dataclass(frozen=True)
class TunedKernel:
    """One kernel: what it computes, and microseconds with the tiles it had and with the best that were found."""

    name: str
    before_us: float
    after_us: float

    def to_json(self) -> dict[str, Any]:
        """Return an item of `kernels`."""
        return {"name": self.name, "before_us": round(self.before_us, 1), "after_us": round(self.after_us, 1)}


@dataclass(frozen=True)
class TuneResult:
    """What the search found, and the file that the engine reads it from."""

    model: str
    tiles: Path
    rounds: int
    kernels: tuple[TunedKernel, ...]

    def __str__(self) -> str:
        rows = [[row.name, f"{row.before_us:,.1f}", f"{row.after_us:,.1f}"] for row in self.kernels]
        total = sum(row.before_us for row in self.kernels), sum(row.after_us for row in self.kernels)
        rows.append(["each of them once", f"{total[0]:,.1f}", f"{total[1]:,.1f}"])
        return f"{table(['kernel', 'before, µs', 'after, µs'], rows)}\n\nsaved  {printable(str(self.tiles))}"

    def to_json(self) -> dict[str, Any]:
        """Return every field; the path as text."""
        return {
            "model": self.model,
            "tiles": str(self.tiles),
            "rounds": self.rounds,
            "kernels": [row.to_json() for row in self.kernels],
        }


def tune(
    model: str,
    *,
    resolution: int | tuple[int, int] | None = None,
    width: float = 1.0,
    rounds: int = 12,
    out: Path | None = None,
) -> TuneResult:
    """Search for the tiles that the engine is fastest with on this machine, and keep them.

    Kernels are timed where they run, one after another in the network. Each round compiles the network with other
    tiles, which takes seconds, and keeps for every kernel the fastest; a search that is interrupted or run again goes
    on from there. The engine uses what is found from its next start on.

    Args:
        model: An architecture.
        resolution: Of the pictures; the architecture's by default.
        width: The multiplier of its channel counts.
        rounds: How many networks are compiled and timed.
        out: The file for what is found; by default the one in the cache that the engine reads.

    Returns:
        Each kernel's time before and after.

    Raises:
        InputError: no architecture has that name, or a flag is out of range.
        EngineError: the engine does not run on this machine.
        MissingExtraError: Halide or a linker is not installed.
    """
    from mobilenets.arch import arch_named, plan
    from mobilenets.engine.choices import own_table, read_timed, write_timed
    from mobilenets.engine.library import host
    from mobilenets.engine.tuning import random_layers, search

    if rounds < 1:
        raise InputError(f"--rounds must be 1 or more, not {rounds}")
    layout = plan(arch_named(model), width=width, resolution=resolution)
    target = host()
    path = own_table(target.machine) if out is None else out
    known = read_timed(path)
    first: dict[str, float] = {}
    tried = 0

    def report(number: int, best: dict[str, Timed]) -> None:
        nonlocal tried
        if number == 0:
            first.update({name: time for name, (_, time) in best.items()})
        write_timed(path, {**known, **best})
        tried = number + 1
        _say(tried, rounds, sum(best[name][1] for name in best if name not in known or number))

    layers = random_layers(layout)
    best = search(layout, layers, target, rounds=rounds, known=known, seed=len(known), report=report)
    kernels = tuple(TunedKernel(name, first[name], time) for name, (_, time) in best.items() if name in first)
    return TuneResult(model, path, tried, kernels)


def _say(done: int, rounds: int, microseconds: float) -> None:
    import sys

    sys.stderr.write(f"round {done} of {rounds}: best {microseconds:,.0f} µs\n")
