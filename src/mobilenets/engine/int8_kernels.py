"""The kernels of an int8 network: C, compiled with every size known.

As in :mod:`mobilenets.engine.kernels`, a kernel is a description of numbers alone, and equal ones share machine code.
Maps are codes, unsigned bytes, (height, width, channels), the channels filled up to whole vectors; what is behind the
last channel has no meaning and is multiplied by zero weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mobilenets.engine.kernels import Kernel, Window
from mobilenets.engine.schedules import Machine

NOTHING, MOVED, TABLED = 0, 1, 2
"""What is done to rounded steps: nothing, the zero point is added, and a table is looked up behind that."""

WORD = 4  # rows that a cell of the ring holds, and terms of a sum that are multiplied at once
_INT = 4  # bytes


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """A convolution over all channels: `rows` pieces of `terms` groups of four bytes are summed up for each pixel."""

    vectors: int  # of its output's channels
    terms: int
    after: int
    tile_vectors: int
    tile_pixels: int
    rows: int = 1
    stride: int = 1


@dataclass(frozen=True, slots=True)
class Int8Fused:
    """A convolution or none, a depthwise one, and a 1x1 one or none, row by row.

    `height` and `width` are those of the depthwise convolution's source, `inner` its vectors of channels; `add` is what
    comes after the sum with another map, None where nothing is added. `rows` of the depthwise convolution are there
    before the last one reads them; `packed`: their codes are packed, so many pixels at a time, as :func:`order` says.
    """

    lanes: int
    height: int
    width: int
    source_row: int  # bytes
    source_pixel: int
    first: Int8Layer | None
    inner: int
    window: Window
    depth_pixels: int
    depth_after: int
    last: Int8Layer | None
    add: int | None = None
    rows: int = 1
    packed: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the output."""
        s = self.window.stride
        return -(-self.height // s), -(-self.width // s)

    @property
    def out_pixel(self) -> int:
        """The bytes of a pixel of the output."""
        return self.lanes * (self.inner if self.last is None else self.last.vectors)

    @property
    def kept_bytes(self) -> int:
        """The bytes of its ring, and of rows of the depthwise convolution."""
        width, window = self.sides[1], self.window
        reach = (width - 1) * window.stride + window.kernel - window.left
        columns = window.left + max(reach, self.width)
        ring = self.inner * columns * -(-window.kernel // WORD) * self.lanes * _INT
        return ring + (0 if self.last is None else self.rows * width * self.inner * self.lanes)


@dataclass(frozen=True, slots=True)
class Int8Dense:
    """A convolution of rows of `width` pixels; `flat`: of one row of them all. `mean`: its output is their mean."""

    lanes: int
    width: int
    source_row: int  # bytes
    source_pixel: int
    layer: Int8Layer
    flat: bool
    add: int | None = None
    mean: int | None = None


Simple = Literal["enter", "leave", "surround", "pool", "added", "scaled"]
_SIMPLE: tuple[Simple, ...] = ("enter", "leave", "surround", "pool", "added", "scaled")


@dataclass(frozen=True, slots=True)
class Int8Simple:
    """What multiplies by no weights; see the C file. `channels` are bytes of a pixel, but the planes of a picture."""

    lanes: int
    kind: Simple
    height: int
    width: int
    channels: int
    top: int = 0
    left: int = 0
    out_width: int = 0
    out_pixel: int = 0
    after: int = 0


Int8Kernel = Int8Fused | Int8Dense | Int8Simple
AnyKernel = Kernel | Int8Kernel


def defined(kernel: Int8Kernel) -> tuple[str, dict[str, int]]:
    """Return the C file that a kernel is made from, and what is defined for it."""
    match kernel:
        case Int8Fused():
            return "int8_fused.c", _fused(kernel)
        case Int8Dense():
            layer = kernel.layer
            pixel = layer.vectors * kernel.lanes
            return "int8_dense.c", {
                "SOURCE_ROW": kernel.source_row,
                "SOURCE_PIXEL": kernel.source_pixel,
                "TERMS": layer.terms,
                "ROWS": layer.rows,
                "STRIDE": layer.stride,
                "WIDTH": kernel.width,
                "VECTORS": layer.vectors,
                "TILE_VECTORS": layer.tile_vectors,
                "TILE_PIXELS": layer.tile_pixels,
                "AFTER": layer.after,
                "ADD": int(kernel.add is not None),
                "ADD_AFTER": kernel.add or 0,
                "OTHER_PIXEL": pixel,
                "MEAN": int(kernel.mean is not None),
                "MEAN_AFTER": kernel.mean or 0,
                "OUT_ROW": kernel.width * pixel,
                "OUT_PIXEL": pixel,
                "FLAT": int(kernel.flat),
            }
        case Int8Simple():
            return "int8_simple.c", {
                "KIND": 1 + _SIMPLE.index(kernel.kind),
                "HEIGHT": kernel.height,
                "WIDTH": kernel.width,
                "CHANNELS": kernel.channels,
                "TOP": kernel.top,
                "LEFT": kernel.left,
                "OUT_WIDTH": kernel.out_width,
                "OUT_PIXEL": kernel.out_pixel,
                "AFTER": kernel.after,
            }


def _fused(kernel: Int8Fused) -> dict[str, int]:
    from mobilenets.engine.scratch import STACK_BYTES

    nothing = Int8Layer(0, 0, 0, 1, 1)
    first, last, window = kernel.first or nothing, kernel.last or nothing, kernel.window
    pixel = kernel.out_pixel
    return {
        "HEIGHT": kernel.height,
        "WIDTH": kernel.width,
        "SOURCE_ROW": kernel.source_row,
        "SOURCE_PIXEL": kernel.source_pixel,
        "FIRST_TERMS": first.terms,
        "FIRST_ROWS": first.rows,
        "FIRST_STRIDE": first.stride,
        "FIRST_VECTORS": first.tile_vectors,
        "FIRST_PIXELS": first.tile_pixels,
        "FIRST_AFTER": first.after,
        "INNER": kernel.inner,
        "KERNEL": window.kernel,
        "STRIDE": window.stride,
        "TOP": window.top,
        "LEFT": window.left,
        "DEPTH_PIXELS": kernel.depth_pixels,
        "DEPTH_AFTER": kernel.depth_after,
        "OUT_WIDTH": kernel.sides[1],
        "OUT_ROW": kernel.sides[1] * pixel,
        "OUT_PIXEL": pixel,
        "LAST": last.vectors,
        "LAST_TERMS": last.terms,
        "LAST_VECTORS": last.tile_vectors,
        "LAST_PIXELS": last.tile_pixels,
        "LAST_AFTER": last.after,
        "ADD": int(kernel.add is not None),
        "ADD_AFTER": kernel.add or 0,
        "ROWS": kernel.rows,
        "PACKED": kernel.packed,
        "OTHER_PIXEL": pixel,
        "STACK": int(kernel.kept_bytes <= STACK_BYTES),
    }


NEAR_BYTES = 32 << 10
BETWEEN_BYTES = 64 << 10
CHUNK = 4  # vectors of channels that go on together, in C
MOST_VECTORS = 12
LATENCY = 5  # cycles of a product of bytes
DIVISORS = (1, 2, 4)  # of the vectors that go on together


def rows_at_once(sides: tuple[int, int], between: int, weights: int) -> int:
    """Return how many rows are written between two convolutions before the weights of the second are read.

    Args:
        sides: height and width of the map between.
        between: bytes of a pixel of it.
        weights: bytes; few stay in the nearest cache from row to row.

    >>> rows_at_once((14, 14), 512, 512 * 512), rows_at_once((56, 56), 144, 144 * 32)
    (9, 1)
    """
    if weights <= NEAR_BYTES:
        return 1
    return max(1, min(sides[0], BETWEEN_BYTES // (sides[1] * between)))


def order(vectors: int) -> list[int]:
    """Return which group of four channels lies where, when codes are packed: vectors of 16, four by four."""
    whole = vectors // CHUNK
    found = [16 * block + 4 * j + i for block in range(whole) for i in range(4) for j in range(CHUNK)]
    return [*found, *range(16 * whole, 4 * vectors)]


def tiles(vectors: int, pixels: int, machine: Machine, most: tuple[int, ...] | None = None) -> tuple[int, int]:
    """Return how many vectors and pixels are summed up at once: the fewest cycles by rule, the larger of equals.

    `most`: the numbers of vectors to choose from.

    >>> tiles(2, 56, Machine(16, 32)), tiles(9, 56, Machine(16, 32))
    ((2, 14), (3, 8))
    """
    best, least = (1, 1), float("inf")
    for (count, length), cost in tile_costs(vectors, pixels, machine, most).items():
        larger = count * length > best[0] * best[1]
        if cost < least * 0.999 or (cost < least * 1.001 and larger):
            best, least = (count, length), cost
    return best


def tile_costs(
    vectors: int, pixels: int, machine: Machine, most: tuple[int, ...] | None = None
) -> dict[tuple[int, int], float]:
    """Return the cycles of one step of all sums by the tile, (vectors, pixels), of those that fit the registers."""
    found = {}
    for count in most or range(1, MOST_VECTORS + 1):
        for length in range(1, min(16, pixels) + 1):
            if count <= vectors and count * length + count + 1 <= machine.registers:
                found[count, length] = sum(
                    times * repeats * _cycles(v, p)
                    for v, times in ((count, vectors // count), (vectors % count, 1))
                    for p, repeats in ((length, pixels // length), (pixels % length, 1))
                    if v and p
                )
    return found


def _cycles(vectors: int, pixels: int) -> float:
    """Return the cycles of one step of a tile: two products, or two loads, at a time, and sums wait for themselves."""
    return max(vectors * pixels / 2, (vectors + pixels) / 2, LATENCY)
