"""Writes a network of ours as TFLite, operation by operation, for tests of what reads that."""

from __future__ import annotations

from typing import Any, Literal

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from mobilenets.arch import Op
from mobilenets.nn.convert.layers import Array
from mobilenets.nn.network import Convolution, Network

FUSED = {"relu": 1, "relu6": 3}


Precision = Literal["float32", "float16", "hybrid", "uint8", "int8"]


class Writer:
    """A TFLite file in the making."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.codes: list[Any] = []
        self.operators: list[Any] = []
        self.metadata: list[Any] = []

    def buffer(self, data: bytes) -> int:
        made = schema.BufferT()
        made.data = np.frombuffer(data, np.uint8)
        self.buffers.append(made)
        return len(self.buffers) - 1

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: str = "FLOAT32",
        *,
        data: np.ndarray | None = None,
        scale: Any = None,
        zero: Any = 0,
        dimension: int = 0,
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), getattr(schema.TensorType, kind)
        if data is not None:
            made.buffer = self.buffer(np.ascontiguousarray(data).tobytes())
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.broadcast_to(np.asarray(zero, np.int64), scales.shape).copy()
            made.quantization.quantizedDimension = dimension
        self.tensors.append(made)
        return len(self.tensors) - 1

    def integers(self, values: Any) -> int:
        array = np.asarray(values, np.int32)
        return self.tensor("integers", array.shape, "INT32", data=array)

    def operation(
        self, code: str, inputs: list[int], output: int, options: str = "", version: int = 1, **fields: int
    ) -> None:
        made_code = schema.OperatorCodeT()
        made_code.builtinCode = made_code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, code)
        made_code.version = version
        self.codes.append(made_code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.codes) - 1, inputs, [output]
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, inputs, outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.operatorCodes = 3, [graph], self.codes
        model.buffers, model.metadata = self.buffers, self.metadata
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class NetworkWriter(Writer):
    """A network of ours as TFLite, in the ways that converters write it."""

    def __init__(
        self,
        network: Network,
        precision: Precision = "float32",
        *,
        pads: Literal["inside", "before"] = "inside",
        dense: bool = True,
        steps: bool = False,
        drops_activations: bool = False,
        leaves_out: str = "",
    ) -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.pads, self.dense, self.steps = pads, dense, steps
        self.drops_activations, self.leaves_out = drops_activations, leaves_out
        self.eight = precision in ("uint8", "int8")
        self.kind = precision.upper() if self.eight else "FLOAT32"
        self.low, self.high = (0, 255) if precision == "uint8" else (-128, 127)
        self.places: dict[str, int] = {}
        self.ranges = ranges(network) if self.eight else {}

    def value(self, name: str, shape: tuple[int, ...], limits: tuple[float, float] | None = None) -> int:
        """Add a tensor for a value, quantized to its range where all is."""
        if not self.eight:
            return self.tensor(name, shape)
        low, high = self.ranges[name] if limits is None else limits
        scale = (high - low) / 255
        return self.tensor(name, shape, self.kind, scale=scale, zero=round(self.low - low / scale))

    def write(self, *, softmax: bool = True) -> bytes:
        layout = self.network.plan
        height, width = layout.resolution
        # Eight bits: (x - 128) / 128 of a picture's byte x, as TensorFlow's quantized MobileNets take it.
        first = self.value("input", (1, height, width, layout.in_channels), (-1.0, 127 / 128))
        self.places["input"] = first
        for op in layout.ops:
            if op.name == self.leaves_out:
                self.places[op.name] = self.places[op.sources[0]]
                continue
            out = self.value(op.name, (1, *op.out[1:], op.out[0]))
            inputs = [self.places[name] for name in op.sources]
            self.places[op.name] = out
            if op.kind in ("conv", "linear"):
                self.weighted(op, inputs[0], out)
            elif op.kind == "pool":
                self.operation("MEAN", [inputs[0], self.integers([1, 2])], out, "ReducerOptions", keepDims=1)
            elif op.kind == "add":
                self.operation("ADD", inputs, out, "AddOptions", version=1 + self.eight)
            else:
                self.operation("MUL", inputs, out, "MulOptions")
        flat = self.value("logits", (1, layout.classes), self.ranges.get(layout.ops[-1].name))
        self.operation("RESHAPE", [self.places[layout.ops[-1].name], self.integers([1, layout.classes])], flat)
        if softmax:
            logits, flat = flat, self.value("softmax", (1, layout.classes), (0, 255 / 256))
            self.operation("SOFTMAX", [logits], flat, "SoftmaxOptions", version=1 + self.eight, beta=1)
        return self.finish([first], [flat])

    def weighted(self, op: Op, source: int, out: int) -> None:
        """Add a layer, its BatchNorm folded, and its activation: fused, after it, or left out."""
        weight, bias = folded(self.network, op)
        depthwise = op.depthwise
        linear = op.kind == "linear" and self.dense
        dimension = 3 if depthwise else 0
        stored: Array = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        if linear:
            stored = weight[:, :, 0, 0]
        if linear and len(self.tensors[source].shape) == 4:
            flat = self.copy_of(source, (1, stored.shape[1]))
            self.operation("RESHAPE", [source, self.integers([1, stored.shape[1]])], flat)
            source = flat
        inputs = [source, *self.constants(op.name, stored, bias, dimension, source)]
        fused = 0 if self.drops_activations or op.activation is None else FUSED.get(op.activation, 0)
        after = op.activation if op.activation is not None and op.activation not in FUSED else None
        target = self.tensor(f"{op.name}_raw", self.tensors[out].shape) if after else out
        if linear:
            shaped = self.copy_of(target, (1, stored.shape[0]))
            self.operation("FULLY_CONNECTED", inputs, shaped, "FullyConnectedOptions", fusedActivationFunction=fused)
            self.operation("RESHAPE", [shaped, self.integers(self.tensors[target].shape)], target)
        else:
            same = 0
            if self.pads == "before" and op.kernel > 1:
                inputs[0], same = self.padded(op, source), 1
            kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
            code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
            fields = {"strideW": op.stride, "strideH": op.stride, "padding": same, "fusedActivationFunction": fused}
            version = 3 if self.precision in ("int8", "hybrid") else 1
            self.operation(
                code, inputs, target, kind, version, **fields | ({"depthMultiplier": 1} if depthwise else {})
            )
        if after:
            self.activation(after, target, out)

    def copy_of(self, tensor: int, shape: tuple[int, ...]) -> int:
        """Add a tensor of the same kind and range and another shape."""
        self.tensors.append(schema.TensorT())
        made, like = self.tensors[-1], self.tensors[tensor]
        made.name, made.shape, made.type, made.quantization = like.name, list(shape), like.type, like.quantization
        return len(self.tensors) - 1

    def padded(self, op: Op, source: int) -> int:
        top, bottom, left, right = op.padding
        _, height, width, channels = self.tensors[source].shape
        made = self.copy_of(source, (1, height + top + bottom, width + left + right, channels))
        self.operation(
            "PAD", [source, self.integers([[0, 0], [top, bottom], [left, right], [0, 0]])], made, "PadOptions"
        )
        return made

    def activation(self, name: str, source: int, out: int) -> None:
        if name == "hard_swish" and not self.steps:
            self.operation("HARD_SWISH", [source], out)
            return
        shape = self.tensors[source].shape
        three, sixth = (self.tensor("constant", (), data=np.float32(v)) for v in (3, 1 / 6))  # type: ignore[arg-type]
        gate = self.tensor("gate", shape)
        self.operation("ADD", [source, three], gate, "AddOptions", fusedActivationFunction=FUSED["relu6"])
        if name == "hard_sigmoid":
            self.operation("MUL", [gate, sixth], out, "MulOptions")
            return
        product = self.tensor("product", shape)
        self.operation("MUL", [source, gate], product, "MulOptions")
        self.operation("MUL", [product, sixth], out, "MulOptions")

    def constants(self, name: str, weight: Array, bias: Array, dimension: int, source: int) -> list[int]:
        """Add weight and bias in this precision."""
        if self.precision == "float32":
            return [self.tensor(name, weight.shape, data=weight), self.tensor(name, bias.shape, data=bias)]
        if self.precision == "float16":
            found = []
            for array in (weight, bias):
                half = self.tensor(name, array.shape, "FLOAT16", data=array.astype(np.float16))
                found.append(self.tensor(name, array.shape))
                self.operation("DEQUANTIZE", [half], found[-1])
            return found
        if self.precision == "uint8":
            low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
            scale = np.float32((high - low) / 255)
            zero = round(-low / float(scale))
            levels = np.clip(np.rint(weight / scale) + zero, 0, 255).astype(np.uint8)
            stored = self.tensor(name, weight.shape, "UINT8", data=levels, scale=scale, zero=zero)
        else:
            others = tuple(axis for axis in range(weight.ndim) if axis != dimension)
            scale = np.maximum(np.abs(weight).max(axis=others), 1e-6).astype(np.float32) / 127
            along = [1] * weight.ndim
            along[dimension] = -1
            levels = np.clip(np.rint(weight / scale.reshape(along)), -127, 127).astype(np.int8)
            stored = self.tensor(name, weight.shape, "INT8", data=levels, scale=scale, dimension=dimension)
        if self.precision == "hybrid":
            return [stored, self.tensor(name, bias.shape, data=bias)]
        unit = np.float32(self.tensors[source].quantization.scale[0]) * scale
        return [stored, self.tensor(name, bias.shape, "INT32", data=np.rint(bias / unit).astype(np.int32), scale=unit)]


def folded(network: Network, op: Op) -> tuple[Array, Array]:
    """Return a layer's weight, with four dimensions, and bias, BatchNorm multiplied in."""
    layer = network.get_submodule(op.name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight.detach().double().numpy()
    weight = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
    if isinstance(layer, Convolution) and layer.norm is not None:
        norm = layer.norm
        mean, variance, gamma, beta = (
            getattr(norm, name).detach().double().numpy() for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + norm.eps)
        weight, bias = weight * scale.reshape(-1, 1, 1, 1), beta + (bias - mean) * scale
    return weight.astype(np.float32), bias.astype(np.float32)


def ranges(network: Network) -> dict[str, tuple[float, float]]:
    """Return what every operation's output spans on random pictures, and 0."""
    live = {"input": torch.from_numpy(batch_for(network, 4))}
    found: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for op in network.plan.ops:
            sources = [live[name] for name in op.sources]
            if op.kind == "add":
                out = sources[0] + sources[1]
            elif op.kind == "pool":
                out = sources[0].mean((2, 3), keepdim=True)
            else:  # V1 and V2 have nothing else
                out = network.get_submodule(op.name)(sources[0])
            live[op.name] = out
            found[op.name] = (min(float(out.min()), 0.0), max(float(out.max()), 0.0))
            if op.activation == "relu6":
                found[op.name] = (0.0, 6.0)
    return found


def batch_for(network: Network, count: int) -> Array:
    layout = network.plan
    shape = (count, layout.in_channels, *layout.resolution)
    # Eighths of a byte's 256 levels, so that 8-bit inputs hold them exactly.
    return (np.random.default_rng(0).integers(-16, 16, shape) / 16).astype(np.float32)
