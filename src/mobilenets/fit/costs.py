"""What of an operation its time depends on, as numbers that add up over a network.

Many kernels work on whole vectors of channels, others do not: so work is counted for channel counts rounded up to 16,
and as it is, and the table tells which of them costs time. What an operation reads and writes is counted beside its
multiply-adds: much of a MobileNet is bound by memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from mobilenets.arch import Op, Plan

VECTOR = 16
"""Float32 numbers in the widest vectors of a CPU, and the block of channels that ONNX Runtime and oneDNN lay out by."""
THIN = 32
"""Below so many output channels, a 1x1 convolution has too few sums to hide what it reads."""
SMALL_MAP = 64
"""Pixels up to which a map is so small that a 1x1 convolution is bound by its weights."""
_CLIPS = ("relu", "relu6")


def work(layout: Plan) -> dict[str, float]:
    """Return a network's work by kind: counts of operations, multiply-adds, numbers read and written."""
    total: defaultdict[str, float] = defaultdict(float)
    total["networks"] = 1.0
    for op in layout.ops:
        for name, amount in _of(op).items():
            total[name] += amount
    return dict(total)


def blocks(layout: Plan, cost: Mapping[str, float]) -> dict[str, float]:
    """Return the milliseconds of each block, by its name or, outside of blocks, the operation's.

    Args:
        layout: the network.
        cost: milliseconds of a unit of work, by kind.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for op in layout.ops:
        found[op.block or op.name] += sum(cost.get(name, 0.0) * amount for name, amount in _of(op).items())
    return dict(found)


def _of(op: Op) -> dict[str, float]:
    channels, height, width = op.out
    source, source_height, source_width = op.source_shape
    pixels, read = height * width, source_height * source_width
    if op.kind == "add":
        return {"additions": 1, "added numbers": channels * pixels}
    if op.kind == "pool":
        return {"poolings": 1, "pooled numbers": source * read}
    if op.kind == "scale":
        return {"scalings": 1, "scaled numbers": channels * pixels} | _activated(op)
    if pixels == 1 and op.kernel == 1:
        return {"vectors": 1, "vector weights": channels * source} | _activated(op)
    out, into = _rounded(channels), _rounded(source)
    if op.depthwise:
        kind = f"depthwise {op.kernel}x{op.kernel} stride {op.stride}"
        sums = {kind: 1, f"{kind} multiply-adds": out * pixels * op.kernel**2}
        moved = {"depthwise read": into * read, "depthwise written": out * pixels, "depthwise rows": out * height}
        moved |= {f"depthwise {op.kernel}x{op.kernel} unrounded": channels * pixels * op.kernel**2}
    elif op.kernel > 1:
        sums = {"full": 1, "full multiply-adds": out * pixels * source * op.kernel**2}
        moved = {"full written": out * pixels}
    else:
        products = out * into * pixels
        sums = {"pointwise": 1, "pointwise multiply-adds": products}
        sums |= {"pointwise unrounded": channels * source * pixels, "pointwise numbers": channels * pixels}
        sums |= {"pointwise small": products} if pixels <= SMALL_MAP else {}
        sums |= {"pointwise thin": products} if out <= THIN else {}
        moved = {"pointwise read": into * pixels, "pointwise written": out * pixels, "pointwise weights": out * into}
    return {**sums, **moved} | _activated(op)


def _activated(op: Op) -> dict[str, float]:
    amount = float(op.out[0] * op.out[1] * op.out[2])
    if op.activation is None:
        return {}
    if op.activation in _CLIPS:
        return {"clipped numbers": amount}
    return {op.activation: 1, f"{op.activation} numbers": amount}


def _rounded(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR
