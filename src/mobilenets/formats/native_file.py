"""A checkpoint as C: one source file with the weights inside, one header, an example and a CMakeLists.txt.

The source is C99 and needs nothing but a C library's memcpy and memset (and expf where there is a sigmoid in float32).
It computes what :mod:`mobilenets.engine.streaming` says, in an arena of the size that
:mod:`mobilenets.engine.memory` plans: tables of the operations, of the sections and of what lies where, and a fixed
runtime, `native_*.c`, that walks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.arch import Op, Plan, Precision
from mobilenets.arch.mobilenet import Activation
from mobilenets.engine.flow import PIXELS, chunk
from mobilenets.engine.folding import folded
from mobilenets.engine.memory import Memory, Mode, streamed
from mobilenets.engine.quantized import bounds, multipliers, quantizations, table
from mobilenets.engine.reference import arithmetic
from mobilenets.engine.sections import Section, cut
from mobilenets.formats import native_boxes
from mobilenets.formats.native_runtime import runtime
from mobilenets.formats.native_text import CMAKE, EXAMPLE, HEADER, RUN, TYPES, braces, words
from mobilenets.image.preprocess import normalize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint

SPAN = 16  # output channels that lie together, as native_common.c has it
PLACE = 64  # bytes that a table of weights begins at a multiple of
ACTIVATIONS: Mapping[Activation | None, str] = {
    None: "LINEAR",
    "relu": "RELU",
    "relu6": "RELU6",
    "hard_swish": "HARD_SWISH",
    "hard_sigmoid": "HARD_SIGMOID",
    "sigmoid": "SIGMOID",
}
LARGEST_SUM = 2**31 - 1


def identifier(name: str) -> str:
    """Return what C functions may be called after a file.

    >>> identifier("my cats-1.0")
    'my_cats_1_0'
    """
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"model_{text}" if not text or text[0].isdigit() else text


def to_native(checkpoint: Checkpoint, name: str, *, version: str, mode: Mode = "streamed") -> dict[str, bytes]:
    """Return the files of a checkpoint in C, by name.

    Args:
        checkpoint: a classifier or a detector, float32 or int8.
        name: the prefix of functions and files, an identifier in C.
        version: what the function of this name says.
        mode: where whole maps wait: only where that takes less memory, between stages, or between all operations. The
            same pixels are computed in all three; the two that take more memory are there to be compared with.
    """
    card = checkpoint.card
    detects = card.arch.detector is not None
    made = _Writer(checkpoint, mode)
    height, width = card.resolution
    facts = {
        "name": name,
        "upper": name.upper(),
        "height": height,
        "width": width,
        "channels": card.in_channels,
        "classes": len(card.labels),
        "arena": made.arena_bytes,
        "version": _quoted(version),
        "precision": card.precision,
        "contract": "off" if card.precision == "int8" else "fast",
    }
    if detects:
        facts |= native_boxes.facts(card.plan)
    run, example, types = (
        (native_boxes.RUN, native_boxes.EXAMPLE, TYPES + native_boxes.TYPES) if detects else (RUN, EXAMPLE, TYPES)
    )
    fixed = runtime(int8=card.precision == "int8", detects=detects)
    source = "\n".join([types.format(**facts, define=made.defines()), made.tables(), fixed])
    return {
        f"{name}.h": HEADER.format(**facts, run=run.format(**facts)).encode(),
        f"{name}.c": source.encode(),
        "example.c": example.format(**facts).encode(),
        "CMakeLists.txt": CMAKE.format(**facts).encode(),
    }


@dataclass
class _Weights:
    """Everything that is constant, one piece behind the other."""

    parts: list[bytes] = field(default_factory=list)
    length: int = 0

    def add(self, values: NDArray[Any]) -> int:
        """Append values and return where they begin."""
        begin = self.length
        raw = np.ascontiguousarray(values).tobytes()
        raw += bytes(-len(raw) % PLACE)
        self.parts.append(raw)
        self.length += len(raw)
        return begin


class _Writer:
    """One checkpoint's tables."""

    def __init__(self, checkpoint: Checkpoint, mode: Mode) -> None:
        self.card = checkpoint.card
        self.plan: Plan = checkpoint.card.plan
        self.int8 = checkpoint.card.precision == "int8"
        self._tensors = checkpoint.tensors
        self._layers = {} if self.int8 else folded(checkpoint)
        self._quantizations = quantizations(checkpoint) if self.int8 else {}
        self._by = arithmetic(checkpoint)
        precision: Precision = "int8" if self.int8 else "float32"
        self._sections: tuple[Section, ...] = cut(self.plan, precision, mode)
        self.memory: Memory = streamed(self.plan, precision, self._sections)
        self._detects = self.plan.arch.detector is not None
        self._index = {"input": 0, **{op.name: number for number, op in enumerate(self.plan.ops, 1)}}
        self._weights = _Weights()
        self._paddings: dict[int, int] = {}
        self._rows = [self._input(), *map(self._operation, self.plan.ops)]

    @property
    def arena_bytes(self) -> int:
        """The memory that was planned; of a detector, with what making boxes takes when the network is through."""
        if not self._detects:
            return self.memory.total
        behind = native_boxes.scratch_place(self.plan, self.memory) + native_boxes.scratch_bytes(self.plan)
        return max(self.memory.total, behind)

    def defines(self) -> str:
        """Return what the runtime must know before it is compiled."""
        patches = [op.kernel**2 * op.source_shape[0] for op in self.plan.ops if _kind(op) == "DENSE"]
        taps = [op.kernel**2 for op in self.plan.ops if _kind(op) == "DEPTHWISE"]
        lines: dict[str, object] = {"PIXELS": PIXELS, "PATCH": max(patches, default=1), "TAPS": max(taps, default=1)}
        if self._detects:
            place = native_boxes.scratch_place(self.plan, self.memory)
            lines |= native_boxes.defines(self.plan, place, _float)
        elif self.int8:
            of = self._quantizations[self.plan.ops[-1].name]
            lines["LEAVE(code)"] = f"({_float(of.scale)} * ((float)(code) - {_float(of.zero_point)}))"
        else:
            lines["LEAVE(code)"] = "(code)"
        text = [f"#define {name} {value}" for name, value in lines.items()]
        types = ("uint8_t", "int8_t", "int32_t") if self.int8 else ("float", "float", "float")
        text += [f"typedef {each} {name};" for each, name in zip(types, ("value_t", "weight_t", "sum_t"), strict=True)]
        return "\n".join((["#define INT8"] if self.int8 else []) + text)

    def tables(self) -> str:
        """Return every constant."""
        targets: list[int] = []
        parts = []
        for part in self._sections:
            names = dict.fromkeys((part.ops[-1].name, *part.leaving))
            first = self._index[part.ops[0].name]
            state = self.memory.find(f"{part.ops[0].name}.state").offset
            parts.append(braces((first, len(part.ops), state, len(targets), len(names))))
            targets += [self._index[name] for name in names]
        enter = [braces(map(_number, row), width=16) for row in self._enter()]
        boxes = [native_boxes.tables(self.plan, self._index, self._quantizations, _float)] if self._detects else []
        return "\n\n".join(
            (
                f"static const uint32_t WEIGHTS[] = {words(b''.join(self._weights.parts))};",
                f"static const operation_t OPERATIONS[] = {braces(self._rows, width=1)};",
                f"static const int TARGETS[] = {braces(targets)};",
                f"static const section_t SECTIONS[] = {braces(parts, width=1)};",
                f"static const value_t ENTER[][256] = {braces(enter, width=1)};",
                f"static const char *const LABELS[] = {braces(map(_quoted, self.card.labels), width=1)};",
                *boxes,
            )
        )

    def _enter(self) -> NDArray[Any]:
        """Return what each value of a picture becomes, (channels, 256): normalized and, in int8, quantized."""
        grey = np.repeat(
            np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis, np.newaxis], self.card.in_channels, 3
        )
        return np.asarray(self._by.enter(normalize(grey, self.card.preprocess))[0, :, :, 0])

    def _input(self) -> str:
        channels, height, width = self.plan.input_shape
        place, ring = self.memory.find("input").offset, self.memory.rings["input"]
        return _row("input", {"c": channels, "height": height, "width": width, "offset": place, "ring": ring})

    def _operation(self, op: Op) -> str:
        """Return one line of the table of operations."""
        c, height, width = op.out
        fields: dict[str, Any] = {
            "kind": _kind(op),
            "activation": ACTIVATIONS[op.activation],
            "kernel": op.kernel,
            "stride": op.stride,
            "top": op.padding[0],
            "left": op.padding[2],
            "c": c,
            "height": height,
            "width": width,
            "chunk": chunk(op.source_shape[2] if op.kind == "pool" else width),
            "offset": self.memory.find(op.name).offset,
            "ring": self.memory.rings.get(op.name, height * width),
            "source_count": len(op.sources),
            "sources": braces([self._index[name] for name in (*op.sources, op.sources[0])[:2]]),
            "table": -1,
        }
        pixels = op.source_shape[1] * op.source_shape[2]
        if op.kind == "pool":
            fields["sums"] = self.memory.find(f"{op.name}.sums").offset
            fields["first"] = _float(1 / pixels)
        if self.int8:
            fields |= self._codes(op, pixels)
        if op.kind in ("conv", "linear"):
            fields |= self._layer(op)
        return _row(op.name, fields)

    def _codes(self, op: Op, pixels: int) -> dict[str, Any]:
        """Return what an int8 operation needs beside its weights."""
        before = self._quantizations.get(f"{op.name}.before")
        out = before or self._quantizations[op.name]
        read = [self._quantizations[name] for name in op.sources]
        low, high = bounds(None if before else op.activation, out)
        zeros = [each.zero_point for each in (*read, read[0])[:2]]
        fields: dict[str, Any] = {"zeros": braces(zeros), "zero": out.zero_point, "low": low, "high": high}
        match op.kind:
            case "add":
                fields["first"], fields["second"] = (_float(each.scale / out.scale) for each in read)
            case "scale":
                fields["first"] = _float(read[0].scale * read[1].scale / out.scale)
            case "pool":
                fields["first"] = _float(read[0].scale / (out.scale * pixels))
        if before:
            fields["table"] = self._weights.add(table(op.activation, before, self._quantizations[op.name]))
        return fields

    def _layer(self, op: Op) -> dict[str, Any]:
        """Add a layer's weights as the runtime reads them."""
        weight: NDArray[Any]
        bias: NDArray[Any]
        if self.int8:
            weight, bias = self._tensors[f"{op.name}.weight"], self._tensors[f"{op.name}.bias"].astype(np.int64)
        else:
            weight, bias = self._layers[op.name].weight, self._layers[op.name].bias
        rows = weight.reshape(len(weight), -1)
        if _kind(op) == "DENSE":
            rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        if self.int8:  # sums are over codes: what their zero point adds is taken off here
            zero = self._quantizations[op.sources[0]].zero_point
            bias = np.clip(bias - zero * rows.sum(1, dtype=np.int64), -LARGEST_SUM, LARGEST_SUM)
        packed = spans(rows, 4 if self.int8 else 1)
        if _kind(op) == "DEPTHWISE":
            packed = np.pad(rows.T, ((0, 1), (0, 0)))  # taps are computed in pairs
        fields: dict[str, Any] = {"padding": self._padding(op)} if _kind(op) in ("DENSE", "DEPTHWISE") else {}
        fields |= {"weights": self._weights.add(packed), "bias": self._weights.add(_padded(bias, whole=self.int8))}
        if self.int8:
            out = self._quantizations.get(f"{op.name}.before") or self._quantizations[op.name]
            source = self._quantizations[op.sources[0]]
            factors = multipliers(self._tensors[f"{op.name}.weight_scale"], source, out)
            fields["factors"] = self._weights.add(_padded(np.broadcast_to(factors, op.out[:1]), whole=False))
        return fields

    def _padding(self, op: Op) -> int:
        """Return the place of a pixel that stands for all outside a map."""
        zero = self._quantizations[op.sources[0]].zero_point if self.int8 else 0
        if zero not in self._paddings:
            channels = max(each.source_shape[0] for each in self.plan.ops)
            self._paddings[zero] = self._weights.add(np.full(channels, zero, np.uint8 if self.int8 else np.float32))
        return self._paddings[zero]


