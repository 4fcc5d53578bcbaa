"""What of an operation its time depends on, as columns of numbers for all operations of many networks at once.

Many kernels work on whole vectors of channels, others do not: so work is counted for channel counts rounded up to 16,
and as it is, and the table tells which of them costs time. What an operation reads and writes is counted beside its
multiply-adds: much of a MobileNet is bound by memory. And weights cost more in a network that has many, since they do
not stay in the caches from one picture to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Op, Plan

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

KINDS = ("pointwise", "depthwise", "full", "vector", "add", "pool", "scale")
ACTIVATIONS = (None, "relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid")
FILTERS = tuple((kernel, stride) for kernel in (3, 5, 7) for stride in (1, 2))
"""Of depthwise convolutions: those that are told apart; others are taken for the nearest."""

VECTOR = 16
"""Float32 numbers in the widest vectors of a CPU, and the block of channels that ONNX Runtime and oneDNN lay out by."""
THIN = 32
"""Below so many output channels, a 1x1 convolution has too few sums to hide what it reads."""
SMALL_MAP = 64
"""Pixels up to which a map is so small that a 1x1 convolution is bound by its weights."""
WARM, COLD = 4e5, 1.3e7
"""Weights of a network that any cache holds, and that none does."""

_COLUMNS = ("kind", "activation", "source", "channels", "read", "pixels", "rows", "kernel", "stride")


@dataclass(frozen=True, eq=False)
class Operations:
    """The operations of several networks, one network after the other; every column has one number for each."""

    first: Indices  # where each network begins (networks,)
    count: Indices  # how many operations each has (networks,)
    columns: dict[str, Values]  # by `_COLUMNS`, and "weights": all weights of the network that it is of

    def __len__(self) -> int:
        return len(self.columns["kind"])

    def of(self, networks: Indices) -> Operations:
        """Return some of the networks, in the order asked for."""
        parts = [np.arange(self.first[each], self.first[each] + self.count[each]) for each in networks]
        chosen = np.concatenate([np.zeros(0, np.int64), *parts])
        count = self.count[networks]
        first = np.cumsum(count) - count
        return Operations(first, count, {name: column[chosen] for name, column in self.columns.items()})

    def sums(self, values: Values) -> Values:
        """Add up values of operations, (N, ...), over each network: (networks, ...)."""
        return np.asarray(np.add.reduceat(values, self.first, axis=0), np.float64)


def encode(layouts: Sequence[Plan]) -> Operations:
    """Return the operations of networks as columns."""
    known: dict[tuple[object, ...], int] = {}
    rows: list[tuple[float, ...]] = []
    places: list[int] = []
    for layout in layouts:
        for op in layout.ops:
            key = (op.kind, op.source_shape, op.out, op.kernel, op.stride, op.groups, op.activation)
            place = known.get(key)
            if place is None:
                place = known[key] = len(rows)
                rows.append(_row(op))
            places.append(place)
    table = np.array(rows, np.float64)[places]
    columns = dict(zip(_COLUMNS, table.T, strict=True))
    count = np.array([len(layout.ops) for layout in layouts], np.int64)
    first = np.cumsum(count) - count
    found = Operations(first, count, columns)
    columns["weights"] = np.repeat(found.sums(_weights(columns)), count)
    return found


def _row(op: Op) -> tuple[float, ...]:
    channels, height, width = op.out
    source, source_height, source_width = op.source_shape
    pixels, read = height * width, source_height * source_width
    return (
        KINDS.index(_kind(op)),
        ACTIVATIONS.index(op.activation),
        *(source, channels, read, pixels, height, op.kernel, op.stride),
    )


def _kind(op: Op) -> str:
    if op.kind in ("add", "pool", "scale"):
        return op.kind
    if op.depthwise:
        return "depthwise"
    if op.kernel > 1:
        return "full"
    return "vector" if op.out[1] * op.out[2] == 1 else "pointwise"


def _weights(columns: dict[str, Values]) -> Values:
    """Return how many weights each operation has."""
    dense = columns["source"] * columns["channels"] * columns["kernel"] ** 2
    kind = columns["kind"]
    depthwise = columns["channels"] * columns["kernel"] ** 2
    return np.where(kind == 1, depthwise, np.where((kind == 0) | (kind == 2) | (kind == 3), dense, 0.0))


def work(operations: Operations) -> dict[str, Values]:
    """Return what each operation does, (N,) by kind of work: itself, multiply-adds, numbers read and written."""
    found: dict[str, Values] = {}
    one = np.ones(len(operations))
    c = operations.columns
    pixels, channels, source = c["pixels"], c["channels"], c["source"]
    out, into = _rounded(channels), _rounded(source)
    written = channels * pixels
    products = out * into * pixels
    for kind, these in {
        "pointwise": {
            "operations": one,
            "multiply-adds": products,
            "unrounded": channels * source * pixels,
            "small": products * (pixels <= SMALL_MAP),
            "thin": products * (out <= THIN),
            "read": into * pixels,
            "written": out * pixels,
            "numbers": written,
            "weights": out * into,
            "cold weights": out * into * _cold(c["weights"]),
            "odd written": written * (channels % VECTOR != 0),
            "odd read": source * pixels * (source % VECTOR != 0),
            "narrow read": source * pixels * (source < VECTOR),
        },
        "depthwise": _depthwise(c, out, into),
        "full": {"operations": one, "multiply-adds": out * pixels * source * c["kernel"] ** 2, "written": written},
        "vector": {
            "operations": one,
            "weights": channels * source,
            "cold weights": channels * source * _cold(c["weights"]),
        },
        "add": {"operations": one, "numbers": written},
        "pool": {
            "operations": one,
            "numbers": source * c["read"],
            "odd numbers": source * c["read"] * (source % VECTOR != 0),
        },
        "scale": {"operations": one, "numbers": written},
    }.items():
        is_kind = c["kind"] == KINDS.index(kind)
        found |= {f"{kind} {name}": column * is_kind for name, column in these.items()}
    for code, activation in enumerate(ACTIVATIONS[1:], 1):
        has = (c["activation"] == code).astype(np.float64)
        found |= {f"{activation} operations": has, f"{activation} numbers": has * written}
    return found


BESIDE = (
    *("scale operations", "scale numbers", "pool numbers", "pool odd numbers", "add numbers"),
    *("pointwise odd written", "pointwise odd read", "pointwise narrow read", "hard_swish numbers"),
)
"""What makes a runtime reorder: operations that want channels to lie otherwise than their neighbours do."""


def _depthwise(c: dict[str, Values], out: Values, into: Values) -> dict[str, Values]:
    found = {"read": into * c["read"], "written": out * c["pixels"], "rows": out * c["rows"]}
    area = c["pixels"] * c["kernel"] ** 2
    nearest = np.clip(2 * np.round((c["kernel"] - 1) / 2) + 1, FILTERS[0][0], FILTERS[-1][0])
    for kernel, stride in FILTERS:
        these = (nearest == kernel) & (np.minimum(c["stride"], 2) == stride)
        name = f"{kernel}x{kernel} stride {stride}"
        found |= {name: 1.0 * these, f"{name} multiply-adds": out * area * these}
    for kernel in sorted({kernel for kernel, _ in FILTERS}):
        found[f"{kernel}x{kernel} unrounded"] = c["channels"] * area * (nearest == kernel)
    return found


def likeness(operations: Operations) -> Values:
    """Return where operations of a kind lie, so that near ones take alike long for the work in them: (N, sides)."""
    c = operations.columns
    activation = c["activation"]
    return np.stack(
        [
            np.log2(c["source"]),
            np.log2(c["channels"]),
            np.log2(c["pixels"]),
            2.0 * np.log2(c["kernel"]),
            2.0 * (c["stride"] > 1),
            1.5 * (c["source"] % VECTOR == 0),
            1.5 * (c["channels"] % VECTOR == 0),
            0.7 * (c["channels"] % (VECTOR // 2) == 0),
            1.0 * (activation == ACTIVATIONS.index("relu")),
            1.0 * (activation == ACTIVATIONS.index("relu6")),
            2.0 * (activation > ACTIVATIONS.index("relu6")),
            0.6 * np.log2(c["weights"]),
        ],
        axis=1,
    )


def _cold(weights: Values) -> Values:
    """Return how far a network's weights are beyond what caches hold, 0..1."""
    return np.asarray(np.clip(np.log(weights / WARM) / np.log(COLD / WARM), 0.0, 1.0), np.float64)


def _rounded(channels: Values) -> Values:
    return np.ceil(channels / VECTOR) * VECTOR
