"""Int8 TFLite files as int8 checkpoints: the file's own codes and scales, nothing dequantized and nothing rounded anew.

`convert` makes float32 networks of quantized files, to train on. This keeps them as they run on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import CLIPS, Checkpoint, tensor_shapes
from mobilenets.errors import ConvertError
from mobilenets.nn.convert import tflite
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify
from mobilenets.nn.convert.labels import classes_of
from mobilenets.nn.convert.tflite_model import Model, Operation, Tensor, open_model
from mobilenets.nn.download import digest

_SIGNED = 128
"""TFLite's int8 codes are a checkpoint's uint8 codes less this."""

_CODES: Mapping[str, tuple[str, ...]] = {
    "conv": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "linear": ("FULLY_CONNECTED", "CONV_2D"),
    "add": ("ADD",),
    "scale": ("MUL",),
    "pool": ("MEAN", "AVERAGE_POOL_2D"),
}
_ACTIVATIONS = {"hard_swish": "HARD_SWISH", "sigmoid": "LOGISTIC"}
_PASSING = ("PAD", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
"""What leaves codes as they are; padding is the convolution's."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Reading:
    """An int8 checkpoint, and the indices of its values in the file, by `input`, operation and `OPERATION.before`."""

    checkpoint: Checkpoint
    values: Mapping[str, int]


def read_int8(path: Path) -> Int8Reading:
    """Read an int8 TFLite classifier as it is. Its background class, if it has one, is left out.

    Raises:
        ConvertError: the file is damaged or not of this family; or not int8 throughout, with symmetric weights.
        MissingExtraError: ai-edge-litert is not installed.
    """
    source = tflite.read(path)
    layout = identify(source, name=str(path))
    classes = classes_of(source.classes, source.labels, f"{path}: ")
    made = assemble(source, layout, classes, origin=f"{source.kind}, {path.name}", notes=source.notes)
    model = open_model(path)
    walk = _Walk(model, layout, path)
    tensors = walk.tensors()
    last = layout.ops[-1].name
    if classes.drops_background:
        for part in ("weight", "bias", "weight_scale"):
            tensors[f"{last}.{part}"] = tensors[f"{last}.{part}"][1:]
    scales = [name for name in tensors if name.endswith(".weight_scale")]
    if all((tensors[name] == tensors[name][0]).all() for name in scales):
        granularity = "tensor"
        tensors |= {name: tensors[name][:1] for name in scales}
    else:
        granularity = "channel"
    card = replace(
        made.card,
        precision="int8",
        batch_norm="folded",
        parent=digest(path),
        quantization={"granularity": granularity, "method": "as in the file it was read from"},
    )
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return Int8Reading(Checkpoint(card, contiguous), walk.values)


class _Walk:
    """The file's operations and the plan's, side by side."""

    def __init__(self, model: Model, layout: Plan, path: Path) -> None:
        self.model, self.layout, self.path = model, layout, path
        self.values: dict[str, int] = {}
        self._same: dict[int, int] = {}  # tensors that hold the codes of another one
        self._rest = iter(model.operations)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the tensors of the checkpoint."""
        self.values["input"] = self._entrance()
        tensors: dict[str, NDArray[Any]] = {}
        for op in self.layout.ops:
            operation = self._next(_CODES[op.kind], op.name)
            read = {self._source(index) for index in operation.inputs if self.model.tensors[index].data is None}
            if read != {self.values[name] for name in op.sources}:
                raise ConvertError(f"{self.path}: {op.name} reads something else than its table says")
            if op.kind in ("conv", "linear"):
                tensors |= self._layer(op, operation)
            self._keep(op, operation.outputs[0])
        for name, index in self.values.items():
            scale, zero = self._steps(self.model.tensors[index])
            tensors[f"{name}.scale"] = np.array([scale], np.float32)
            tensors[f"{name}.zero_point"] = np.array([zero + _SIGNED], np.uint8)
        return tensors

    def _entrance(self) -> int:
        """Return the tensor of the picture's int8 codes."""
        first = self.model.operations[0]
        if first.code == "QUANTIZE" and first.inputs[0] == self.model.input.index:
            next(self._rest)
            return first.outputs[0]
        return self.model.input.index

    def _keep(self, op: Op, out: int) -> None:
        """Note where the result of an operation is, behind its activation."""
        if op.activation in CLIPS:
            self.values[op.name] = out
            return
        assert op.activation is not None
        if op.activation not in _ACTIVATIONS:
            raise ConvertError(f"{self.path}: {op.name} has a {op.activation} of several operations: use `convert`")
        self.values[f"{op.name}.before"] = out
        operation = self._next((_ACTIVATIONS[op.activation],), op.name)
        if self._source(operation.inputs[0]) != out:
            raise ConvertError(f"{self.path}: {op.name} has no {op.activation} behind it where its table says so")
        self.values[op.name] = operation.outputs[0]

    def _next(self, codes: tuple[str, ...], name: str) -> Operation:
        for operation in self._rest:
            if operation.code in codes:
                return operation
            if operation.code not in _PASSING:
                raise ConvertError(f"{self.path}: {operation.code} where {name} should be: use `mobilenets convert`")
            self._same[operation.outputs[0]] = operation.inputs[0]
        raise ConvertError(f"{self.path}: ends before {name}: get a fresh copy")

    def _source(self, index: int) -> int:
        while index in self._same:
            index = self._same[index]
        return index

    def _layer(self, op: Op, operation: Operation) -> dict[str, NDArray[Any]]:
        """Return the int8 weight, int32 bias and scales of a layer."""
        weight = self.model.tensors[operation.inputs[1]]
        if weight.type != "INT8" or weight.data is None or weight.zero_point.any() or weight.scale.size < 1:
            raise ConvertError(
                f"{self.path}: the weights of {op.name} are {weight.type.lower()} with a zero point, or not quantized, "
                "and int8 checkpoints have symmetric ones: use `mobilenets convert`, and quantize anew"
            )
        data: NDArray[Any] = weight.data
        if data.ndim == 4:
            data = data.transpose((3, 0, 1, 2) if operation.code == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2))
        bias: NDArray[Any] = np.zeros(op.out[0], np.int32)
        rows = data.shape[0]
        if len(operation.inputs) > 2 and operation.inputs[2] >= 0:
            stored = self.model.tensors[operation.inputs[2]]
            if stored.type != "INT32" or stored.data is None:
                raise ConvertError(f"{self.path}: the bias of {op.name} is no int32: use `mobilenets convert`")
            bias = stored.data.reshape(-1)
        shape = tensor_shapes(self.layout)[f"{op.name}.weight"]
        return {
            f"{op.name}.weight": data.reshape(rows, *shape[1:]),
            f"{op.name}.bias": bias,
            f"{op.name}.weight_scale": np.broadcast_to(weight.scale.astype(np.float32), (rows,)),
        }

    def _steps(self, tensor: Tensor) -> tuple[float, int]:
        if tensor.type != "INT8" or tensor.scale.size != 1:
            raise ConvertError(
                f"{self.path}: {tensor.name or 'a value'} is {tensor.type.lower()}, and only files that are int8 "
                "throughout are kept as they are: use `mobilenets convert`"
            )
        return float(tensor.scale[0]), int(tensor.zero_point[0])
