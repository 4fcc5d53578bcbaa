"""V2's section 5.1 as it is written: an inverted residual is a sum over groups of its inner channels.

F(x) = sum over i of (A_i . N . B_i)(x): B_i expands to a group of the inner channels, N (ReLU6, depthwise convolution,
ReLU6) works on each channel by itself, and A_i projects the group. So the inner tensor is never there as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.arch import Op
from mobilenets.engine.reference import Arithmetic, products

if TYPE_CHECKING:
    from numpy.typing import NDArray


def groups_of(channels: int, groups: int) -> tuple[slice, ...]:
    """Divide channels into groups whose sizes differ by at most one; fewer groups where there are fewer channels.

    >>> groups_of(10, 4)
    (slice(0, 2, None), slice(2, 5, None), slice(5, 8, None), slice(8, 10, None))
    """
    edges = [round(index * channels / groups) for index in range(groups + 1)]
    return tuple(slice(low, high) for low, high in itertools.pairwise(edges) if high > low)


def split(ops: Sequence[Op], by: Arithmetic, rule: str, x: NDArray[Any], groups: int) -> NDArray[Any]:
    """Compute expansion, depthwise convolution and projection in groups of the inner channels.

    In int8 the result is the same to the bit, because the projection's sums are integers; in float32 it differs by the
    order of a sum.

    Args:
        ops: the three; a block that does not expand has two.
        by: how they are computed.
        rule: where padding goes, as the architecture says.
        x: what the first reads, (N, C, H, W), as `by` has it.
        groups: how many, from 1.
    """
    *inner, project = ops
    weight, bias = by.weights(project)
    total: NDArray[np.float64] | float = 0.0
    for part in groups_of(project.source_shape[0], groups):
        group = x if len(inner) == 2 else x[:, part]
        for op in inner:
            mine, its_bias = by.weights(op)
            its = _part(op, part)
            shifted = by.shifted(op.sources[0], group)
            sums = products(its, shifted, mine[part], rule) + its_bias[part, np.newaxis, np.newaxis]
            group = by.finish(op, sums, part)
        shifted = by.shifted(project.sources[0], group)
        total = total + products(project, shifted, weight[:, part], rule)
    return by.finish(project, total + bias[:, np.newaxis, np.newaxis])


def _part(op: Op, part: slice) -> Op:
    """Return the operation on a part of its output channels, and of its input's where it is depthwise."""
    count = part.stop - part.start
    if not op.depthwise:
        return replace(op, out=(count, *op.out[1:]))
    return replace(op, out=(count, *op.out[1:]), source_shape=(count, *op.source_shape[1:]), groups=count)
