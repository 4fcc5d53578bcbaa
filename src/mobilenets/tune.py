"""The `tune` verb: the engine's tiles searched for on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any

from mobilenets.errors import InputError
from mobilenets.text import printable, table

if TYPE_CHECKING:
    from mobilenets.engine.choices import Timed
    from mobilenets.engine.schedules import Machine
    from mobilenets.engine.tuning import Lowered


@dataclass(frozen=True)
class TunedKernel:
    """Kernels of one shape: what they compute, and their microseconds with the rules' tiles and the best."""

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
    precision: str
    tiles: Path
    rounds: int
    kernels: tuple[TunedKernel, ...]

    def __str__(self) -> str:
        rows = [[row.name, f"{row.before_us:,.1f}", f"{row.after_us:,.1f}"] for row in self.kernels]
        total = sum(row.before_us for row in self.kernels), sum(row.after_us for row in self.kernels)
        rows.append(["together", f"{total[0]:,.1f}", f"{total[1]:,.1f}"])
        return f"{table(['kernel', 'rules, µs', 'tuned, µs'], rows)}\n\nsaved  {printable(str(self.tiles))}"

    def to_json(self) -> dict[str, Any]:
        """Return every field; the path as text."""
        return {
            "model": self.model,
            "precision": self.precision,
            "tiles": str(self.tiles),
            "rounds": self.rounds,
            "kernels": [row.to_json() for row in self.kernels],
        }


def tune(
    model: str,
    *,
    resolution: int | tuple[int, int] | None = None,
    width: float = 1.0,
    precision: str = "float32",
    rounds: int = 12,
    out: Path | None = None,
) -> TuneResult:
    """Search for the tiles that the engine is fastest with on this machine, and keep them.

    Kernels are timed where they run, one after another in the network, in turns with a network that has the tiles that
    follow from the rules. Each round compiles the network with other tiles, which takes seconds, and keeps for every
    kernel the fastest; a search that is interrupted or run again goes on from there. In the end all that was found runs
    together, and what is no faster there is given up. The engine uses what is left from its next start on.

    Args:
        model: An architecture.
        resolution: Of the pictures; the architecture's by default.
        width: The multiplier of its channel counts.
        precision: float32 or int8.
        rounds: How many networks are compiled and timed.
        out: The file for what is found; by default the one in the cache that the engine reads.

    Returns:
        Each kernel's time before and after.

    Raises:
        InputError: no architecture has that name, or a flag is out of range.
        EngineError: the engine does not run on this machine.
        MissingExtraError: Halide or a linker is not installed.
    """
    from mobilenets.engine.choices import own_table, read_timed, write_timed
    from mobilenets.engine.library import host
    from mobilenets.engine.tuning import search

    if rounds < 1:
        raise InputError(f"--rounds must be 1 or more, not {rounds}")
    target = host()
    network = _network(model, width, resolution, precision, target.machine)
    path = own_table(target.machine) if out is None else out
    known = read_timed(path)

    def report(number: int, best: dict[str, Timed]) -> None:
        write_timed(path, {**known, **best})
        _say(number + 1, rounds, sum(time for _, time in best.values()))

    before, best = search(network, target, rounds=rounds, known=known, seed=time_ns(), report=report)
    write_timed(path, {**known, **best})
    kernels = tuple(TunedKernel(name, before[name], time) for name, (_, time) in best.items())
    return TuneResult(model, precision, path, rounds, kernels)


def _network(
    model: str, width: float, resolution: int | tuple[int, int] | None, precision: str, machine: Machine
) -> Lowered:
    """Return the network as tiles make it, with random weights: speed does not depend on them."""
    from mobilenets.arch import arch_named, plan
    from mobilenets.bench.synthetic import quick_int8, random_checkpoint
    from mobilenets.engine.folding import folded
    from mobilenets.engine.int8_lowering import lower_int8
    from mobilenets.engine.lowering import lower

    layout = plan(arch_named(model), width=width, resolution=resolution)
    checkpoint = random_checkpoint(layout)
    match precision:
        case "float32":
            layers = folded(checkpoint)
            return lambda choices: lower(layout, layers, machine, choices)
        case "int8":
            quantized = quick_int8(checkpoint)
            return lambda choices: lower_int8(layout, quantized, machine, choices)
        case _:
            raise InputError(f"--precision is float32 or int8, not {precision!r}")


def _say(done: int, rounds: int, microseconds: float) -> None:
    import sys

    sys.stderr.write(f"round {done} of {rounds}: best {microseconds:,.0f} µs\n")
