"""TFLite files: float32, float16, uint8 per tensor and int8 per channel; quantized ones are dequantized.

The layers come from the file's own graph, so every converter's output is read alike: padding inside the convolutions
or as operations before them, h-swish in one operation or in five, the classifier as convolution or fully connected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np

from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert import graph
from mobilenets.nn.convert.layers import Array, Padding, Source
from mobilenets.nn.convert.node import Node, Pixels
from mobilenets.nn.convert.tflite_model import Model, Operation, Tensor, open_model
from mobilenets.nn.convert.unsaid import Input, input_of, known_labels

_FUSED: dict[int, tuple[float, float]] = {1: (0, inf), 2: (-1, 1), 3: (0, 6)}
"""ActivationFunctionType: RELU, RELU_N1_TO_1, RELU6."""

_SAME_PADDING = 0
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_PASSING = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE")


@np.errstate(all="ignore")  # damaged numbers become infinities, which whoever assembles the layers refuses
def read(path: Path) -> Source:
    """Read the layers of a TFLite classifier, float32, with its input range and, where it has them, its labels.

    Raises:
        ConvertError: the file is damaged, or holds something else than one network of this family.
        MissingExtraError: ai-edge-litert is not installed.
    """
    model = open_model(path)
    size = _size(model, path)
    nodes = _Translation(model, path).nodes()
    reading = graph.read(nodes, str(model.input.index), str(model.output.index), size, str(path))
    wanted = _input(model, reading, size)
    labels = model.labels or known_labels(reading.layers, size)
    if labels is not None and len(labels) != reading.layers[-1].weight.shape[0]:
        labels = None  # packed with it, but not its own
    quantized = any(tensor.type in ("INT8", "UINT8") and tensor.data is not None for tensor in model.tensors)
    return Source(
        kind=f"TFLite, {_precision(model)}",
        layers=reading.layers,
        resolution=size,
        mean=wanted.mean,
        std=wanted.std,
        crop_fraction=None,  # the whole picture, stretched: what TFLite's own examples and cameras feed such a file
        padding=reading.padding or "same",
        batch_norm=reading.batch_norm,
        steps=reading.steps,
        labels=labels,
        exact=not quantized,
        reference=_reference(model, reading),
        notes=wanted.notes,
    )


def _precision(model: Model) -> str:
    """Name how most weights are stored."""
    constants = [tensor for tensor in model.tensors if tensor.data is not None and len(tensor.shape) in (2, 4)]
    largest = max(constants, key=lambda tensor: tensor.data.size if tensor.data is not None else 0, default=model.input)
    kind = largest.type.lower()
    if largest.scale.size == 0:
        return kind
    return f"{kind} per {'channel' if any(tensor.scale.size > 1 for tensor in constants) else 'tensor'}"


def _size(model: Model, path: Path) -> tuple[int, int]:
    """Return the (height, width) of the pictures, from the input's shape in either layout."""
    shape = model.input.shape
    if len(shape) != 4 or not ({shape[1], shape[3]} & {1, 3}) or min(shape) < 1 or max(shape) > 16384:
        raise ConvertError(f"{path}: its input is {shape}, and a picture is (1, height, width, 3)")
    return (shape[1], shape[2]) if shape[3] in (1, 3) else (shape[2], shape[3])


