"""An ONNX graph under construction, and how each operation of a plan is said in ONNX's standard operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Op
from mobilenets.arch.mobilenet import Activation
from mobilenets.errors import MissingExtraError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

OPSET = 17
"""Of the standard domain. HardSwish needs 14, DequantizeLinear with an axis 13; runtimes since 2023 have 17."""

_IR_VERSION = 8  # the one that came with opset 17 (ONNX 1.12)

Dims = Sequence[int | str | None]
"""Sides of a tensor; a name stands for any number, None for one that is not said."""


class GraphBuilder:
    """Collects nodes and constants; values are called as the caller says.

    Raises:
        MissingExtraError: onnx is not installed.
    """

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError:
            raise MissingExtraError("onnx", "onnx") from None
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Store an array under `name`, once, and return the name."""
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def node(self, kind: str, sources: Sequence[str], out: str, attributes: Mapping[str, Any] | None = None) -> str:
        """Append one operator of the standard domain and return `out`, the name of its value and its own."""
        self._nodes.append(self._onnx.helper.make_node(kind, list(sources), [out], out, **(attributes or {})))
        return out

    def pair(self, kind: str, sources: Sequence[str], outs: tuple[str, str]) -> str:
        """Append an operator with two values, the second of which is wanted; return that one's name."""
        self._nodes.append(self._onnx.helper.make_node(kind, list(sources), list(outs), outs[1]))
        return outs[1]

    def several(
        self, kind: str, sources: Sequence[str], outs: Sequence[str], attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Append one operator of several values, called `outs`; its own name is the first's."""
        self._nodes.append(self._onnx.helper.make_node(kind, list(sources), list(outs), outs[0], **(attributes or {})))

    def split(self, source: str, sizes: str, outs: Sequence[str], *, axis: int) -> None:
        """Append what cuts a value along an axis into parts of these sizes, called `outs`."""
        self.several("Split", [source, sizes], outs, {"axis": axis})

    def tensor(self, name: str, dtype: type[np.generic], dims: Dims) -> ValueInfoProto:
        """Describe an input or output of the graph."""
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        described: ValueInfoProto = self._onnx.helper.make_tensor_value_info(name, kind, list(dims))
        return described

    def model(
        self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], metadata: Mapping[str, str]
    ) -> ModelProto:
        """Return the whole model, called `name`."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), list(self._constants.values()))
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="mobilenets",
            producer_version=version("mobilenets"),
        )
        helper.set_model_props(model, dict(metadata))
        return model


def operation(graph: GraphBuilder, op: Op, sources: Sequence[str], out: str, *, same: bool, fixed: bool) -> str:
    """Append what `op` computes before its activation; return the value's name, `out`.

    Args:
        graph: where to.
        op: of any kind.
        sources: the values it reads, then its weight and bias where it has them.
        out: what to call the result.
        same: the padding is TensorFlow's, which depends on the size of the picture.
        fixed: the size is the plan's, so that any padding can be written as numbers.
    """
    match op.kind:
        case "conv":
            return graph.node("Conv", sources, out, _convolution(op, same=same and not fixed))
        case "linear":
            return graph.node("Gemm", sources, out, {"transB": 1})
        case "add":
            return graph.node("Add", sources, out)
        case "scale":
            return graph.node("Mul", sources, out)
        case "pool":
            return graph.node("GlobalAveragePool", sources, out)


def _convolution(op: Op, *, same: bool) -> dict[str, Any]:
    top, bottom, left, right = op.padding
    pads = {"auto_pad": "SAME_UPPER"} if same and op.kernel > 1 else {"pads": [top, left, bottom, right]}
    return {
        "kernel_shape": [op.kernel, op.kernel],
        "strides": [op.stride, op.stride],
        "group": op.groups,
        **pads,
    }


def activate(graph: GraphBuilder, activation: Activation | None, source: str, out: str) -> str:
    """Append an activation, one operator, from value `source` to value `out`; return `source` where there is none."""
    match activation:
        case None:
            return source
        case "relu6":
            limits = [
                graph.constant("relu6.min", np.array(0, np.float32)),
                graph.constant("relu6.max", np.array(6, np.float32)),
            ]
            return graph.node("Clip", [source, *limits], out)
        case "relu":
            return graph.node("Relu", [source], out)
        case "hard_swish":
            return graph.node("HardSwish", [source], out)
        case "hard_sigmoid":
            return graph.node("HardSigmoid", [source], out, {"alpha": 1 / 6, "beta": 0.5})
        case "sigmoid":
            return graph.node("Sigmoid", [source], out)
