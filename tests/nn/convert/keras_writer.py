"""Writes a network of ours as Keras 2 describes and stores it, for tests of what reads that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
from torch import nn

from mobilenets.arch import Op
from mobilenets.nn.convert.layers import Array
from mobilenets.nn.network import Convolution, Network

SIDE = 64


WHOLE_SIDE = 96  # at which no table changes its strides, which a file of weights only does not tell


class Writer:
    """A network of ours as Keras 2 describes and stores it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers: list[dict[str, Any]] = []
        self.weights: dict[str, list[tuple[str, Array]]] = {}

    def add(self, kind: str, name: str, sources: list[str], weights: Any = (), **config: Any) -> str:
        nodes: list[Any] = [[[source, 0, 0, {}] for source in sources]] if sources else []
        self.layers.append(
            {"class_name": kind, "name": name, "config": {"name": name} | config, "inbound_nodes": nodes}
        )
        self.weights[name] = list(weights)
        return name

    def step(self, function: str, name: str, source: str, number: float) -> str:
        """Add what Keras 2 makes of `x + 3.0`."""
        self.add("TFOpLambda", name, [], function=function)
        self.layers[-1]["inbound_nodes"] = [[source, 0, 0, {"y": number, "name": None}]]
        return name

    def describe(self, last_activation: str = "softmax") -> dict[str, Any]:
        layout = self.network.plan
        height, width = layout.resolution
        self.add("InputLayer", "input_1", [], batch_input_shape=[None, height, width, layout.in_channels])
        scaled = self.add("Rescaling", "rescaling", ["input_1"], scale=1 / 127.5, offset=-1.0)
        places = {"input": scaled}
        for op in layout.ops:
            sources = [places[name] for name in op.sources]
            if op.kind == "conv":
                places[op.name] = self.conv(op, sources[0])
            elif op.kind == "linear":
                places[op.name] = self.dense(op, sources[0], last_activation)
            elif op.kind == "pool":
                places[op.name] = self.add("GlobalAveragePooling2D", op.name, sources)
            else:
                places[op.name] = self.add("Add" if op.kind == "add" else "Multiply", op.name, sources)
        ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [[places["classifier"], 0, 0]]}
        return {"class_name": "Functional", "config": {"name": "model", "layers": self.layers} | ends}

    def conv(self, op: Op, source: str) -> str:
        layer = self.network.get_submodule(op.name)
        assert isinstance(layer, Convolution)
        weight = layer.weight.detach().numpy()
        kernel = weight.transpose(2, 3, 0, 1) if op.depthwise else weight.transpose(2, 3, 1, 0)
        weights = [("depthwise_kernel" if op.depthwise else "kernel", kernel)]
        if layer.bias is not None:
            weights.append(("bias", layer.bias.detach().numpy()))
        rule = "same"
        if op.depthwise and op.stride > 1:
            top, bottom, left, right = op.padding
            source = self.add("ZeroPadding2D", f"{op.name}_pad", [source], padding=[[top, bottom], [left, right]])
            rule = "valid"
        value = self.add(
            "DepthwiseConv2D" if op.depthwise else "Conv2D",
            op.name,
            [source],
            weights,
            kernel_size=[op.kernel] * 2,
            strides=[op.stride] * 2,
            padding=rule,
            dilation_rate=[1, 1],
            activation="linear",
            use_bias=layer.bias is not None,
        )
        if layer.norm is not None:
            stored = (("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean"))
            arrays = [(name, getattr(layer.norm, own).detach().numpy()) for name, own in stored]
            assert layer.norm.running_var is not None
            arrays.append(("moving_variance", layer.norm.running_var.numpy()))
            value = self.add("BatchNormalization", f"{op.name}_BN", [value], arrays, epsilon=layer.norm.eps)
        return self.activation(op.activation, value)

    def dense(self, op: Op, source: str, last_activation: str) -> str:
        layer = self.network.get_submodule(op.name)
        assert isinstance(layer, nn.Linear)
        weights = [("kernel", layer.weight.detach().numpy().T), ("bias", layer.bias.detach().numpy())]
        if op.name == "classifier":
            dropped = self.add("Dropout", "dropout", [source], rate=0.2)
            return self.add("Dense", op.name, [dropped], weights, use_bias=True, activation=last_activation)
        return self.activation(op.activation, self.add("Dense", op.name, [source], weights, use_bias=True))

    def activation(self, name: str | None, value: str) -> str:
        """V3's as Keras Applications write them, in small steps."""
        if name in (None, "relu", "relu6"):
            top = 6.0 if name == "relu6" else None
            return value if name is None else self.add("ReLU", f"{value}_relu", [value], max_value=top)
        shifted = self.step("__operators__.add", f"{value}_three", value, 3.0)
        gate = self.add("ReLU", f"{value}_six", [shifted], max_value=6.0, negative_slope=0.0, threshold=0.0)
        gate = self.step("math.multiply", f"{value}_sixth", gate, 1 / 6)
        return gate if name == "hard_sigmoid" else self.add("Multiply", f"{value}_swish", [value, gate])

    def write(self, path: Path, described: dict[str, Any] | None, version: str = "2.15.0") -> Path:
        """Write a whole model, or its weights only."""
        with h5py.File(path, "w") as file:
            group = file
            if described is not None:
                file.attrs["model_config"] = json.dumps(described)
                group = file.create_group("model_weights")
            file.attrs["keras_version"] = version
            group.attrs["layer_names"] = [name.encode() for name in self.weights]
            for name, arrays in self.weights.items():
                own = group.create_group(name)
                own.attrs["weight_names"] = [f"{name}/{each}:0".encode() for each, _ in arrays]
                for each, array in arrays:
                    own[f"{name}/{each}:0"] = array
        return path
