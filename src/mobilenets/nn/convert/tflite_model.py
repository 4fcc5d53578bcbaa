"""The inside of a TFLite file: tensors, operations and options, checked before anything runs them.

A TFLite file is a flatbuffer: offsets into itself. Everything here is read lazily, with bounds: a damaged or hostile
file ends in a ConvertError, neither in a traceback nor in gigabytes.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert.layers import Array

_MOST = 10_000  # tensors, operations, buffers; the largest network of the family has some 500
_LARGEST_BYTES = 2_000_000_000  # of a flatbuffer
_LABELS_BYTES = 10_000_000

_OPTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideW", "StrideH", "DilationWFactor", "DilationHFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        ("Padding", "StrideW", "StrideH", "DilationWFactor", "DilationHFactor", "FusedActivationFunction"),
    ),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "AVERAGE_POOL_2D": ("Pool2DOptions", ("FilterWidth", "FilterHeight", "FusedActivationFunction")),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "SUB": ("SubOptions", ("FusedActivationFunction",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "DIV": ("DivOptions", ("FusedActivationFunction",)),
}
"""The options that are read, by operation: their table, and its fields."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value of the graph; `data` where it is a constant. `scale` is empty where it is not quantized."""

    index: int
    name: str
    shape: tuple[int, ...]
    type: str  # as the schema calls it: FLOAT32, UINT8, ...
    scale: Array
    zero_point: NDArray[np.int64]
    dimension: int  # the one that `scale` runs along
    data: NDArray[Any] | None

    def real(self) -> Array:
        """Return a constant's values, scale x (q - zero point) where it is quantized; computed in float64."""
        assert self.data is not None
        if self.scale.size == 0:
            return self.data.astype(np.float32)
        along = [1] * self.data.ndim
        if self.scale.size > 1:
            along[self.dimension] = self.scale.size
        scale, zero = (part.astype(np.float64).reshape(along) for part in (self.scale, self.zero_point))
        return (scale * (self.data.astype(np.float64) - zero)).astype(np.float32)

    def limits(self) -> tuple[float, float] | None:
        """Return the real numbers between which an 8-bit tensor must lie; None where it is not one."""
        if self.type not in ("INT8", "UINT8") or self.scale.size != 1:
            return None
        low, high = (-128, 127) if self.type == "INT8" else (0, 255)
        scale, zero = float(self.scale[0]), int(self.zero_point[0])
        return scale * (low - zero), scale * (high - zero)


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation by its schema name, the indices of its tensors (-1: left out), and its options."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A checked TFLite file with one graph, one input and one output."""

    content: bytes
    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    input: Tensor
    output: Tensor
    labels: tuple[str, ...] | None  # from the files packed with it
    normalization: tuple[Array, Array] | None  # mean and deviation on the 0..255 scale, from its metadata

    def ending_in(self, tensor: int) -> bytes:
        """Return the file with another tensor as its output."""
        graph = _schema().Model.GetRootAs(self.content, 0).Subgraphs(0)
        start = graph._tab.Vector(graph._tab.Offset(8))  # noqa: SLF001  # slot 8: SubGraph.outputs
        return self.content[:start] + struct.pack("<i", tensor) + self.content[start + 4 :]


