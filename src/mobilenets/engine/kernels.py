"""The kernels that a network is made of: what each computes, how its weights lie, and how it is cut into tiles.

A kernel is a frozen description of numbers alone, without weights: equal descriptions share machine code. Maps are
(height, width, channels), the channels beside one another. `Fused` is what the engine is for: a convolution (or none),
a depthwise one, and a 1x1 one, row by row, so that what lies between them never leaves the cache.

Channels inside a kernel are cut into blocks; the channels of a block that do not exist have zero weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mobilenets.arch.mobilenet import Activation


@dataclass(frozen=True, slots=True)
class Tile:
    """How much of an output is summed up in registers: `block` channels of `pixels`."""

    block: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution looks at its source: a square of `kernel` pixels, every `stride`, `top` and `left` outside."""

    kernel: int = 1
    stride: int = 1
    top: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Dense:
    """A convolution over all channels, with its bias and activation."""

    channels: int  # of its output
    window: Window
    activation: Activation | None
    tile: Tile

    @property
    def blocks(self) -> int:
        """The blocks its output channels make."""
        return -(-self.channels // self.tile.block)

    @property
    def padded(self) -> int:
        """The channels of those blocks."""
        return self.blocks * self.tile.block


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A convolution of every channel by itself, with its bias and activation."""

    window: Window
    activation: Activation | None
    tile: Tile


@dataclass(frozen=True, slots=True)
class Fused:
    """Up to three convolutions as one, from a map of (height, width, channels), or planar (channels, height, width).

    The depthwise one is always there. With `last`, its rows are computed `rows` at a time and rings hold what is still
    needed of `first`; without, the kernel writes the depthwise convolution's map, its channels filled up to blocks,
    one block after the other. `add`: a map like the output is added to it.
    """

    height: int
    width: int
    channels: int
    first: Dense | None
    depthwise: Depthwise
    last: Dense | None
    rows: int = 1
    add: bool = False
    planar: bool = False

    @property
    def inner_sides(self) -> tuple[int, int]:
        """(height, width) of what the depthwise convolution reads."""
        s = 1 if self.first is None else self.first.window.stride
        return -(-self.height // s), -(-self.width // s)

    @property
    def inner(self) -> int:
        """The channels of the depthwise convolution, filled up to blocks."""
        block = self.depthwise.tile.block
        return -(-(self.channels if self.first is None else self.first.channels) // block) * block

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the output."""
        s = self.depthwise.window.stride
        return -(-self.inner_sides[0] // s), -(-self.inner_sides[1] // s)


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution over all channels with a window of more than a pixel."""

    height: int
    width: int
    channels: int
    dense: Dense
    planar: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the output."""
        s = self.dense.window.stride
        return -(-self.height // s), -(-self.width // s)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """A 1x1 convolution of `pixels` in a row; `gate`: the source is first scaled by channel, then activated.

    `mean`: the output is its mean over all pixels, and no map is kept.
    """

    pixels: int
    channels: int
    dense: Dense
    add: bool = False
    gate: bool = False
    gated: Activation | None = None
    mean: bool = False


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer of one picture."""

    channels: int
    dense: Dense


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean over the pixels of a map."""

    pixels: int
    channels: int


@dataclass(frozen=True, slots=True)
class Combine:
    """The sum of two maps, or a map scaled by channel, then activated."""

    pixels: int
    channels: int
    kind: str  # "add", "scale"
    activation: Activation | None = None


@dataclass(frozen=True, slots=True)
class Interleave:
    """A planar map (channels, height, width) as (height, width, channels)."""

    pixels: int
    channels: int


Kernel = Fused | Convolution | Pointwise | Linear | Mean | Combine | Interleave


def symbol(kernel: object, salt: str) -> str:
    """Return the name of a kernel's function: the same for equal kernels, of the same target and generator."""
    digest = hashlib.sha256(f"{kernel!r} {salt}".encode()).hexdigest()
    return f"{type(kernel).__name__.lower()}_{digest[:20]}"


@dataclass(frozen=True, slots=True)
class Cases:
    """Rows of the output by which rows of the source they see: some at the top, those that see all, some at the bottom.

    A depthwise convolution at the border reads a row inside instead of the one outside, and multiplies it by zero: its
    weights have a copy for each case.
    """

    count: int
    top: int  # rows at the top, each a case
    bottom: int  # and at the bottom

    def first(self, case: int, height: int) -> int:
        """Return the first output row of a case."""
        return case if case <= self.top else height - self.count + case


def cases(window: Window, source: int) -> Cases:
    """Return the cases of a window that moves over `source` rows."""
    height = -(-source // window.stride)
    whole = [
        y
        for y in range(height)
        if y * window.stride >= window.top and y * window.stride - window.top + window.kernel <= source
    ]
    if not whole:
        return Cases(height, height, 0)
    top, bottom = whole[0], height - 1 - whole[-1]
    return Cases(top + 1 + bottom, top, bottom)
