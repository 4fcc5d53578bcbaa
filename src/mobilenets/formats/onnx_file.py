"""A checkpoint as an ONNX file: standard operators only, BatchNorm folded, the card in its metadata.

The values in the graph are called as the plan's operations. Float32: a convolution, then one operator for its
activation. Int8: quantize-dequantize pairs (QDQ) around float operators, from which a runtime makes its integer
kernels. Clipping at 0 and 6 is no operator there: 8-bit saturation does it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import LEVELS, bounds, quantizations, quantize
from mobilenets.errors import InputError
from mobilenets.formats.card import INPUT, KEY, OUTPUT, card_to_text, output_names
from mobilenets.formats.onnx_boxes import add_detections
from mobilenets.formats.onnx_graph import Dims, GraphBuilder, activate, operation
from mobilenets.formats.onnx_heat import HEAT, Head, add_heat, head_of
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import normalize, scale_and_shift

Resolution = Literal["dynamic", "fixed"]


def to_onnx(
    checkpoint: Checkpoint,
    *,
    pictures: bool = False,
    resolution: Resolution = "dynamic",
    every_output: bool = False,
    heat: bool = False,
    nms: bool = False,
) -> bytes:
    """Return a checkpoint, float32 or int8, as the bytes of an ONNX file.

    Its input is `input`, float32 (N, C, H, W), normalized; its output `logits`, float32 (N, classes). A detector's
    outputs are those of its plan, float32 (N, C, H, W), under their names: what the heads say, not yet decoded.

    Args:
        checkpoint: float32 or int8.
        pictures: take pictures as `image.fit` leaves them, uint8 (N, H, W, C), and normalize in the graph.
        resolution: "dynamic" takes any height and width, "fixed" the card's; the batch is of any size with both.
        every_output: every operation's value is an output too: float32, or uint8 codes, called as `value_names` says.
        heat: where the network looked is an output too, as `onnx_heat` says; not where its head is of an unknown kind.

        nms: of a detector, boxes are outputs too, as `onnx_boxes` says; needs the fixed resolution.

    Raises:
        InputError: a resolution that is neither, or `nms` where it cannot be.
        MissingExtraError: onnx is not installed.
    """
    if resolution not in ("dynamic", "fixed"):
        raise InputError(f"the resolution of an ONNX file is dynamic or fixed, not {resolution!r}")
    card, fixed = checkpoint.card, resolution == "fixed"
    if nms and (card.task != "detection" or not fixed):
        raise InputError("non-maximum suppression in the file is for detectors of a fixed resolution")
    layout = card.plan
    writer = (_Int8Writer if card.precision == "int8" else _FloatWriter)(checkpoint, layout, fixed=fixed)
    writer.enter(pictures=pictures)
    for op in layout.ops:
        writer.add(op)
    writer.leave()
    graph, head = writer.graph, head_of(layout) if heat else None
    if head is not None:
        add_heat(graph, head, writer.values_for(head), OUTPUT)
    sides: Dims = card.resolution if fixed else ("H", "W")
    entry = (
        graph.tensor(INPUT, np.uint8, ("N", *sides, card.in_channels))
        if pictures
        else graph.tensor(INPUT, np.float32, ("N", card.in_channels, *sides))
    )
    outputs = [
        graph.tensor(
            name, np.float32, ("N", *(_sides(layout.op(op), fixed=fixed) if name == op else (layout.classes,)))
        )
        for name, op in zip(output_names(layout), layout.outputs, strict=True)
    ]
    if nms:
        outputs += add_detections(graph, layout)
    if head is not None:
        outputs.append(graph.tensor(HEAT, np.float32, ("N", None, None, None)))
    if every_output:
        outputs += _shown(graph, layout, card.precision)
    model: bytes = graph.model(card.arch.name, [entry], outputs, {KEY: card_to_text(card)}).SerializeToString()
    return model


def value_names(layout: Plan, precision: str) -> dict[str, str]:
    """Return what each operation's value is called in the graph: as the operation, but for the outputs.

    A float network's logits are `logits`. An int8 network's codes are still to be dequantized; where what they mean is
    an output that is called as the operation, they are `NAME.codes`.
    """
    names = {op.name: op.name for op in layout.ops}
    for op, name in zip(layout.outputs, output_names(layout), strict=True):
        names[op] = name if precision != "int8" else op if name != op else f"{op}.codes"
    return names


def real_names(layout: Plan, precision: str) -> dict[str, str]:
    """Return what each operation's value as real numbers is called in the graph."""
    if precision != "int8":
        return value_names(layout, precision)
    names = {op.name: f"{op.name}.real" for op in layout.ops}
    return names | dict(zip(layout.outputs, output_names(layout), strict=True))


