"""The memory planner: the papers' figures, and what holds for every network."""

from __future__ import annotations

from math import prod

import pytest

from mobilenets.arch import ARCHITECTURES, arch_named, cost, plan
from mobilenets.arch.cost import Precision
from mobilenets.engine.arena import check, lower_bound
from mobilenets.engine.memory import Memory, Mode, Schedule, between_stages, layout, peak, scratch
from mobilenets.engine.stages import readers, stages

V2 = plan(ARCHITECTURES["mobilenet_v2"])
VARIANTS = (
    *sorted(ARCHITECTURES),
    "mobilenet_v2:shortcut=expansion",
    "mobilenet_v2:expands_always=true",
    "mobilenet_v2:projection_shortcut=true",
)
BLOCK = next(stage for stage in stages(V2) if stage.name == "block_2")


def fits(memory: Memory) -> None:
    check(memory.placed)
    assert memory.total == max(each.end for each in memory.placed)
    assert memory.peak.bytes <= memory.total


def test_layer_by_layer_is_mcunetv2s_figure() -> None:
    """arXiv:2110.15352, Figure 1: MobileNetV2 at 224 in int8 needs 1372 KB, in and out of the second expansion."""
    memory = layout(V2, "int8", "layerwise")
    assert memory.total == 112 * 112 * (16 + 96) == 1_404_928 == 1372 * 1024
    assert memory.peak.name == "block_2_expand"


def test_between_stages_is_table_3() -> None:
    assert between_stages(V2, "float16")[112] == pytest.approx(400_000, rel=0.01)
    assert between_stages(plan(ARCHITECTURES["mobilenet_v1"]), "float16")[112] == pytest.approx(1_600_000, rel=0.01)


def test_fused_blocks_need_little_more_than_the_papers_bound() -> None:
    """V2 section 5.1: the largest block's input and output; the rest is a ring of three expanded rows and a row."""
    block_in, block_out = 112 * 112 * 16 * 4, 56 * 56 * 24 * 4
    memory = layout(V2, "float32", "fused")
    assert memory.total == block_in + block_out + 3 * 112 * 96 * 4 + 56 * 96 * 4
    assert memory.total <= block_in + block_out + 160 * 1024
    assert memory.peak.name == "block_2"


@pytest.mark.parametrize("groups", [1, 2, 5, 7, 96, 200])
def test_groups_of_channels_shrink_what_is_inside(groups: int) -> None:
    inner = -(-96 // groups)
    found = scratch(BLOCK, "float32", Schedule(rows=None, groups=groups))
    assert found == {"block_2_expand": 112 * 112 * inner * 4, "block_2_depthwise": 56 * 56 * inner * 4}
    in_rows = scratch(BLOCK, "float32", Schedule(rows=2, groups=groups))
    assert in_rows == {"block_2_expand": 5 * 112 * 96 * 4, "block_2_depthwise": 2 * 56 * inner * 4}


def test_int8_sums_over_groups_are_int32() -> None:
    assert "block_2_project.sums" not in scratch(BLOCK, "int8", Schedule())
    assert scratch(BLOCK, "int8", Schedule(rows=None, groups=2))["block_2_project.sums"] == 56 * 56 * 24 * 4
    assert scratch(BLOCK, "int8", Schedule(rows=3, groups=2))["block_2_project.sums"] == 3 * 56 * 24 * 4


def test_every_thread_has_rings() -> None:
    one, two = (scratch(BLOCK, "float32", Schedule(threads=threads)) for threads in (1, 2))
    assert two == {name: 2 * size for name, size in one.items()}


def test_squeeze_excite_keeps_its_map() -> None:
    layout_of_v3 = plan(ARCHITECTURES["mobilenet_v3_large"])
    stage = next(stage for stage in stages(layout_of_v3) if stage.name == "block_12")
    found = scratch(stage, "int8", Schedule())
    assert found["block_12_depthwise"] == 14 * 14 * 672
    assert found["block_12_expand"] == 3 * 14 * 672
    assert found["block_12_se_pool"] == found["block_12_se_expand"] == 672
    assert found["block_12_se_pool.sums"] == 672 * 4


@pytest.mark.parametrize("name", VARIANTS)
def test_stages_are_the_plan(name: str) -> None:
    layout_of = plan(arch_named(name), resolution=96)
    cut = stages(layout_of)
    assert tuple(op for stage in cut for op in stage.ops) == layout_of.ops
    assert len({stage.name for stage in cut}) == len(cut)
    assert cut[0].sources == ("input",)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("mode", ["layerwise", "fused"])
def test_every_network_is_planned(name: str, precision: Precision, mode: Mode) -> None:
    layout_of = plan(arch_named(name), resolution=(101, 64))
    memory = layout(layout_of, precision, mode)
    fits(memory)
    assert memory.total <= 1.02 * lower_bound([each.buffer for each in memory.placed])
    if mode == "layerwise":
        assert memory.total <= cost(layout_of, precision).peak_activation_bytes
    assert memory.picture_bytes == prod(layout_of.input_shape) * (4 if precision == "float32" else 1)
    assert [name for step in memory.steps for name in step.ops] == [op.name for op in layout_of.ops]
    assert peak(layout_of, precision, mode) == memory.total
    # What is read in a step is there: whole, unless it was made within the step.
    number = {name: index for index, step in enumerate(memory.steps) for name in step.ops}
    for source, by in readers(layout_of).items():
        last = max(number[op.name] for op in by)
        if source != "input" and last > number[source]:
            buffer = memory.find(source).buffer
            assert (buffer.first, buffer.last) == (number[source], last)
            assert buffer.bytes == prod(layout_of.op(source).out) * (4 if precision == "float32" else 1)


def test_alignment_costs_little() -> None:
    memory = layout(V2, "int8", "fused", align=64)
    fits(memory)
    assert all(each.offset % 64 == 0 for each in memory.placed)
    assert peak(V2, "int8", "fused") <= memory.total <= peak(V2, "int8", "fused") + 64 * 4


def test_stages_have_schedules_of_their_own() -> None:
    memory = layout(V2, "float32", "fused", schedule={"block_2": Schedule(rows=4)})
    assert memory.find("block_2_expand").buffer.bytes == 9 * 112 * 96 * 4
    assert memory.find("block_3_expand").buffer.bytes == 3 * 56 * 144 * 4
    whole = layout(V2, "float32", "fused", schedule=Schedule(rows=None))
    assert whole.find("block_3_expand").buffer.bytes == 56 * 56 * 144 * 4


def test_a_buffer_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="nothing"):
        layout(V2, "int8").find("nothing")
