from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.arch import CLASSIFIERS, Arch, Op, Plan, plan
from mobilenets.arch.mobilenet import Activation
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify, op_shape, weighted
from mobilenets.nn.convert.labels import Classes, classes_of
from mobilenets.nn.convert.layers import Layer, Norm, Source

V2 = CLASSIFIERS["mobilenet_v2"]
Change = Callable[[Layer, Op], Layer]


def source_of(layout: Plan, *, told: bool = False, change: Change | None = None, **fields: Any) -> Source:
    """Return what a reader would make of a file of this network; if `told`, one that says all that a graph says."""
    layers = []
    for op in weighted(layout):
        layer = Layer(op.name, np.zeros(op_shape(op), np.float32))
        if told:
            late = layout.arch.padding if op.kernel > 1 and op.stride > 1 else None
            layer = replace(layer, stride=op.stride, padding=late, activation=op.activation)
        layers.append(layer if change is None else change(layer, op))
    return Source("a file", tuple(layers), resolution=layout.resolution, **fields)


@pytest.mark.parametrize("width", [1.0, 0.5, 1.4])
@pytest.mark.parametrize("arch", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_every_table_is_known_by_its_shapes_at_every_published_width(arch: Arch, width: float) -> None:
    wanted = plan(arch, width=width, classes=7)
    found = identify(source_of(wanted))
    # The CIFAR form differs from V2 in strides only, and Lite1 at 1.1 is Lite2: the same shapes either way.
    assert [op_shape(op) for op in weighted(found)] == [op_shape(op) for op in weighted(wanted)]
    if width == 1.0 and arch.name != "mobilenet_v2_cifar":
        assert (found.arch, found.width) == (arch, width)


@given(width=st.floats(0.2, 3).map(lambda value: round(value, 2)), name=st.sampled_from(["mobilenet_v2", "mnasnet_a1"]))
@settings(max_examples=12, deadline=None)
def test_unpublished_widths_are_derived_from_the_channels(width: float, name: str) -> None:
    wanted = plan(CLASSIFIERS[name], width=width, classes=7)
    found = identify(source_of(wanted), architecture=CLASSIFIERS[name])
    assert [op_shape(op) for op in weighted(found)] == [op_shape(op) for op in weighted(wanted)]


def test_strides_tell_the_cifar_form_from_v2() -> None:
    wanted = plan(CLASSIFIERS["mobilenet_v2_cifar"], classes=10)
    assert identify(source_of(wanted, told=True)).arch.name == "mobilenet_v2_cifar"
    # As V2 with the rule for small pictures it would be the same network too.
    assert [op.stride for op in plan(V2, resolution=32).ops] == [op.stride for op in wanted.ops]


def test_strides_of_the_file_are_kept_on_small_pictures() -> None:
    """At 64 pixels the rule for small pictures would set the stem's stride to 1: the file says 2."""
    small = plan(replace(V2, small_image_strides=False), resolution=64)
    found = identify(source_of(small, told=True))
    assert not found.arch.small_image_strides
    assert found.arch.rows == V2.rows
    assert [op.stride for op in found.ops] == [op.stride for op in small.ops]
    assert [op.stride for op in plan(V2, resolution=64).ops] != [op.stride for op in small.ops]


def test_misplaced_strides_become_a_table_of_their_own() -> None:
    """As in one widely used ONNX file, which halves one block later."""

    def later(layer: Layer, op: Op) -> Layer:
        return replace(layer, stride={"block_2_depthwise": 1, "block_3_depthwise": 2}.get(op.name, op.stride))

    found = identify(source_of(plan(V2), told=True, change=later))
    assert [op.stride for op in found.ops if op.depthwise][:5] == [1, 1, 2, 2, 1]
    assert [op.out for op in found.ops][-5:] == [op.out for op in plan(V2).ops][-5:]
    assert {row.n for row in found.arch.rows if hasattr(row, "n")} == {1}


def test_a_stride_in_a_1x1_is_refused() -> None:
    def wrong(layer: Layer, op: Op) -> Layer:
        return replace(layer, stride=2 if op.name == "block_3_expand" else op.stride)

    with pytest.raises(ConvertError, match="f: block_3_expand has stride 2 where block_3_expand has 1: no table"):
        identify(source_of(plan(V2), told=True, change=wrong), name="f")


@pytest.mark.parametrize(
    "arch",
    [
        replace(V2, activation="relu"),
        replace(V2, bottleneck_activation="relu6"),
        replace(CLASSIFIERS["mobilenet_v3_small"], se=replace(V2.se, gate="sigmoid")),
        replace(CLASSIFIERS["mobilenet_v3_large"], se=replace(V2.se, before_activation=True)),
        replace(CLASSIFIERS["mobilenet_v1"], padding="same", activation="relu"),
        replace(CLASSIFIERS["mnasnet_a1"], padding="same"),
    ],
    ids=["relu", "no linear bottleneck", "sigmoid gate", "gate first", "V1 of TensorFlow", "MnasNet of TensorFlow"],
)
def test_what_the_file_says_of_activations_and_padding_goes_into_the_table(arch: Arch) -> None:
    found = identify(source_of(plan(arch), told=True))
    assert found.arch == arch


def test_an_activation_that_no_table_has_is_refused() -> None:
    def wrong(layer: Layer, op: Op) -> Layer:
        strange: Activation = "sigmoid"
        return replace(layer, activation=strange if op.name == "block_4_depthwise" else op.activation)

    with pytest.raises(
        ConvertError, match=r"block_4_depthwise is followed by sigmoid where .* has relu6: no table can"
    ):
        identify(source_of(plan(V2), told=True, change=wrong))


def test_mixed_paddings_are_refused() -> None:
    def mixed(layer: Layer, op: Op) -> Layer:
        return replace(layer, padding="same" if op.name == "stem" else layer.padding)

    with pytest.raises(ConvertError, match=r"paddings are mixed \(same, symmetric\)"):
        identify(source_of(plan(V2), told=True, change=mixed))


def test_the_sources_own_word_counts() -> None:
    found = identify(source_of(plan(V2), padding="same", bn_eps=1e-3, activation="relu"))
    assert (found.arch.padding, found.arch.bn_eps, found.arch.activation) == ("same", 1e-3, "relu")


def test_a_refusal_names_the_nearest_table_and_the_first_differences() -> None:
    def wider(layer: Layer, op: Op) -> Layer:
        return replace(layer, weight=np.zeros((100, 144), np.float32)) if op.name == "block_4_expand" else layer

    with pytest.raises(ConvertError) as caught:
        identify(source_of(plan(V2, width=0.75), change=wider), name="w.pth")
    message = str(caught.value)
    assert message.startswith("w.pth: a file of 53 layers, not one of the architectures known here; the nearest is ")
    assert "mobilenet_v2 at width 0.75" in message
    assert "block_4_expand (100, 144) where block_4_expand is (144, 24)" in message
    longer = source_of(plan(V2))
    with pytest.raises(ConvertError, match=r"extra \(9, 9\) where there is none"):
        identify(replace(longer, layers=(*longer.layers, Layer("extra", np.zeros((9, 9), np.float32)))))
    with pytest.raises(ConvertError, match=r"no layer where classifier is \(1280, 1280\)"):
        identify(replace(longer, layers=longer.layers[:-1]), architecture=V2)
    with pytest.raises(ConvertError, match="no table to compare with"):
        identify(replace(longer, tables=()))


def filled(layout: Plan, eps: float | None = None) -> Source:
    random = np.random.default_rng(0)

    def fill(layer: Layer, op: Op) -> Layer:
        c = op.out[0]
        shift, mean, scale, variance = (random.normal(size=c).astype(np.float32) for _ in range(4))
        norm = Norm(scale, shift, mean, np.abs(variance) + 1, eps) if op.batch_norm else None
        weight = random.normal(size=layer.weight.shape).astype(np.float32)
        return replace(layer, weight=weight, norm=norm, bias=shift if op.bias else None)

    return source_of(layout, change=fill)


def scale_and_shift(tensors: Any, name: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what a layer and its BatchNorm compute in eval mode, as one weight and one bias, float64."""
    norm = {
        key: tensors[f"{name}.norm.{key}"].astype(np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    }
    scale = norm["weight"] / np.sqrt(norm["running_var"] + eps)
    weight = tensors[f"{name}.weight"].reshape(len(scale), -1) * scale[:, np.newaxis]
    return weight, norm["bias"] - norm["running_mean"] * scale


def test_folded_layers_get_a_batch_norm_that_does_nothing() -> None:
    layout = plan(CLASSIFIERS["mobilenet_v1"], width=0.25, classes=3)
    source = filled(layout)
    biases = [np.full(len(layer.weight), 0.5 + index, np.float32) for index, layer in enumerate(source.layers)]
    layers = tuple(replace(layer, norm=None, bias=bias) for layer, bias in zip(source.layers, biases, strict=True))
    made = assemble(replace(source, layers=layers), layout, classes_of(3, ("a", "b", "c")), origin="x")
    assert made.card.batch_norm == "folded"
    for layer, op, bias in zip(layers, weighted(layout), biases, strict=True):
        if op.batch_norm:
            weight, shift = scale_and_shift(made.tensors, op.name, layout.arch.bn_eps)
            np.testing.assert_allclose(weight, layer.weight.reshape(weight.shape), rtol=1e-6)
            np.testing.assert_array_equal(shift, bias)
    np.testing.assert_array_equal(made.tensors["classifier.bias"], biases[-1])


def test_different_eps_and_biases_before_a_batch_norm_are_absorbed() -> None:
    layout = plan(V2, width=0.35, classes=3)
    source = filled(layout, 1e-3)
    first = source.layers[0]
    assert first.norm is not None
    bias = np.linspace(-1, 1, len(first.weight)).astype(np.float32)
    other = replace(first, bias=bias, norm=replace(first.norm, eps=0.1))
    source = replace(source, layers=(other, *source.layers[1:]))
    found = identify(source)
    assert found.arch.bn_eps == 1e-3  # the smallest, so that no variance becomes negative
    made = assemble(source, found, classes_of(3, ("a", "b", "c")), origin="x")
    weight, shift = scale_and_shift(made.tensors, "stem", 1e-3)
    scale = first.norm.weight / np.sqrt(first.norm.variance.astype(np.float64) + 0.1)
    np.testing.assert_allclose(weight, first.weight.reshape(len(scale), -1) * scale[:, np.newaxis], rtol=1e-6)
    np.testing.assert_allclose(shift, (bias - first.norm.mean) * scale + first.norm.bias, rtol=1e-4, atol=1e-6)


def test_a_batch_norm_where_the_table_has_none_is_folded() -> None:
    layout = plan(V2, width=0.35, classes=3)
    source = filled(layout)
    last = source.layers[-1]
    random = np.random.default_rng(1)
    scale, shift, mean, variance = (random.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4))
    norm = Norm(scale, shift, mean, variance, eps=1e-3)
    layers = (*source.layers[:-1], replace(last, norm=norm))
    made = assemble(replace(source, layers=layers), layout, classes_of(3, None), origin="x")
    x = random.normal(size=last.weight.shape[1])
    assert last.bias is not None
    wanted = (last.weight @ x + last.bias - norm.mean) / np.sqrt(norm.variance + 1e-3) * norm.weight + norm.bias
    np.testing.assert_allclose(
        made.tensors["classifier.weight"] @ x + made.tensors["classifier.bias"], wanted, rtol=1e-4
    )


def test_the_background_class_goes() -> None:
    layout = plan(V2, width=0.35, classes=1001)
    source = filled(layout)
    classes = classes_of(source.classes, None)
    made = assemble(source, layout, classes, origin="x")
    np.testing.assert_array_equal(made.tensors["classifier.weight"], source.layers[-1].weight[1:])
    assert source.layers[-1].bias is not None
    np.testing.assert_array_equal(made.tensors["classifier.bias"], source.layers[-1].bias[1:])
    assert len(made.card.labels) == made.card.plan.classes == 1000
    assert made.card.labels[:2] == ("tench", "goldfish")


@pytest.mark.parametrize(
    ("channels", "mean", "expected"),
    [
        (1, (0.5,), (0.5,)),
        (1, (0.25, 0.5, 0.75), (0.5,)),
        (3, (0.5,), (0.5,) * 3),
        (4, (1.0, 2.0), (1.0, 2.0, 1.0, 2.0)),
    ],
)
def test_statistics_fit_the_channels(channels: int, mean: tuple[float, ...], expected: tuple[float, ...]) -> None:
    layout = plan(V2, width=0.35, classes=3, in_channels=channels)
    source = replace(filled(layout), mean=mean, std=mean, crop_fraction=0.875)
    made = assemble(source, layout, Classes(("a", "b", "c")), origin="x", resolution=(96, 160))
    fed = made.card.preprocess
    assert (fed.mean, fed.height, fed.width, fed.resize) == (expected, 96, 160, 109)
    assert made.card.resolution == (96, 160)