def _sides(op: Op, *, fixed: bool) -> Dims:
    """Return the shape of an operation's value without the batch; None stands for what depends on the picture."""
    if op.kind == "linear":
        return op.out[:1]
    return op.out if fixed else (op.out[0], None, None)


def _shown(graph: GraphBuilder, layout: Plan, precision: str) -> list[Any]:
    """Describe the values to show beside the logits."""
    names, outputs = value_names(layout, precision), output_names(layout)
    dtype = np.uint8 if precision == "int8" else np.float32
    return [
        graph.tensor(names[op.name], dtype, ("N", *_sides(op, fixed=False)))
        for op in layout.ops
        if names[op.name] not in outputs
    ]


def _normalized(graph: GraphBuilder, preprocess: Preprocess) -> str:
    """Append what makes float32 (N, C, H, W) of pictures, in the steps of `image.preprocess.normalize`."""
    scale, shift = (np.array(each, np.float32)[:, np.newaxis, np.newaxis] for each in scale_and_shift(preprocess))
    planes = graph.node("Transpose", [INPUT], "input.planes", {"perm": [0, 3, 1, 2]})
    value = graph.node("Cast", [planes], "input.float", {"to": 1})  # TensorProto.FLOAT
    value = graph.node("Mul", [value, graph.constant("input.mul", scale)], "input.scaled")
    return graph.node("Add", [value, graph.constant("input.shift", shift)], "input.normalized")


class _FloatWriter:
    """Appends the operations of a float32 network to a graph."""

    def __init__(self, checkpoint: Checkpoint, layout: Plan, *, fixed: bool) -> None:
        self.graph = GraphBuilder()
        self._card, self._layers, self._fixed = checkpoint.card, folded(checkpoint), fixed
        self._names = {"input": INPUT, **value_names(layout, "float32")}
        self._flat: set[str] = set()  # operations whose value is (N, C)

    def enter(self, *, pictures: bool) -> None:
        """Append what comes before the first operation."""
        if pictures:
            self._names["input"] = _normalized(self.graph, self._card.preprocess)

    def add(self, op: Op) -> None:
        """Append one operation."""
        graph, out = self.graph, self._names[op.name]
        sources = [self._names[name] for name in op.sources]
        if op.kind == "linear":
            if op.sources[0] not in self._flat:
                sources = [graph.node("Flatten", sources, f"{op.name}.flat")]
            self._flat.add(op.name)
        if op.name in self._layers:
            layer = self._layers[op.name]
            sources.append(graph.constant(f"{op.name}.weight", layer.weight))
            sources.append(graph.constant(f"{op.name}.bias", layer.bias))
        before = out if op.activation is None else f"{op.name}.before"
        operation(graph, op, sources, before, same=self._card.arch.padding == "same", fixed=self._fixed)
        activate(graph, op.activation, before, out)

    def leave(self) -> None:
        """Append what comes behind the last operation: nothing."""

    def values_for(self, head: Head) -> dict[str, str]:
        """Return where the values are that `add_heat` reads."""
        values = {"features": self._names[head.features], "classifier": f"{head.classifier.name}.weight"}
        if head.dense is not None:
            values |= {"dense": f"{head.dense.name}.weight", "dense.before": f"{head.dense.name}.before"}
        return values


