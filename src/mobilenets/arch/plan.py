"""From a table to a flat list of operations with every shape known.

This is the only place where a width multiplier is applied, a channel count rounded, a padding computed and a small
picture's strides decided. Everything else (cost, torch modules, engine, exporters, `show`) reads the list.

The rules, with their sources:

- *Rounding*: to a multiple of 8 (the table's `divisor`), never more than 10 % below the target (TF-slim's and
  torchvision's `make_divisible`).
- *Width*: output channels are scaled and rounded. V2's last convolution and V3's stem and last dense layer only grow
  (V2 paper, section 4; the published V3 weights at 0.75 and 0.5 have 16 stem channels).
- *Expansion*: t times the block's actual input in V2. V3 prints absolute sizes: the *ratio* to the table's input is
  what scales, exp / input x scaled input, rounded to 8. That is the published weights' rule; scaling the absolute
  number (as torchvision does) gives other networks at every width but 1.0 and 2.0.
- *Small pictures*: the strides of the earliest stages are set to 1 until the last feature map is at least 3x3.
  At 32x32 this is the CIFAR form (stem and second stage at stride 1); at 96x96 and above nothing changes.
- *Padding*: "symmetric" pads (k - 1) / 2 on both sides; "same" is TensorFlow's, the odd pixel right and bottom.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mobilenets.arch.heads import add_heads
from mobilenets.arch.mobilenet import (
    Activation,
    Arch,
    Bneck,
    Classifier,
    Conv,
    Dense,
    InvertedResidual,
    Pool,
    Row,
    Separable,
    Widening,
)
from mobilenets.errors import InputError

Shape = tuple[int, int, int]
"""(channels, height, width)"""

Kind = Literal["conv", "add", "pool", "scale", "linear"]

SMALLEST_LAST_MAP = 3  # pixels a side: what the published 96x96 networks end with


def round_channels(value: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, at least one of it and at most 10 % below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: what it is, what it reads, and every number needed to run or to count it.

    kind "conv" covers depthwise (groups == channels) and 1x1; "scale" multiplies its first source by its second,
    broadcast over pixels; "pool" averages over all pixels; "linear" reads a 1x1 map. BatchNorm, then activation,
    follow within the same operation.
    """

    name: str
    kind: Kind
    sources: tuple[str, ...]  # names of earlier ops; "input" is the picture
    source_shape: Shape  # of the first source
    out: Shape
    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
    groups: int = 1
    bias: bool = False
    batch_norm: bool = False
    activation: Activation | None = None
    dropout: float = 0.0  # applied to the input, in training only
    row: int = 0  # index into arch.rows; behind them come a detector's extra stages and its maps
    block: str = ""  # ops of one residual block share this name

    @property
    def depthwise(self) -> bool:
        """Say whether every channel is convolved by itself."""
        return self.kind == "conv" and self.groups > 1 and self.groups == self.source_shape[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """A network at one width, resolution and number of classes: operations in the order they run."""

    arch: Arch
    width: float
    resolution: tuple[int, int]  # (height, width) of the picture
    classes: int
    in_channels: int
    ops: tuple[Op, ...]
    notes: tuple[str, ...] = ()
    strides: tuple[int, ...] = ()  # the stride used for each row of the table (1 where a row has none)
    outputs: tuple[str, ...] = ()  # the operations whose values the network returns, see :func:`plan`

    @property
    def input_shape(self) -> Shape:
        """The picture's (channels, height, width)."""
        return (self.in_channels, *self.resolution)

    def op(self, name: str) -> Op:
        """Return the operation called `name`; KeyError if there is none."""
        for op in self.ops:
            if op.name == name:
                return op
        raise KeyError(name)


def plan(
    arch: Arch,
    *,
    width: float = 1.0,
    resolution: int | tuple[int, int] | None = None,
    classes: int | None = None,
    in_channels: int | None = None,
) -> Plan:
    """Lay out `arch` at a width multiplier, a resolution in pixels (side or (height, width)) and a number of classes.

    What is None is as the table says. A detector's classes do not count the background.

    `Plan.outputs` is the last operation of a classifier. A detector's are for every map, from the largest to the
    smallest, its box differences and its scores: convolutions whose channels run over the anchors of a place, and for
    each over x, y, w and h, or over the background and the classes.

    >>> from mobilenets.arch import arch_named
    >>> plan(arch_named("mobilenet_v2")).op("block_2_expand").out
    (96, 112, 112)

    Raises:
        InputError: a value that is not positive, or absurdly large.
    """
    side = arch.resolution if resolution is None else resolution
    height, wide = side if isinstance(side, tuple) else (side, side)
    classes = arch.classes if classes is None else classes
    in_channels = arch.in_channels if in_channels is None else in_channels
    for name, value, most in (
        ("resolution", height, 16384),
        ("resolution", wide, 16384),
        ("classes", classes, 1_000_000),
        ("in-channels", in_channels, 4096),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{name} must be from 1 to {most:,}, not {value}")
    if not 0.01 <= width <= 16:
        raise InputError(f"width must be from 0.01 to 16, not {width}: it multiplies every channel count")
    strides, notes = small_picture_strides(arch, height, wide)
    layout = Layout(arch, width * arch.base_width, (in_channels, height, wide), classes)
    for index, (row, stride) in enumerate(zip(arch.rows, strides, strict=True)):
        layout.add_row(index, row, stride)
    outputs = add_heads(layout, arch.detector) if arch.detector is not None else (layout.last,)
    return Plan(arch, width, (height, wide), classes, in_channels, tuple(layout.ops), notes, strides, outputs)


def small_picture_strides(arch: Arch, height: int, width: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the stride of every row and a note for the reader where it differs from the table."""
    strides = [getattr(row, "s", 1) for row in arch.rows]
    changed: list[int] = []
    for index, stride in enumerate(strides if arch.small_image_strides else ()):
        total = 1
        for each in strides:
            total *= each
        if -(-min(height, width) // total) >= SMALLEST_LAST_MAP:
            break
        if stride > 1:
            strides[index] = 1
            changed.append(index)
    if not changed:
        return tuple(strides), ()
    rows = f"row{'s' if len(changed) > 1 else ''} {' and '.join(str(index + 1) for index in changed)}"
    note = (
        f"small-image strides: stride 1 in {rows} of the table, so that a {height}x{width} picture "
        f"ends as a map of at least {SMALLEST_LAST_MAP}x{SMALLEST_LAST_MAP} where it can"
    )
    return tuple(strides), (note,)


@dataclass
class Layout:
    """The list under construction, and what the next row reads."""

    arch: Arch
    width: float
    shape: Shape
    classes: int
    ops: list[Op] = field(default_factory=list)
    last: str = "input"
    table_channels: int = 0  # the current channels as the table prints them, before the width multiplier
    blocks: int = 0
    thick: tuple[str, Shape] | None = None  # the previous block's expanded map, for shortcuts between expansions

    def look_at(self, name: str) -> None:
        """Let the next operation read another one's output; KeyError if there is none of that name."""
        shapes = {op.name: op.out for op in self.ops}
        self.last, self.shape = name, shapes[name]

    def scaled(self, channels: int, widening: Widening) -> int:
        """Return a channel count at this width, rounded."""
        if widening == "fixed":
            return channels
        factor = max(1.0, self.width) if widening == "grow" else self.width
        return round_channels(channels * factor, self.arch.divisor)

    def unique(self, name: str) -> str:
        """Return `name`, numbered from the second one on: operations are found by their names."""
        count = sum(op.name == name or op.name.startswith(f"{name}_") for op in self.ops)
        return f"{name}_{count + 1}" if count else name

    def add_row(self, index: int, row: Row, stride: int) -> None:
        """Append the operations of one line of the table."""
        match row:
            case Conv():
                self._plain(index, row, stride)
            case Separable():
                for repeat in range(row.n):
                    self._separable(index, row, stride if repeat == 0 else 1)
            case InvertedResidual():
                for repeat in range(row.n):
                    self._bottleneck(index, row, stride if repeat == 0 else 1, self.arch.activation)
            case Bneck():
                self._bottleneck(index, row, stride, row.nl)
            case Pool():
                self._append("pool", "pool", (self.last,), (self.shape[0], 1, 1), row=index)
            case Dense():
                c = self.scaled(row.c, row.widening)
                name = self.unique("dense")
                self._append(name, "linear", (self.last,), (c, 1, 1), row=index, bias=True, activation=row.activation)
            case Classifier():
                self._append(
                    "classifier",
                    "linear",
                    (self.last,),
                    (self.classes, 1, 1),
                    row=index,
                    bias=True,
                    dropout=row.dropout,
                )

    def _inner(self, row: InvertedResidual | Bneck) -> int:
        """Return how many channels a block has between its expansion and its projection."""
        if row.inner is not None:
            return self.scaled(row.inner, "scale")
        if isinstance(row, Bneck):
            return self._ratio(row.exp)
        t = row.t if row.t == 1 or self.arch.expansion is None else self.arch.expansion
        return self.shape[0] if t == 1 else max(1, round(t * self.shape[0]))

    def _ratio(self, exp: int) -> int:
        """V3's expansion at this width: the table's ratio to its input, times the actual input, rounded to 8."""
        t = self.arch.expansion
        if exp == self.table_channels:
            return self.shape[0]
        if t is not None:
            return round_channels(t * self.shape[0], self.arch.divisor)
        return round_channels(exp / self.table_channels * self.shape[0], self.arch.divisor)

    def _plain(self, index: int, row: Conv, stride: int) -> None:
        c = self._ratio(row.c) if row.expands else self.scaled(row.c, row.widening)
        name = "stem" if index == 0 else self.unique("head")
        self.conv(name, c, index, kernel=row.kernel, stride=stride, activation=row.activation or self.arch.activation)
        self.table_channels = row.c

    def _separable(self, index: int, row: Separable, stride: int) -> None:
        self.blocks += 1
        block = f"block_{self.blocks}"
        act = self.arch.activation
        self._depthwise(block, index, row.kernel, stride, act)
        self.conv(f"{block}_pointwise", self.scaled(row.c, "scale"), index, activation=act, block=block)
        self.table_channels = row.c

    def _bottleneck(self, index: int, row: InvertedResidual | Bneck, s: int, act: Activation) -> None:
        """Expand, depthwise, squeeze-excite, project, shortcut (V2 section 3.3, Table 1; V3 section 5.3)."""
        self.blocks += 1
        block = f"block_{self.blocks}"
        source, before, inner, out = self.last, self.shape, self._inner(row), self.scaled(row.c, "scale")
        thick = None
        if inner != before[0] or row.inner is not None or self.arch.expands_always:
            self.conv(f"{block}_expand", inner, index, activation=act, block=block)
            if self.arch.shortcut == "expansion" and self.thick is not None and self.thick[1] == self.shape:
                sources = (self.last, self.thick[0])
                self._append(f"{block}_add", "add", sources, self.shape, row=index, block=block)
            thick = (self.last, self.shape) if s == 1 else None
        late = row.se and self.arch.se.before_activation and self.last != source
        self._depthwise(block, index, row.kernel, s, None if late else act)
        if row.se:
            self._squeeze_excite(block, index, before[0], row.squeezed, act if late else None)
        self.conv(f"{block}_project", out, index, activation=self.arch.bottleneck_activation, block=block)
        self.thick = thick
        if s == 1 and self.arch.shortcut == "bottleneck":
            self._shortcut(block, index, source, before)
        self.table_channels = row.c

    def _shortcut(self, block: str, index: int, source: str, before: Shape) -> None:
        projected, shape = self.last, self.shape
        if before[0] != shape[0]:
            if not self.arch.projection_shortcut:
                return
            self.last, self.shape = source, before
            self.conv(f"{block}_shortcut", shape[0], index, activation=None, block=block)
            source = self.last
            self.shape = shape
        self._append(f"{block}_add", "add", (projected, source), shape, row=index, block=block)

    def _squeeze_excite(
        self, block: str, index: int, block_input: int, squeezed: int | None, act: Activation | None
    ) -> None:
        se = self.arch.se
        mapped, shape = self.last, self.shape
        inner = round_channels(se.ratio * (shape[0] if se.of == "expansion" else block_input), se.divisor)
        inner = inner if squeezed is None else self.scaled(squeezed, "scale")
        at = {"row": index, "block": block, "bias": True}
        self._append(f"{block}_se_pool", "pool", (mapped,), (shape[0], 1, 1), row=index, block=block)
        self._append(f"{block}_se_reduce", "conv", (self.last,), (inner, 1, 1), activation="relu", **at)  # type: ignore[arg-type]
        self._append(f"{block}_se_expand", "conv", (self.last,), (shape[0], 1, 1), activation=se.gate, **at)  # type: ignore[arg-type]
        gate, self.shape = self.last, shape
        self._append(f"{block}_se_scale", "scale", (mapped, gate), shape, activation=act, row=index, block=block)

    def _depthwise(self, block: str, index: int, kernel: int, stride: int, act: Activation | None) -> None:
        c = self.shape[0]
        self.conv(f"{block}_depthwise", c, index, kernel=kernel, stride=stride, groups=c, activation=act, block=block)

    def conv(
        self,
        name: str,
        c: int,
        index: int,
        *,
        activation: Activation | None,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        block: str = "",
        bias: bool = False,
    ) -> None:
        """Append a convolution and its BatchNorm, or with `bias` a convolution with a bias and no BatchNorm."""
        _, height, width = self.shape
        top, bottom = padding(height, kernel, stride, self.arch.padding)
        left, right = padding(width, kernel, stride, self.arch.padding)
        self._append(
            name,
            "conv",
            (self.last,),
            (c, -(-height // stride), -(-width // stride)),
            kernel=kernel,
            stride=stride,
            padding=(top, bottom, left, right),
            groups=groups,
            bias=bias,
            batch_norm=not bias,
            activation=activation,
            row=index,
            block=block,
        )

    def _append(
        self,
        name: str,
        kind: Kind,
        sources: tuple[str, ...],
        out: Shape,
        *,
        row: int,
        kernel: int = 1,
        stride: int = 1,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        bias: bool = False,
        batch_norm: bool = False,
        activation: Activation | None = None,
        dropout: float = 0.0,
        block: str = "",
    ) -> None:
        op = Op(name, kind, sources, self.shape, out, kernel, stride, padding, groups, bias, batch_norm, activation)
        self.ops.append(replace(op, dropout=dropout, row=row, block=block))
        self.last, self.shape = name, out


def padding(size: int, kernel: int, stride: int, rule: Literal["symmetric", "same"]) -> tuple[int, int]:
    """Return the pixels to pad before and after, so that the output is ceil(size / stride).

    >>> padding(224, 3, 2, "symmetric"), padding(224, 3, 2, "same")
    ((1, 1), (0, 1))
    """
    if rule == "symmetric":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