def open_model(path: Path) -> Model:
    """Read and check a TFLite file.

    Raises:
        ConvertError: it cannot be read, is damaged, or is no network with one picture in and one answer out.
        MissingExtraError: ai-edge-litert, which carries the file format's tables, is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read ({error.strerror or error})") from None
    if content[4:8] != b"TFL3" or len(content) > _LARGEST_BYTES:
        raise ConvertError(f"{path}: is not a TFLite file: it lacks the mark TFL3 at its start")
    schema = _schema()
    try:
        return _model(schema, content, path)
    except (struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError):
        raise ConvertError(f"{path}: is damaged or truncated ({len(content):,} bytes): get a fresh copy") from None


def _schema() -> ModuleType:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "convert") from None
    schema: ModuleType = schema_py_generated
    return schema


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _model(schema: ModuleType, content: bytes, path: Path) -> Model:
    root = schema.Model.GetRootAs(content, 0)
    if root.SubgraphsLength() != 1:
        raise ConvertError(f"{path}: has {root.SubgraphsLength()} graphs, and one is understood")
    graph = root.Subgraphs(0)
    counts = (graph.TensorsLength(), graph.OperatorsLength(), root.BuffersLength(), root.OperatorCodesLength())
    if max(counts) > _MOST or min(counts) < 1:
        raise ConvertError(f"{path}: is damaged, or no MobileNet: {counts[0]:,} tensors, {counts[1]:,} operations")
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise ConvertError(
            f"{path}: has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs: "
            "a classifier has one of each (detectors and segmentation networks are not converted)"
        )
    types = _names(schema.TensorType)
    tensors = tuple(_tensor(root, graph.Tensors(index), index, types) for index in range(counts[0]))
    operations = tuple(
        _operation(schema, root, graph.Operators(index), len(tensors)) for index in range(graph.OperatorsLength())
    )
    ends = (graph.Inputs(0), graph.Outputs(0))
    if not all(0 <= end < len(tensors) for end in ends):
        raise ValueError
    source, output = tensors[ends[0]], tensors[ends[1]]
    return Model(content, tensors, operations, source, output, _labels(path), _normalization(root))


def _tensor(root: Any, table: Any, index: int, types: Mapping[int, str]) -> Tensor:
    shape = tuple(int(side) for side in table.ShapeAsNumpy()) if table.ShapeLength() else ()
    kind = types[table.Type()]
    if table.Sparsity() is not None or len(shape) > 6 or min(shape, default=1) < 0:
        raise ValueError
    scale, zero, dimension = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    quantization = table.Quantization()
    if quantization is not None and quantization.ScaleLength():
        scale = quantization.ScaleAsNumpy().astype(np.float32)
        zero = np.zeros(scale.size, np.int64)
        if quantization.ZeroPointLength():
            zero = np.broadcast_to(quantization.ZeroPointAsNumpy().astype(np.int64), scale.shape)
        dimension = quantization.QuantizedDimension()
        if scale.size > 1 and (not 0 <= dimension < len(shape) or shape[dimension] != scale.size):
            raise ValueError
        if not np.isfinite(scale).all():
            raise ValueError
    if not 0 <= table.Buffer() < root.BuffersLength():
        raise ValueError
    buffer = root.Buffers(table.Buffer())
    data = None
    if buffer.DataLength() and kind in _DTYPES:
        data = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[kind])
        if data.size != prod(shape):
            raise ValueError
        data = data.reshape(shape)
    return Tensor(index, (table.Name() or b"").decode("utf-8", "replace"), shape, kind, scale, zero, dimension, data)


_DTYPES: Mapping[str, str] = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "INT8": "i1",
    "UINT8": "u1",
    "INT32": "<i4",
    "INT64": "<i8",
}


def _operation(schema: ModuleType, root: Any, table: Any, tensors: int) -> Operation:
    if not 0 <= table.OpcodeIndex() < root.OperatorCodesLength():
        raise ValueError
    code = root.OperatorCodes(table.OpcodeIndex())
    # The field was a byte once; files from that time have 0 in the new one.
    name = _names(schema.BuiltinOperator)[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    if not 1 <= table.InputsLength() <= _MOST or not 1 <= table.OutputsLength() <= _MOST:
        raise ValueError
    inputs = tuple(int(index) for index in table.InputsAsNumpy())
    outputs = tuple(int(index) for index in table.OutputsAsNumpy())
    if not all(-1 <= index < tensors for index in inputs) or not all(0 <= index < tensors for index in outputs):
        raise ValueError
    options: dict[str, int] = {}
    if name in _OPTIONS:
        kind, fields = _OPTIONS[name]
        if table.BuiltinOptionsType() == getattr(schema.BuiltinOptions, kind):
            where = table.BuiltinOptions()
            read = getattr(schema, kind)()
            read.Init(where.Bytes, where.Pos)
            options = {field: int(getattr(read, field)()) for field in fields}
        elif table.BuiltinOptionsType() != 0:
            raise ValueError
    return Operation(name, inputs, outputs, options)


def _labels(path: Path) -> tuple[str, ...] | None:
    """Return the lines of the one text file packed behind the flatbuffer, if there is one."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [entry for entry in archive.infolist() if entry.filename.endswith(".txt")]
            if len(texts) != 1 or texts[0].file_size > _LABELS_BYTES:
                return None
            lines = archive.read(texts[0]).decode("utf-8").splitlines()
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, RuntimeError, NotImplementedError, EOFError):
        return None
    labels = tuple(line.strip() for line in lines)
    return labels[: len(labels) - next((n for n, label in enumerate(labels[::-1]) if label), 0)] or None


def _normalization(root: Any) -> tuple[Array, Array] | None:
    """Return the mean and deviation that the metadata gives for the first input.

    The slots are those of TFLite's metadata_schema.fbs: ModelMetadata.subgraph_metadata,
    SubGraphMetadata.input_tensor_metadata, TensorMetadata.process_units, ProcessUnit.options (1: normalization).
    """
    from flatbuffers import number_types
    from flatbuffers.table import Table

    def first(table: Any, slot: int) -> Any:
        offset = table.Offset(slot)
        if not offset or not table.VectorLen(offset):
            return None
        return Table(table.Bytes, table.Indirect(table.Vector(offset)))

    for index in range(min(root.MetadataLength(), 100)):
        entry = root.Metadata(index)
        if entry.Name() != b"TFLITE_METADATA" or not 0 <= entry.Buffer() < root.BuffersLength():
            continue
        try:
            data = root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            table = Table(data, struct.unpack_from("<I", data)[0])
            for slot in (10, 8, 12):
                table = first(table, slot)
                if table is None:
                    return None
            kind, options = table.Offset(4), table.Offset(6)
            if not kind or not options or table.Get(number_types.Uint8Flags, kind + table.Pos) != 1:
                return None
            union = Table(data, 0)
            table.Union(union, options)
            vectors = [union.GetVectorAsNumpy(number_types.Float32Flags, union.Offset(slot)) for slot in (4, 6)]
        except (struct.error, IndexError, ValueError, TypeError, AttributeError):
            return None
        mean, deviation = (np.array(vector, np.float32) for vector in vectors)
        sound = mean.size == deviation.size and mean.size in (1, 3) and (deviation > 0).all()
        return (mean, deviation) if sound and np.isfinite(mean).all() else None
    return None
