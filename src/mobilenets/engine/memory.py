"""How much memory a network's activations take: an exact plan of one arena, for three ways to run it.

- "layerwise": one operation after another, each reading and writing whole maps. In place where that is legal: an
  addition over a source that nobody reads again, a scaling likewise, and a depthwise convolution channel by channel
  through the scratch of one channel (maps are (C, H, W) then).
- "fused": one stage after another (see :mod:`mobilenets.engine.stages`). Within a stage only the rows are kept that
  are still needed, or a group of the inner channels at a time (V2 section 5.1), as a `Schedule` says.
- "streamed": across stages too, pixels are computed when what reads them asks for them, nothing twice; see
  :mod:`mobilenets.engine.flow` and, for the few maps that are whole, :mod:`mobilenets.engine.sections`.

Bytes are of activations alone, for one picture, everything that is neither weight nor a register counted. The picture
is the caller's: the arena does not contain it, `Memory.picture_bytes` says its size. (Streamed, it comes row by row,
and the rows that are kept are in the arena.)

Nothing here needs more than the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from mobilenets.arch import Op, Plan, Precision
from mobilenets.arch.cost import BYTES
from mobilenets.engine.arena import Buffer, Placed, arrange, lower_bound, occupied, total
from mobilenets.engine.flow import PIXELS
from mobilenets.engine.sections import SUM_BYTES, Section, section_buffers, sections
from mobilenets.engine.stages import Stage, readers, stages

Mode = Literal["layerwise", "fused", "streamed"]
MODES: tuple[Mode, ...] = ("layerwise", "fused", "streamed")
ALIGN = 4
"""Offsets are multiples of this, because a sum in progress has four bytes."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a fused stage runs.

    `rows` of its output are computed at a time, for which rings hold the rows inside that are still needed; None
    computes whole maps inside. The inner channels come in `groups`, whose projections add up: within a step of rows,
    or, with whole maps, one group after the other from beginning to end. Each of `threads` has rings of its own.
    """

    rows: int | None = 1
    groups: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What is in use while one operation, stage or streamed section runs."""

    name: str
    ops: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """An arena: its size, what lies where, and how much of it each step uses.

    Buffers are called as the operation whose output, or part of it, they hold; sums in progress `NAME.sums`, the
    channel that a depthwise convolution goes through `NAME.channel`, and what a section keeps of how far it is
    `NAME.state`, by its first operation.
    `rings` is how many pixels there are in a streamed operation's buffer, where that is not the whole map.
    """

    mode: Mode
    precision: Precision
    total: int
    placed: tuple[Placed, ...]
    steps: tuple[Step, ...]
    picture_bytes: int
    rings: Mapping[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> Step:
        """The step that uses most."""
        return max(self.steps, key=lambda step: step.bytes)

    def find(self, name: str) -> Placed:
        """Return the buffer called `name`; KeyError if there is none."""
        for each in self.placed:
            if each.buffer.name == name:
                return each
        raise KeyError(name)


def peak(plan: Plan, precision: Precision = "float32", mode: Mode = "layerwise") -> int:
    """Return the bytes of the arena.

    >>> from mobilenets.arch import arch_named, plan
    >>> peak(plan(arch_named("mobilenet_v2")), "int8")
    1404928
    """
    return layout(plan, precision, mode).total


def least(plan: Plan, precision: Precision = "float32") -> int:
    """Return the bytes below which the arena cannot be, layer by layer: mostly what it takes, and quickly told.

    >>> from mobilenets.arch import arch_named, plan
    >>> least(plan(arch_named("mobilenet_v2")), "int8")
    1404928
    """
    return lower_bound(_layerwise(plan, precision), ALIGN)


def layout(
    plan: Plan,
    precision: Precision = "float32",
    mode: Mode = "layerwise",
    *,
    schedule: Schedule | Mapping[str, Schedule] | None = None,
    cut: Sequence[Stage] | None = None,
    pixels: int = PIXELS,
    align: int = ALIGN,
) -> Memory:
    """Plan the arena.

    Args:
        plan: the network at its size.
        precision: of the activations.
        mode: how it runs.
        schedule: "fused": of all stages, or by stage name (a stage without one computes row by row).
        cut: "fused": the stages; None takes :func:`mobilenets.engine.stages.stages`.
        pixels: "streamed": the most that are computed at once.
        align: offsets are multiples of this.
    """
    names: list[tuple[str, tuple[str, ...]]]
    rings: dict[str, int] = {}
    match mode:
        case "layerwise":
            buffers = _layerwise(plan, precision)
            names = [(op.name, (op.name,)) for op in plan.ops]
        case "fused":
            parts = tuple(cut) if cut is not None else stages(plan)
            by_name = schedule if isinstance(schedule, Mapping) else {part.name: schedule for part in parts}
            buffers = _fused(plan, precision, parts, {name: each for name, each in by_name.items() if each})
            names = [(part.name, tuple(op.name for op in part.ops)) for part in parts]
        case "streamed":
            flowing = sections(plan, precision, pixels)
            buffers, rings = section_buffers(plan, precision, flowing, pixels)
            names = [(part.name, tuple(op.name for op in part.ops)) for part in flowing]
    placed = arrange(buffers, align)
    steps = tuple(Step(name, ops, occupied(placed, index)) for index, (name, ops) in enumerate(names))
    picture = prod(plan.input_shape) * BYTES[precision]
    return Memory(mode, precision, total(placed), placed, steps, picture, rings)


def streamed(plan: Plan, precision: Precision, parts: Sequence[Section], align: int = ALIGN) -> Memory:
    """Plan the arena of sections that run one after another, wherever a network was cut."""
    buffers, rings = section_buffers(plan, precision, tuple(parts))
    placed = arrange(buffers, align)
    steps = tuple(
        Step(part.name, tuple(op.name for op in part.ops), occupied(placed, index)) for index, part in enumerate(parts)
    )
    return Memory("streamed", precision, total(placed), placed, steps, prod(plan.input_shape) * BYTES[precision], rings)


def _layerwise(plan: Plan, precision: Precision) -> list[Buffer]:
    """Return every operation's output, alive to its last reader or to the end, and the channel depthwise ones need."""
    index = {op.name: number for number, op in enumerate(plan.ops)}
    last = {name: max(index[op.name] for op in ops) for name, ops in readers(plan).items()}
    buffers = []
    for number, op in enumerate(plan.ops):
        over: tuple[tuple[str, int], ...] = ()
        if op.kind in ("add", "scale") or op.depthwise:
            over = tuple(
                (name, 0)
                for name in dict.fromkeys(op.sources)
                if name != "input" and last[name] == number and _size(plan.op(name), 1) >= _size(op, 1)
            )
        if op.depthwise and over:
            buffers.append(Buffer(f"{op.name}.channel", prod(op.out[1:]) * BYTES[precision], number, number))
        buffers.append(Buffer(op.name, _size(op, BYTES[precision]), number, last.get(op.name, len(plan.ops) - 1), over))
    return buffers


def _size(op: Op, bytes_each: int) -> int:
    return prod(op.out) * bytes_each


def _fused(plan: Plan, precision: Precision, parts: Sequence[Stage], schedules: Mapping[str, Schedule]) -> list[Buffer]:
    """Return what outlives a stage, alive to its last reader or to the end, and what each stage needs inside."""
    index = {op.name: number for number, part in enumerate(parts) for op in part.ops}
    last = {name: max(index[op.name] for op in ops) for name, ops in readers(plan).items()}
    buffers: dict[str, Buffer] = {}
    for number, part in enumerate(parts):
        for name, size in scratch(part, precision, schedules.get(part.name, Schedule())).items():
            buffers[name] = Buffer(name, size, number, number)
        for op in part.ops:
            until = last.get(op.name, len(parts) - 1)  # what nobody reads is what the network returns
            if until > number or op is part.out:  # kept whole, whatever the stage itself would need of it
                buffers[op.name] = Buffer(op.name, _size(op, BYTES[precision]), number, until)
    return list(buffers.values())


def scratch(stage: Stage, precision: Precision, schedule: Schedule) -> dict[str, int]:
    """Return the bytes that a fused stage needs beside its sources and its output, by buffer.

    A projection is added to its shortcut, and a map scaled, as they are written or read. What a squeeze-excite pools
    is a whole map, because all of it is read again. Sums over channel groups that the output's own precision cannot
    hold are int32; sums within one group are registers, except over pixels.
    """
    each = BYTES[precision]
    found: dict[str, int] = {}
    for op in stage.ops:
        if op.kind == "pool":
            found[f"{op.name}.sums"] = op.out[0] * SUM_BYTES * schedule.threads
        then = [other for other in stage.ops if op.name in other.sources]
        if not then or op.kind == "scale" or then[0].kind == "add":
            continue
        rows, channels, copies = op.out[1], op.out[0], schedule.threads
        squeezed = any(other.kind == "scale" for other in then)
        if squeezed:
            copies = 1
        elif schedule.rows is not None:
            rows = min(rows, max(_rows(other, schedule.rows) for other in then))
        rings = schedule.rows is not None and not op.depthwise  # of all groups: each goes on in the next rows
        if not squeezed and not rings and (op.depthwise or then[0].depthwise):
            channels = -(-channels // schedule.groups)
        found[op.name] = channels * rows * op.out[2] * each * copies
    if schedule.groups > 1 and precision == "int8":
        c, height, width = stage.out.out
        rows = height if schedule.rows is None else min(height, schedule.rows)
        found[f"{stage.out.name}.sums"] = c * rows * width * SUM_BYTES * schedule.threads
    return found


def _rows(reader: Op, rows: int) -> int:
    """Return how many rows of a source are needed at once for so many rows of what reads it."""
    return (rows - 1) * reader.stride + reader.kernel


def between_stages(plan: Plan, precision: Precision = "float32") -> dict[int, int]:
    """Return the largest map that leaves a stage, in bytes, by its height in pixels: V2's Table 3.

    The picture and the logits are left out.
    """
    found: dict[int, int] = {}
    for stage in stages(plan)[:-1]:
        height = stage.out.out[1]
        found[height] = max(found.get(height, 0), _size(stage.out, BYTES[precision]))
    return found
