"""Keras files: whole models (`.keras`, `.h5`), nested and sequential ones too, and weights only.

A whole model is read by its description. Weights only are in the order the layers run in, and all else is as in Keras
Applications: TensorFlow's padding, eps 0.001, the table's activations. No code that a file may carry is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mobilenets.errors import ConvertError
from mobilenets.nn.convert import graph
from mobilenets.nn.convert.keras_file import KerasFile, Names, open_file
from mobilenets.nn.convert.keras_weights import layers_of_weights
from mobilenets.nn.convert.layers import Array, Norm, Padding, Source
from mobilenets.nn.convert.node import Node, Pixels
from mobilenets.nn.convert.unsaid import CROP_FRACTION, input_of, known_labels

_EPS = 1e-3  # of BatchNorm in Keras Applications' MobileNets
_PASSING = frozenset(
    {"InputLayer", "Flatten", "Reshape", "Dropout", "SpatialDropout2D", "GaussianNoise", "ActivityRegularization"}
    | {f"Random{what}" for what in ("Flip", "Rotation", "Zoom", "Translation", "Contrast", "Brightness", "Crop")}
)
"""What does nothing at inference, or nothing that matters to one number per channel."""

_CLIPS: Mapping[str, tuple[float, float]] = {"relu": (0, inf), "relu6": (0, 6)}
_SUMS = {"Add": "Add", "Subtract": "Subtract", "Multiply": "Multiply", "TrueDivide": "Divide", "Divide": "Divide"} | {
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "__operators__.mul": "Multiply",
    "math.truediv": "Divide",
    "__operators__.truediv": "Divide",
}


@np.errstate(all="ignore")  # damaged numbers become infinities, which whoever assembles the layers refuses
def read(path: Path) -> Source:
    """Read the layers of a Keras classifier, float32, with its input range where the model itself rescales.

    Raises:
        ConvertError: the file is damaged, or holds something else than one network of this family.
        MissingExtraError: h5py is not installed.
    """
    file = open_file(path)
    if file.config is None:
        return Source(
            kind="Keras, weights only",
            layers=layers_of_weights(file, path),
            mean=(0.5,),
            std=(0.5,),
            crop_fraction=CROP_FRACTION,
            padding="same",
            bn_eps=_EPS,
            notes=("the file holds weights only: input range, padding and activations are Keras Applications'",),
        )
    try:
        translation = _Translation(file, path)
        output = translation.model(file.config, (), None)
        size = translation.size()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        raise ConvertError(f"{path}: its description of the model is damaged: get a fresh copy") from None
    reading = graph.read(translation.nodes, translation.source, output, size, str(path))
    wanted = input_of(reading, size)
    return Source(
        kind=f"Keras {file.version}",
        layers=reading.layers,
        resolution=size,
        mean=wanted.mean,
        std=wanted.std,
        crop_fraction=CROP_FRACTION,
        padding=reading.padding,
        batch_norm=reading.batch_norm,
        steps=reading.steps,
        labels=known_labels(reading.layers, size),
        notes=wanted.notes,
    )


class _Translation:
    """From Keras's layers to neutral nodes; a value is called after the layer that makes it."""

    def __init__(self, file: KerasFile, path: Path) -> None:
        self.file, self.path = file, path
        self.nodes: list[Node] = []
        self.source = ""
        self.shape: Sequence[int | None] = ()

    def size(self) -> tuple[int, int] | None:
        """Return the (height, width) of the pictures, None where any will do."""
        shape = tuple(self.shape)
        if len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
            raise ConvertError(f"{self.path}: its input is {shape}, and a picture is (None, height, width, 3)")
        height, width = shape[1:3] if shape[3] in (1, 3) else shape[2:]
        return None if height is None or width is None else (int(height), int(width))

    def model(self, described: Mapping[str, Any], outer: Names, source: str | None) -> str:
        """Translate a model, nested or not, and return the value it ends in."""
        kind, config = described["class_name"], described["config"]
        if kind not in ("Functional", "Model", "Sequential"):
            raise ConvertError(
                f"{self.path}: is a {kind}, whose order of layers only its code knows: save a functional one"
            )
        if kind == "Sequential":
            return self.sequence(config, outer, source)
        first, last = (list(_tensors(config[ends])) for ends in ("input_layers", "output_layers"))
        if len(first) != 1 or len(last) != 1:
            raise ConvertError(
                f"{self.path}: has {len(first)} inputs and {len(last)} outputs, a classifier one of each"
            )
        for layer in config["layers"]:
            name = (*outer, str(layer.get("name", layer["config"]["name"])))
            if layer["class_name"] == "InputLayer":
                self.begin(layer["config"], "/".join(name), source)
                continue
            calls = layer["inbound_nodes"]
            if len(calls) != 1 and layer["class_name"] != "TFOpLambda":
                raise ConvertError(
                    f"{self.path}: {name[-1]} is used {len(calls)} times, as no network of this family does"
                )
            inputs = ["/".join((*outer, tensor)) for tensor in _tensors(calls)]
            self.layer(layer, name, inputs, list(_numbers(calls)))
        return "/".join((*outer, last[0]))

    def sequence(self, config: Any, outer: Names, source: str | None) -> str:
        """Translate a chain of layers."""
        layers = config["layers"] if isinstance(config, dict) else config
        value = source
        if layers[0]["class_name"] != "InputLayer" and value is None:
            shape = layers[0]["config"].get("batch_input_shape")
            if shape is None and isinstance(config, dict):
                shape = config.get("build_input_shape")
            value = "/".join((*outer, "input"))
            self.begin({"batch_shape": shape or ()}, value, None)
        for layer in layers:
            name = (*outer, str(layer.get("name", layer["config"]["name"])))
            if layer["class_name"] == "InputLayer":
                self.begin(layer["config"], "/".join(name), value)
            else:
                assert value is not None
                self.layer(layer, name, [value], [])
            value = "/".join(name)
        assert value is not None
        return value

    def begin(self, config: Mapping[str, Any], name: str, source: str | None) -> None:
        """Take the picture, or what the outer model hands to a nested one."""
        if source is not None:
            self.nodes.append(Node("same", name, (source,), name))
        else:
            self.source = name
            self.shape = config.get("batch_shape") or config.get("batch_input_shape") or ()

    def layer(self, layer: Mapping[str, Any], names: Names, sources: list[str], numbers: list[float]) -> None:
        """Translate one layer, the activation it carries as an operation of its own."""
        kind, config = str(layer["class_name"]), layer["config"]
        name = "/".join(names)
        if kind == "Lambda":
            raise ConvertError(f"{self.path}: {name} is a Lambda layer, that is code, which is not run")
        if kind in ("Functional", "Model", "Sequential"):
            inner = self.model(layer, names, sources[0])
            self.nodes.append(Node("same", name, (inner,), name))
            return
        node = Node("unknown", f"{kind} {name}", tuple(sources[:1]), name)
        activation = _function(config.get("activation")) if kind != "Activation" else "linear"
        if activation not in ("linear", "None"):
            self.nodes.append(self.weighted(kind, config, names, replace(node, out=f"{name} raw")))
            self.nodes.append(self.activation(activation, replace(node, sources=(f"{name} raw",))))
        elif kind in ("Rescaling", "Normalization"):
            self.rescale(kind, config, names, node)
        elif kind in _SUMS or kind == "TFOpLambda":
            what = _SUMS.get(str(config.get("function")) if kind == "TFOpLambda" else kind, "")
            self.nodes.append(_arithmetic(what, replace(node, sources=tuple(sources)), numbers))
        else:
            self.nodes.append(self.weighted(kind, config, names, node))

    def weighted(self, kind: str, config: Mapping[str, Any], names: Names, node: Node) -> Node:
        """Translate what has weights; hand on all else."""
        if kind in ("Conv2D", "DepthwiseConv2D"):
            return self.conv(kind, config, names, node)
        if kind == "Dense":
            kernel, bias = self.arrays(names, 1 + bool(config["use_bias"]))
            return replace(node, kind="dense", name=node.out, weight=np.ascontiguousarray(kernel.T), bias=bias)
        if kind == "BatchNormalization":
            return self.norm(config, names, node)
        return self.plain(kind, config, node)

    def arrays(self, names: Names, count: int) -> tuple[Array, Array | None]:
        """Return a layer's kernel and bias."""
        found = self.file.of(names)
        if len(found) != count:
            raise ConvertError(
                f"{self.path}: {'/'.join(names)} has {len(found)} arrays of weights where {count} belong"
            )
        return found[0], (found[1].reshape(-1) if count == 2 else None)

    def conv(self, kind: str, config: Mapping[str, Any], names: Names, node: Node) -> Node:
        """Translate a convolution: (k, k, in, out), or depthwise (k, k, channels, multiplier)."""
        kernel, bias = self.arrays(names, 1 + bool(config["use_bias"]))
        strides, dilations = tuple(config["strides"]), tuple(config.get("dilation_rate", (1, 1)))
        if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or strides[0] != strides[1]:
            return node
        if dilations != (1, 1):
            raise ConvertError(f"{self.path}: {node.out} is dilated, as in segmentation: no classifier is")
        if kind == "Conv2D":
            weight = kernel.transpose(3, 2, 0, 1)
        else:
            weight = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
        if config["padding"] not in ("same", "valid"):
            return node
        pads: Padding | Pixels = "same" if config["padding"] == "same" else (0, 0, 0, 0)
        return replace(
            node,
            kind="conv",
            name=node.out,
            weight=np.ascontiguousarray(weight),
            bias=bias,
            stride=int(strides[0]),
            pads=pads,
        )

    def norm(self, config: Mapping[str, Any], names: Names, node: Node) -> Node:
        """Translate a BatchNorm, which may have been saved without its scale or its shift."""
        found = list(self.file.of(names))
        scale, center = bool(config.get("scale", True)), bool(config.get("center", True))
        if len(found) != 2 + scale + center:
            raise ConvertError(
                f"{self.path}: {'/'.join(names)} has {len(found)} arrays where {2 + scale + center} belong"
            )
        mean, variance = found[-2:]
        gamma = found[0] if scale else np.ones_like(mean)
        beta = found[scale] if center else np.zeros_like(mean)
        return replace(node, kind="norm", norm=Norm(gamma, beta, mean, variance, float(config["epsilon"])))

    def plain(self, kind: str, config: Mapping[str, Any], node: Node) -> Node:
        """Translate a layer without weights."""
        if kind in _PASSING:
            return replace(node, kind="same")
        match kind:
            case "Activation":
                return self.activation(_function(config["activation"]), node)
            case "ReLU":
                slope = config.get("negative_slope") or 0.0
                if np.any(slope) or config.get("threshold"):
                    return node
                top = config.get("max_value")
                return replace(node, kind="clip", limits=(0, inf if top is None else float(top)))
            case "Softmax":
                return replace(node, kind="softmax")
            case "GlobalAveragePooling2D":
                return replace(node, kind="pool")
            case "AveragePooling2D" if config.get("padding") == "valid":
                height, width = config["pool_size"]
                return replace(node, kind="pool", window=(int(height), int(width)))
            case "ZeroPadding2D":
                (top, bottom), (left, right) = config["padding"]
                return replace(node, kind="pad", pads=(int(top), int(bottom), int(left), int(right)))
        return node

    def activation(self, name: str, node: Node) -> Node:
        """Translate an activation by its name; Keras 2's hard_sigmoid is another function than V3's."""
        if name in _CLIPS:
            return replace(node, kind="clip", limits=_CLIPS[name])
        if name in ("softmax", "linear"):
            return replace(node, kind="softmax" if name == "softmax" else "same")
        if name in ("hard_silu", "hard_swish"):
            return replace(node, kind="activation", activation="hard_swish")
        if name == "hard_sigmoid" and self.file.version >= 3:
            return replace(node, kind="activation", activation="hard_sigmoid")
        if name == "sigmoid":
            return replace(node, kind="activation", activation="sigmoid")
        return replace(node, name=f"{name} of {node.out}")

    def rescale(self, kind: str, config: Mapping[str, Any], names: Names, node: Node) -> None:
        """Translate x scale + offset, or (x - mean) / deviation."""
        middle = f"{node.out} raw"
        parts: tuple[tuple[str, ArrayLike], ...]
        if kind == "Rescaling":
            parts = (("multiply", config["scale"]), ("add", config["offset"]))
        else:
            found = self.file.of(names)
            mean, variance = found[:2] if len(found) >= 2 else (config["mean"], config["variance"])
            deviation = np.maximum(np.sqrt(np.asarray(variance, np.float64)), 1e-7)  # 1e-7: Keras's own floor
            parts = (("add", -np.asarray(mean, np.float64)), ("multiply", 1 / deviation))
        for index, (what, value) in enumerate(parts):
            constant = np.asarray(value, np.float32).reshape(-1)
            ends = replace(node, out=middle) if index == 0 else replace(node, sources=(middle,))
            self.nodes.append(replace(ends, kind="add" if what == "add" else "multiply", constant=constant))


