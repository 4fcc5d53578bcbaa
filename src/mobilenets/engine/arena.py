"""One block of memory for everything a network computes: which bytes of it are whose, and when.

A buffer lives from one step to another, both included, and no two that live in the same step may overlap, unless one
is written over the other as that is read, from its beginning to its end.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TRIES = 20
"""Random orders of placing buffers, after the ones that usually are best."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A number of bytes that is needed from step `first` to step `last`, both included.

    `over` names buffers that this one may be written over, with the bytes that it must then begin before them: what is
    written in front never meets what is still to be read.
    """

    name: str
    bytes: int
    first: int
    last: int
    over: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A buffer and the offset of its first byte."""

    buffer: Buffer
    offset: int

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.buffer.bytes


def aligned(size: int, align: int) -> int:
    """Round up to a multiple of `align`.

    >>> aligned(65, 64)
    128
    """
    return -(-size // align) * align


def arrange(buffers: Sequence[Buffer], align: int = 1) -> tuple[Placed, ...]:
    """Give every buffer an offset, a multiple of `align`, so that the whole is as small as can be found.

    Several orders of placing each buffer at the lowest offset that is free are tried, and the first is taken that
    reaches the bound below which nothing can be. The result depends on nothing but the arguments.
    """
    bound = lower_bound(buffers, align)
    best: tuple[Placed, ...] = ()
    for order in _orders(buffers):
        placed = _in_order(order, align)
        if not best or total(placed) < total(best):
            best = placed
        if total(best) <= bound:
            break
    index = {buffer.name: number for number, buffer in enumerate(buffers)}
    return tuple(sorted(best, key=lambda each: index[each.buffer.name]))


def total(placed: Iterable[Placed]) -> int:
    """Return the bytes that hold everything."""
    return max((each.end for each in placed), default=0)


def lower_bound(buffers: Sequence[Buffer], align: int = 1) -> int:
    """Return what no arrangement can be smaller than: the step that needs most, with all overlaps that it allows."""
    sizes = {buffer.name: aligned(buffer.bytes, align) for buffer in buffers}
    most = 0
    for step in {buffer.first for buffer in buffers}:
        alive = {buffer.name: buffer for buffer in buffers if buffer.first <= step <= buffer.last}
        need = sum(sizes[name] for name in alive) - sum(
            max((_saved(sizes[name], sizes[under], lead) for under, lead in buffer.over if under in alive), default=0)
            for name, buffer in alive.items()
        )
        # The last buffer need not be filled up to the alignment.
        most = max(most, need - max((sizes[name] - buffer.bytes for name, buffer in alive.items()), default=0))
    return most


def _saved(size: int, under: int, lead: int) -> int:
    return max(0, size + under - max(size, lead + under))


def _orders(buffers: Sequence[Buffer]) -> Iterable[list[Buffer]]:
    """Yield orders: what is written over something comes before it in the second, so that chains of them fit."""
    yield sorted(buffers, key=lambda each: (-each.bytes, each.first))
    yield sorted(buffers, key=lambda each: (-each.last, -each.first, -each.bytes))
    yield sorted(buffers, key=lambda each: (-each.bytes * (each.last - each.first + 1), each.first))
    yield sorted(buffers, key=lambda each: (each.first, -each.bytes))
    chance = random.Random(0)  # noqa: S311 - the same every time
    for _ in range(TRIES):
        weight = {each.name: each.bytes * chance.uniform(0.3, 1) for each in buffers}
        yield sorted(buffers, key=lambda each: -weight[each.name])


def _in_order(buffers: Iterable[Buffer], align: int) -> tuple[Placed, ...]:
    placed: list[Placed] = []
    for buffer in buffers:
        blocked = sorted(
            _blocked(buffer, other)
            for other in placed
            if other.buffer.first <= buffer.last and buffer.first <= other.buffer.last
        )
        offset = 0
        for low, high in blocked:
            if offset <= low:
                break
            offset = max(offset, aligned(high, align))
        placed.append(Placed(buffer, offset))
    return tuple(placed)


def _blocked(buffer: Buffer, other: Placed) -> tuple[int, int]:
    """Return (low, high): the buffer may begin at `low` or before, or at `high` or behind."""
    below = buffer.bytes
    for name, lead in buffer.over:
        if name == other.buffer.name:
            below = min(below, lead)
    above = other.end
    for name, lead in other.buffer.over:
        if name == buffer.name:
            above = min(above, other.offset + lead)
    return other.offset - below, above


def occupied(placed: Iterable[Placed], step: int) -> int:
    """Return how many bytes are in use in a step, those of overlapping buffers once."""
    spans = sorted((each.offset, each.end) for each in placed if each.buffer.first <= step <= each.buffer.last)
    count = reached = 0
    for low, high in spans:
        count += max(0, high - max(low, reached))
        reached = max(reached, high)
    return count


def check(placed: Sequence[Placed]) -> None:
    """Raise AssertionError where two buffers that live together overlap in a way that neither allows."""
    leads: Mapping[tuple[str, str], int] = {
        (each.buffer.name, name): lead for each in placed for name, lead in each.buffer.over
    }
    for number, one in enumerate(placed):
        for other in placed[:number]:
            apart = one.buffer.last < other.buffer.first or other.buffer.last < one.buffer.first
            if apart or one.end <= other.offset or other.end <= one.offset:
                continue
            first, second = (one, other) if (one.buffer.name, other.buffer.name) in leads else (other, one)
            lead = leads.get((first.buffer.name, second.buffer.name))
            assert lead is not None, (one, other)
            assert first.offset + lead <= second.offset, (one, other)
