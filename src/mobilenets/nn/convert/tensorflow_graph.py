"""Detectors of the TensorFlow Object Detection API, read from its frozen graphs (`frozen_inference_graph.pb`).

The graph is a program that decodes, resizes, computes and suppresses. What is read of it are the layers between the
normalized picture and the heads, in TensorFlow's layout, and from the constants behind them the anchors, the box coder
and the thresholds. The heads say (y, x, h, w), which becomes (x, y, w, h) here.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets.arch import ARCHITECTURES, Arch, Detector
from mobilenets.arch.detector import Anchors
from mobilenets.arch.mobilenet import Activation
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.graph_def import GraphNode, read_graph
from mobilenets.nn.convert.layers import Array, Layer, Norm, Source

HEADS = ("BoxEncodingPredictor", "ClassPredictor")
"""What the library calls a map's two heads, in the order of our plans."""

TABLES = ("ssdlite_mobilenet_v2", "ssdlite_mobilenet_v1")
ORDER = (1, 0, 3, 2)
"""Where x, y, w and h are among TensorFlow's y, x, h and w."""

NORMALIZED = "Preprocessor/sub"
"""The node whose value is the batch of pictures, resized, from -1 to 1: (N, H, W, 3)."""

_ANCHORS = "MultipleGridAnchorGenerator/"
_DECODE = "Postprocessor/Decode/"
_ACTIVATIONS: dict[str, Activation] = {"Relu6": "relu6", "Relu": "relu"}
_PASSES = ("Identity", "Enter", "Squeeze")