def _arithmetic(what: str, node: Node, numbers: Sequence[float]) -> Node:
    """Translate a sum or product of two values, or of a value and then a number."""
    if len(node.sources) == 2 and what in ("Add", "Multiply"):
        return replace(node, kind="add" if what == "Add" else "multiply")
    if len(node.sources) != 1 or len(numbers) != 1:
        return replace(node, sources=node.sources[:1])
    number = {"Subtract": -numbers[0], "Divide": 1 / (numbers[0] or inf)}.get(what, numbers[0])
    constant = np.asarray([number], np.float32)
    if what in ("Add", "Subtract"):
        return replace(node, kind="add", constant=constant)
    return replace(node, kind="multiply", constant=constant) if what in ("Multiply", "Divide") else node


def _function(value: Any) -> str:
    """Return an activation's name, however it was serialized."""
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name", "")).lower()
    return str(value)


def _tensors(value: Any) -> Iterator[str]:
    """Find the layers whose outputs a call names: Keras 2's [name, node, tensor], Keras 3's keras_history."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield str(value["config"]["keras_history"][0])
        else:
            for each in value.values():
                yield from _tensors(each)
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and all(type(index) is int for index in value[1:3]):
            yield value[0]
            yield from _tensors(value[3:])
        else:
            for each in value:
                yield from _tensors(each)


def _numbers(value: Any) -> Iterator[float]:
    """Find the numbers among a call's arguments."""
    if isinstance(value, dict):
        if value.get("class_name") != "__keras_tensor__":
            for each in value.values():
                yield from _numbers(each)
    elif isinstance(value, list):
        is_tensor = len(value) in (3, 4) and isinstance(value[0], str)
        for each in value[3:] if is_tensor else value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
