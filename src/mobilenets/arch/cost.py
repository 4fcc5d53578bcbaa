"""What a plan costs: parameters, multiply-adds, activation bytes.

A multiply-add is one multiplication and one addition; FLOPs are twice that. Counted are convolutions and fully
connected layers, squeeze-excite's included; not biases, BatchNorm (folded at inference), activations, poolings and
additions: so the papers, TF-slim and torchvision count.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from mobilenets.arch.plan import Op, Plan

Precision = Literal["float32", "bfloat16", "float16", "int8"]
BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
"""Bytes of one activation."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Totals over a plan (batch 1)."""

    parameters: int
    multiply_adds: int
    peak_activation_bytes: int
    peak_op: str


def parameters(op: Op) -> int:
    """Count the trained numbers of one operation: weights, bias, BatchNorm's scale and shift."""
    if op.kind not in ("conv", "linear"):
        return 0
    c = op.out[0]
    weights = c * (op.source_shape[0] // op.groups) * op.kernel**2
    return weights + (c if op.bias else 0) + (2 * c if op.batch_norm else 0)


def multiply_adds(op: Op) -> int:
    """Count the multiply-adds of one operation for one picture."""
    if op.kind not in ("conv", "linear"):
        return 0
    return prod(op.out) * (op.source_shape[0] // op.groups) * op.kernel**2


def activation_bytes(op: Op, precision: Precision = "float32") -> int:
    """Return the size in bytes of what one operation writes."""
    return prod(op.out) * BYTES[precision]


def live_bytes(plan: Plan, precision: Precision = "float32") -> tuple[int, ...]:
    """Return for each operation the bytes alive while it runs, executed layer by layer.

    Alive are its output, its inputs, and whatever a later operation still reads (a shortcut's source) or the network
    returns. Every operation writes a buffer of its own: nothing is done in place. The picture counts.
    """
    size = {"input": prod(plan.input_shape) * BYTES[precision]}
    last_use = {"input": 0}
    for index, op in enumerate(plan.ops):
        size[op.name] = activation_bytes(op, precision)
        last_use[op.name] = index
        for source in op.sources:
            last_use[source] = index
    last_use.update(dict.fromkeys(plan.outputs, len(plan.ops)))
    alive = {"input"}
    bytes_alive: list[int] = []
    for index, op in enumerate(plan.ops):
        alive.add(op.name)
        bytes_alive.append(sum(size[name] for name in alive))
        alive = {name for name in alive if last_use[name] > index}
    return tuple(bytes_alive)


def cost(plan: Plan, precision: Precision = "float32") -> Cost:
    """Add up a plan.

    >>> from mobilenets.arch import arch_named, plan
    >>> cost(plan(arch_named("mobilenet_v2"))).parameters
    3504872
    """
    alive = live_bytes(plan, precision)
    peak = max(range(len(alive)), key=alive.__getitem__)
    return Cost(
        parameters=sum(parameters(op) for op in plan.ops),
        multiply_adds=sum(multiply_adds(op) for op in plan.ops),
        peak_activation_bytes=alive[peak],
        peak_op=plan.ops[peak].name,
    )
