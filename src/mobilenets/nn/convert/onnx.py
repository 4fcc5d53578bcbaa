"""ONNX files: float32, or with quantize-dequantize pairs around float operations, which are undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert import graph
from mobilenets.nn.convert.layers import Array, Norm, Padding, Source
from mobilenets.nn.convert.node import Node, Pixels
from mobilenets.nn.convert.unsaid import CROP_FRACTION, Input, input_of, known_labels

_FLOAT, _FLOAT16 = 1, 10  # TensorProto.DataType
_PASSING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "DequantizeLinear")
_LARGEST_SIDE = 16384


@np.errstate(all="ignore")  # damaged numbers become infinities, which whoever assembles the layers refuses
def read(path: Path) -> Source:
    """Read the layers of an ONNX classifier, float32, with its input range where the graph tells.

    Raises:
        ConvertError: the file is damaged, or holds something else than one network of this family.
        MissingExtraError: onnx is not installed.
    """
    model = _load(path)
    translation = _Translation(model, path)
    reading = graph.read(translation.nodes(), translation.source, translation.output, translation.size, str(path))
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    wanted = _input(translation, reading)
    return Source(
        kind="ONNX, quantized (QDQ)" if quantized else "ONNX",
        layers=reading.layers,
        resolution=translation.size,
        mean=wanted.mean,
        std=wanted.std,
        crop_fraction=CROP_FRACTION,
        padding=reading.padding,
        batch_norm=reading.batch_norm,
        steps=reading.steps,
        labels=known_labels(reading.layers, translation.size),
        exact=not quantized,
        reference=_reference(model, reading, translation),
        notes=wanted.notes,
    )


def _load(path: Path) -> Any:
    """Read the file and the files of weights beside it that it names."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise MissingExtraError("onnx", "convert") from None
    try:
        model = onnx.load(path)
    except (DecodeError, ValueError, TypeError, KeyError, onnx.checker.ValidationError):
        raise ConvertError(f"{path}: is not an ONNX file, or damaged: get a fresh copy") from None
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not model.graph.node:
        raise ConvertError(f"{path}: is not an ONNX file, or damaged: it has no operations")
    return model


