"""Somebody's graph in neutral words, and the weighted layers read out of it.

TFLite, Keras and ONNX spell one network in different ways: padding inside a convolution or before it, h-swish as one
operation or as five, BatchNorm folded or not. The readers translate operation by operation into nodes; everything
that needs more than one operation to be understood is here and in :mod:`.node`, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mobilenets.arch.mobilenet import Activation
from mobilenets.arch.plan import padding
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.layers import Array, Layer, Norm, Padding, Step
from mobilenets.nn.convert.node import UNPADDED, Kind, Node, Pixels, named_activations, needed

RULES: tuple[Padding, ...] = ("same", "symmetric")


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a graph says: its layers in order, how they hang together, and what it does to its input."""

    layers: tuple[Layer, ...]
    steps: tuple[Step, ...]
    padding: Padding | None  # the rule all layers follow; None where they fit both
    logits: str  # the value before the softmax, if there is one, else the output
    softmax: bool
    scale: Array  # the first layer sees scale x input + offset: one number, or one per channel
    offset: Array

    @property
    def rescales(self) -> bool:
        """Whether the graph itself changes its input's range."""
        return self.scale.size > 1 or self.offset.size > 1 or float(self.scale[0]) != 1 or float(self.offset[0]) != 0

    @property
    def batch_norm(self) -> Literal["trained", "folded"]:
        """Whether every convolution that must have a BatchNorm still has one."""
        spatial = [layer for layer in self.layers if layer.weight.ndim == 4 and layer.weight.shape[-1] > 1]
        return "trained" if all(layer.norm is not None for layer in spatial) else "folded"


@dataclass(slots=True, eq=False)
class _Draft:
    """A layer under construction."""

    node: Node
    size: tuple[int, int] | None  # of its input, before padding
    pads: Padding | Pixels
    norm: Norm | None = None
    activation: Activation | None = None
    top: float | None = None  # its 8 bits hold what is from exactly 0 to this


@dataclass(slots=True)
class _Value:
    """What is known of a value while reading: the step that made it, the layer still open to what follows."""

    step: int
    size: tuple[int, int] | None
    open: _Draft | None = None
    pads: Pixels = UNPADDED
    spatial: tuple[int, int] | None = None  # the size before `pads` were added


def read(nodes: Sequence[Node], source: str, output: str, size: tuple[int, int] | None, name: str) -> Reading:
    """Read the layers out of a graph.

    Args:
        nodes: in any order; of several in which they can run, in which the layers are to be listed.
        source: the value that is the picture.
        output: the value that is the result.
        size: (height, width) of the picture, None where the graph takes any.
        name: what to call the file in errors.

    Raises:
        ConvertError: an operation these networks do not have, or in a place where they do not have it.
    """
    named = named_activations(needed(nodes, source, output, name))
    return _Reader(needed(named, source, output, name), source, output, size, name).read()


