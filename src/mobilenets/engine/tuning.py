"""The search for tiles: kernels are timed where they run, in the network, because alone they find the caches warm.

Each round changes something about the tiles of every kernel at once and runs that network in turns with the one that
has the rules' tiles: a machine that is slow for a while is slow for both. What counts is the quotient of the two.
Kernels that share a shape share their tiles. In the end all that was best runs together, and tiles that are no faster
there are given up. What was found can be handed in again, so that a search goes on where another stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.engine.c_kernels import last_lanes
from mobilenets.engine.choices import AnyTiled, Choice, Timed, choice, shape
from mobilenets.engine.int8_kernels import DIVISORS, Int8Dense, Int8Fused, Int8Layer, tile_costs
from mobilenets.engine.kernels import Convolution, Fused, Linear, Pointwise, Tile
from mobilenets.engine.library import Target
from mobilenets.engine.lowering import INPUT, Network
from mobilenets.engine.program import Program
from mobilenets.engine.schedules import MOST_VECTORS, Machine, tile_cost

if TYPE_CHECKING:
    from numpy.typing import NDArray


NEAR = 1.35
"""Tiles are tried that the rule expects to take at most so many times as long as the best."""
WORTH = 0.99
"""Tiles are kept that take at most this share of the time of the rules'."""
MOST_BETWEEN = 1 << 18  # bytes between two convolutions
LINEAR = (2, 4, 6, 8, 10, 12, 16)  # vectors that are summed up at once, of a layer without pixels
TURN = 5  # pictures of one network, before it is the other one's turn

Lowered = Callable[[Mapping[str, Choice]], Network]
"""A network with tiles by shape; other shapes follow the rules."""


def search(
    lowered: Lowered,
    target: Target,
    *,
    rounds: int,
    repeats: int = 60,
    known: Mapping[str, Timed] | None = None,
    folder: Path | None = None,
    seed: int = 0,
    report: Callable[[int, dict[str, Timed]], None] | None = None,
) -> tuple[dict[str, float], dict[str, Timed]]:
    """Return the microseconds of the rules' tiles by shape, and the best tiles of those that were tried.

    Args:
        lowered: the network.
        target: this machine.
        rounds: how many networks with other tiles are compiled and timed.
        repeats: pictures timed in each round, after a fifth as many that are not.
        known: what another search has found.
        folder: where machine code is kept; None is the cache.
        seed: of the choice of what is tried.
        report: called after each round with its number, from 0 on, and the best so far.
    """
    ruled = lowered({})
    shares = dict.fromkeys(tiled(ruled), 1.0)
    tiles = {name: each for name, (each, _) in (known or {}).items() if name in shares}
    chance = random.Random(seed)  # noqa: S311
    with closing(Program(ruled, target, 1, folder)) as base:
        own = step_times([base], [ruled], repeats)[0]
        shares |= {name: known[name][1] / own[name] for name in tiles if known}
        for number in range(rounds):
            network = lowered({**tiles, **others(lowered(tiles), target.machine, chance)})
            there = tiled(network)
            for name, share in compared(base, ruled, network, target, repeats, folder).items():
                if name in there and share < shares[name]:
                    shares[name], tiles[name] = share, there[name]
            if report is not None:
                report(number, _timed(ruled, own, tiles, shares))
        together = compared(base, ruled, lowered(tiles), target, 2 * repeats, folder)
        tiles = {name: each for name, each in tiles.items() if together.get(name, 1.0) <= WORTH}
    return own, _timed(ruled, own, tiles, {name: together[name] if name in tiles else 1.0 for name in shares})


def compared(
    base: Program, ruled: Network, network: Network, target: Target, repeats: int, folder: Path | None
) -> dict[str, float]:
    """Return the times of a network's kernels as shares of those of the one with the rules' tiles, by shape.

    A shape may be missing: how a kernel is cut says how many channels the next one finds.
    """
    with closing(Program(network, target, 1, folder)) as program:
        before, after = step_times([base, program], [ruled, network], repeats)
    return {name: after[name] / before[name] for name in before if name in after}