class _Translation:
    """From ONNX's operations to neutral nodes; what does not depend on the picture is computed on the way."""

    def __init__(self, model: Any, path: Path) -> None:
        self.graph, self.path = model.graph, path
        self.constants: dict[str, np.ndarray] = {}
        for tensor in self.graph.initializer:
            self.constants[tensor.name] = self.array(tensor)
        inputs = [value for value in self.graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(self.graph.output) != 1:
            raise ConvertError(
                f"{path}: has {len(inputs)} inputs and {len(self.graph.output)} outputs, and a classifier one of each"
            )
        self.source, self.output = inputs[0].name, self.graph.output[0].name
        kind = inputs[0].type.tensor_type
        if kind.elem_type not in (_FLOAT, _FLOAT16):
            raise ConvertError(f"{path}: its input is not of floating-point numbers: convert the float form of it")
        self.half = kind.elem_type == _FLOAT16
        self.shape = tuple(int(side.dim_value) for side in kind.shape.dim)  # 0: any
        if len(self.shape) != 4 or not {self.shape[1], self.shape[3]} & {1, 3} or max(self.shape) > _LARGEST_SIDE:
            raise ConvertError(f"{path}: its input is {self.shape}, and a picture is (N, 3, height, width)")
        self.channels_first = self.shape[1] in (1, 3)
        height, width = self.shape[2:] if self.channels_first else self.shape[1:3]
        self.size = (height, width) if height > 0 and width > 0 else None
        self.flat: set[str] = set()  # values that are one number per channel

    def array(self, tensor: Any) -> np.ndarray:
        """Return a stored tensor."""
        from onnx import numpy_helper

        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, OverflowError):
            raise ConvertError(f"{self.path}: {tensor.name} is damaged: get a fresh copy") from None

    def nodes(self) -> list[Node]:
        """Translate all operations."""
        nodes: list[Node] = []
        try:
            for proto in self.graph.node:
                if self.compute(proto):
                    continue
                node = self.node(proto)
                nodes.append(node)
                if node.kind == "pool" or all(source in self.flat for source in node.sources):
                    self.flat.add(node.out)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError):
            raise ConvertError(f"{self.path}: {proto.op_type} {proto.name!r} is damaged: get a fresh copy") from None
        return nodes

    def compute(self, proto: Any) -> bool:
        """Run an operation whose inputs are all constants, where it only passes or rearranges them."""
        options = _options(proto)
        if proto.op_type == "Constant":
            value = next(iter(options.values()))
            self.constants[proto.output[0]] = self.array(value) if hasattr(value, "dims") else np.asarray(value)
            return True
        if not proto.input or any(name and name not in self.constants for name in proto.input):
            return False
        first, *others = (self.constants[name] for name in proto.input if name)
        match proto.op_type:
            case "Identity" | "Cast":
                result = first
            case "Transpose":
                result = first.transpose(options.get("perm"))
            case "Reshape":
                result = first.reshape([first.shape[i] if n == 0 else n for i, n in enumerate(others[0].tolist())])
            case "DequantizeLinear":
                result = _dequantized(first, others, options.get("axis", 1))
            case _:
                return False
        self.constants[proto.output[0]] = result
        return True

    def node(self, proto: Any) -> Node:
        """Translate one operation."""
        sources = tuple(name for name in proto.input if name and name not in self.constants)
        name = f"{proto.op_type} {proto.name}".strip()
        node = Node("unknown", name, sources[:1] or (self.source,), proto.output[0])
        options = _options(proto)
        if proto.domain not in ("", "ai.onnx"):
            return node
        match proto.op_type:
            case "QLinearConv" | "ConvInteger" | "QLinearMatMul" | "MatMulInteger":
                raise ConvertError(
                    f"{self.path}: has integer operations ({proto.op_type}): convert the float form of it"
                )
            case "Conv":
                return self.conv(proto, replace(node, name=proto.name or proto.input[1]), options)
            case "Gemm" | "MatMul":
                return self.dense(proto, replace(node, name=proto.name or proto.input[1]), options)
            case "BatchNormalization":
                scale, bias, mean, variance = (self.constant(source).reshape(-1) for source in proto.input[1:5])
                norm = Norm(scale, bias, mean, variance, float(options.get("epsilon", 1e-5)))
                return replace(node, kind="norm", norm=norm)
            case "Add" | "Sum" | "Mul" | "Sub" | "Div":
                return self.arithmetic(proto, node, sources)
            case "Relu" | "Clip" | "Min" | "Max" if len(sources) == 1:
                return replace(node, kind="clip", limits=self.limits(proto, options))
            case "HardSwish":
                return replace(node, kind="activation", activation="hard_swish")
            case "HardSigmoid" if abs(options.get("alpha", 0.2) - 1 / 6) + abs(options.get("beta", 0.5) - 0.5) < 1e-5:
                return replace(node, kind="activation", activation="hard_sigmoid")
            case "Sigmoid":
                return replace(node, kind="activation", activation="sigmoid")
            case "GlobalAveragePool" | "ReduceMean" | "AveragePool":
                return self.pool(proto, node, options)
            case "Pad":
                return self.pad(proto, node, options)
            case "Softmax" | "LogSoftmax":
                return replace(node, kind="softmax")
            case "QuantizeLinear":
                return replace(node, kind="same", limits=self.range(proto))
            case "Transpose" if sources[0] == self.source or sources[0] in self.flat:
                return replace(node, kind="same")
            case passing if passing in _PASSING:
                return replace(node, kind="same")
            case _:
                return node

    def constant(self, name: str) -> Array:
        """Return a stored input."""
        if name not in self.constants:
            raise ConvertError(f"{self.path}: {name or 'an input'} is computed, where a weight is stored")
        return self.constants[name].astype(np.float32)

    def conv(self, proto: Any, node: Node, options: Mapping[str, Any]) -> Node:
        """Translate a square convolution."""
        weight = self.constant(proto.input[1])
        bias = self.constant(proto.input[2]).reshape(-1) if len(proto.input) > 2 and proto.input[2] else None
        strides, dilations = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or strides[0] != strides[1]:
            return node
        if any(step != 1 for step in dilations):
            raise ConvertError(f"{self.path}: {node.name} is dilated, as in segmentation: no classifier is")
        top, left, bottom, right = options.get("pads", [0, 0, 0, 0])
        automatic = options.get("auto_pad", b"NOTSET").decode()
        pads: Padding | Pixels = (top, bottom, left, right)
        if automatic == "SAME_UPPER":
            pads = "same"
        elif automatic == "VALID":
            pads = (0, 0, 0, 0)
        elif automatic != "NOTSET":
            return node
        return replace(node, kind="conv", weight=weight, bias=bias, stride=int(strides[0]), pads=pads)

    def dense(self, proto: Any, node: Node, options: Mapping[str, Any]) -> Node:
        """Translate a fully connected layer: its weight is (in, out) unless said otherwise."""
        if proto.input[0] in self.constants or options.get("transA", 0):
            return node
        weight = self.constant(proto.input[1])
        if weight.ndim != 2:
            return node
        weight = (weight if options.get("transB", 0) else weight.T) * np.float32(options.get("alpha", 1.0))
        bias = None
        if len(proto.input) > 2 and proto.input[2]:
            bias = self.constant(proto.input[2]).reshape(-1) * np.float32(options.get("beta", 1.0))
        return replace(node, kind="dense", weight=np.ascontiguousarray(weight), bias=bias)

    def arithmetic(self, proto: Any, node: Node, sources: tuple[str, ...]) -> Node:
        """Translate a sum or product of two values, or of a value and a constant."""
        adds = proto.op_type in ("Add", "Sum", "Sub")
        turned = proto.op_type in ("Sub", "Div")
        if len(sources) == 2 and not turned:
            return replace(node, kind="add" if adds else "multiply", sources=sources)
        if len(sources) != 1 or len(proto.input) != 2 or (turned and proto.input[0] in self.constants):
            return node
        constant = self.constant(next(name for name in proto.input if name in self.constants))
        if proto.op_type == "Sub":
            constant = -constant
        elif proto.op_type == "Div":
            constant = (1 / constant.astype(np.float64)).astype(np.float32)
        return replace(node, kind="add" if adds else "multiply", constant=constant)

    def limits(self, proto: Any, options: Mapping[str, Any]) -> tuple[float, float]:
        """Return what a clip, a rectifier, a minimum or a maximum cuts at."""
        if proto.op_type == "Relu":
            return 0.0, inf
        if proto.op_type == "Clip":
            stored = [float(self.constant(name).reshape(())) if name else None for name in proto.input[1:3]]
            low, high = (*stored, None, None)[:2]
            low = options.get("min", -inf) if low is None else low
            return float(low), float(options.get("max", inf) if high is None else high)
        limit = float(self.constant(next(name for name in proto.input if name in self.constants)).reshape(()))
        return (-inf, limit) if proto.op_type == "Min" else (limit, inf)

    def range(self, proto: Any) -> tuple[float, float]:
        """Return the real numbers between which 8 bits are spread."""
        scale = self.constant(proto.input[1])
        zero = self.constants[proto.input[2]] if len(proto.input) > 2 else np.zeros((), np.uint8)
        if scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
            return -inf, inf
        bits = np.iinfo(zero.dtype)
        step, offset = float(scale.reshape(())), int(zero.reshape(()))
        return step * (int(bits.min) - offset), step * (int(bits.max) - offset)

    def pool(self, proto: Any, node: Node, options: Mapping[str, Any]) -> Node:
        """Translate an average over the whole map."""
        if proto.op_type == "ReduceMean":
            axes = options.get("axes")
            if axes is None and len(proto.input) > 1:
                axes = self.constant(proto.input[1]).astype(int).tolist()
            return replace(node, kind="pool") if axes and sorted(axis % 4 for axis in axes) == [2, 3] else node
        if proto.op_type == "GlobalAveragePool":
            return replace(node, kind="pool")
        height, width = options["kernel_shape"]
        return node if any(options.get("pads", [0])) else replace(node, kind="pool", window=(height, width))

    def pad(self, proto: Any, node: Node, options: Mapping[str, Any]) -> Node:
        """Translate a padding with zeros around the map."""
        pads = options.get("pads") or self.constant(proto.input[1]).astype(int).tolist()
        value = float(self.constant(proto.input[2]).reshape(())) if len(proto.input) > 2 and proto.input[2] else 0.0
        plain = options.get("mode", b"constant") == b"constant" and value + options.get("value", 0.0) == 0
        if not plain or len(pads) != 8 or len(proto.input) > 3 or any(pads[i] for i in (0, 1, 4, 5)) or min(pads) < 0:
            return node
        return replace(node, kind="pad", pads=(pads[2], pads[6], pads[3], pads[7]))


