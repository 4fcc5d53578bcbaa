"""What a channel's values may be, and which channels are of one group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import CLASSIFIERS, arch_named, plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.bounds import Bounds, bounds
from mobilenets.compress.narrow import groups
from mobilenets.engine import reference
from mobilenets.errors import CheckpointError
from tests.compress.random_networks import (
    VARIANTS,
    batch,
    kept_checkpoint,
)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v3_small", "mobilenet_v2:shortcut=expansion"])
def test_no_value_leaves_its_bounds(name: str) -> None:
    checkpoint = kept_checkpoint(name)
    known = bounds(checkpoint)
    seen = []

    def watch(op: str, value: npt.NDArray[np.float64]) -> None:
        low, high = value.min((0, 2, 3)), value.max((0, 2, 3))
        assert (low >= known[op].low - 1e-6).all(), op
        assert (high <= known[op].high + 1e-6).all(), op
        seen.append(op)

    reference.run(checkpoint, batch(), watch)
    assert seen == [op.name for op in checkpoint.card.plan.ops]


def test_bounds_are_those_of_black_and_white(colour_checkpoint: Checkpoint) -> None:
    """Its stem is the identity, shifted by 1; its classifier takes the shift back and multiplies by 8."""
    known = bounds(colour_checkpoint)
    np.testing.assert_allclose(known["input"].low, 0, atol=1e-12)
    np.testing.assert_allclose(known["input"].high, 1)
    np.testing.assert_allclose(known["stem"].low, 1, rtol=1e-6)
    np.testing.assert_allclose(known["stem"].high[:3], 2, rtol=1e-6)
    np.testing.assert_allclose(known["classifier"].low, 0, atol=1e-5)
    np.testing.assert_allclose(known["classifier"].high, 8, rtol=1e-6)


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=2).map(sorted), st.floats(0, 1))
def test_hard_swish_falls_before_it_rises(ends: list[float], part: float) -> None:
    from mobilenets.compress.bounds import _activated
    from mobilenets.engine.quantized import activated

    low, high = ends
    after = _activated(Bounds(np.array([low]), np.array([high])), "hard_swish")
    value = activated(np.array([low + part * (high - low)]), "hard_swish")
    assert after.low - 1e-9 <= value <= after.high + 1e-9


def test_an_int8_network_has_no_bounds_here() -> None:
    checkpoint = kept_checkpoint("mobilenet_v1")
    with pytest.raises(CheckpointError, match="only float32"):
        bounds(replace(checkpoint, card=replace(checkpoint.card, precision="int8")))


@pytest.mark.parametrize("name", [*CLASSIFIERS, *VARIANTS])
def test_every_output_but_the_last_is_in_one_group(name: str) -> None:
    layout = plan(arch_named(name), width=0.25)
    found = groups(layout)
    members = [member for group in found for member in group.members]
    assert sorted(members) == sorted(op.name for op in layout.ops[:-1])
    for group in found:
        assert {layout.op(member).out[0] for member in group.members} == {group.channels}
        assert group.readers
        assert {member for _, member in group.readers} <= {*group.members}


def test_a_depthwise_convolution_belongs_to_its_source() -> None:
    layout = plan(arch_named("mobilenet_v2"))
    by_first = {group.members[0]: group for group in groups(layout)}
    assert by_first["block_2_expand"].members == ("block_2_expand", "block_2_depthwise")
    assert by_first["block_2_expand"].readers == (("block_2_project", "block_2_depthwise"),)
    assert by_first["block_2_project"].members == ("block_2_project", "block_3_project", "block_3_add")
    assert by_first["block_2_project"].readers == (
        ("block_3_expand", "block_2_project"),
        ("block_4_expand", "block_3_add"),
    )
