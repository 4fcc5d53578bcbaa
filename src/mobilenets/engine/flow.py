"""Which pixels are computed when, where every operation computes only what is asked of it, and computes it once.

Maps are walked in the order a picture is read: row by row, from left to right. Every operation makes a few pixels of
one row at a time, a chunk. Before it does, it asks the operations it reads for the pixels it needs, and these ask
theirs. So a 3x3 convolution over a map that is read by nobody else needs two rows of it and a few pixels, not three;
and maps at different resolutions advance at their own rates without anybody counting.

Between two operations is a ring of pixels. Pixel number n, counted over all rows, is at place n modulo its size.
The walk is the same for whoever plans the rings, computes in numpy, or writes C: this module is the one place that
knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mobilenets.arch import Op
from mobilenets.arch.plan import Shape

PIXELS = 8
"""The most pixels computed at once. More use each weight read more often, fewer need less memory."""

Visit = Callable[[str, int, int], None]
"""Called with an operation and the pixels [first, last) of its output to compute: all of one row. A pooling is told the
pixels of its source to add up; "input" the pixels of the picture that are due."""


def chunk(width: int, pixels: int = PIXELS) -> int:
    """Return how many pixels of a row are computed at once: the row in as few even parts as are allowed.

    >>> chunk(112), chunk(14), chunk(20)
    (8, 7, 7)
    """
    parts = -(-width // pixels)
    return -(-width // parts)


def needed(op: Op, source: int, first: int, last: int) -> tuple[int, int]:
    """Return the pixels [oldest, newest) of a source for the pixels [first, last) of a row of the output.

    `oldest` is the first that these or any later ones read, `newest` the end of what these read.

    Args:
        op: any but a pooling.
        source: which of its sources.
        first: number of the first pixel.
        last: number behind the last; of the same row.
    """
    if op.kind == "linear" or (op.kind == "scale" and source == 1):
        return 0, 1
    if op.kind in ("add", "scale") or (op.kernel == 1 and op.stride == 1):
        return first, last
    _, high, wide = op.source_shape
    top, _, left, _ = op.padding
    row, column = divmod(first, op.out[2])
    end = column + last - first
    oldest = max(0, row * op.stride - top) * wide + max(0, column * op.stride - left)
    following = max(0, (row + 1) * op.stride - top) * wide  # padded rows: the next row may begin where this one does
    below = min(high - 1, row * op.stride - top + op.kernel - 1)
    right = min(wide - 1, (end - 1) * op.stride - left + op.kernel - 1)
    return min(oldest, following), below * wide + right + 1


@dataclass
class Flow:
    """A walk through operations that run together, and what it found about the memory between them.

    `rings` is the number of pixels to keep of what is read here alone, by operation. `leads` is, for a map that leaves
    and one that comes whole and is read here for the last time, by how many bytes (of one-byte activations) the first
    must begin before the second for it to be written over the second.
    """

    ops: tuple[Op, ...]
    picture: Shape
    leaving: frozenset[str]
    ending: frozenset[str]
    pixels: int = PIXELS
    rings: dict[str, int] = field(default_factory=dict)
    leads: dict[tuple[str, str], int] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        self._by_name = {op.name: op for op in self.ops}
        self._made = dict.fromkeys((*self._by_name, "input"), 0)
        self._released: dict[str, dict[str, int]] = {}
        for op in self.ops:
            for source in op.sources:
                self._released.setdefault(source, {})[op.name] = 0
        self._channels = {"input": self.picture[0], **{op.name: op.out[0] for op in self.ops}}
        self._channels |= {name: op.source_shape[0] for op in self.ops for name in op.sources}

    def run(self, visit: Visit | None = None) -> None:
        """Walk once, from the first pixel to the last: whatever the last operation needs, then what else leaves."""
        self._visit = visit or _nothing
        last = [self.ops[-1].name, *(op.name for op in self.ops if op.name in self.leaving)]
        for name in dict.fromkeys(last):
            op = self._by_name[name]
            self._advance(op, op.out[1] * op.out[2])

    def _ask(self, name: str, count: int) -> None:
        """See that the first `count` pixels of a source have been made."""
        if self._made.get(name, count) >= count:
            return
        if name == "input":
            wide = self.picture[2]
            while self._made[name] < count:
                self._make(name, self._made[name], self._made[name] + wide)
        else:
            self._advance(self._by_name[name], count)

    def _advance(self, op: Op, count: int) -> None:
        if op.kind == "pool":
            self._pool(op)
            return
        wide = op.out[2]
        most = chunk(wide, self.pixels)
        while (first := self._made[op.name]) < count:
            column = first % wide
            last = first - column + min(wide, column + most)
            for index, source in enumerate(op.sources):
                oldest, newest = needed(op, index, first, last)
                self._released[source][op.name] = oldest
                self._ask(source, newest)
            self._make(op.name, first, last)
        if self._made[op.name] == wide * op.out[1]:
            for source in op.sources:
                self._released[source][op.name] = 1 << 60

    def _pool(self, op: Op) -> None:
        """Add up a source as it is made: a chunk of it is asked for, added and forgotten."""
        (source,) = op.sources
        _, high, wide = op.source_shape
        most = chunk(wide, self.pixels)
        for first in (row * wide + column for row in range(high) for column in range(0, wide, most)):
            last = min(first + most, first - first % wide + wide)
            self._released[source][op.name] = first
            self._ask(source, last)
            self._call(op.name, first, last)
        self._released[source][op.name] = 1 << 60
        self._made[op.name] = 1
        self._note(op.name)

    def _make(self, name: str, first: int, last: int) -> None:
        self._made[name] = last
        self._note(name)
        self._call(name, first, last)

    def _call(self, name: str, first: int, last: int) -> None:
        self.calls += 1
        self._visit(name, first, last)

    def _note(self, name: str) -> None:
        """Take the measure of the ring that was just written to, or of the map that leaves."""
        made = self._made[name]
        if name not in self.leaving:
            window = made - min(self._released[name].values())
            self.rings[name] = max(self.rings.get(name, 0), window)
            return
        for source in self.ending:
            read = min(self._released[source].values())
            lead = made * self._channels[name] - min(read * self._channels[source], 1 << 60)
            self.leads[name, source] = max(self.leads.get((name, source), 0), lead)


def _nothing(name: str, first: int, last: int) -> None:
    del name, first, last


def rings_of(ops: Iterable[Op], picture: Shape, pixels: int = PIXELS) -> dict[str, int]:
    """Return the pixels to keep of every operation but the last, and of "input", where all of them run together."""
    chosen = tuple(ops)
    read = {source for op in chosen for source in op.sources}
    flow = Flow(chosen, picture, frozenset(op.name for op in chosen if op.name not in read), frozenset(), pixels)
    flow.run()
    return flow.rings