def _options(proto: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in proto.attribute}


def _dequantized(levels: np.ndarray, others: list[np.ndarray], axis: int) -> Array:
    """Return scale x (q - zero point), the scale per tensor or along one axis; computed in float64."""
    shape = [1] * levels.ndim
    if others[0].size > 1:
        shape[axis] = others[0].size
    scale, zero = (part.astype(np.float64).reshape(shape) for part in (*others, np.zeros_like(others[0]))[:2])
    return (scale * (levels.astype(np.float64) - zero)).astype(np.float32)


def _input(translation: _Translation, reading: graph.Reading) -> Input:
    """Find what range of numbers the network wants its pictures in."""
    calibrated = None
    for proto in translation.graph.node:
        if proto.op_type == "QuantizeLinear" and proto.input[0] == translation.source:
            calibrated = translation.range(proto)
    return input_of(reading, translation.size, calibrated)


def _reference(model: Any, reading: graph.Reading, translation: _Translation) -> Callable[[Array], Array]:
    """Return the file's own run, up to its logits, in onnxruntime on one thread."""
    import onnx

    shortened = onnx.ModelProto()
    shortened.CopyFrom(model)
    del shortened.graph.output[:]
    shortened.graph.output.append(onnx.ValueInfoProto(name=reading.logits))
    fixed = translation.shape[0]

    def run(batch: Array) -> Array:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "convert") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        value = (batch - reading.offset.reshape(1, -1, 1, 1)) / reading.scale.reshape(1, -1, 1, 1)
        if not translation.channels_first:
            value = value.transpose(0, 2, 3, 1)
        value = np.ascontiguousarray(value, np.float16 if translation.half else np.float32)
        step = fixed or max(1, len(value))
        answers = []
        try:
            session = onnxruntime.InferenceSession(  # its second try would print to standard output
                shortened.SerializeToString(), options, ["CPUExecutionProvider"], enable_fallback=0
            )
            for start in range(0, len(value), step):
                part = value[start : start + step]
                full = np.concatenate([part, np.zeros_like(value[:1]).repeat(step - len(part), 0)])
                answers.append(session.run(None, {translation.source: full})[0].reshape(step, -1)[: len(part)])
        except Exception as error:  # noqa: BLE001  # onnxruntime's own have no narrower base
            raise ConvertError(f"onnxruntime refuses to run it: {str(error).splitlines()[0]}") from None
        return np.concatenate(answers).astype(np.float32)

    return run
