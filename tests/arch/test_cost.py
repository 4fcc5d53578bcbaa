"""What a plan costs, against hand counts, scaling laws and a second definition of "alive"."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import CLASSIFIERS, Arch, Op, Plan, Precision, arch_named, cost, plan
from mobilenets.arch.cost import activation_bytes, live_bytes, multiply_adds, parameters
from mobilenets.arch.mobilenet import Conv, InvertedResidual, Separable

ARCHS = st.sampled_from(sorted(CLASSIFIERS)).map(CLASSIFIERS.__getitem__)
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))
SHORTCUTS = st.sampled_from(["", ":shortcut=expansion", ":shortcut=none", ":projection_shortcut=true"])


@pytest.mark.parametrize(
    ("op", "weights", "products"),
    [
        # weights + BatchNorm, or + bias; products = weights x output pixels
        (Op("stem", "conv", ("input",), (3, 8, 8), (16, 4, 4), 3, 2, batch_norm=True), 432 + 32, 432 * 16),
        (Op("depthwise", "conv", ("x",), (6, 5, 7), (6, 5, 7), 3, groups=6, batch_norm=True), 54 + 12, 54 * 35),
        (Op("grouped", "conv", ("x",), (6, 5, 7), (4, 5, 7), 3, groups=2), 108, 108 * 35),
        (Op("gate", "conv", ("x",), (8, 1, 1), (4, 1, 1), bias=True), 32 + 4, 32),
        (Op("classifier", "linear", ("x",), (10, 1, 1), (5, 1, 1), bias=True), 50 + 5, 50),
        (Op("pool", "pool", ("x",), (10, 7, 7), (10, 1, 1)), 0, 0),
        (Op("add", "add", ("x", "y"), (10, 7, 7), (10, 7, 7)), 0, 0),
        (Op("scale", "scale", ("x", "y"), (10, 7, 7), (10, 7, 7)), 0, 0),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else "",
)
def test_one_operation(op: Op, weights: int, products: int) -> None:
    assert parameters(op) == weights
    assert multiply_adds(op) == products
    assert activation_bytes(op) == 4 * prod(op.out)
    assert activation_bytes(op, "int8") == prod(op.out)


@given(ARCHS, SIZES, st.floats(0.1, 2.0))
def test_totals_are_sums(arch: Arch, size: tuple[int, int], width: float) -> None:
    layout = plan(arch, width=width, resolution=size)
    total = cost(layout)
    assert total.parameters == sum(parameters(op) for op in layout.ops)
    assert total.multiply_adds == sum(multiply_adds(op) for op in layout.ops)
    assert total.peak_activation_bytes == max(live_bytes(layout))
    assert live_bytes(layout)[layout.ops.index(layout.op(total.peak_op))] == total.peak_activation_bytes


@given(ARCHS, SIZES, SIZES)
def test_parameters_do_not_depend_on_the_picture(arch: Arch, one: tuple[int, int], other: tuple[int, int]) -> None:
    assert cost(plan(arch, resolution=one)).parameters == cost(plan(arch, resolution=other)).parameters


def spatial(layout: Plan) -> int:
    """Count the multiply-adds that depend on the picture's size: not squeeze-excite's and those after the pooling."""
    return sum(multiply_adds(op) for op in layout.ops if op.batch_norm)


@given(ARCHS, st.integers(3, 5).map(lambda n: 32 * n), st.integers(3, 5).map(lambda n: 32 * n))
def test_cost_goes_with_the_square_of_the_resolution(arch: Arch, height: int, width: int) -> None:
    """V1, section 3.4; exactly so where every stride divides."""
    small, large = (plan(arch, resolution=(factor * height, factor * width)) for factor in (1, 2))
    assert spatial(large) == 4 * spatial(small)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("mobilenet_v1", 0.990, 1.015), ("mobilenet_v2", 0.960, 1.173), ("mnasnet_b1", 0.967, 1.086)],
)
def test_cost_goes_with_the_square_of_the_width(name: str, least: float, most: float) -> None:
    """V1, section 3.3: roughly; depthwise layers and the stem go with the width, and rounding to 8 costs V2 17 %.

    The cost is a staircase, so the widths just beside its steps hold its extremes.
    """
    arch = CLASSIFIERS[name]
    whole = spatial(plan(arch))
    channels = {row.c for row in arch.rows if isinstance(row, (Conv, Separable, InvertedResidual))}
    steps = {step / c for c in channels for k in range(1, c // 4 + 2) for step in (8 * k - 4, 8 * k / 0.9)}
    for width in {0.5, 2.0} | {step + side for step in steps for side in (-1e-9, 1e-9) if 0.5 <= step + side <= 2}:
        low, high = sorted((width**1.5, width**2))
        assert least * low <= spatial(plan(arch, width=width)) / whole <= most * high, width


@given(st.sampled_from(["mobilenet_v1", "mobilenet_v2"]), st.floats(0.1, 2), st.floats(0.1, 2))
def test_wider_never_costs_less(name: str, one: float, other: float) -> None:
    thin, wide = (cost(plan(CLASSIFIERS[name], width=width)) for width in sorted((one, other)))
    assert thin.parameters <= wide.parameters
    assert thin.multiply_adds <= wide.multiply_adds
    assert thin.peak_activation_bytes <= wide.peak_activation_bytes


@given(ARCHS.map(lambda arch: arch.name), SHORTCUTS, SIZES)
def test_alive_is_what_was_made_and_will_be_read(name: str, option: str, size: tuple[int, int]) -> None:
    layout = plan(arch_named(name + option), resolution=size)
    made = ["input", *(op.name for op in layout.ops)]
    bytes_of = {"input": 4 * prod(layout.input_shape)} | {op.name: activation_bytes(op) for op in layout.ops}
    for index, alive in enumerate(live_bytes(layout)):
        later = {source for op in layout.ops[index:] for source in op.sources}
        held = [name for name in made[: index + 1] if name in later]
        assert alive == sum(bytes_of[name] for name in held) + activation_bytes(layout.ops[index])


def test_peak_of_v2_by_hand() -> None:
    """Block 2's expanded map, 96 x 112 x 112, and its depthwise output, 96 x 56 x 56, of 4 bytes each."""
    total = cost(plan(CLASSIFIERS["mobilenet_v2"]))
    assert total.peak_activation_bytes == 4 * 96 * (112 * 112 + 56 * 56)
    assert total.peak_op == "block_2_depthwise"


def test_shortcut_holds_its_source() -> None:
    """While block 3 runs, its 24 x 56 x 56 input is held for the addition, and without a shortcut it is not."""
    held, free = (plan(arch_named(f"mobilenet_v2{option}")) for option in ("", ":shortcut=none"))
    with_shortcut = live_bytes(held)[held.ops.index(held.op("block_3_depthwise"))]
    without = live_bytes(free)[free.ops.index(free.op("block_3_depthwise"))]
    assert with_shortcut - without == 4 * 24 * 56 * 56


@given(ARCHS, SIZES)
def test_bytes_follow_the_precision(arch: Arch, size: tuple[int, int]) -> None:
    layout = plan(arch, resolution=size)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "float16", "int8")
    peaks = [cost(layout, precision).peak_activation_bytes for precision in precisions]
    assert peaks == [4 * peaks[3], 2 * peaks[3], 2 * peaks[3], peaks[3]]
