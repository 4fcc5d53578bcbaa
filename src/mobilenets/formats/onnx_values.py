"""An ONNX file that shows the value of every operation, made from one that shows the logits alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobilenets.checkpoint import Card
from mobilenets.engine.quantized import Quantization
from mobilenets.errors import CheckpointError, MissingExtraError
from mobilenets.formats.onnx_file import value_names


@dataclass(frozen=True, slots=True)
class Value:
    """What an operation's output is called in the file, and what its codes stand for if it is of codes."""

    name: str
    quantization: Quantization | None


def show_values(content: bytes, card: Card, path: Path) -> tuple[bytes, dict[str, Value]]:
    """Return a file with every operation's value as an output, and these values by operation.

    Args:
        content: what :func:`mobilenets.formats.onnx_file.to_onnx` wrote.
        card: the one in it.
        path: what an error calls it.

    Raises:
        CheckpointError: a value is not there, because another program has rewritten the graph.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("onnx", "onnx") from None
    model = onnx.load_model_from_string(content)
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    shown = {output.name for output in graph.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    int8 = card.precision == "int8"
    kind = onnx.TensorProto.UINT8 if int8 else onnx.TensorProto.FLOAT
    values = {}
    for op, name in value_names(card.plan, card.precision).items():
        parameters = [f"{op}.scale", f"{op}.zero_point"] if int8 else []
        if name not in made or not constants.keys() >= set(parameters):
            raise CheckpointError(
                f"{path}: has no value of {op}, so it is not as it was written: export the model again"
            )
        if name not in shown:
            graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        quantization = None
        if int8:
            scale, zero_point = (np.asarray(onnx.numpy_helper.to_array(constants[each])).item() for each in parameters)
            quantization = Quantization(float(scale), int(zero_point))
        values[op] = Value(name, quantization)
    return model.SerializeToString(), values
