"""Writes a detector as the TensorFlow Object Detection API freezes it, bytes and all, for tests of what reads that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import Checkpoint

YXHW = (1, 0, 3, 2)
TYPES = {"float32": 1, "int32": 3}


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes | int) -> bytes:
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + np.float32(value).tobytes()


class GraphWriter:
    """Collects nodes."""

    def __init__(self) -> None:
        self.content = b""

    def node(self, name: str, op: str, inputs: Iterable[str] = (), **attributes: bytes) -> str:
        text = field(1, name.encode()) + field(2, op.encode())
        text += b"".join(field(3, each.encode()) for each in inputs)
        for key, value in attributes.items():
            text += field(5, field(1, key.encode()) + field(2, value))
        self.content += field(1, text)
        return name

    def constant(self, name: str, values: Any) -> str:
        array = np.asarray(values)
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        tensor = field(1, TYPES[array.dtype.name]) + field(2, shape) + field(4, array.tobytes())
        return self.node(name, "Const", value=field(8, tensor))

    def scalar(self, name: str, value: float) -> str:
        """Write one number as TensorFlow does: not in tensor_content, but repeated."""
        packed = varint(5 << 3 | 2) + varint(4) + np.float32(value).tobytes()
        return self.node(name, "Const", value=field(8, field(1, 1) + field(2, b"") + packed))


def frozen(checkpoint: Checkpoint, *, sigmoid: bool = False) -> bytes:
    """Return a detector, its BatchNorms not folded, as a frozen graph."""
    card, graph = checkpoint.card, GraphWriter()
    layout = card.plan
    graph.node("image_tensor", "Placeholder")
    graph.node(
        "Resize", "ResizeBilinear", ["image_tensor", graph.constant("size", np.array(card.resolution, np.int32))]
    )
    graph.node("Preprocessor/sub", "Sub", ["Resize", graph.scalar("one", 1.0)])
    values = {"input": "Preprocessor/sub"}
    for op in layout.ops:
        sources = [values[source] for source in op.sources]
        name = scope(layout, op)
        values[op.name] = (
            graph.node(name, "Add", sources)
            if op.kind == "add"
            else convolution(graph, checkpoint, op, name, sources[0])
        )
    postprocessing(graph, checkpoint, sigmoid=sigmoid)
    return graph.content


def scope(layout: Plan, op: Op) -> str:
    if op.row < len(layout.arch.rows) + len(layout.arch.detector.extras):  # type: ignore[union-attr]
        return f"FeatureExtractor/{op.name}"
    head, number, *rest = op.name.split("_")
    kind = {"boxes": "BoxEncodingPredictor", "scores": "ClassPredictor"}[head]
    return "_".join([f"BoxPredictor_{int(number) - 1}/{kind}", *rest])


def convolution(graph: GraphWriter, checkpoint: Checkpoint, op: Op, name: str, source: str) -> str:
    parts = {key.removeprefix(f"{op.name}."): value for key, value in checkpoint.tensors.items()}
    weight = parts["weight"]
    outputs = np.arange(op.out[0])
    if op.name.startswith("boxes") and not op.depthwise:
        outputs = outputs.reshape(-1, 4)[:, YXHW].reshape(-1)
    kernel = np.ascontiguousarray(weight[outputs].transpose((2, 3, 0, 1) if op.depthwise else (2, 3, 1, 0)))
    read = graph.node(f"{name}/weights/read", "Identity", [graph.constant(f"{name}/weights", kernel)])
    made = graph.node(
        f"{name}/{'depthwise' if op.depthwise else 'Conv2D'}",
        "DepthwiseConv2dNative" if op.depthwise else "Conv2D",
        [source, read],
        strides=field(1, b"".join(field(3, each) for each in (1, op.stride, op.stride, 1))),
        padding=field(2, b"SAME"),
        data_format=field(2, b"NHWC"),
    )
    if op.bias:
        return graph.node(
            f"{name}/BiasAdd", "BiasAdd", [made, graph.constant(f"{name}/biases", parts["bias"][outputs])]
        )
    names = ("weight", "bias", "running_mean", "running_var")
    statistics = [graph.constant(f"{name}/{each}", parts[f"norm.{each}"]) for each in names]
    epsilon = float_field(4, checkpoint.card.arch.bn_eps)
    made = graph.node(f"{name}/BatchNorm", "FusedBatchNorm", [made, *statistics], epsilon=epsilon)
    return made if op.activation is None else graph.node(f"{name}/Relu6", "Relu6", [made])


def postprocessing(graph: GraphWriter, checkpoint: Checkpoint, *, sigmoid: bool) -> None:
    detector = checkpoint.card.arch.detector
    assert detector is not None
    for index, level in enumerate(detector.anchors.levels):
        scope = "MultipleGridAnchorGenerator"
        scales, ratios = (np.array(each, np.float32) for each in zip(*level, strict=True))
        suffix = f"_{index}" if index else ""
        root = graph.node(f"{scope}/Sqrt{suffix}", "Sqrt", [graph.constant(f"{scope}/Sqrt{suffix}/x", ratios)])
        graph.node(f"{scope}/truediv_{index}", "RealDiv", [graph.constant(f"{scope}/truediv_{index}/x", scales), root])
    x, y, w, h = detector.coder
    for part, value in {"": y, "_1": x, "_2": h, "_3": w}.items():
        graph.scalar(f"Postprocessor/Decode/truediv{part}/y", value)
    graph.node("Postprocessor/convert_scores", "Sigmoid" if sigmoid else "Softmax", ["concat"])
    thresholds = [graph.scalar("iou", detector.nms_iou), graph.scalar("score", detector.score_threshold)]
    graph.node("nms", "NonMaxSuppressionV3", ["boxes", "scores", "most", *thresholds])
