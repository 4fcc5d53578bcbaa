"""Networks to measure, so that the cost of any block can be told: published ones, searched ones, narrowed ones.

A table built of published networks alone would know few kernels and no odd number of channels; one of random networks
alone would be off on those that people use. So a third of the probes is of each kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from mobilenets.arch import ARCHITECTURES, Arch, Plan, plan
from mobilenets.arch.mobilenet import (
    MOBILENET_V2,
    Activation,
    Bneck,
    Classifier,
    Conv,
    InvertedResidual,
    Pool,
    Row,
)

WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
"""Those that TF-slim published."""
SIDES = (96, 128, 160, 192, 224)
"""Pixels; those that TF-slim published."""
KERNELS, EXPANSIONS = (3, 5, 7), (3, 4, 6)
_STAGES = ((16, 1), (24, 2), (40, 2), (80, 2), (112, 1), (160, 2), (320, 1))  # channels and stride, as MnasNet's
_DIVISOR = 8


def published_architectures() -> tuple[Arch, ...]:
    """Return the classifiers for photographs whose tables have a size of 224 pixels."""
    return tuple(
        arch
        for arch in ARCHITECTURES.values()
        if isinstance(arch.rows[-1], Classifier) and arch.resolution == MOBILENET_V2.resolution and arch.classes > 10
    )


def probes(seed: int = 0, sides: tuple[int, ...] = SIDES) -> Iterator[Plan]:
    """Yield networks without end; the same ones in the same order for a seed."""
    architectures = published_architectures()
    for index in count():
        draw = random.Random(f"{seed} {index}")  # noqa: S311 - a sample, no secret
        side = draw.choice(sides)
        match index % 3:
            case 0:
                yield plan(draw.choice(architectures), width=draw.choice(WIDTHS), resolution=side)
            case 1:
                yield plan(searched(draw), resolution=side)
            case _:
                yield plan(narrowed(draw), resolution=side)


def searched(draw: random.Random) -> Arch:
    """Return a network as a search might try it: kernel, expansion, depth, width and gates differ by stage."""
    width = draw.choice((0.35, 0.5, 0.75, 1.0, 1.3))
    relu: Activation = draw.choice(("relu", "relu6"))
    late: Activation = draw.choice((relu, "hard_swish"))
    before = draw.choice((8, 16, 24, 32))
    rows: list[Row] = [Conv(c=before, s=2, activation=late)]
    for stage, (channels, stride) in enumerate(_STAGES):
        c = _rounded(channels * width * draw.uniform(0.7, 1.3))
        ends = stage in (0, len(_STAGES) - 1)
        expansion, kernel, se = draw.choice(EXPANSIONS), draw.choice(KERNELS), draw.random() < 0.3
        for repeat in range(1 if ends else draw.choice((1, 2, 3, 4))):
            inner = None if stage == 0 else expansion * before
            nl = late if stage > 2 else relu
            rows.append(Bneck(kernel, inner or before, c, se, nl, stride if repeat == 0 else 1, inner=inner))
            before = c
    rows += [Conv(c=draw.choice((640, 960, 1280)), kernel=1, widening="fixed"), Pool(), Classifier()]
    return replace(MOBILENET_V2, name="probe_searched", rows=tuple(rows), activation=relu)


def narrowed(draw: random.Random) -> Arch:
    """Return V2 with every block narrowed by itself, as adapting to a budget leaves it."""
    rows: list[Row] = [Conv(c=draw.choice((8, 16, 24, 32)), s=2)]
    before = 16
    for row in MOBILENET_V2.rows[1:-3]:
        assert isinstance(row, InvertedResidual)
        c = _rounded(row.c * draw.uniform(0.4, 1.0))
        for repeat in range(row.n):
            inner = None if row.t == 1 else _rounded(row.t * before * draw.uniform(0.3, 1.0))
            rows.append(replace(row, c=c, n=1, s=row.s if repeat == 0 else 1, inner=inner))
            before = c
    rows += [Conv(c=_rounded(draw.uniform(640, 1280)), kernel=1, widening="fixed"), Pool(), Classifier()]
    return replace(MOBILENET_V2, name="probe_narrowed", rows=tuple(rows))


def like(layout: Plan, number: int, seed: int = 0) -> list[Plan]:
    """Return networks with a given one's blocks, each narrowed by itself: what adapting it will ask about."""
    from mobilenets.compress.narrow import groups, with_channels

    found = []
    for index in range(number):
        draw = random.Random(f"{seed} {index}")  # noqa: S311 - a sample, no secret
        least = draw.uniform(0.25, 0.9)
        counts: dict[str, int] = {}
        for group in groups(layout):
            left = min(group.channels, _rounded(group.channels * draw.uniform(least, 1.0)))
            counts |= dict.fromkeys(group.members, left)
        arch = with_channels(layout, counts)
        found.append(plan(arch, resolution=layout.resolution, classes=layout.classes, in_channels=layout.in_channels))
    return found


def _rounded(channels: float) -> int:
    return max(_DIVISOR, int(channels) // _DIVISOR * _DIVISOR)
