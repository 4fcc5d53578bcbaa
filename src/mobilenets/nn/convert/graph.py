"""Somebody's graph in neutral words, and the weighted layers read out of it.

TFLite, Keras and ONNX spell one network in different ways: padding inside a convolution or before it, h-swish as one
operation or as five, BatchNorm folded or not. The readers translate operation by operation into :class:`Node`;
everything that needs more than one operation to be understood is here, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch.mobilenet import Activation
from mobilenets.arch.plan import padding
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.layers import Layer, Norm

Array = NDArray[np.float32]
Kind = Literal["conv", "dense", "norm", "activation", "add", "multiply", "pool", "pad", "same", "softmax"]
Rule = Literal["same", "symmetric"]
Pixels = tuple[int, int, int, int]
"""Padding in pixels: top, bottom, left, right."""

Step = tuple[str, tuple[int, ...]]
"""What is done ("weights", "pool", "add", "scale") to the results of which earlier steps; -1 is the picture."""

_NONE: Pixels = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation: its kind, the values it reads that depend on the picture, the value it makes.

    "add" and "multiply" have two sources, or one and a `constant` (one number, or one per channel). "same" hands its
    source on: reshapes, dropout, transposes of a 1x1 map, (de)quantization.
    """

    kind: Kind
    name: str
    sources: tuple[str, ...]
    out: str
    weight: Array | None = None  # conv: (out, in / groups, k, k); dense: (out, in)
    bias: Array | None = None
    norm: Norm | None = None
    stride: int = 1
    pads: Rule | Pixels = _NONE
    activation: Activation | None = None
    constant: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a graph says: its layers in order, how they hang together, and what it does to its input."""

    layers: tuple[Layer, ...]
    steps: tuple[Step, ...]
    logits: str  # the value before the softmax, if there is one, else the output
    softmax: bool
    scale: Array  # the first layer sees scale x input + offset: one number, or one per channel
    offset: Array


@dataclass(slots=True, eq=False)
class _Draft:
    """A layer under construction."""

    node: Node
    size: tuple[int, int] | None  # of its input, before padding
    pads: Rule | Pixels
    norm: Norm | None = None
    activation: Activation | None = None


@dataclass(slots=True)
class _Value:
    """What is known of a value while reading: the step that made it, the layer still open to what follows."""

    step: int
    size: tuple[int, int] | None
    open: _Draft | None = None
    pads: Pixels = _NONE
    spatial: tuple[int, int] | None = None  # the size before `pads` were added


def read(
    nodes: Sequence[Node], source: str, output: str, size: tuple[int, int] | None, usual: Rule, name: str
) -> Reading:
    """Read the layers out of a graph.

    Args:
        nodes: in an order in which they can run.
        source: the value that is the picture.
        output: the value that is the result.
        size: (height, width) of the picture, None where the graph takes any.
        usual: the padding rule to name where the graph fits both.
        name: what to call the file in errors.

    Raises:
        ConvertError: an operation these networks do not have, or in a place where they do not have it.
    """
    return _Reader(named_activations(_needed(nodes, output)), source, output, size, usual, name).read()


def _needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """Drop the operations that nothing on the way to the output reads."""
    wanted = {output}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.out in wanted:
            kept.append(node)
            wanted.update(node.sources)
    return kept[::-1]


def named_activations(nodes: Sequence[Node]) -> list[Node]:
    """Replace h-sigmoid and h-swish written in small steps, relu6(x + 3) / 6 and x relu6(x + 3) / 6, by their names."""
    made: dict[str, Node] = {}
    for node in nodes:
        made[node.out] = _hard_sigmoid(node, made) or _hard_swish(node, made) or node
    if not nodes:
        return []
    return _needed(list(made.values()), nodes[-1].out)


def _scalar(node: Node | None, kind: Kind, value: float) -> bool:
    """Say whether a node adds, or multiplies by, this one number."""
    if node is None or node.kind != kind or node.constant is None:
        return False
    return node.constant.size == 1 and abs(float(node.constant.reshape(())) - value) < 1e-5


def _gate(name: str, made: Mapping[str, Node]) -> str | None:
    """Return x if the value is relu6(x + 3)."""
    node = made.get(name)
    if node is None or node.kind != "activation" or node.activation != "relu6":
        return None
    shifted = made.get(node.sources[0])
    return shifted.sources[0] if shifted is not None and _scalar(shifted, "add", 3.0) else None


def _hard_sigmoid(node: Node, made: Mapping[str, Node]) -> Node | None:
    if not _scalar(node, "multiply", 1 / 6):
        return None
    x = _gate(node.sources[0], made)
    return None if x is None else Node("activation", node.name, (x,), node.out, activation="hard_sigmoid")


def _hard_swish(node: Node, made: Mapping[str, Node]) -> Node | None:
    """Find x h-sigmoid(x), or (x relu6(x + 3)) / 6."""
    product = node
    if _scalar(node, "multiply", 1 / 6):
        inner = made.get(node.sources[0])
        if inner is None:
            return None
        product = inner
    if product.kind != "multiply" or len(product.sources) != 2:
        return None
    for x, gate in (product.sources, product.sources[::-1]):
        if product is node:
            opened = made.get(gate)
            found = opened is not None and opened.activation == "hard_sigmoid" and opened.sources == (x,)
        else:
            found = _gate(gate, made) == x
        if found:
            return Node("activation", node.name, (x,), node.out, activation="hard_swish")
    return None


@dataclass
class _Reader:
    """One walk over the operations."""

    nodes: Sequence[Node]
    source: str
    output: str
    size: tuple[int, int] | None
    usual: Rule
    name: str
    values: dict[str, _Value] = field(default_factory=dict)
    drafts: list[_Draft] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    scale: Array = field(default_factory=lambda: np.ones(1, np.float32))
    offset: Array = field(default_factory=lambda: np.zeros(1, np.float32))
    softmax: bool = False
    logits: str = ""

    def read(self) -> Reading:
        """Walk, then settle the padding rule."""
        self.values[self.source] = _Value(-1, self.size)
        self.logits = self.output
        self.readers = Counter(source for node in self.nodes for source in node.sources)
        for node in self.nodes:
            for source in node.sources:
                if source not in self.values:
                    raise self.refusal(node, f"reads {source!r}, which nothing has made")
            self.values[node.out] = self.step(node)
        if self.output not in self.values:
            raise ConvertError(f"{self.name}: nothing makes its output {self.output!r}: the file is damaged")
        if not self.drafts:
            raise ConvertError(f"{self.name}: has no weighted layer: it is no MobileNet")
        rule = self.padding_rule()
        layers = tuple(self.layer(draft, rule) for draft in self.drafts)
        return Reading(layers, tuple(self.steps), self.logits, self.softmax, self.scale, self.offset)

    def refusal(self, node: Node, why: str) -> ConvertError:
        """Return the error that names the operation."""
        return ConvertError(f"{self.name}: {node.kind} {node.name!r} {why}: no network of this family is built so")

    def step(self, node: Node) -> _Value:
        """Read one operation."""
        value = self.values[node.sources[0]]
        if self.softmax and node.kind != "same":
            raise self.refusal(node, "follows the softmax")
        if value.pads != _NONE and node.kind not in ("conv", "same"):
            raise self.refusal(node, "follows a padding")
        match node.kind:
            case "conv" | "dense":
                return self.weighted(node, value)
            case "pad":
                assert not isinstance(node.pads, str)
                return replace(value, open=None, pads=node.pads, spatial=value.size)
            case "pool":
                return self.join("pool", (value,), (1, 1))
            case "softmax":
                self.softmax, self.logits = True, node.sources[0]
                return replace(value, open=None)
            case "same":
                return value if self.readers[node.sources[0]] == 1 else replace(value, open=None)
            case "add" | "multiply" if len(node.sources) == 2:
                other = self.values[node.sources[1]]
                return self.join("add" if node.kind == "add" else "scale", (value, other), value.size or other.size)
            case _:
                return self.attach(node, value)

    def join(self, what: str, values: tuple[_Value, ...], size: tuple[int, int] | None) -> _Value:
        self.steps.append((what, tuple(sorted(value.step for value in values))))
        return _Value(len(self.steps) - 1, size)

    def weighted(self, node: Node, value: _Value) -> _Value:
        """Open a layer; the convolution's padding is its own and that of a padding operation before it."""
        assert node.weight is not None
        pads: Rule | Pixels = node.pads
        if value.pads != _NONE:
            if pads == "same":
                raise self.refusal(node, "pads what is already padded")
            assert not isinstance(pads, str)
            pads = _sum(pads, value.pads)
        before = value.spatial if value.pads != _NONE else value.size
        draft = _Draft(node, before, pads)
        self.drafts.append(draft)
        after = None
        if node.kind == "conv" and before is not None:
            kernel = node.weight.shape[-1]
            top, bottom, left, right = _pixels(pads, before, kernel, node.stride)
            after = (
                (before[0] + top + bottom - kernel) // node.stride + 1,
                (before[1] + left + right - kernel) // node.stride + 1,
            )
            if min(after) < 1:
                raise self.refusal(node, "shrinks its input to nothing")
        self.steps.append(("weights", (value.step,)))
        result = _Value(len(self.steps) - 1, after, draft)
        return result if node.activation is None else self.finish(node, result, node.activation)

    def finish(self, node: Node, value: _Value, activation: Activation) -> _Value:
        """Give the open layer its activation; nothing can be added to it afterwards."""
        assert value.open is not None
        if value.open.activation is not None:
            if (value.open.activation, activation) in (("relu", "relu6"), ("relu6", "relu"), ("relu6", "relu6")):
                activation = "relu6"
            else:
                raise self.refusal(node, f"follows another activation ({value.open.activation})")
        value.open.activation = activation
        return value

    def attach(self, node: Node, value: _Value) -> _Value:
        """Give a BatchNorm, a bias, a factor or an activation to the layer just before, or to the input."""
        draft = value.open
        if value.step == -1 and node.constant is not None and draft is None:
            if node.kind == "add":
                self.offset = (self.offset + node.constant.reshape(-1)).astype(np.float32)
            else:
                self.scale = (self.scale * node.constant.reshape(-1)).astype(np.float32)
                self.offset = (self.offset * node.constant.reshape(-1)).astype(np.float32)
            return value
        if draft is None:
            raise self.refusal(node, "follows no convolution")
        if self.readers[node.sources[0]] != 1:
            raise self.refusal(node, "changes a value that something else reads unchanged")
        if node.kind == "activation":
            assert node.activation is not None
            return self.finish(node, value, node.activation)
        if draft.activation is not None or draft.norm is not None:
            raise self.refusal(node, "follows a layer that already has its BatchNorm or activation")
        if node.kind == "norm":
            draft.norm = node.norm
            return value
        assert node.constant is not None and draft.node.weight is not None
        channels = draft.node.weight.shape[0]
        constant = node.constant.reshape(-1)
        if constant.size not in (1, channels):
            raise self.refusal(node, f"has {constant.size} constants for {channels} channels")
        draft.node = _folded(draft.node, node.kind, np.broadcast_to(constant, (channels,)))
        return value

    def padding_rule(self) -> Rule:
        """Find the one padding rule that every convolution follows."""
        possible: list[Rule] = [self.usual, "symmetric" if self.usual == "same" else "same"]
        for draft in self.drafts:
            node = draft.node
            assert node.weight is not None
            if node.kind != "conv" or node.weight.shape[-1] == 1:
                if not isinstance(draft.pads, str) and draft.pads != _NONE:
                    raise self.refusal(node, "pads for a 1x1 kernel")
                continue
            kernel, size = node.weight.shape[-1], draft.size or (2 * kernel_at_least(node), 2 * kernel_at_least(node))
            pixels = _pixels(draft.pads, size, kernel, node.stride)
            possible = [rule for rule in possible if _pixels(rule, size, kernel, node.stride) == pixels]
            if not possible:
                raise self.refusal(node, f"pads {pixels} at a map of {size[0]}x{size[1]}, by neither of the two rules")
        return possible[0]

    def layer(self, draft: _Draft, rule: Rule) -> Layer:
        """Close a layer; a bias before a BatchNorm moves into its mean."""
        node, norm, bias = draft.node, draft.norm, draft.node.bias
        assert node.weight is not None
        if norm is not None and bias is not None:
            norm, bias = replace(norm, mean=(norm.mean - bias).astype(np.float32)), None
        return Layer(node.name, node.weight, bias, norm, node.stride, rule, draft.activation)


def kernel_at_least(node: Node) -> int:
    """Return the side of a map that is even and not smaller than the kernel, to judge paddings of unknown sizes by."""
    assert node.weight is not None
    return int(node.weight.shape[-1])


def _folded(node: Node, kind: Kind, constant: Array) -> Node:
    """Return the layer with a bias added, or multiplied through."""
    assert node.weight is not None
    if kind == "add":
        return replace(node, bias=constant.copy() if node.bias is None else (node.bias + constant).astype(np.float32))
    shape = (-1,) + (1,) * (node.weight.ndim - 1)
    bias = None if node.bias is None else (node.bias * constant).astype(np.float32)
    return replace(node, weight=(node.weight * constant.reshape(shape)).astype(np.float32), bias=bias)


def _sum(a: Pixels, b: Pixels) -> Pixels:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def _pixels(pads: Rule | Pixels, size: tuple[int, int], kernel: int, stride: int) -> Pixels:
    """Return what a rule pads at a map of this size."""
    if not isinstance(pads, str):
        return pads
    return (*padding(size[0], kernel, stride, pads), *padding(size[1], kernel, stride, pads))
