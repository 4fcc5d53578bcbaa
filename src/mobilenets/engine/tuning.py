"""The search for tiles: kernels are timed where they run, in the network, because alone they find the caches warm.

Each round gives every kernel other tiles at once, runs the network, and keeps for each shape what was fastest. Kernels
that share a shape share their tiles. Best times can be handed in again, so that a search goes on where another stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.engine.choices import Choice, Timed, choice, shape
from mobilenets.engine.kernels import Convolution, Fused, Kernel, Linear, Pointwise, Tile
from mobilenets.engine.library import Target
from mobilenets.engine.lowering import Network, lower
from mobilenets.engine.program import Program
from mobilenets.engine.schedules import MOST_PIXELS, MOST_VECTORS, Machine, tile_cost

if TYPE_CHECKING:
    from mobilenets.arch import Plan
    from mobilenets.engine.folding import Layer

NEAR = 1.35
"""Tiles are tried that the rule expects to take at most so many times as long as the best."""


def search(
    layout: Plan,
    layers: Mapping[str, Layer],
    target: Target,
    *,
    rounds: int,
    repeats: int = 60,
    known: Mapping[str, Timed] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    report: Callable[[int, dict[str, Timed]], None] | None = None,
) -> dict[str, Timed]:
    """Return the best tiles by shape, of those that were tried.

    Args:
        layout: the network at its size.
        layers: its weights.
        target: this machine.
        rounds: how many networks are compiled and timed; the first has the tiles known already, else the rules'.
        repeats: pictures timed in each round, after a fifth as many that are not.
        known: what another search has found.
        folder: where machine code is kept; None is the cache.
        seed: of the choice of what is tried.
        report: called after each round with its number and the best so far.
    """
    best: dict[str, Timed] = dict(known or {})
    chance = random.Random(seed)  # noqa: S311
    picture = np.random.default_rng(0).normal(size=(1, *layout.input_shape)).astype(np.float32)
    for number in range(rounds):
        choices = {name: found for name, (found, _) in best.items()}
        if number:
            network = lower(layout, layers, target.machine, choices)
            choices |= _others(network, target.machine, chance)
        network = lower(layout, layers, target.machine, choices)
        with closing(Program(network, target, 1, folder)) as program:
            program.step_times(picture, repeats // 5)
            times = np.median(program.step_times(picture, repeats), axis=0) / 1e3
        _keep(network, times, best, again=number == 0)
        if report is not None:
            report(number, best)
    return best


def _keep(network: Network, times: np.ndarray, best: dict[str, Timed], *, again: bool) -> None:
    """Keep what is faster; kernels of one shape count with their mean. `again` forgets older times of the same."""
    found: dict[str, list[float]] = {}
    tiles: dict[str, Choice] = {}
    for call, time in zip(network.calls, times, strict=True):
        if isinstance(call.kernel, Fused | Convolution | Linear | Pointwise):
            name = shape(call.kernel)
            found.setdefault(name, []).append(float(time))
            tiles[name] = choice(call.kernel)
    for name, each in found.items():
        mean = sum(each) / len(each)
        if name not in best or again or mean < best[name][1]:
            best[name] = (tiles[name], mean)


def _others(network: Network, machine: Machine, chance: random.Random) -> dict[str, Choice]:
    """Return other tiles for every shape."""
    found: dict[str, Choice] = {}
    for call in network.calls:
        if isinstance(call.kernel, Fused | Convolution | Linear | Pointwise):
            found[shape(call.kernel)] = other(call.kernel, machine, chance)
    return found


def other(kernel: Kernel, machine: Machine, chance: random.Random) -> Choice:
    """Return tiles that a kernel might be faster with."""
    match kernel:
        case Fused():
            width = kernel.sides[1]
            first = last = None
            if kernel.first is not None:
                first = chance.choice(near(kernel.first.channels, kernel.inner_sides[1], machine))
            if kernel.last is not None:
                last = chance.choice(near(kernel.last.channels, width, machine))
            rows = [count for count in (1, 2, 4) if kernel.last is not None and kernel.sides[0] % count == 0]
            pixels = chance.choice([count for count in range(4, 15) if count <= width] or [width])
            return Choice(first, last, pixels, chance.choice(rows or [1]))
        case Linear():
            vectors = chance.choice([2, 4, 6, 8, 10, 12, 16])
            return Choice(last=Tile(min(vectors, machine.registers // 2) * machine.lanes, 1))
        case Convolution():
            return Choice(last=chance.choice(near(kernel.dense.channels, kernel.sides[1], machine)))
        case Pointwise():
            tiles = near(kernel.dense.channels, kernel.pixels, machine)
            if kernel.mean:
                tiles = [tile for tile in tiles if kernel.pixels % tile.pixels == 0] or [kernel.dense.tile]
            return Choice(last=chance.choice(tiles))
        case _:
            raise TypeError(f"{type(kernel).__name__} has no tiles")


def near(channels: int, pixels: int, machine: Machine) -> list[Tile]:
    """Return the tiles of a convolution that the rule expects to be nearly as fast as the best."""
    costs = {
        Tile(vectors * machine.lanes, count): tile_cost(channels, pixels, vectors, count, machine)
        for vectors in range(1, MOST_VECTORS + 1)
        for count in range(1, min(MOST_PIXELS, pixels) + 1)
    }
    least = min(costs.values())
    return [tile for tile, cost in costs.items() if cost <= NEAR * least]


def random_layers(layout: Plan) -> dict[str, Layer]:
    """Return weights that keep values at their size from layer to layer: speed depends on no others."""
    from mobilenets.engine.folding import Layer

    chance = np.random.default_rng(0)
    layers = {}
    for op in layout.ops:
        if op.kind in ("conv", "linear"):
            sources = op.source_shape[0] // op.groups
            shape_of = (op.out[0], sources) if op.kind == "linear" else (op.out[0], sources, op.kernel, op.kernel)
            weight = chance.normal(size=shape_of) * np.sqrt(2 / (sources * op.kernel**2))
            layers[op.name] = Layer(weight.astype(np.float32), np.zeros(op.out[0], np.float32))
    return layers
