"""Where a streamed network is cut: the few maps that are kept whole because that takes less than the rings behind them.

Within a section everything is one flow (:mod:`mobilenets.engine.flow`). Between two sections whole maps wait. The cuts
are those whose worst section needs least, of all ways to cut between stages or behind a pooling; among equals the
fewest. A map that leaves may be written over one that comes in, as far behind the reading as was seen in the flow.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Literal

from mobilenets.arch import Op, Plan, Precision
from mobilenets.arch.cost import BYTES
from mobilenets.engine.arena import Buffer
from mobilenets.engine.flow import PIXELS, Flow, rings_of
from mobilenets.engine.stages import readers, stages

SUM_BYTES = 4
"""Of a sum in progress: int32, or float32."""
STATE_BYTES = 8
"""For each operation of a section: how far it is, and its place among those that wait."""


@dataclass(frozen=True)
class Section:
    """Operations that flow together, and the maps that come and go.

    `arriving` are whole maps of earlier sections that are read here, `ending` those of them that nobody reads later,
    `leaving` whole maps that are made here.
    """

    name: str
    ops: tuple[Op, ...]
    arriving: tuple[str, ...]
    ending: tuple[str, ...]
    leaving: tuple[str, ...]

    def flow(self, plan: Plan, pixels: int = PIXELS) -> Flow:
        """Return a walk that has not begun."""
        return Flow(self.ops, plan.input_shape, frozenset(self.leaving), frozenset(self.ending), pixels)

    @property
    def streams_picture(self) -> bool:
        """Whether the picture is read here, row by row."""
        return any("input" in op.sources for op in self.ops)


@dataclass(frozen=True)
class Cutter:
    """What choosing the cuts needs to know of a plan."""

    plan: Plan
    precision: Precision
    pixels: int = PIXELS

    @cached_property
    def index(self) -> dict[str, int]:
        """Every operation's place."""
        return {op.name: number for number, op in enumerate(self.plan.ops)}

    @cached_property
    def last_use(self) -> dict[str, int]:
        """The place of the last reader; behind all for what nobody reads, because the network returns it."""
        end = len(self.plan.ops)
        found = {name: max(self.index[op.name] for op in by) for name, by in readers(self.plan).items()}
        return {**dict.fromkeys(self.index, end), **found}

    @cached_property
    def rings(self) -> dict[str, int]:
        """Bytes of every ring where nothing is cut."""
        pixels = rings_of(self.plan.ops, self.plan.input_shape, self.pixels)
        return {name: count * self.channels(name) * BYTES[self.precision] for name, count in pixels.items()}

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where a cut may be: between stages, and behind a pooling inside."""
        behind = {0}
        for stage in stages(self.plan):
            behind.add(self.index[stage.out.name] + 1)
            behind |= {self.index[op.name] + 1 for op in stage.ops if op.kind == "pool"}
        return tuple(sorted(behind))

    def channels(self, name: str) -> int:
        """Return the channels of an operation's output or of the picture."""
        return self.plan.in_channels if name == "input" else self.plan.ops[self.index[name]].out[0]

    def size(self, name: str) -> int:
        """Return the bytes of a whole map."""
        return prod(self.plan.ops[self.index[name]].out) * BYTES[self.precision]

    def section(self, begin: int, end: int) -> Section:
        """Return the section of the operations from place `begin` up to `end`."""
        ops = self.plan.ops[begin:end]
        read = dict.fromkeys(name for op in ops for name in op.sources if name != "input")
        arriving = tuple(name for name in read if self.index[name] < begin)
        ending = tuple(name for name in arriving if self.last_use[name] < end)
        leaving = tuple(op.name for op in ops if self.last_use[op.name] >= end)
        first, last = (op.block or op.name for op in (ops[0], ops[-1]))
        return Section(first if first == last else f"{first}..{last}", ops, arriving, ending, leaving)

    def bytes(self, begin: int, end: int) -> tuple[int, int]:
        """Return what a section needs, and what it would if all that may be written over others cost nothing."""
        here = self.section(begin, end)
        through = [name for name, at in self.index.items() if at < begin <= self.last_use[name]]
        need = sum(self.size(name) for name in (*through, *here.leaving)) + STATE_BYTES * len(here.ops)
        need += sum(op.out[0] * SUM_BYTES for op in here.ops if op.kind == "pool")
        need += sum(self.rings[op.name] for op in here.ops if op.name not in here.leaving)
        need += self.rings["input"] if here.streams_picture else 0
        ending, leaving = (sum(map(self.size, names)) for names in (here.ending, here.leaving))
        return need, need - min(ending, leaving)

    def overlapped(self, begin: int, end: int) -> int:
        """Return what a section needs with what leaves written over what comes, where the flow allows it."""
        here = self.section(begin, end)
        flow = here.flow(self.plan, self.pixels)
        flow.run()
        saved = 0
        for (over, under), lead in flow.leads.items():
            size, other = self.size(over), self.size(under)
            saved = max(saved, size + other - max(size, other + lead * BYTES[self.precision]))
        return self.bytes(begin, end)[0] - saved

    def cuts(self) -> tuple[int, ...]:
        """Return the places of the best cuts, from 0 to the number of operations.

        How far maps may overlap is found by walking, so that is done only for sections that would be chosen if they
        overlapped as far as can be, until those that are chosen have all been walked.
        """
        pairs = [(begin, end) for number, end in enumerate(self.places) for begin in self.places[:number]]
        found = {pair: self.bytes(*pair) for pair in pairs}
        needs = {pair: least for pair, (_, least) in found.items()}
        known = {pair for pair, (need, least) in found.items() if need == least}
        while True:
            cuts = self._best(needs)
            unknown = [pair for pair in itertools.pairwise(cuts) if pair not in known]
            if not unknown:
                return cuts
            needs |= {pair: self.overlapped(*pair) for pair in unknown}
            known |= set(unknown)

    def _best(self, needs: dict[tuple[int, int], int]) -> tuple[int, ...]:
        best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
        for end in self.places[1:]:
            ways = [
                (max(best[begin][0], needs[begin, end]), best[begin][1] + 1, (*best[begin][2], end))
                for begin in self.places
                if begin < end and begin in best
            ]
            best[end] = min(ways)
        return best[len(self.plan.ops)][2]


