"""Writes a network of ours as ONNX, in the ways that exporters write it, for tests of what reads that."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mobilenets.arch import Op
from mobilenets.nn.network import Convolution, Network


class Writer:
    """A network of ours as ONNX, in the ways that exporters write it."""

    def __init__(self, network: Network, *, plain: bool = False) -> None:
        """`plain` writes everything in small steps and separate operations, for an old version of the format."""
        self.network, self.plain = network, plain
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.counter = 0

    def add(self, kind: str, inputs: list[str], output: str = "", **options: Any) -> str:
        self.counter += 1
        output = output or f"value_{self.counter}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **options))
        return output

    def constant(self, value: Any) -> str:
        self.counter += 1
        name = f"constant_{self.counter}"
        self.stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def model(self, *, softmax: bool = False, channels_last: bool = False, rescale: bool = False) -> Any:
        layout = self.network.plan
        height, width = layout.resolution
        shape: list[str | int | None] = ["n", height, width, 3] if channels_last else ["n", 3, height, width]
        value = "picture"
        if rescale:  # bytes in, ImageNet's statistics inside
            statistics = np.array([[123.7, 116.3, 103.5], [58.4, 57.1, 57.4]], np.float32)
            mean, std = statistics.reshape(2, 1, 3, 1, 1)
            value = self.add("Div", [self.add("Sub", [value, self.constant(mean)]), self.constant(std)])
        if channels_last:
            value = self.add("Transpose", [value], perm=[0, 3, 1, 2])
        places = {"input": value}
        for op in layout.ops:
            places[op.name] = self.operation(op, [places[name] for name in op.sources])
        out = places[layout.ops[-1].name]
        if softmax:
            out = self.add("Softmax", [out], axis=-1)
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            self.stored,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11 if self.plain else 18)], ir_version=8)

    def operation(self, op: Op, sources: list[str]) -> str:
        if op.kind == "add":
            return self.add("Add", sources)
        if op.kind == "scale":
            return self.add("Mul", sources[::-1])
        if op.kind == "pool":
            if self.plain:
                return self.add("ReduceMean", sources, axes=[-2, -1], keepdims=1)
            return self.add("GlobalAveragePool", sources)
        return self.activation(
            op.activation, self.linear(op, sources[0]) if op.kind == "linear" else self.conv(op, sources[0])
        )

    def conv(self, op: Op, source: str) -> str:
        layer = self.network.get_submodule(op.name)
        assert isinstance(layer, Convolution)
        weight = layer.weight.detach().numpy()
        top, bottom, left, right = op.padding
        pads = [top, left, bottom, right]
        if self.plain and any(pads):
            around = self.constant(np.array([0, 0, top, left, 0, 0, bottom, right]))
            source, pads = self.add("Pad", [source, around]), [0, 0, 0, 0]
        inputs = [source, self.constant(weight)]
        if layer.bias is not None:
            inputs.append(self.constant(layer.bias.detach().numpy()))
        value = self.add(
            "Conv", inputs, op.name, strides=[op.stride] * 2, pads=pads, group=op.groups, kernel_shape=[op.kernel] * 2
        )
        if layer.norm is None:
            return value
        norm = layer.norm
        parts = [getattr(norm, part).detach().numpy() for part in ("weight", "bias", "running_mean", "running_var")]
        return self.add("BatchNormalization", [value, *map(self.constant, parts)], epsilon=norm.eps)

    def linear(self, op: Op, source: str) -> str:
        layer = self.network.get_submodule(op.name)
        assert isinstance(layer, nn.Linear)
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        if self.plain:
            flat = self.add("Reshape", [source, self.constant(np.array([0, -1]))])
            product = self.add("MatMul", [flat, self.constant(np.ascontiguousarray(weight.T))], op.name)
            return self.add("Add", [product, self.constant(bias)])
        flat = self.add("Flatten", [source], axis=1)
        return self.add("Gemm", [flat, self.constant(weight), self.constant(bias)], op.name, transB=1)

    def activation(self, name: str | None, value: str) -> str:
        if name is None:
            return value
        if not self.plain:
            kinds = {"relu": "Relu", "hard_swish": "HardSwish"}
            if name in kinds:
                return self.add(kinds[name], [value])
            if name == "hard_sigmoid":
                return self.add("HardSigmoid", [value], alpha=1 / 6, beta=0.5)
            return self.add("Clip", [value, self.number(0), self.number(6)])
        if name in ("relu", "relu6"):
            low = self.add("Max", [value, self.number(0)])
            return low if name == "relu" else self.add("Min", [low, self.number(6)])
        shifted = self.add("Add", [self.number(3), value])
        gate = self.add("Clip", [shifted, self.number(0), self.number(6)])
        if name == "hard_swish":
            return self.add("Div", [self.add("Mul", [value, gate]), self.number(6)])
        return self.add("Div", [gate, self.number(6)])
