"""A checkpoint as an ONNX file: standard operators only, BatchNorm folded, the card in its metadata.

The values in the graph are called as the plan's operations. Float32: a convolution, then one operator for its
activation. Int8: quantize-dequantize pairs (QDQ) around float operators, from which a runtime makes its integer
kernels. Clipping at 0 and 6 is no operator there: 8-bit saturation does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import bounds, quantizations, quantize
from mobilenets.errors import InputError
from mobilenets.formats.card import KEY, card_to_text
from mobilenets.formats.onnx_graph import Dims, GraphBuilder, activate, operation
from mobilenets.image.preprocess import Preprocess, normalize, scale_and_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUT, OUTPUT = "input", "logits"
"""What the graph's input and its first output are called."""

Resolution = Literal["dynamic", "fixed"]


def to_onnx(
    checkpoint: Checkpoint, *, pictures: bool = False, resolution: Resolution = "dynamic", every_output: bool = False
) -> bytes:
    """Return a checkpoint, float32 or int8, as the bytes of an ONNX file.

    Its input is `input`, float32 (N, C, H, W), normalized; its output `logits`, float32 (N, classes).

    Args:
        checkpoint: float32 or int8.
        pictures: take pictures as `image.fit` leaves them, uint8 (N, H, W, C), and normalize in the graph.
        resolution: "dynamic" takes any height and width, "fixed" the card's; the batch is of any size with both.
        every_output: every operation's value is an output too: float32, or uint8 codes, called as the operation.

    Raises:
        InputError: a resolution that is neither.
        MissingExtraError: onnx is not installed.
    """
    if resolution not in ("dynamic", "fixed"):
        raise InputError(f"the resolution of an ONNX file is dynamic or fixed, not {resolution!r}")
    card = checkpoint.card
    writer = _writer(checkpoint, fixed=resolution == "fixed")
    graph, layout = writer.graph, card.plan
    sides: Dims = card.resolution if resolution == "fixed" else ("H", "W")
    if pictures:
        entry = graph.tensor(INPUT, np.uint8, ("N", *sides, card.in_channels))
        writer.enter_pictures(card.preprocess)
    else:
        entry = graph.tensor(INPUT, np.float32, ("N", card.in_channels, *sides))
        writer.enter()
    for op in layout.ops:
        writer.add(op)
    writer.leave(layout.ops[-1])
    outputs = [graph.tensor(OUTPUT, np.float32, ("N", len(card.labels)))]
    if every_output:
        outputs += [graph.tensor(name, dtype, dims) for name, dtype, dims in _values(layout, card.precision, sides)]
    model = graph.model(card.arch.name, [entry], outputs, {KEY: card_to_text(card)})
    return model.SerializeToString()


def value_names(layout: Plan, precision: str) -> dict[str, str]:
    """Return how each operation's value is called in the graph: as the operation, but for a float network's last."""
    names = {op.name: op.name for op in layout.ops}
    if precision != "int8":
        names[layout.ops[-1].name] = OUTPUT
    return names


def _values(layout: Plan, precision: str, sides: Dims) -> list[tuple[str, type[np.generic], Dims]]:
    """Return name, type and sides of the values to show beside the logits."""
    names = value_names(layout, precision)
    shown: list[tuple[str, type[np.generic], Dims]] = []
    for op in layout.ops:
        name, (channels, height, width) = names[op.name], op.out
        if name == OUTPUT:
            continue
        spatial: Dims = (height, width) if sides == layout.resolution else (f"{name}.H", f"{name}.W")
        dims: Dims = ("N", channels) if op.kind == "linear" else ("N", channels, *_pooled(op, layout, spatial))
        shown.append((name, np.uint8 if precision == "int8" else np.float32, dims))
    return shown


def _pooled(op: Op, layout: Plan, spatial: Dims) -> Dims:
    """Return (1, 1) for an operation behind a pooling, whatever the picture's size, and `spatial` for others."""
    return spatial


def _writer(checkpoint: Checkpoint, *, fixed: bool) -> FloatWriter | Int8Writer:
    return (Int8Writer if checkpoint.card.precision == "int8" else FloatWriter)(checkpoint, fixed=fixed)


class FloatWriter:
    """Appends a float32 network's operations to a graph."""

    def __init__(self, checkpoint: Checkpoint, *, fixed: bool) -> None:
        self.graph = GraphBuilder()
        self._layers = folded(checkpoint)
        self._same, self._fixed = checkpoint.card.arch.padding == "same", fixed
        self._names = {"input": INPUT, **value_names(checkpoint.card.plan, "float32")}
