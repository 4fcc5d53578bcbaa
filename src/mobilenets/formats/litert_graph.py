"""A TFLite file in the making: its tensors, operations and buffers, and nothing of networks.

The names are those of TFLite's schema.fbs, whose Python tables ai-edge-litert carries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARK = b"TFL3"
"""The file identifier, at bytes 4 to 8."""

_SCHEMA_VERSION = 3
_ALIGNMENT_BYTES = 16  # schema.fbs: Buffer.data is force_align: 16, which flatbuffers' Python writer leaves to us

_VERSIONS = {
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "ADD": (1, 2),
    "MUL": (1, 2),
    "MEAN": (1, 2),
    "PAD": (1, 2),
    "LOGISTIC": (1, 2),
}
"""The first version of an operation that takes float32, and int8 (TensorFlow's op_version.cc); 1 for all others."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What stored integers stand for: real = scale * (q - zero_point); several scales run along `dimension`."""

    scale: NDArray[np.float32]
    zero_point: int
    dimension: int = 0


def schema() -> ModuleType:
    """Return the tables of the file format.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    tables: ModuleType = schema_py_generated
    return tables


class Graph:
    """One graph under construction; tensors are referred to by their indices."""

    def __init__(self) -> None:
        self._schema = schema()
        self._buffers = [self._schema.BufferT()]  # the first one is empty: the buffer of what is no constant
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._metadata: list[Any] = []

    def value(self, name: str, shape: Sequence[int], kind: str, steps: Steps | None = None) -> int:
        """Add a tensor that is computed or given.

        Args:
            name: in the file.
            shape: a negative length is one that may differ from run to run; the file says its absolute value.
            kind: FLOAT32, INT8, UINT8, ... as the schema calls it.
            steps: where it is quantized.
        """
        made = self._tensor(name, [abs(length) for length in shape], kind, steps)
        if min(shape, default=0) < 0:
            made.shapeSignature = [length if length > 0 else -1 for length in shape]
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any], steps: Steps | None = None) -> int:
        """Add a tensor with its values: float32, int32 or int8."""
        made = self._tensor(name, list(values.shape), values.dtype.name.upper(), steps)
        made.buffer = self._buffer(np.ascontiguousarray(values).tobytes())
        return len(self._tensors) - 1

    def operation(
        self,
        code: str,
        inputs: Sequence[int],
        output: int,
        options: str = "",
        fields: Mapping[str, int | bool | list[int]] | None = None,
    ) -> int:
        """Add an operation by its name in the schema; operations run in the order they are added.

        Args:
            code: its name in BuiltinOperator.
            inputs: tensors.
            output: a tensor.
            options: the name of its table of options, if it has one.
            fields: what to set in that table.

        Returns:
            The output.
        """
        eight = self._tensors[output].type == self._schema.TensorType.INT8
        key = (code, _VERSIONS.get(code, (1, 1))[eight])
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(key, len(self._codes))
        made.inputs, made.outputs = list(inputs), [output]
        if options:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self._schema, f"{options}T")()
            for name, value in (fields or {}).items():
                setattr(made.builtinOptions, name, value)
        self._operators.append(made)
        return output

    def metadata(self, name: str, content: bytes) -> None:
        """Store bytes that the runtime ignores."""
        made = self._schema.MetadataT()
        made.name, made.buffer = name, self._buffer(content)
        self._metadata.append(made)

    def finish(self, source: int, results: Sequence[int], description: str) -> bytes:
        """Return the file: a graph from one tensor to others, also reachable by their names as a signature."""
        tables = self._schema
        graph = tables.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self._tensors, self._operators
        graph.inputs, graph.outputs = [source], list(results)
        signature = tables.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0  # as TensorFlow's converter calls it
        signature.inputs, signature.outputs = [self._named(source)], [self._named(result) for result in results]
        model = tables.ModelT()
        model.version, model.description = _SCHEMA_VERSION, description
        model.subgraphs, model.signatureDefs = [graph], [signature]
        model.operatorCodes = [self._code(code, version) for code, version in self._codes]
        model.buffers, model.metadata = self._buffers, self._metadata
        return packed(model)

    def _tensor(self, name: str, shape: list[int], kind: str, steps: Steps | None) -> Any:
        made = self._schema.TensorT()
        made.name, made.shape, made.type = name, shape, getattr(self._schema.TensorType, kind)
        if steps is not None:
            made.quantization = self._schema.QuantizationParametersT()
            made.quantization.scale = np.ascontiguousarray(steps.scale, np.float32)
            made.quantization.zeroPoint = np.full(steps.scale.shape, steps.zero_point, np.int64)
            made.quantization.quantizedDimension = steps.dimension
        self._tensors.append(made)
        return made

    def _buffer(self, content: bytes) -> int:
        made = self._schema.BufferT()
        made.data = np.frombuffer(content, np.uint8)
        self._buffers.append(made)
        return len(self._buffers) - 1

    def _code(self, name: str, version: int) -> Any:
        made = self._schema.OperatorCodeT()
        number = getattr(self._schema.BuiltinOperator, name)
        made.builtinCode, made.version = number, version
        made.deprecatedBuiltinCode = min(number, 127)  # where readers of 2020 and before look
        return made

    def _named(self, tensor: int) -> Any:
        made = self._schema.TensorMapT()
        made.name, made.tensorIndex = self._tensors[tensor].name, tensor
        return made


def packed(model: Any) -> bytes:
    """Return a model of the schema's object API as the bytes of a file, the data of its buffers aligned."""
    import flatbuffers

    model.buffers = [_Buffer(each.data) for each in model.buffers or []]
    builder = flatbuffers.Builder(sum(len(each.content) + 64 for each in model.buffers) + 65536)
    builder.Finish(model.Pack(builder), MARK)
    return bytes(builder.Output())


def metadata(content: bytes, name: str) -> bytes | None:
    """Return what a file stores under a name, if anything; a damaged file raises one of many errors."""
    root = schema().Model.GetRootAs(content, 0)
    for index in range(root.MetadataLength()):
        entry = root.Metadata(index)
        if entry.Name() == name.encode():
            return bytes(root.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    return None


def watched(content: bytes, names: Collection[str]) -> bytes:
    """Return a file with the computed tensors of these names as outputs too, in the order of the graph."""
    tables = schema()
    model = tables.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    made = {index for operator in graph.operators for index in operator.outputs}
    wanted = [index for index in sorted(made) if graph.tensors[index].name.decode() in names]
    graph.outputs = [*graph.outputs, *(index for index in wanted if index not in graph.outputs)]
    model.signatureDefs = None
    return packed(model)


class _Buffer:
    """What packs itself in BufferT's place, which would align its data to single bytes."""

    def __init__(self, data: NDArray[np.uint8] | None) -> None:
        self.content = b"" if data is None else np.asarray(data, np.uint8).tobytes()

    def Pack(self, builder: Any) -> int:  # noqa: N802  # the schema's name
        """Write the table and its data; return where it is."""
        tables, data = schema(), None
        if self.content:
            builder.StartVector(1, len(self.content), _ALIGNMENT_BYTES)
            builder.head -= len(self.content)
            builder.Bytes[builder.head : builder.head + len(self.content)] = self.content
            data = builder.EndVector()
        tables.BufferStart(builder)
        if data is not None:
            tables.BufferAddData(builder, data)
        end: int = tables.BufferEnd(builder)
        return end
