"""A network computed as its pixels are asked for, in one arena of the size that was planned: what streaming means.

This is plain numpy, and slow; it is what generated code is tested against. Int8 networks give the same bits as
:mod:`mobilenets.engine.reference`. Float32 networks are computed in float64 as there, but what waits between two
operations is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.arch import Op, Precision
from mobilenets.engine.flow import PIXELS
from mobilenets.engine.memory import Memory, layout
from mobilenets.engine.reference import arithmetic, flat, products
from mobilenets.engine.sections import sections

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint

Watch = Callable[[str, int, int], None]


class Streaming:
    """A network at its checkpoint's resolution, and the one piece of memory it computes in.

    `arena` is all there is between the operations, and `memory` says what lies where.
    """

    def __init__(self, checkpoint: Checkpoint, pixels: int = PIXELS) -> None:
        self.card = checkpoint.card
        self._plan = checkpoint.card.plan
        self._ops = {op.name: op for op in self._plan.ops}
        precision: Precision = "int8" if checkpoint.card.precision == "int8" else "float32"
        self._parts = sections(self._plan, precision, pixels)
        self._pixels = pixels
        self._by = arithmetic(checkpoint)
        self._type = np.dtype(np.uint8 if precision == "int8" else np.float32)
        self.memory: Memory = layout(self._plan, precision, "streamed", pixels=pixels)
        self.arena: NDArray[np.uint8] = np.zeros(self.memory.total, np.uint8)
        self._kept: dict[str, NDArray[Any]] = {
            name: self._view(name, (count, channels), self._type)
            for name, (channels, height, width) in self._shapes().items()
            for count in [self.memory.rings.get(name, height * width)]
        }
        self._sums = {
            op.name: self._view(
                f"{op.name}.sums", op.out[:1], np.dtype(np.int32 if precision == "int8" else np.float32)
            )
            for op in self._plan.ops
            if op.kind == "pool"
        }

    def run(self, rows: Iterable[NDArray[np.float32]], watch: Watch | None = None) -> NDArray[np.float32]:
        """Return the answers, float32 (values,), to one picture that comes row by row, float32 (C, W) each.

        Args:
            rows: of a normalized picture; one is taken when it is needed, and none is looked at again.
            watch: called with the operation and the pixels computed, [first, last), after each chunk.
        """
        coming = iter(rows)

        def visit(name: str, first: int, last: int) -> None:
            if name == "input":
                self._enter(coming, first, last)
            elif self._ops[name].kind == "pool":
                self._add_up(self._ops[name], first, last)
            else:
                self._put(name, first, self._compute(self._ops[name], first, last))
            if watch is not None:
                watch(name, first, last)

        for part in self._parts:
            part.flow(self._plan, self._pixels).run(visit)
        answers = [self._ops[name] for name in self._plan.outputs]
        values = [self._by.leave(op, self._get(op.name, np.arange(prod(op.out[1:])))) for op in answers]
        answer: NDArray[np.float32] = flat(values)[0]
        return answer

    def _view(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        placed = self.memory.find(name)
        seen = self.arena[placed.offset : placed.end].view(dtype)
        return seen.reshape(shape)  # as many bytes as were planned, or this fails

    def _shapes(self) -> dict[str, tuple[int, int, int]]:
        return {"input": self._plan.input_shape, **{op.name: op.out for op in self._plan.ops}}

    def _enter(self, rows: Iterator[NDArray[np.float32]], first: int, last: int) -> None:
        row = next(rows)[np.newaxis, :, np.newaxis]
        assert row.shape[3] == last - first
        self._put("input", first, self._by.enter(row))

    def _put(self, name: str, first: int, value: NDArray[Any]) -> None:
        """Write pixels, (1, C, 1, n), to their places."""
        ring = self._kept[name]
        ring[np.arange(first, first + value.shape[3]) % len(ring)] = value[0, :, 0].T

    def _get(self, name: str, pixels: NDArray[np.intp]) -> NDArray[Any]:
        """Read pixels by their numbers, of shape (n,) or (rows, n): (1, C, rows, n)."""
        ring = self._kept[name]
        seen = ring[np.atleast_2d(pixels) % len(ring)]
        return seen.transpose(2, 0, 1)[np.newaxis]

    def _compute(self, op: Op, first: int, last: int) -> NDArray[Any]:
        here = np.arange(first, last)
        if op.kind == "add":
            return self._by.compute(op, *(self._get(source, here) for source in op.sources))
        if op.kind == "scale":
            return self._by.compute(op, self._get(op.sources[0], here), self._get(op.sources[1], np.arange(1)))
        weight, bias = self._by.weights(op)
        if op.kind == "linear":
            x = self._by.shifted(op.sources[0], self._get(op.sources[0], np.arange(1)))
        else:
            x = self._window(op, first, last)
        return self._by.finish(op, products(op, x, weight, "none") + bias[:, np.newaxis, np.newaxis])

    def _window(self, op: Op, first: int, last: int) -> NDArray[np.float64]:
        """Return what a convolution reads for some pixels of a row, with its padding: float64 (1, C, kernel, n)."""
        _, high, wide = op.source_shape
        row, column = divmod(first, op.out[2])
        rows = row * op.stride - op.padding[0] + np.arange(op.kernel)[:, np.newaxis]
        span = (last - first - 1) * op.stride + op.kernel
        columns = column * op.stride - op.padding[2] + np.arange(span)[np.newaxis]
        inside = (rows >= 0) & (rows < high) & (columns >= 0) & (columns < wide)
        x = self._by.shifted(op.sources[0], self._get(op.sources[0], np.where(inside, rows * wide + columns, 0)))
        return np.where(inside, x, 0)

    def _add_up(self, op: Op, first: int, last: int) -> None:
        """Add pixels to a pooling's sums; behind the last one, write the mean."""
        sums, (_, high, wide) = self._sums[op.name], op.source_shape
        seen = self._by.shifted(op.sources[0], self._get(op.sources[0], np.arange(first, last)))
        if first == 0:
            sums[:] = 0
        sums += seen.sum((0, 2, 3)).astype(sums.dtype)
        if last == high * wide:
            total = sums.astype(np.float64)[np.newaxis, :, np.newaxis, np.newaxis]
            self._put(op.name, 0, self._by.finish(op, total, pixels=high * wide))


def run(checkpoint: Checkpoint, batch: NDArray[np.float32], pixels: int = PIXELS) -> NDArray[np.float32]:
    """Return the answers, float32 (N, values), to normalized pictures, float32 (N, C, H, W) of the card's size."""
    streaming = Streaming(checkpoint, pixels)
    return np.stack([streaming.run(picture.transpose(1, 0, 2)) for picture in batch])
