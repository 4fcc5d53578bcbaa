"""The space of a search: for each stage kernel, expansion, depth, width, squeeze-excite and activation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mobilenets.arch import Arch, Plan, plan
from mobilenets.arch.mobilenet import (
    Activation,
    Bneck,
    Classifier,
    Conv,
    Pool,
    Row,
    SqueezeExcite,
)
from mobilenets.errors import InputError

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 4, 6)
WIDTHS = (0.5, 0.75, 1.0)
SEARCHED = "searched"
_DIVISOR = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """The largest form of a stage: its channels, depth and stride, and the activation of the network it is of."""

    c: int
    depth: int
    stride: int
    activation: Activation
    expands: bool  # the first stage of V2 and its kin does not


@dataclass(frozen=True, slots=True)
class StageChoice:
    """What a candidate has in a stage."""

    kernel: int
    expansion: int
    depth: int
    width: float
    se: bool
    activation: Activation


Choices = tuple[StageChoice, ...]


@dataclass(frozen=True)
class Space:
    """Stages between a stem and a head; every choice is a network whose weights are parts of the largest one's."""

    base: Arch
    stem: Conv
    stages: tuple[Stage, ...]
    head: Conv
    resolution: tuple[int, int]
    classes: int
    in_channels: int

    @property
    def largest(self) -> Choices:
        """Everything at its most."""
        return tuple(
            StageChoice(max(KERNELS), max(EXPANSIONS), each.depth, 1.0, True, "hard_swish") for each in self.stages
        )

    @property
    def smallest(self) -> Choices:
        """Everything at its least."""
        return tuple(
            StageChoice(min(KERNELS), min(EXPANSIONS), 1, min(WIDTHS), False, each.activation) for each in self.stages
        )

    def draw(self, draw: random.Random) -> Choices:
        """Return a random network."""
        return tuple(
            StageChoice(
                draw.choice(KERNELS),
                draw.choice(EXPANSIONS),
                draw.randint(1, each.depth),
                draw.choice(WIDTHS),
                draw.random() < 0.5,
                draw.choice((each.activation, "hard_swish")),
            )
            for each in self.stages
        )

    def arch(self, choices: Choices) -> Arch:
        """Return a network's table: a row for each block, in absolute numbers."""
        rows: list[Row] = [self.stem]
        before = self.stem.c
        for stage, choice in zip(self.stages, choices, strict=True):
            c = width_of(stage, choice)
            for repeat in range(choice.depth):
                inner = before * choice.expansion if stage.expands else None
                stride = stage.stride if repeat == 0 else 1
                rows.append(Bneck(choice.kernel, inner or before, c, choice.se, choice.activation, stride, inner=inner))
                before = c
        rows += [self.head, Pool(), Classifier()]
        return replace(
            self.base,
            name=f"{self.base.name.removesuffix(f'_{SEARCHED}')}_{SEARCHED}",
            rows=tuple(rows),
            base_width=1.0,
            divisor=1,
            expansion=None,
            se=SqueezeExcite(divisor=_DIVISOR),
        )

    def layout(self, choices: Choices) -> Plan:
        """Return a network's operations."""
        return plan(self.arch(choices), resolution=self.resolution, classes=self.classes, in_channels=self.in_channels)

    def blocks(self, choices: Choices) -> Iterator[tuple[int, int]]:
        """Yield (stage, repeat) of every block, in the order of the plan's."""
        for index, choice in enumerate(choices):
            for repeat in range(choice.depth):
                yield index, repeat


def width_of(stage: Stage, choice: StageChoice) -> int:
    """Return a stage's output channels, a multiple of 8 that is no wider than the stage."""
    narrower = max(_DIVISOR, int(stage.c * choice.width) // _DIVISOR * _DIVISOR)
    return stage.c if choice.width == 1 else min(stage.c, narrower)


def space_of(layout: Plan) -> Space:
    """Return the space around a network of inverted residuals: its stages are the largest there are.

    Raises:
        InputError: a network of other blocks, or none.
    """
    stages: list[Stage] = []
    for block in dict.fromkeys(op.block for op in layout.ops if op.block):
        ops = {op.name.removeprefix(f"{block}_"): op for op in layout.ops if op.block == block}
        if "project" not in ops:
            raise InputError(
                f"{layout.arch.name}: a search needs blocks that expand and project, as V2 and V3 have them"
            )
        c, stride, acts = ops["project"].out[0], ops["depthwise"].stride, ops["depthwise"].activation
        expands = "expand" in ops
        known = stages[-1] if stages else None
        activation: Activation = acts or layout.arch.activation
        if known is not None and stride == 1 and c == known.c and expands == known.expands:
            stages[-1] = replace(known, depth=known.depth + 1)
        else:
            stages.append(Stage(c, 1, stride, activation, expands))
    convolutions = [op for op in layout.ops if not op.block and op.kind == "conv"]
    if len(convolutions) != 2 or not stages:
        raise InputError(f"{layout.arch.name}: a search needs a stem, blocks, and one convolution behind them")
    stem, head = convolutions
    fixed = {"widening": "fixed"}
    return Space(
        base=layout.arch,
        stem=Conv(stem.out[0], stem.stride, stem.kernel, stem.activation, **fixed),  # type: ignore[arg-type]
        stages=tuple(stages),
        head=Conv(head.out[0], head.stride, head.kernel, head.activation, **fixed),  # type: ignore[arg-type]
        resolution=layout.resolution,
        classes=layout.classes,
        in_channels=layout.in_channels,
    )


def choices_to_json(choices: Choices) -> list[dict[str, Any]]:
    """Return what :func:`choices_from_json` reads."""
    return [{name: getattr(each, name) for name in StageChoice.__slots__} for each in choices]


def choices_from_json(data: list[dict[str, Any]]) -> Choices:
    """Return the choices that :func:`choices_to_json` wrote."""
    return tuple(StageChoice(**each) for each in data)