def step_times(programs: list[Program], networks: list[Network], repeats: int) -> list[dict[str, float]]:
    """Return for each of some programs, in turns, the median microseconds of its kernels by shape, summed up."""
    picture = np.random.default_rng(0).normal(size=(1, networks[0].sizes[INPUT])).astype(np.float32)
    times: list[list[NDArray[np.uint64]]] = [[] for _ in programs]
    turns = -(-repeats // TURN)
    for turn in range(-(turns // 5), turns):
        for at in range(len(programs)) if turn % 2 else reversed(range(len(programs))):
            taken = programs[at].step_times(picture, TURN)
            times[at] += [taken] if turn >= 0 else []
    every = []
    for network, found in zip(networks, times, strict=True):
        medians = np.median(np.concatenate(found), axis=0) / 1e3
        sums: dict[str, float] = {}
        for call, time in zip(network.calls, medians, strict=True):
            if isinstance(call.kernel, AnyTiled):
                sums[shape(call.kernel)] = sums.get(shape(call.kernel), 0.0) + float(time)
        every.append(sums)
    return every


def tiled(network: Network) -> dict[str, Choice]:
    """Return the tiles that a network has, by shape."""
    return {shape(call.kernel): choice(call.kernel) for call in network.calls if isinstance(call.kernel, AnyTiled)}


def _timed(
    ruled: Network, own: Mapping[str, float], tiles: Mapping[str, Choice], shares: Mapping[str, float]
) -> dict[str, Timed]:
    """Return the best tiles; where nothing was faster than the rules', those."""
    return {name: (tiles.get(name, each), shares[name] * own[name]) for name, each in tiled(ruled).items()}


def others(network: Network, machine: Machine, chance: random.Random) -> dict[str, Choice]:
    """Return other tiles for every shape of a network."""
    return {
        shape(call.kernel): other(call.kernel, machine, chance)
        for call in network.calls
        if isinstance(call.kernel, AnyTiled)
    }


def other(kernel: AnyTiled, machine: Machine, chance: random.Random) -> Choice:
    """Return the tiles of a kernel with one thing changed: one convolution's, the depthwise one's pixels, or the rows.

    They are what it has where there is nothing to choose.
    """
    now = choice(kernel)
    changed = [
        [replace(now, first=tile) for tile in first_tiles(kernel, machine) if tile != now.first],
        [replace(now, last=tile) for tile in last_tiles(kernel, machine) if tile != now.last],
        [replace(now, pixels=count) for count in pixel_counts(kernel) if count != now.pixels],
        [replace(now, rows=count) for count in row_counts(kernel) if count != now.rows],
    ]
    return chance.choice(chance.choice([each for each in changed if each] or [[now]]))


def first_tiles(kernel: AnyTiled, machine: Machine) -> list[Tile]:
    """Return what may be fast for the convolution in front of a depthwise one."""
    if isinstance(kernel, Fused) and kernel.first is not None:
        return near(kernel.first.channels, kernel.inner_sides[1], machine)
    if isinstance(kernel, Int8Fused) and kernel.first is not None:
        return near_int8(kernel.first, kernel.width, machine, DIVISORS)
    return []


def last_tiles(kernel: AnyTiled, machine: Machine) -> list[Tile]:
    """Return what may be fast for the convolution behind a depthwise one, or the only one."""
    match kernel:
        case Fused():
            lanes = replace(machine, lanes=last_lanes(kernel, machine))
            return [] if kernel.last is None else near(kernel.last.channels, kernel.sides[1], lanes)
        case Linear():
            return [Tile(count * machine.lanes, 1) for count in LINEAR if count <= machine.registers // 2]
        case Convolution():
            return near(kernel.dense.channels, kernel.sides[1], machine)
        case Pointwise():
            tiles = near(kernel.dense.channels, kernel.pixels, machine)
            return [tile for tile in tiles if not kernel.mean or kernel.pixels % tile.pixels == 0]
        case Int8Fused():
            return [] if kernel.last is None else near_int8(kernel.last, kernel.rows * kernel.sides[1], machine)
        case Int8Dense():
            return near_int8(kernel.layer, kernel.width, machine)


def pixel_counts(kernel: AnyTiled) -> list[int]:
    """Return how many pixels of a row a depthwise convolution may compute at once."""
    if not isinstance(kernel, Fused | Int8Fused):
        return []
    most = 7 if isinstance(kernel, Int8Fused) and kernel.packed else 15
    return [count for count in range(3, most + 1) if count <= kernel.sides[1]]


def row_counts(kernel: AnyTiled) -> list[int]:
    """Return how many rows of a depthwise convolution may be there before the last convolution reads them."""
    if not isinstance(kernel, Fused | Int8Fused) or kernel.last is None:
        return []
    height, width = kernel.sides
    if isinstance(kernel, Fused):
        fitting = (rows for rows in range(1, height) if height % rows == 0)
        return [rows for rows in fitting if 4 * rows * width * kernel.inner <= MOST_BETWEEN]
    row = width * kernel.inner * kernel.lanes
    return [rows for rows in range(1, height + 1) if rows * row <= MOST_BETWEEN]


def near(channels: int, pixels: int, machine: Machine) -> list[Tile]:
    """Return the tiles of a convolution that the rule expects to be nearly as fast as the best."""
    costs = {
        Tile(vectors * machine.lanes, count): tile_cost(channels, pixels, vectors, count, machine)
        for vectors in range(1, MOST_VECTORS + 1)
        for count in range(1, min(machine.registers, pixels) + 1)
    }
    least = min(costs.values())
    return [tile for tile, cost in costs.items() if cost <= NEAR * least]


def near_int8(layer: Int8Layer, pixels: int, machine: Machine, most: tuple[int, ...] | None = None) -> list[Tile]:
    """Return the same for an int8 layer; `most` are the numbers of vectors to choose from."""
    costs = tile_costs(layer.vectors, pixels, machine, most)
    least = min(costs.values())
    return [Tile(count * machine.lanes, length) for (count, length), cost in costs.items() if cost <= NEAR * least]