class _Translation:
    """From TFLite's operations to neutral nodes."""

    def __init__(self, model: Model, path: Path) -> None:
        self.model, self.path = model, path
        self.constants = {tensor.index: tensor for tensor in model.tensors if tensor.data is not None}

    def nodes(self) -> list[Node]:
        """Translate all operations; constants that are only dequantized stay constants."""
        nodes: list[Node] = []
        for index, operation in enumerate(self.model.operations):
            first = operation.inputs[0]
            if operation.code == "DEQUANTIZE" and first in self.constants:
                self.constants[operation.outputs[0]] = self.constants[first]
            else:
                nodes += self.node(operation, index)
        return nodes

    def node(self, operation: Operation, index: int) -> list[Node]:
        """Translate one operation, its fused activation as an operation of its own where it is no layer's."""
        sources = tuple(str(i) for i in operation.inputs if i >= 0 and i not in self.constants)
        out = self.model.tensors[operation.outputs[0]]
        node = Node("unknown", f"{operation.code} {index}", sources[:1] or (str(operation.inputs[0]),), str(out.index))
        match operation.code:
            case code if code in _LAYERS:
                name = out.name.split(";")[0]
                node = self.weighted(operation, replace(node, name=name or node.name))
            case "ADD" | "MUL" | "SUB" | "DIV":
                node = self.arithmetic(operation, node, sources)
            case "AVERAGE_POOL_2D" | "MEAN":
                node = replace(node, kind="pool") if self.pools_all(operation) else node
            case "PAD":
                pads = self.pads(operation)
                node = node if pads is None else replace(node, kind="pad", pads=pads)
            case "TRANSPOSE":
                whole = max(out.shape[1:3], default=0) == 1 or operation.inputs[0] == self.model.input.index
                node = replace(node, kind="same") if whole else node
            case code if code in _PASSING:
                node = replace(node, kind="same")
            case "SOFTMAX":
                node = replace(node, kind="softmax")
            case "RELU" | "RELU6":
                node = replace(node, kind="clip", limits=(0, inf if operation.code == "RELU" else 6))
            case "MINIMUM" | "MAXIMUM" if len(sources) == 1:
                limit = float(self.constant(operation.inputs[1]).reshape(-1)[0])
                limits = (-inf, limit) if operation.code == "MINIMUM" else (limit, inf)
                node = replace(node, kind="clip", limits=limits)
            case "HARD_SWISH":
                node = replace(node, kind="activation", activation="hard_swish")
            case "LOGISTIC":
                node = replace(node, kind="activation", activation="sigmoid")
        fused = operation.options.get("FusedActivationFunction", 0)
        raw = f"{node.out} raw"
        if fused != 0:
            limits = _FUSED.get(fused, (inf, inf))
            return [replace(node, out=raw), Node("clip", f"{node.name} activation", (raw,), node.out, limits=limits)]
        limits = out.limits() or (-inf, inf)
        if node.kind in ("conv", "dense"):
            return [replace(node, out=raw), Node("same", node.name, (raw,), node.out, limits=limits)]
        return [node]

    def constant(self, index: int) -> Array:
        """Return a constant input's real values."""
        if index not in self.constants:
            raise ConvertError(f"{self.path}: the weights of one of its layers are computed, not stored")
        return self.constants[index].real()

    def weighted(self, operation: Operation, node: Node) -> Node:
        """Translate a layer: (out, k, k, in) and (1, k, k, channels) become torch's order."""
        weight = self.constant(operation.inputs[1])
        bias = None
        if len(operation.inputs) > 2 and operation.inputs[2] >= 0:
            bias = self.constant(operation.inputs[2]).reshape(-1)
        if operation.code == "FULLY_CONNECTED":
            if weight.ndim != 2 or operation.options.get("WeightsFormat", 0) != 0:
                return node
            return replace(node, kind="dense", weight=weight, bias=bias)
        options = operation.options
        strides = (options.get("StrideH", 0), options.get("StrideW", 0))
        dilations = (options.get("DilationHFactor", 1), options.get("DilationWFactor", 1))
        if weight.ndim != 4 or weight.shape[1] != weight.shape[2] or strides[0] != strides[1] or strides[0] < 1:
            return node
        if dilations != (1, 1):
            raise ConvertError(f"{self.path}: {node.name} is dilated, as in segmentation: no classifier is")
        weight = weight.transpose((3, 0, 1, 2) if operation.code == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2))
        pads: Padding | Pixels = (0, 0, 0, 0)
        if options.get("Padding") == _SAME_PADDING:
            pads = "same"
        return replace(node, kind="conv", weight=np.ascontiguousarray(weight), bias=bias, stride=strides[0], pads=pads)

    def arithmetic(self, operation: Operation, node: Node, sources: tuple[str, ...]) -> Node:
        """Translate a sum or product of two values, or of a value and a constant."""
        adds = operation.code in ("ADD", "SUB")
        if len(sources) == 2 and operation.code in ("ADD", "MUL"):
            return replace(node, kind="add" if adds else "multiply", sources=sources)
        if len(sources) != 1 or (operation.code in ("SUB", "DIV") and operation.inputs[0] in self.constants):
            return node
        constant = self.constant(next(i for i in operation.inputs if i in self.constants))
        if operation.code == "SUB":
            constant = -constant
        elif operation.code == "DIV":
            constant = (1 / constant.astype(np.float64)).astype(np.float32)
        return replace(node, kind="add" if adds else "multiply", constant=constant)

    def pools_all(self, operation: Operation) -> bool:
        """Say whether an average is over the whole map."""
        shape = self.model.tensors[operation.inputs[0]].shape
        if operation.code == "MEAN":
            axes = self.constants.get(operation.inputs[1])
            return axes is not None and len(shape) == 4 and sorted(axes.real().reshape(-1) % 4) == [1, 2]
        window = (operation.options.get("FilterHeight"), operation.options.get("FilterWidth"))
        out = self.model.tensors[operation.outputs[0]].shape
        return len(shape) == 4 and shape[1:3] == window and out[1:3] == (1, 1)

    def pads(self, operation: Operation) -> Pixels | None:
        """Return what a padding operation adds around the map; None where it pads something else."""
        found = self.constants.get(operation.inputs[1])
        if found is None or found.shape != (4, 2):
            return None
        pads = found.real().astype(int)
        if pads[0].any() or pads[3].any() or pads.min() < 0:
            return None
        return (int(pads[1, 0]), int(pads[1, 1]), int(pads[2, 0]), int(pads[2, 1]))


