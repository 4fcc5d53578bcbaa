"""Any table, at any width, on any picture: the shapes chain, and follow the papers' rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import CLASSIFIERS, Arch, Plan, arch_named, plan
from mobilenets.arch.mobilenet import Classifier, Conv, Dense, InvertedResidual, Pool
from mobilenets.arch.plan import padding, round_channels
from mobilenets.errors import InputError

ARCHS = st.sampled_from(sorted(CLASSIFIERS)).map(CLASSIFIERS.__getitem__)
WIDTHS = st.floats(0.1, 2.0)
SIDES = st.integers(1, 300)
SIZES = st.tuples(SIDES, SIDES)
Rule = Literal["symmetric", "same"]
Shortcut = Literal["bottleneck", "expansion", "none"]
RULES: st.SearchStrategy[Rule] = st.sampled_from(get_args(Rule))
SHORTCUTS: st.SearchStrategy[Shortcut] = st.sampled_from(get_args(Shortcut))


@st.composite
def varied(draw: st.DrawFn) -> Arch:
    """Draw a table with any of its options."""
    return replace(
        draw(ARCHS),
        padding=draw(RULES),
        shortcut=draw(SHORTCUTS),
        projection_shortcut=draw(st.booleans()),
        expansion=draw(st.none() | st.integers(1, 8).map(float)),
        bottleneck_activation=draw(st.sampled_from([None, "relu6"])),
        expands_always=draw(st.booleans()),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return plan(
        draw(varied()),
        width=draw(WIDTHS),
        resolution=draw(SIZES),
        classes=draw(st.integers(1, 2000)),
        in_channels=draw(st.integers(1, 16)),
    )


def rows_in(layout: Plan) -> list[tuple[int, int, int]]:
    """Return the shape every row of the table reads."""
    first = [next(op for op in layout.ops if op.row == index) for index in range(len(layout.arch.rows))]
    return [op.source_shape for op in first]


@given(plans())
def test_shapes_chain(layout: Plan) -> None:
    shapes = {"input": layout.input_shape}
    for op in layout.ops:
        assert op.name not in shapes, "a name given twice"
        assert op.source_shape == shapes[op.sources[0]]
        if op.kind == "add":
            assert [shapes[source] for source in op.sources] == [op.out, op.out]
        elif op.kind == "scale":
            assert [shapes[source] for source in op.sources] == [op.out, (op.out[0], 1, 1)]
        else:
            assert len(op.sources) == 1
        shapes[op.name] = op.out
    assert layout.ops[-1].out == (layout.classes, 1, 1)


@given(plans())
def test_every_output_is_read(layout: Plan) -> None:
    read = {source for op in layout.ops for source in op.sources}
    assert {op.name for op in layout.ops[:-1]} <= read


@given(plans())
def test_convolution_sizes(layout: Plan) -> None:
    """Every output side is ceil(side / stride), and is what the paddings give by the convolution formula."""
    for op in layout.ops:
        if op.kind == "conv":
            top, bottom, left, right = op.padding
            (_, height, width), (_, out_height, out_width) = op.source_shape, op.out
            assert out_height == -(-height // op.stride) == (height + top + bottom - op.kernel) // op.stride + 1
            assert out_width == -(-width // op.stride) == (width + left + right - op.kernel) // op.stride + 1


@given(plans())
def test_groups(layout: Plan) -> None:
    for op in layout.ops:
        if op.name.endswith("_depthwise"):
            assert op.depthwise
            assert op.groups == op.source_shape[0] == op.out[0]
        else:
            assert op.groups == 1
            assert not op.depthwise


@given(plans())
def test_channels_are_multiples_of_the_divisor(layout: Plan) -> None:
    channels = {op.out[0] for op in layout.ops if op.batch_norm}
    assert {c % layout.arch.divisor for c in channels} == {0}


@given(st.floats(0.01, 5000), st.sampled_from([1, 4, 8, 16]))
def test_rounding(value: float, divisor: int) -> None:
    rounded = round_channels(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * value)
    assert rounded <= max(divisor, value + divisor)
    nearest = abs(rounded - value) <= divisor / 2
    up = rounded - value < divisor and 0.9 * value > rounded - divisor
    assert nearest or up or rounded == divisor


@given(st.floats(0.01, 5000), st.floats(0.01, 5000))
def test_rounding_never_turns_the_order_around(one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert round_channels(small) <= round_channels(large)


@given(st.integers(1, 500), st.sampled_from([1, 3, 5, 7]), st.integers(1, 4))
def test_padding(size: int, kernel: int, stride: int) -> None:
    before, after = padding(size, kernel, stride, "symmetric")
    assert before == after == (kernel - 1) // 2
    before, after = padding(size, kernel, stride, "same")
    assert after - before in {0, 1}, "the odd pixel is right and bottom"
    reach = (-(-size // stride) - 1) * stride + kernel  # from the first tap to the last
    assert before + after == max(reach - size, 0)


@given(ARCHS, RULES, WIDTHS, SIZES)
def test_padding_changes_no_shape(arch: Arch, rule: Rule, width: float, size: tuple[int, int]) -> None:
    one = plan(arch, width=width, resolution=size)
    other = plan(replace(arch, padding=rule), width=width, resolution=size)
    assert [op.out for op in one.ops] == [op.out for op in other.ops]


# -- Against the papers' tables: the Input column, as printed (side, channels) --

V1_INPUTS = "224x3 112x32 112x64 56x128 56x128 28x256 28x256 14x512 14x512 7x1024 7x1024 1x1024"
V2_INPUTS = "224x3 112x32 112x16 56x24 28x32 14x64 14x96 7x160 7x320 7x1280 1x1280"
V3_LARGE_INPUTS = (
    "224x3 112x16 112x16 56x24 56x24 28x40 28x40 28x40 14x80 14x80 14x80 14x80 14x112 14x112 7x160 7x160 7x160 7x960 "
    "1x960 1x1280"
)
V3_SMALL_INPUTS = "224x3 112x16 56x16 28x24 28x24 14x40 14x40 14x40 14x48 14x48 7x96 7x96 7x96 7x576 1x576 1x1024"


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("mobilenet_v1", V1_INPUTS),
        ("mobilenet_v2", V2_INPUTS),
        ("mobilenet_v3_large", V3_LARGE_INPUTS),
        ("mobilenet_v3_small", V3_SMALL_INPUTS),
    ],
)
def test_inputs_are_those_of_the_paper(name: str, printed: str) -> None:
    layout = plan(CLASSIFIERS[name])
    assert [f"{side}x{channels}" for channels, side, _ in rows_in(layout)] == printed.split()
    assert layout.notes == ()


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - {"mobilenet_v2_mnist"}))
def test_table_is_laid_out_as_printed(name: str) -> None:
    """At width 1.0 and the table's resolution every row has its own channels and stride."""
    arch = CLASSIFIERS[name]
    layout = plan(arch)
    assert layout.strides == tuple(getattr(row, "s", 1) for row in arch.rows)
    if arch.base_width == 1:
        printed = [row.c for row in arch.rows if not isinstance(row, Pool | Classifier)]
        assert printed == [
            [op for op in layout.ops if op.row == index][-1].out[0]
            for index, row in enumerate(arch.rows)
            if not isinstance(row, Pool | Classifier)
        ]