class _Int8Writer:
    """Appends the operations of an int8 network to a graph: `NAME` is an operation's codes, `NAME.real` what they mean.

    Weights and biases are stored as integers, each behind its DequantizeLinear.
    """

    def __init__(self, checkpoint: Checkpoint, layout: Plan, *, fixed: bool) -> None:
        self.graph = GraphBuilder()
        self._card, self._tensors, self._fixed = checkpoint.card, checkpoint.tensors, fixed
        self._quantizations = quantizations(checkpoint)
        self._names = value_names(layout, "int8")
        self._outputs = dict(zip(layout.outputs, output_names(layout), strict=True))
        self._codes: dict[str, str] = {}  # where an operation's codes are
        self._flat: set[str] = set()  # operations whose value is (N, C)
        self._meant: set[str] = set()  # values behind a DequantizeLinear that is already there

    def enter(self, *, pictures: bool) -> None:
        """Append what comes before the first operation.

        Where a pixel of a picture is its own code, the picture is the network's first value as it stands.
        """
        codes = "input.codes"
        if pictures and self._pixels_are_codes():
            self.graph.node("Transpose", [INPUT], codes, {"perm": [0, 3, 1, 2]})
        else:
            source = _normalized(self.graph, self._card.preprocess) if pictures else INPUT
            self._quantize(source, "input", codes)
        self._codes["input"] = codes

    def _pixels_are_codes(self) -> bool:
        preprocess = self._card.preprocess
        levels = np.arange(LEVELS, dtype=np.uint8)[np.newaxis, :, np.newaxis, np.newaxis]
        picture = np.repeat(levels, preprocess.channels, axis=3)
        codes = quantize(normalize(picture, preprocess), self._quantizations["input"])
        return bool((codes == picture.transpose(0, 3, 1, 2)).all())

    def add(self, op: Op) -> None:
        """Append one operation; where its activation is no mere clip, the value before it is quantized as well."""
        graph, name, before = self.graph, op.name, f"{op.name}.before"
        sources = [self._flattened(op)] if op.kind == "linear" else [self._real(source) for source in op.sources]
        if f"{name}.weight" in self._tensors:
            sources += self._layer(op)
        value = operation(graph, op, sources, f"{name}.sum", same=self._card.arch.padding == "same", fixed=self._fixed)
        if before in self._quantizations:
            codes = self._quantize(value, before, f"{before}.codes")
            value = activate(graph, op.activation, self._dequantize(codes, before, before), f"{name}.activated")
        elif bounds(op.activation, self._quantizations[name]) != (0, LEVELS - 1):
            value = activate(graph, op.activation, value, f"{name}.activated")
        self._codes[name] = self._quantize(value, name, self._names[name])

    def leave(self) -> None:
        """Append what comes behind the last operation: the codes of outputs become real numbers."""
        for name, out in self._outputs.items():
            self._dequantize(self._codes[name], name, out)

    def values_for(self, head: Head) -> dict[str, str]:
        """Append the values that `add_heat` reads, apart from those the operations read; return where they are."""
        values = {"features": self._dequantize(self._codes[head.features], head.features, "heat.features")}
        for part, op in (("classifier", head.classifier), ("dense", head.dense)):
            if op is None:
                continue
            codes = self.graph.node("Cast", [f"{op.name}.weight"], f"heat.{part}.codes", {"to": 1})  # FLOAT
            scale = np.reshape(self._tensors[f"{op.name}.weight_scale"], (-1, 1))
            column = self.graph.constant(f"heat.{part}.scale", scale)
            values[part] = self.graph.node("Mul", [codes, column], f"heat.{part}")
        if head.dense is not None:
            name = f"{head.dense.name}.before"
            clip = name not in self._quantizations  # its activation is a clip: codes above 0 are where the slope is 1
            codes, key = (self._codes[head.dense.name], head.dense.name) if clip else (f"{name}.codes", name)
            values["dense.before"] = self._dequantize(codes, key, "heat.dense.before")
        return values

    def _flattened(self, op: Op) -> str:
        """Return what a fully connected layer reads, (N, C).

        It is the codes that are flattened: nothing may stand between a dequantization and its layer.
        """
        (source,) = op.sources
        self._flat.add(op.name)
        if source not in self._flat:
            self._codes[source] = self.graph.node("Flatten", [self._codes[source]], f"{source}.flat")
            self._flat.add(source)
        return self._real(source)

    def _layer(self, op: Op) -> list[str]:
        """Store the weight and the bias of an operation; return what they mean."""
        graph, name = self.graph, op.name
        weight, bias, scale = (self._tensors[f"{name}.{part}"] for part in ("weight", "bias", "weight_scale"))
        per_channel = len(scale) > 1
        scale = scale if per_channel else scale[0]  # a scalar for the whole tensor
        # Exact products, rounded once: what the sums of products are in units of.
        source_scale = self._quantizations[op.sources[0]].scale
        sum_scale = (scale.astype(np.float64) * source_scale).astype(np.float32)
        real = []
        for part, values, unit in (("weight", weight, scale), ("bias", bias, sum_scale)):
            stored = [
                graph.constant(f"{name}.{part}", values),
                graph.constant(f"{name}.{part}.scale", unit),
                graph.constant(f"{name}.{part}.zero_point", np.zeros(unit.shape, values.dtype)),
            ]
            axis = {"axis": 0} if per_channel else {}
            real.append(graph.node("DequantizeLinear", stored, f"{name}.{part}.real", axis))
        return real

    def _real(self, name: str) -> str:
        """Return the value that an operation's codes mean; its dequantization is appended once."""
        out = f"{name}.real"
        if out not in self._meant:
            self._meant.add(out)
            self._dequantize(self._codes[name], name, out)
        return out

    def _quantize(self, value: str, name: str, out: str) -> str:
        return self.graph.node("QuantizeLinear", [value, *self._parameters(name)], out)

    def _dequantize(self, codes: str, name: str, out: str) -> str:
        return self.graph.node("DequantizeLinear", [codes, *self._parameters(name)], out)

    def _parameters(self, name: str) -> list[str]:
        quantization = self._quantizations[name]
        return [
            self.graph.constant(f"{name}.scale", np.array(quantization.scale, np.float32)),
            self.graph.constant(f"{name}.zero_point", np.array(quantization.zero_point, np.uint8)),
        ]