@lru_cache(maxsize=256)
def sections(plan: Plan, precision: Precision = "int8", pixels: int = PIXELS) -> tuple[Section, ...]:
    """Cut a plan so that streaming it takes the least memory."""
    cutter = Cutter(plan, precision, pixels)
    cuts = cutter.cuts()
    return tuple(cutter.section(begin, end) for begin, end in itertools.pairwise(cuts))


def cut(plan: Plan, precision: Precision, mode: Literal["layerwise", "fused", "streamed"]) -> tuple[Section, ...]:
    """Cut a plan between all operations, between all stages, or where that takes the least memory."""
    if mode == "streamed":
        return sections(plan, precision)
    cutter = Cutter(plan, precision)
    ends = [stage.ops[-1] for stage in stages(plan)] if mode == "fused" else plan.ops
    places = (0, *(cutter.index[op.name] + 1 for op in ends))
    return tuple(cutter.section(begin, end) for begin, end in itertools.pairwise(places))


def section_buffers(
    plan: Plan, precision: Precision, parts: tuple[Section, ...], pixels: int = PIXELS
) -> tuple[list[Buffer], dict[str, int]]:
    """Return the buffers of a streamed network, steps being sections, and the pixels of each ring by operation."""
    cutter, each = Cutter(plan, precision, pixels), BYTES[precision]
    number = {op.name: index for index, part in enumerate(parts) for op in part.ops}
    last = {name: max(number[op.name] for op in by) for name, by in readers(plan).items()}
    buffers: list[Buffer] = []
    rings: dict[str, int] = {}
    for index, part in enumerate(parts):
        flow = part.flow(plan, pixels)
        flow.run()
        rings |= flow.rings
        buffers.append(Buffer(f"{part.ops[0].name}.state", STATE_BYTES * len(part.ops), index, index))
        for name, count in flow.rings.items():
            buffers.append(Buffer(name, count * cutter.channels(name) * each, index, index))
        pools = [op for op in part.ops if op.kind == "pool"]
        buffers += [Buffer(f"{op.name}.sums", op.out[0] * SUM_BYTES, index, index) for op in pools]
        for name in part.leaving:
            over = tuple((source, flow.leads[name, source] * each) for source in part.ending)
            buffers.append(Buffer(name, cutter.size(name), index, last.get(name, len(parts) - 1), over))
    return buffers, rings