def test_last_convolution_only_grows() -> None:
    """V2, section 4: below 1.0 the last convolution keeps its 1280 channels."""
    heads = [plan(CLASSIFIERS["mobilenet_v2"], width=width).op("head").out[0] for width in (0.35, 1.0, 1.4)]
    assert heads == [1280, 1280, 1792]


def test_v3_expansion_follows_the_ratio() -> None:
    """At 0.75 the published weights' fourth block expands 24 channels to 72 (3 x 24), not to 56 (0.75 x 72)."""
    assert plan(CLASSIFIERS["mobilenet_v3_large"], width=0.75).op("block_4_depthwise").out[0] == 72


def test_mnist_form() -> None:
    layout = plan(CLASSIFIERS["mobilenet_v2_mnist"])
    assert layout.input_shape == (1, 28, 28)
    assert layout.op("head").out[0] == 64
    assert layout.op("block_10_project").out[0] == 64, "(6, 64, 4, 2) is the last stage"
    assert layout.classes == 10


def test_repeated_heads_have_names_of_their_own() -> None:
    v2 = CLASSIFIERS["mobilenet_v2"]
    head, pool, last = v2.rows[-3:]
    dense = Dense(32, "relu")
    ops = plan(replace(v2, rows=(*v2.rows[:-3], head, head, head, pool, dense, dense, last))).ops
    names = [op.name for op in ops if op.block == ""]
    assert names == ["stem", "head", "head_2", "head_3", "pool", "dense", "dense_2", "classifier"]


# -- Small pictures --


def last_map(layout: Plan) -> tuple[int, int]:
    _, height, width = layout.op("pool").source_shape
    return height, width


def test_32_pixels_are_the_cifar_form() -> None:
    automatic = plan(CLASSIFIERS["mobilenet_v2"], resolution=32, classes=10)
    assert automatic.ops == plan(CLASSIFIERS["mobilenet_v2_cifar"]).ops
    assert "small-image strides: stride 1 in rows 1 and 3 of the table" in automatic.notes[0]


def test_64_pixels_keep_all_strides_but_the_stems() -> None:
    layout = plan(CLASSIFIERS["mobilenet_v2"], resolution=64)
    assert layout.strides == (1, 1, 2, 2, 2, 1, 2, 1, 1, 1, 1)
    assert "stride 1 in row 1 of the table" in layout.notes[0]


@given(ARCHS, st.integers(96, 300), st.integers(96, 300))
def test_from_96_pixels_nothing_changes(arch: Arch, height: int, width: int) -> None:
    layout = plan(arch, resolution=(height, width))
    assert layout.strides == tuple(getattr(row, "s", 1) for row in arch.rows)
    assert layout.notes == ()


