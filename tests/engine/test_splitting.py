"""V2's section 5.1: the block is the sum over groups of its channels, for any number of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobilenets.arch import Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine.reference import arithmetic
from mobilenets.engine.splitting import groups_of, split

Networks = Callable[..., Checkpoint]


@given(st.integers(1, 300), st.integers(1, 400))
def test_groups_are_all_channels_once_and_even(channels: int, groups: int) -> None:
    parts = groups_of(channels, groups)
    assert [channel for part in parts for channel in range(channels)[part]] == list(range(channels))
    assert len(parts) == min(channels, groups)
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


def block(checkpoint: Checkpoint, name: str) -> list[Op]:
    parts = ("expand", "depthwise", "project")
    return [op for op in checkpoint.card.plan.ops if op.name in {f"{name}_{part}" for part in parts}]


# 24, 48 and 144 inner channels; a block that does not expand; strides 1 and 2; V3's 5x5 and h-swish, in int8 by tables
BLOCKS = [
    ("mobilenet_v2", "block_1"),
    ("mobilenet_v2", "block_2"),
    ("mobilenet_v2", "block_5"),
    ("mobilenet_v2", "block_12"),
    ("mnasnet_b1", "block_6"),
    ("mobilenet_v3_large", "block_8"),
]


@pytest.mark.parametrize(("name", "which"), BLOCKS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_block_is_the_sum_over_groups_of_its_channels(
    name: str,
    which: str,
    precision: str,
    data: st.DataObject,
    random_network: Networks,
    random_int8_network: Networks,
) -> None:
    checkpoint = (random_int8_network if precision == "int8" else random_network)(name)
    by, rule = arithmetic(checkpoint), checkpoint.card.arch.padding
    ops = block(checkpoint, which)
    groups = data.draw(st.integers(1, ops[-1].source_shape[0] + 2))
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    x: NDArray[Any] = random.integers(0, 256, (2, *ops[0].source_shape[:1], 7, 6)).astype(np.uint8)
    if precision == "float32":
        x = x / 64 - 2
    whole = x
    for op in ops:
        whole = by.compute(op, whole)
    parts = split(ops, by, rule, x, groups)
    if precision == "int8":
        np.testing.assert_array_equal(parts, whole)
    else:
        np.testing.assert_allclose(parts, whole, rtol=1e-10, atol=1e-12)