def read(path: Path) -> Source:
    """Read a frozen graph.

    Raises:
        ConvertError: damaged, or not a detector of this library on a network of this family.
    """
    content = path.read_bytes()
    try:
        graph = _Graph(read_graph(content))
        maps = _maps(graph)
        if not maps:
            raise ConvertError(
                f"{path}: a TensorFlow graph, but not a frozen detector of its Object Detection API, which is what is "
                "read of them: convert it to TFLite with TensorFlow first"
            )
        layers, eps = _layers(graph, maps)
        detector = _detector(graph, maps)
        resolution = _resolution(graph)
    except (ValueError, IndexError, KeyError, struct.error, OverflowError, RecursionError) as error:
        raise ConvertError(f"{path}: not a TensorFlow graph, or a damaged one ({error}): copy it again") from None
    return Source(
        kind="frozen graph of the TensorFlow Object Detection API",
        layers=layers,
        resolution=resolution,
        mean=(0.5,),
        std=(0.5,),
        padding="same",
        bn_eps=eps,
        tables=tuple(_table(ARCHITECTURES[name], detector) for name in TABLES),
        reference=_reference(content, maps),
        notes=() if find_spec("tensorflow") else ("TensorFlow, which would run the source, is not installed",),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """Nodes by name, with what reads them."""

    nodes: dict[str, GraphNode]

    def source(self, node: GraphNode, index: int) -> GraphNode:
        """Return what a node reads, past what only hands a value on."""
        found = self.nodes[node.inputs[index]]
        while found.op in _PASSES:
            found = self.nodes[found.inputs[0]]
        return found

    def array(self, name: str) -> Any:
        """Return a constant by name."""
        return self.nodes[name].constant()

    def number(self, name: str) -> float:
        """Return a constant of one number by name."""
        return float(self.array(name))

    def readers(self) -> dict[str, list[GraphNode]]:
        """Return by name what reads a node's value first: past what only hands it on."""
        readers: dict[str, list[GraphNode]] = defaultdict(list)
        for node in self.nodes.values():
            for index in range(len(node.inputs)) if node.op not in _PASSES else ():
                if node.inputs[index] in self.nodes:
                    readers[self.source(node, index).name].append(node)
        return readers


def _maps(graph: _Graph) -> list[tuple[GraphNode, GraphNode]]:
    """Return the last convolution of both heads, map by map."""
    found: list[tuple[GraphNode, GraphNode]] = []
    while True:
        names = [f"BoxPredictor_{len(found)}/{head}/Conv2D" for head in HEADS]
        if not all(name in graph.nodes for name in names):
            return found
        found.append((graph.nodes[names[0]], graph.nodes[names[1]]))


def _layers(graph: _Graph, maps: list[tuple[GraphNode, GraphNode]]) -> tuple[tuple[Layer, ...], float]:
    """Return the layers in the order of our plans, the heads last, and the largest epsilon of their BatchNorms."""
    readers = graph.readers()
    body: dict[str, Layer] = {}
    heads: list[Layer] = []
    for pair in maps:
        for kind, last in zip(HEADS, pair, strict=True):
            for node in _convolutions(graph, last):
                layer = _layer(graph, node, readers)
                if node is last and kind == HEADS[0]:
                    heads.append(_reordered(layer))
                elif f"/{kind}" in node.name:
                    heads.append(layer)
                else:
                    body.setdefault(node.name, layer)
    layers = (*body.values(), *heads)
    return layers, max((layer.norm.eps or 0.0 for layer in layers if layer.norm is not None), default=0.0)


def _convolutions(graph: _Graph, last: GraphNode) -> Iterator[GraphNode]:
    """Yield the convolutions that lead to one, each behind those it needs, and that one at the end."""
    done: set[str] = set()
    waiting = [(last, False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            if node.op in ("Conv2D", "DepthwiseConv2dNative"):
                yield node
            continue
        if node.name in done or node.name == NORMALIZED or node.op == "Const":
            continue
        done.add(node.name)
        waiting.append((node, True))
        waiting += [
            (graph.source(node, index), False)
            for index in reversed(range(len(node.inputs)))
            if graph.nodes[node.inputs[index]].op != "Const"
        ]


def _layer(graph: _Graph, node: GraphNode, readers: dict[str, list[GraphNode]]) -> Layer:
    """Return a convolution with the BatchNorm or bias, and the activation, that follow it."""
    if node.text("padding") != "SAME" or node.text("data_format") not in ("", "NHWC"):
        raise ValueError(f"{node.name} is padded or laid out otherwise")
    weight = graph.source(node, 1).constant().astype(np.float32)  # (k, k, in, out); depthwise (k, k, in, 1)
    depthwise = node.op == "DepthwiseConv2dNative"
    weight = np.ascontiguousarray(weight.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
    bias: Array | None = None
    norm: Norm | None = None
    activation: Activation | None = None
    last = node
    while True:
        behind = [each for each in readers[last.name] if graph.source(each, 0) is last]
        if len(behind) == 1 and behind[0].op.startswith("FusedBatchNorm"):
            gamma, beta, mean, variance = (graph.source(behind[0], index).constant() for index in range(1, 5))
            norm = Norm(gamma, beta, mean, variance, behind[0].number("epsilon", 1e-4))
        elif len(behind) == 1 and behind[0].op == "BiasAdd":
            bias = graph.source(behind[0], 1).constant()
        elif len(behind) == 1 and behind[0].op in _ACTIVATIONS:
            activation = _ACTIVATIONS[behind[0].op]
            break
        else:
            break
        last = behind[0]
    strides = node.integers("strides")
    return Layer(node.name, weight, bias, norm, strides[1] if len(strides) == 4 else 1, None, activation)


def _reordered(layer: Layer) -> Layer:
    """Return a head's last layer with its outputs as x, y, w, h."""
    places = np.arange(len(layer.weight)).reshape(-1, len(ORDER))[:, ORDER].reshape(-1)
    assert layer.bias is not None
    return replace(layer, weight=layer.weight[places], bias=layer.bias[places])


def _detector(graph: _Graph, maps: list[tuple[GraphNode, GraphNode]]) -> dict[str, Any]:
    """Return the fields of a `Detector` that the graph says: anchors, coder, scores, thresholds."""
    y, x, h, w = (graph.number(f"{_DECODE}truediv{part}/y") for part in ("", "_1", "_2", "_3"))
    convert = graph.nodes["Postprocessor/convert_scores"].op
    if convert not in ("Sigmoid", "Softmax"):
        raise ValueError(f"scores are made by {convert}")
    suppression = next(node for node in graph.nodes.values() if re.fullmatch(r"NonMaxSuppressionV\d", node.op))
    iou = float(graph.source(suppression, 3).constant())
    threshold = float(graph.source(suppression, 4).constant()) if len(suppression.inputs) > 4 else 0.0
    levels = _anchors(graph)
    if len(levels) != len(maps):
        raise ValueError(f"anchors for {len(levels)} maps where there are {len(maps)}")
    return {
        "anchors": Anchors("tf", levels),
        "coder": (x, y, w, h),
        "scores": convert.lower(),
        "nms_iou": _written(iou),
        "score_threshold": _written(threshold),
    }


def _anchors(graph: _Graph) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return scales and aspect ratios, map by map: of every map, the library takes the square root of its ratios."""
    levels = []
    roots = [node for node in graph.nodes.values() if node.op == "Sqrt" and node.name.startswith(_ANCHORS)]
    for root in sorted(roots, key=lambda node: [int(part) for part in re.findall(r"\d+", node.name)]):
        ratios = graph.source(root, 0).constant()
        height = next(
            node
            for node in graph.nodes.values()
            if node.op == "RealDiv" and len(node.inputs) == 2 and node.inputs[1] == root.name
        )
        scales = np.broadcast_to(graph.source(height, 0).constant(), ratios.shape)
        pairs = zip(scales.tolist(), ratios.tolist(), strict=True)
        levels.append(tuple((_written(scale), _written(ratio)) for scale, ratio in pairs))
    return tuple(levels)


def _written(value: float) -> float:
    """Return the number of at most seven digits, as many as float32 has, that somebody wrote down."""
    return float(f"{value:.7g}")


def _resolution(graph: _Graph) -> tuple[int, int]:
    """Return the (height, width) that pictures are resized to."""
    resize = next(node for node in graph.nodes.values() if node.op == "ResizeBilinear")
    size = graph.source(resize, 1)
    height, width = size.constant() if size.op == "Const" else [graph.source(size, each).constant() for each in (0, 1)]
    return int(height), int(width)


def _table(arch: Arch, fields: dict[str, Any]) -> Arch:
    assert arch.detector is not None
    detector: Detector = replace(arch.detector, **fields)
    return replace(arch, padding="same", bn_eps=1e-3, detector=detector)


def _reference(content: bytes, maps: list[tuple[GraphNode, GraphNode]]) -> Callable[[Array], Array] | None:
    """Return what runs the graph with TensorFlow, where that is installed: (N, C, H, W) to our outputs, flat."""
    if not find_spec("tensorflow"):
        return None

    def run(batch: Array) -> Array:
        import tensorflow as tf

        v1 = tf.compat.v1
        graph = v1.Graph()
        with graph.as_default():
            definition = v1.GraphDef()
            definition.ParseFromString(content)
            v1.import_graph_def(definition, name="")
        names = [f"{head.name.removesuffix('/Conv2D')}/BiasAdd:0" for pair in maps for head in pair]
        with v1.Session(graph=graph) as session:
            parts = [
                session.run(names, {f"{NORMALIZED}:0": picture.transpose(1, 2, 0)[np.newaxis]}) for picture in batch
            ]
        return np.concatenate([_flat(values) for values in parts])

    return run


def _flat(values: list[Any]) -> Array:
    """Return one picture's heads, (1, H, W, C) each, boxes and scores in turn, as our outputs: (1, values)."""
    made = []
    for index, value in enumerate(values):
        planes = value.transpose(0, 3, 1, 2)
        if index % 2 == 0:
            planes = planes.reshape(1, -1, len(ORDER), *planes.shape[2:])[:, :, ORDER]
        made.append(planes.reshape(1, -1))
    return np.concatenate(made, axis=1)