@given(ARCHS, SIZES)
def test_small_pictures_lose_no_stride_needlessly(arch: Arch, size: tuple[int, int]) -> None:
    layout = plan(arch, resolution=size)
    printed = [getattr(row, "s", 1) for row in arch.rows]
    changed = [index for index, (used, said) in enumerate(zip(layout.strides, printed, strict=True)) if used != said]
    assert min(last_map(layout)) >= min(3, *size)
    assert bool(layout.notes) == bool(changed)
    if changed:
        assert [layout.strides[index] for index in changed] == [1] * len(changed)
        assert changed == [index for index, said in enumerate(printed) if said > 1][: len(changed)], "the earliest ones"
        restored = printed[changed[-1]]
        assert -(-min(last_map(layout)) // restored) < 3, "one stride fewer would have done"


@given(ARCHS, SIZES)
def test_strides_can_be_kept(arch: Arch, size: tuple[int, int]) -> None:
    layout = plan(replace(arch, small_image_strides=False), resolution=size)
    assert layout.strides == tuple(getattr(row, "s", 1) for row in arch.rows)
    assert layout.notes == ()


# -- The V2 paper's ablations --


def adds(layout: Plan) -> list[tuple[str, ...]]:
    return [op.sources for op in layout.ops if op.kind == "add"]


def test_shortcut_between_bottlenecks() -> None:
    """Every repeat of a stage but its first: 1 + 2 + 3 + 2 + 2 of them."""
    pairs = adds(plan(arch_named("mobilenet_v2")))
    assert len(pairs) == 10
    assert pairs[0] == ("block_3_project", "block_2_project")
    assert pairs[2] == ("block_6_project", "block_5_add"), "shortcuts run on along a stage"


def test_shortcut_between_expansions() -> None:
    layout = plan(arch_named("mobilenet_v2:shortcut=expansion"))
    assert adds(layout)[:3] == [
        ("block_4_expand", "block_3_expand"),  # 144 x 56 x 56 each: block 4's stride comes after its expansion
        ("block_6_expand", "block_5_expand"),
        ("block_7_expand", "block_6_add"),
    ]
    for op in layout.ops:
        if op.kind == "add":
            assert op.sources[0] == op.name.replace("_add", "_expand")
            assert op.out[0] == 6 * layout.op(op.sources[0]).source_shape[0]


def test_no_shortcut() -> None:
    assert adds(plan(arch_named("mobilenet_v2:shortcut=none"))) == []


@pytest.mark.parametrize(("option", "activation"), [("", None), (":bottleneck_activation=relu6", "relu6")])
def test_bottleneck_is_linear_or_not(option: str, activation: str | None) -> None:
    layout = plan(arch_named(f"mobilenet_v2{option}"))
    assert {op.activation for op in layout.ops if op.name.endswith("_project")} == {activation}
    assert {op.activation for op in layout.ops if op.name.endswith("_depthwise")} == {"relu6"}


@given(st.integers(2, 12))
def test_expansion(t: int) -> None:
    layout = plan(arch_named(f"mobilenet_v2:expansion={t}"))
    expands = [op for op in layout.ops if op.name.endswith("_expand")]
    assert len(expands) == 16, "the block with t = 1 has none"
    assert {op.out[0] / op.source_shape[0] for op in expands} == {t}


def test_projection_shortcut() -> None:
    """CIFAR's option: 1x1 and BatchNorm where the stride is 1 and the channels differ: 32-16, 16-24, 64-96, 160-320."""
    layout = plan(arch_named("mobilenet_v2_cifar:projection_shortcut=true"))
    shortcuts = [op for op in layout.ops if op.name.endswith("_shortcut")]
    assert [(op.source_shape[0], op.out[0]) for op in shortcuts] == [(32, 16), (16, 24), (64, 96), (160, 320)]
    assert all(op.kernel == 1 and op.batch_norm and op.activation is None for op in shortcuts)
    assert len(adds(layout)) == 14


def test_table_is_varied_not_changed() -> None:
    arch = CLASSIFIERS["mobilenet_v2"]
    thinner = replace(arch, rows=tuple(r for r in arch.rows if not isinstance(r, InvertedResidual) or r.c != 96))
    assert len(plan(thinner).ops) < len(plan(arch).ops)
    assert isinstance(CLASSIFIERS["mobilenet_v2"].rows[0], Conv)
    with pytest.raises(TypeError):
        CLASSIFIERS["mine"] = arch  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resolution": 0}, "resolution must be from 1 to 16,384, not 0"),
        ({"resolution": (224, -1)}, "resolution must be"),
        ({"resolution": 20_000}, "resolution must be"),
        ({"classes": 0}, "classes must be from 1 to 1,000,000"),
        ({"in_channels": 0}, "in-channels must be from 1 to 4,096"),
        ({"width": 0.0}, "width must be from 0.01 to 16"),
        ({"width": -1.0}, "width must be"),
        ({"width": float("nan")}, "width must be"),
        ({"width": float("inf")}, "width must be"),
    ],
)
def test_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(CLASSIFIERS["mobilenet_v2"], **values)  # type: ignore[arg-type]
