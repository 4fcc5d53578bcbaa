"""Graphs in neutral words: what takes more than one operation to be understood."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from mobilenets.errors import ConvertError
from mobilenets.nn.convert.graph import Reading, read
from mobilenets.nn.convert.layers import Array, Norm
from mobilenets.nn.convert.node import Kind, Node, Pixels
from mobilenets.nn.convert.unsaid import Input, input_of, known_labels


def numbers(*shape: int) -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def conv(
    source: str, out: str, channels: int = 4, kernel: int = 3, stride: int = 1, pads: Pixels = (1, 1, 1, 1)
) -> Node:
    return Node("conv", out, (source,), out, weight=numbers(channels, 4, kernel, kernel), stride=stride, pads=pads)


def plain(kind: Kind, source: str, out: str, number: float | None = None) -> Node:
    return Node(kind, out, (source,), out, constant=None if number is None else np.asarray([number], np.float32))


def clip(source: str, out: str, low: float, high: float) -> Node:
    return Node("clip", out, (source,), out, limits=(low, high))


def norm(source: str, out: str, channels: int = 4) -> Node:
    one = np.ones(channels, np.float32)
    return Node("norm", out, (source,), out, norm=Norm(one, 2 * one, 3 * one, 4 * one, 1e-3))


def dense(source: str, out: str, inputs: int = 4) -> Node:
    return Node("dense", out, (source,), out, weight=numbers(5, inputs))


def network(*middle: Node) -> list[Node]:
    """Put operations from "a" to "b" between a convolution and a classifier."""
    return [conv("x", "a"), *middle, plain("pool", "b", "p"), dense("p", "y")]


def reading(*nodes: Node, size: tuple[int, int] | None = (8, 8)) -> Reading:
    return read(nodes, "x", "y", size, "a file")


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ([clip("a", "b", 0, inf)], "relu"),
        ([clip("a", "b", 0, 6)], "relu6"),
        ([clip("a", "c", 0, inf), clip("c", "b", -inf, 6)], "relu6"),
        ([clip("a", "c", -inf, 6), clip("c", "b", 0, inf)], "relu6"),
        ([clip("a", "c", 0, 6), plain("same", "c", "d"), clip("d", "b", 0, inf)], "relu6"),
        ([plain("same", "a", "b")], None),
        (
            [plain("add", "a", "c", 3), clip("c", "d", 0, 6), plain("multiply", "d", "b", 1 / 6)],
            "hard_sigmoid",
        ),
        (
            [
                plain("add", "a", "c", 3),
                clip("c", "d", 0, 6),
                Node("multiply", "e", ("d", "a"), "e"),
                plain("multiply", "e", "b", 1 / 6),
            ],
            "hard_swish",
        ),
        (
            [
                plain("same", "a", "a2"),
                plain("add", "a2", "c", 3),
                clip("c", "d", 0, 6),
                plain("multiply", "d", "e", 1 / 6),
                plain("same", "e", "f"),
                Node("multiply", "b", ("a", "f"), "b"),
            ],
            "hard_swish",
        ),
        (
            [Node("activation", "c", ("a",), "c", activation="hard_sigmoid"), Node("multiply", "b", ("c", "a"), "b")],
            "hard_swish",
        ),
    ],
)
def test_activations_in_steps(middle: list[Node], expected: str | None) -> None:
    found = reading(*network(*middle))
    assert [layer.activation for layer in found.layers] == [expected, None]
    assert found.steps == (("weights", (-1,), None), ("pool", (0,), None), ("weights", (1,), None))


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        ([clip("a", "b", -1, 1)], "is not understood"),
        ([clip("a", "b", 0, 5)], "is not understood"),
        ([clip("a", "b", -inf, 6)], "is not understood"),
        (
            [clip("a", "c", 0, 6), Node("activation", "b", ("c",), "b", activation="sigmoid")],
            "follows another activation",
        ),
        ([clip("a", "c", 0, 6), norm("c", "b")], "already has its BatchNorm or activation"),
        ([norm("a", "c", 4), norm("c", "b")], "already has its BatchNorm or activation"),
        ([plain("pool", "a", "c"), norm("c", "b")], "follows no convolution"),
        ([norm("a", "c"), Node("add", "b", ("a", "c"), "b")], "something else reads unchanged"),
        ([plain("softmax", "a", "c"), clip("c", "b", 0, 6)], "follows the softmax"),
        ([Node("pad", "c", ("a",), "c", pads=(1, 1, 1, 1)), clip("c", "b", 0, 6)], "follows a padding"),
        ([replace(plain("add", "a", "b"), constant=np.ones(3, np.float32))], "3 constants for 4 channels"),
        ([plain("same", "z", "b")], "which nothing has made"),
        ([replace(plain("pool", "a", "b"), window=(3, 3))], r"averages over \(3, 3\)"),
    ],
)
def test_what_is_not_understood(middle: list[Node], why: str) -> None:
    with pytest.raises(ConvertError, match=why) as caught:
        reading(*network(*middle))
    assert str(caught.value).startswith("a file: ")


def test_nothing_to_read() -> None:
    with pytest.raises(ConvertError, match="nothing makes its output"):
        reading()
    with pytest.raises(ConvertError, match="no weighted layer"):
        reading(plain("pool", "x", "y"))
    with pytest.raises(ConvertError, match="ends in relu"):
        reading(conv("x", "a"), clip("a", "y", 0, inf))


def test_constants_fold_into_the_layer_before() -> None:
    bias, factor = numbers(4), numbers(4) + 3
    found = reading(
        *network(
            replace(plain("add", "a", "c"), constant=bias.reshape(1, 1, 1, 4)),
            replace(plain("multiply", "c", "b"), constant=factor.reshape(1, 1, 1, 4)),
        )
    )
    first = found.layers[0]
    assert first.bias is not None
    assert np.allclose(first.bias, bias * factor)
    assert np.allclose(first.weight, numbers(4, 4, 3, 3) * factor.reshape(4, 1, 1, 1))


def test_a_bias_before_a_norm_moves_into_its_mean() -> None:
    biased = replace(conv("x", "a"), bias=np.full(4, 2, np.float32))
    found = reading(biased, norm("a", "b"), plain("pool", "b", "p"), dense("p", "y"))
    first = found.layers[0]
    assert first.bias is None
    assert first.norm is not None
    assert first.norm.mean.tolist() == [1, 1, 1, 1]
    assert found.batch_norm == "trained"


@pytest.mark.parametrize(
    ("pads", "size", "expected"),
    [
        ((0, 1, 0, 1), (8, 8), "same"),
        ((0, 1, 0, 1), None, "same"),
        ((1, 1, 1, 1), (8, 8), "symmetric"),
        ((1, 1, 1, 1), (9, 9), None),  # at an odd side both rules pad alike
        ((1, 1, 0, 1), (9, 8), "same"),
    ],
)
def test_padding(pads: Pixels, size: tuple[int, int] | None, expected: str | None) -> None:
    """Padded before the convolution or in it, or half here and half there."""
    inside = reading(conv("x", "b", stride=2, pads=pads), plain("pool", "b", "p"), dense("p", "y"), size=size)
    ahead = Node("pad", "a", ("x",), "a", pads=pads)
    before = reading(
        ahead, conv("a", "b", stride=2, pads=(0, 0, 0, 0)), plain("pool", "b", "p"), dense("p", "y"), size=size
    )
    assert inside.padding == before.padding == expected
    assert inside.layers[0].padding == expected


def test_two_padding_rules_in_one_network() -> None:
    first, second = conv("x", "a", stride=2, pads=(0, 1, 0, 1)), conv("a", "b", stride=2)
    with pytest.raises(ConvertError, match=r"'b' pads \(1, 1, 1, 1\) a map of 4x4, unlike the layers before it"):
        reading(first, second, plain("pool", "b", "p"), dense("p", "y"))


def test_a_map_pooled_to_nothing() -> None:
    with pytest.raises(ConvertError, match="shrinks its input to nothing"):
        reading(*network(conv("a", "b", kernel=11, pads=(0, 0, 0, 0))))


def test_what_the_output_does_not_need_is_not_read() -> None:
    aside = [plain("unknown", "a", "shape"), plain("unknown", "shape", "strided")]
    assert len(reading(*network(*aside, clip("a", "b", 0, 6))).layers) == 2


def test_the_activation_after_a_squeeze_excite() -> None:
    """Some V3 weights have it there; the step keeps it."""
    gated = [
        plain("pool", "a", "g1"),
        conv("g1", "g2", kernel=1, pads=(0, 0, 0, 0)),
        clip("g2", "g3", 0, inf),
        conv("g3", "g4", kernel=1, pads=(0, 0, 0, 0)),
        Node("activation", "g5", ("g4",), "g5", activation="hard_sigmoid"),
        Node("multiply", "g6", ("g5", "a"), "g6"),
        Node("activation", "b", ("g6",), "b", activation="hard_swish"),
    ]
    found = reading(*network(*gated))
    assert found.steps[4] == ("scale", (0, 3), "hard_swish")
    assert [layer.activation for layer in found.layers] == [None, "relu", "hard_sigmoid", None]


@pytest.mark.parametrize(
    ("tops", "expected"),
    [
        ((6.0, 4.0), ("relu6", "relu6")),
        ((9.0, 4.0), ("relu", "relu")),
        ((9.0, 6.0), ("relu", "relu6")),
        ((3.0, 4.0), ("relu", "relu")),
    ],
)
def test_activations_left_out_by_a_quantizer(tops: tuple[float, float], expected: tuple[str, str]) -> None:
    nodes = [
        conv("x", "a"),
        Node("same", "a8", ("a",), "a8", limits=(0.0, tops[0])),
        conv("a8", "c"),
        Node("same", "b", ("c",), "b", limits=(0.0, tops[1])),
        plain("pool", "b", "p"),
        dense("p", "z"),
        Node("same", "y", ("z",), "y", limits=(0.0, 20.0)),  # logits that happen to be positive have none
    ]
    assert tuple(layer.activation for layer in reading(*nodes).layers) == (*expected, None)


@pytest.mark.parametrize(
    ("steps", "mean", "std"),
    [
        ([("multiply", 1 / 127.5), ("add", -1.0)], 0.5, 0.5),
        ([("multiply", 1 / 255)], 0.0, 1.0),
        ([("add", -127.5), ("multiply", 1 / 127.5)], 0.5, 0.5),
        ([("multiply", 2.0), ("add", -1.0)], 0.5, 0.5),  # of pictures that are fractions already
    ],
)
def test_rescaling_inside(steps: list[tuple[Kind, float]], mean: float, std: float) -> None:
    nodes, value = [], "x"
    for index, (kind, number) in enumerate(steps):
        nodes.append(plain(kind, value, f"x{index}", number))
        value = f"x{index}"
    found = reading(*nodes, conv(value, "a"), plain("pool", "a", "p"), dense("p", "y"))
    assert found.rescales
    wanted = input_of(found, (8, 8))
    assert (wanted.mean[0], wanted.std[0]) == pytest.approx((mean, std), abs=1e-6)
    assert wanted.notes == ()


def test_input_ranges_that_are_not_said() -> None:
    nodes = [plain("pool", "b", "p"), dense("p", "y")]
    tensorflow = reading(conv("x", "b", stride=2, pads=(0, 1, 0, 1)), *nodes)
    torch = reading(conv("x", "b", stride=2), *nodes)
    assert input_of(tensorflow, (8, 8)).mean == (0.5,)
    assert input_of(torch, (8, 8)).mean == (0.485, 0.456, 0.406)
    assert "is assumed" in input_of(tensorflow, (8, 8)).notes[0]
    for calibrated, mean, std in (((-0.99, 1.0), 0.5, 0.5), ((0.0, 0.98), 0.0, 1.0), ((0.0, 254.0), 0.0, 1 / 255)):
        wanted = input_of(torch, (8, 8), calibrated)
        assert (wanted.mean, wanted.std) == ((mean,), (std,))
    assert input_of(torch, (8, 8), (-2.1, 2.6)).mean == (0.485, 0.456, 0.406)
    assert known_labels(torch.layers, (96, 96)) is None


def test_input_of_bytes() -> None:
    """(x - 128) / 128, as TensorFlow's quantized MobileNets take it: byte 0 is -1, byte 255 is 127 / 128."""
    wanted = Input.between(-1.0, 127 / 128)
    assert (0 / 255 - wanted.mean[0]) / wanted.std[0] == pytest.approx(-1)
    assert (128 / 255 - wanted.mean[0]) / wanted.std[0] == pytest.approx(0)
