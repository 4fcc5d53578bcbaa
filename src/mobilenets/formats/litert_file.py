"""Checkpoints as TFLite files, float32 and full int8, for LiteRT and everything else that reads `.tflite`.

The flatbuffer is written operation by operation from the plan. A converter (`litert-torch`) would quantize anew, wrap
the graph in transposes from torch's layout to TFLite's, and bring torch along; this way the file holds exactly the
checkpoint's own 8-bit numbers, one operation for one of the plan, and numpy is enough to write it.

Values are (N, height, width, channels) and are named as the operations of the plan are; the input is called `input`,
the output `logits`. N, height and width may differ from what the file says: LiteRT is told by `resize_tensor_input`.
int8 files use TFLite's signed codes: the checkpoint's unsigned ones less 128.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mobilenets.errors import CheckpointError
from mobilenets.formats.card import KEY, card_from_text, card_to_text
from mobilenets.formats.litert_graph import MARK, Graph, metadata
from mobilenets.formats.litert_numbers import FloatNumbers, Int8Numbers, Numbers, Stored
from mobilenets.image.preprocess import scale_and_shift

if TYPE_CHECKING:
    from mobilenets.arch import Op
    from mobilenets.arch.mobilenet import Activation
    from mobilenets.checkpoint import Card, Checkpoint

OUTPUT = "logits"
_FUSED: dict[Activation | None, int] = {None: 0, "relu": 1, "relu6": 3}  # ActivationFunctionType
_SAME, _VALID = 0, 1  # Padding


def to_litert(checkpoint: Checkpoint, *, pictures: bool = False, h_swish: HSwish = "int8") -> bytes:
    """Return a checkpoint as a TFLite file.

    Args:
        checkpoint: float32 or int8.
        pictures: the input is uint8 (N, H, W, C), pictures as :func:`mobilenets.image.fit` leaves them, and the file
            normalizes them. Otherwise it is (N, H, W, C), normalized: float32, or the int8 codes of that.
        h_swish: how int8 networks compute it: as TFLite's integer operation, which every device has, or between a
            dequantization and a quantization, which is nearer to a table and what LiteRT does faster on a CPU (V3-Large
            0.25 at 224 in a third of the time).

    Returns:
        The file. Its output is float32 (N, classes), or the int8 codes of that; a detector's outputs are those of its
        plan under their names, (N, H, W, C).

    Raises:
        CheckpointError: the checkpoint is neither float32 nor int8.
        MissingExtraError: ai-edge-litert is not installed.
    """
    numbers = Int8Numbers(checkpoint) if checkpoint.card.precision == "int8" else FloatNumbers(checkpoint)
    return _Writer(checkpoint.card, numbers, h_swish).write(pictures=pictures)


def read_card(content: bytes, path: Path) -> Card:
    """Return the card of a TFLite file that :func:`to_litert` wrote; `path` is for messages.

    Raises:
        CheckpointError: it is no TFLite file, somebody else's, damaged, or from a newer version.
        MissingExtraError: ai-edge-litert is not installed.
    """
    if content[4:8] != MARK:
        raise CheckpointError(f"{path}: is not a TFLite file (it lacks the mark TFL3 at its start): export it again")
    try:
        text = metadata(content, KEY)
        decoded = None if text is None else text.decode()
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError):
        raise CheckpointError(f"{path}: is damaged or truncated ({len(content):,} bytes): export it again") from None
    if decoded is None:
        raise CheckpointError(
            f"{path}: a TFLite file, but not one that `mobilenets export` wrote: `mobilenets convert` reads it"
        )
    return card_from_text(decoded, path)


HSwish = Literal["int8", "float32"]

Fields = dict[str, int | bool | list[int]]


class _Writer:
    """Writes one network, operation by operation."""

    def __init__(self, card: Card, numbers: Numbers, h_swish: HSwish) -> None:
        self.card, self.numbers = card, numbers
        self.real_h_swish = numbers.kind == "INT8" and h_swish == "float32"
        self.plan = card.plan
        self.graph = Graph()
        self.values: dict[str, int] = {}  # tensors by the operation that they are the result of
        self.maps = {"input"}  # what has height and width, and is not one pixel for the whole picture

    def write(self, *, pictures: bool) -> bytes:
        """Write all operations and the card."""
        channels, height, width = self.plan.input_shape
        shape = (-1, -height, -width, channels)
        if pictures:
            source = self.pictures(shape)
        else:
            source = self.values["input"] = self.value("input", shape)
        for op in self.plan.ops:
            if op.kind not in ("pool", "linear") and op.sources[0] in self.maps:
                self.maps.add(op.name)
            self.values[op.name] = self.operation(op)
        maps = [self.values[name] for name in self.plan.outputs]
        results = maps if self.plan.arch.detector is not None else [self.logits(maps[0])]
        self.graph.metadata(KEY, card_to_text(self.card).encode())
        return self.graph.finish(source, results, f"{self.card.arch.name}, written by mobilenets")

    def logits(self, last: int) -> int:
        """Write a classifier's output: its last value, flat."""
        rows = [-1, self.plan.classes]
        result = self.value(OUTPUT, rows, self.plan.outputs[0])
        inputs = (last, self.graph.constant(f"{OUTPUT}.shape", np.array(rows, np.int32)))
        return self.graph.operation("RESHAPE", inputs, result, "ReshapeOptions", {"newShape": rows})

    def value(self, name: str, shape: Sequence[int], of: str | None = None) -> int:
        """Add a computed tensor, quantized as the checkpoint quantizes the value called `of`, or `name`."""
        return self.graph.value(name, shape, self.numbers.kind, self.numbers.steps(of or name))

    def constant(self, name: str, stored: Stored) -> int:
        """Add a constant."""
        return self.graph.constant(name, *stored)

    def pictures(self, shape: Sequence[int]) -> int:
        """Write what makes bytes the network's input; return the input of the file."""
        fed = self.card.preprocess
        pixels = self.numbers.pixels(fed)
        source = self.graph.value("input", shape, "UINT8", pixels)
        normalized = self.value("normalized", shape, "input")
        self.values["input"] = normalized
        if pixels is not None:
            self.graph.operation("QUANTIZE", (source,), normalized, "QuantizeOptions")
            return source
        scale, shift = (
            self.graph.constant(f"pictures.{name}", np.array(numbers, np.float32))
            for name, numbers in zip(("scale", "shift"), scale_and_shift(fed), strict=True)
        )
        levels, scaled = (self.graph.value(f"pictures.{name}", shape, "FLOAT32") for name in ("levels", "scaled"))
        eight = self.numbers.kind == "INT8"
        real = self.graph.value("pictures.normalized", shape, "FLOAT32") if eight else normalized
        self.graph.operation("CAST", (source,), levels)
        self.graph.operation("MUL", (levels, scale), scaled, "MulOptions")
        self.graph.operation("ADD", (scaled, shift), real, "AddOptions")
        if eight:
            self.graph.operation("QUANTIZE", (real,), normalized, "QuantizeOptions")
        return source

    def shape(self, op: Op, sides: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Return the shape of a map of an operation's source's channels and these sides, or of its result.

        Lengths that may differ from run to run are negative.
        """
        channels = op.out[0] if sides is None else op.source_shape[0]
        height, width = sides or op.out[1:]
        return (-1, -height, -width, channels) if op.name in self.maps else (-1, height, width, channels)

    def operation(self, op: Op) -> int:
        """Write one operation of the plan, its activation within it where TFLite can."""
        fused = _FUSED.get(op.activation)
        out = self.value(op.name if fused is not None else f"{op.name}.before", self.shape(op))
        sources = [self.values[name] for name in op.sources]
        fields: Fields = {"fusedActivationFunction": fused or 0}
        match op.kind:
            case "add":
                self.graph.operation("ADD", sources, out, "AddOptions", fields)
            case "scale":
                self.graph.operation("MUL", sources, out, "MulOptions", fields)
            case "pool":
                axes = self.graph.constant(f"{op.name}.axes", np.array([1, 2], np.int32))
                self.graph.operation("MEAN", (*sources, axes), out, "ReducerOptions", {"keepDims": True})
            case "conv" | "linear":
                self.convolution(op, sources[0], out, fields)
        return out if fused is not None else self.activation(op, out)

    def convolution(self, op: Op, source: int, out: int, fields: Fields) -> None:
        """Write a convolution; a fully connected one is 1x1, which older runtimes, too, run per channel."""
        pads = self.plan.arch.padding == "symmetric" and op.kernel > 1 and (op.stride > 1 or op.kernel % 2 == 0)
        if pads:  # TensorFlow's own rule would put the odd pixel right and bottom
            source = self.padded(op, source)
        fields |= {"padding": _SAME if op.kernel > 1 and not pads else _VALID}
        fields |= {"strideH": op.stride, "strideW": op.stride, "dilationHFactor": 1, "dilationWFactor": 1}
        (weight, steps), bias = self.numbers.layer(op)
        weight = weight.reshape(*weight.shape[:2], op.kernel, op.kernel)
        weight = weight.transpose((1, 2, 3, 0) if op.depthwise else (0, 2, 3, 1))
        inputs = (source, self.constant(f"{op.name}.weight", (weight, steps)), self.constant(f"{op.name}.bias", bias))
        if op.depthwise:
            self.graph.operation(
                "DEPTHWISE_CONV_2D", inputs, out, "DepthwiseConv2DOptions", fields | {"depthMultiplier": 1}
            )
        else:
            self.graph.operation("CONV_2D", inputs, out, "Conv2DOptions", fields)

    def padded(self, op: Op, source: int) -> int:
        """Write the padding that torch puts on both sides; of codes, it is the zero point."""
        top, bottom, left, right = op.padding
        sides = (op.source_shape[1] + top + bottom, op.source_shape[2] + left + right)
        widths = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = (source, self.graph.constant(f"{op.name}.padding", widths))
        out = self.value(f"{op.name}.padded", self.shape(op, sides), op.sources[0])
        return self.graph.operation("PAD", inputs, out, "PadOptions")

    def activation(self, op: Op, before: int) -> int:
        """Write an activation that TFLite does not fuse."""
        out = self.value(op.name, self.shape(op))
        match op.activation:
            case "hard_swish":
                self.elementwise(op, "HARD_SWISH", "HardSwishOptions", before, out, real=self.real_h_swish)
            case "hard_sigmoid":  # relu6(x + 3) / 6
                three, steps, sixth = self.numbers.hard_sigmoid(op.name)
                shifted = self.graph.value(f"{op.name}.shifted", self.shape(op), self.numbers.kind, steps)
                inputs = (before, self.constant(f"{op.name}.three", three))
                self.graph.operation("ADD", inputs, shifted, "AddOptions", {"fusedActivationFunction": _FUSED["relu6"]})
                self.graph.operation("MUL", (shifted, self.constant(f"{op.name}.sixth", sixth)), out, "MulOptions")
            case "sigmoid":
                real = not self.numbers.logistic(op.name)  # on the few numbers of a gate
                self.elementwise(op, "LOGISTIC", "", before, out, real=real)
        return out

    def elementwise(self, op: Op, code: str, options: str, before: int, out: int, *, real: bool) -> None:
        """Write an activation; `real` computes it on what the codes stand for, and rounds the result once."""
        if not real:
            self.graph.operation(code, (before,), out, options)
            return
        names = (f"{op.name}.before.real", f"{op.name}.real")
        entering, leaving = (self.graph.value(name, self.shape(op), "FLOAT32") for name in names)
        self.graph.operation("DEQUANTIZE", (before,), entering, "DequantizeOptions")
        self.graph.operation(code, (entering,), leaving, options)
        self.graph.operation("QUANTIZE", (leaving,), out, "QuantizeOptions")