@dataclass
class _Reader:
    """One walk over the operations."""

    nodes: Sequence[Node]
    source: str
    output: str
    size: tuple[int, int] | None
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
        if self.drafts[-1].activation is not None:
            raise ConvertError(
                f"{self.name}: ends in {self.drafts[-1].activation}, where a classifier has logits or softmax"
            )
        self.restore_activations()
        padding, said = self.padding_rule()
        layers = tuple(self.layer(draft, rule) for draft, rule in zip(self.drafts, said, strict=True))
        return Reading(layers, tuple(self.steps), padding, self.logits, self.softmax, self.scale, self.offset)

    def refusal(self, node: Node, why: str) -> ConvertError:
        """Return the error that names the operation."""
        what = "operation" if node.kind == "unknown" else node.kind
        return ConvertError(f"{self.name}: {what} {node.name!r} {why}: no network of this family is built so")

    def step(self, node: Node) -> _Value:
        """Read one operation."""
        value = self.values[node.sources[0]]
        if self.softmax and node.kind != "same":
            raise self.refusal(node, "follows the softmax")
        if value.pads != UNPADDED and node.kind not in ("conv", "same"):
            raise self.refusal(node, "follows a padding")
        match node.kind:
            case "conv" | "dense":
                return self.weighted(node, value)
            case "pad":
                assert not isinstance(node.pads, str)
                return replace(value, open=None, pads=node.pads, spatial=value.size)
            case "pool":
                if node.window is not None and value.size not in (None, node.window):
                    raise self.refusal(node, f"averages over {node.window} of a map of {value.size}")
                return self.join("pool", (value,), (1, 1))
            case "softmax":
                self.softmax, self.logits = True, node.sources[0]
                return replace(value, open=None)
            case "same":
                if value.open is not None and abs(node.limits[0]) < 1e-6:
                    value.open.top = node.limits[1]
                return value if self.readers[node.sources[0]] == 1 else replace(value, open=None)
            case "add" | "multiply" if len(node.sources) == 2:
                other = self.values[node.sources[1]]
                sizes = [each.size for each in (value, other) if each.size is not None]
                size = max(sizes) if len(sizes) == 2 else None  # a gate is one number per channel
                return self.join("add" if node.kind == "add" else "scale", (value, other), size)
            case "unknown":
                raise self.refusal(node, "is not understood")
            case _:
                return self.attach(node, value)

    def join(
        self, what: Literal["pool", "add", "scale"], values: tuple[_Value, ...], size: tuple[int, int] | None
    ) -> _Value:
        self.steps.append((what, tuple(sorted(value.step for value in values)), None))
        return _Value(len(self.steps) - 1, size)

    def weighted(self, node: Node, value: _Value) -> _Value:
        """Open a layer; the convolution's padding is its own and that of a padding operation before it."""
        assert node.weight is not None
        pads: Padding | Pixels = node.pads
        if value.pads != UNPADDED:
            if pads == "same":
                raise self.refusal(node, "pads what is already padded")
            assert not isinstance(pads, str)
            pads = _sum(pads, value.pads)
        before = value.spatial if value.pads != UNPADDED else value.size
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
        self.steps.append(("weights", (value.step,), None))
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
        if draft is None and node.kind == "activation" and value.step >= 0 and self.steps[value.step][0] == "scale":
            self.steps[value.step] = (*self.steps[value.step][:2], node.activation)
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
        assert node.constant is not None
        assert draft.node.weight is not None
        channels = draft.node.weight.shape[0]
        constant = node.constant.reshape(-1)
        if constant.size not in (1, channels):
            raise self.refusal(node, f"has {constant.size} constants for {channels} channels")
        draft.node = _folded(draft.node, node.kind, np.broadcast_to(constant, (channels,)))
        return value

    def restore_activations(self) -> None:
        """Give back the activations that a quantizer left out, because the range of their 8 bits already cuts there.

        A range from exactly 0 is a ReLU; one that ends at 6 a ReLU6. One that ends below 6 may be either: it is what
        the other layers are. The classifier has none.
        """
        without = [draft for draft in self.drafts[:-1] if draft.activation is None and draft.top is not None]
        six = any(draft.activation == "relu6" for draft in self.drafts)
        six = six or any(draft.top is not None and abs(draft.top - 6) < 0.05 for draft in without)
        for draft in without:
            draft.activation = "relu6" if six and draft.top is not None and draft.top < 6.05 else "relu"

    def padding_rule(self) -> tuple[Padding | None, list[Padding | None]]:
        """Find the one rule by which every convolution pads, and what each says of it: None where both agree."""
        possible: list[Padding] = ["same", "symmetric"]
        said: list[Padding | None] = []
        for draft in self.drafts:
            node = draft.node
            assert node.weight is not None
            kernel = node.weight.shape[-1] if node.kind == "conv" else 1
            size = draft.size or (2 * kernel, 2 * kernel)  # where it is not known, an even side: the usual one
            pixels = _pixels(draft.pads, size, kernel, node.stride)
            fitting = [rule for rule in RULES if _pixels(rule, size, kernel, node.stride) == pixels]
            possible = [rule for rule in possible if rule in fitting]
            if not possible:
                raise self.refusal(node, f"pads {pixels} a map of {size[0]}x{size[1]}, unlike the layers before it")
            said.append(fitting[0] if len(fitting) == 1 else None)
        return (possible[0] if len(possible) == 1 else None), said

    def layer(self, draft: _Draft, padding: Padding | None) -> Layer:
        """Close a layer; a bias before a BatchNorm moves into its mean."""
        node, norm, bias = draft.node, draft.norm, draft.node.bias
        assert node.weight is not None
        if norm is not None and bias is not None:
            norm, bias = replace(norm, mean=(norm.mean - bias).astype(np.float32)), None
        return Layer(node.name, node.weight, bias, norm, node.stride, padding, draft.activation)


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


def _pixels(pads: Padding | Pixels, size: tuple[int, int], kernel: int, stride: int) -> Pixels:
    """Return what a rule pads at a map of this size."""
    if not isinstance(pads, str):
        return pads
    return (*padding(size[0], kernel, stride, pads), *padding(size[1], kernel, stride, pads))