def _input(model: Model, reading: graph.Reading, size: tuple[int, int]) -> Input:
    """Find what range of numbers the network wants its pictures in."""
    limits = model.input.limits()
    if limits is not None:  # 8 bits: the picture's own bytes, so 0 and 255 stand for the limits
        return Input.between(*(reading.scale * limit + reading.offset for limit in limits))
    if model.normalization is not None and not reading.rescales:
        return Input.normalized(*model.normalization)
    for operation in model.operations:
        if operation.code == "QUANTIZE" and operation.inputs[0] == model.input.index:
            limits = model.tensors[operation.outputs[0]].limits()
    return input_of(reading, size, limits)


def _reference(model: Model, reading: graph.Reading) -> Callable[[Array], Array] | None:
    """Return the file's own run, up to its logits, in LiteRT on one thread; None for a fixed batch of several."""
    if model.input.shape[0] != 1:
        return None
    name = reading.logits.removesuffix(" raw")
    logits = model.tensors[int(name)]
    content = model.ending_in(logits.index)
    channels_first = model.input.shape[3] not in (1, 3)

    def run(batch: Array) -> Array:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("ai-edge-litert", "convert") from None
        try:
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
            source = interpreter.get_input_details()[0]["index"]
            target = interpreter.get_output_details()[0]["index"]
            answers = []
            for picture in (batch - _column(reading.offset)) / _column(reading.scale):
                value = picture if channels_first else picture.transpose(1, 2, 0)
                interpreter.set_tensor(source, _stored(model.input, value[None]))
                interpreter.invoke()
                answer = replace(logits, data=interpreter.get_tensor(target), shape=())
                answers.append(answer.real().reshape(-1))
        except (RuntimeError, ValueError) as error:
            raise ConvertError(f"LiteRT refuses to run it: {str(error).splitlines()[0]}") from None
        return np.stack(answers)

    return run


def _column(per_channel: Array) -> Array:
    return per_channel.reshape(1, -1, 1, 1)


def _stored(tensor: Tensor, value: Array) -> np.ndarray:
    """Quantize as the input wants it."""
    if tensor.scale.size == 0:
        return np.ascontiguousarray(value, np.float32)
    low, high = (-128, 127) if tensor.type == "INT8" else (0, 255)
    levels = np.rint(value / tensor.scale[0]) + tensor.zero_point[0]
    stored: np.ndarray = np.clip(levels, low, high).astype(np.int8 if tensor.type == "INT8" else np.uint8)
    return stored