def spans(rows: NDArray[Any], group: int) -> NDArray[Any]:
    """Lay (outputs, inputs) out as (outputs / 16, inputs / group, 16, group), filled up with zeros.

    >>> spans(np.arange(6).reshape(2, 3), 4).shape
    (1, 1, 16, 4)
    """
    outputs, inputs = rows.shape
    filled = np.pad(rows, ((0, -outputs % SPAN), (0, -inputs % group)))
    return filled.reshape(-1, SPAN, filled.shape[1] // group, group).transpose(0, 2, 1, 3)


def _padded(values: NDArray[Any], *, whole: bool) -> NDArray[Any]:
    return np.pad(values, (0, -len(values) % SPAN)).astype(np.int32 if whole else np.float32)


def _kind(op: Op) -> str:
    if op.kind in ("add", "scale", "pool"):
        return op.kind.upper()
    if op.depthwise:
        return "DEPTHWISE"
    return "POINTWISE" if op.kernel == 1 and op.stride == 1 else "DENSE"


def _row(name: str, fields: Mapping[str, Any]) -> str:
    return f"    {{{', '.join(f'.{key} = {value}' for key, value in fields.items())}}} /* {name} */"


def _float(value: float) -> str:
    return f"{float(np.float32(value)).hex()}f"


def _number(value: Any) -> str:
    return str(value) if isinstance(value, np.integer) else _float(float(value))


def _quoted(text: str) -> str:
    """Return text as a string of C, whatever is in it."""
    plain: Iterable[str] = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{"".join(plain)}"'
