"""The `show` verb: a network as its paper prints it, with what it costs at this width and resolution."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mobilenets.arch import ARCHITECTURES, Cost, Op, Plan, Precision, arch_named, cost, plan
from mobilenets.arch.cost import activation_bytes, multiply_adds, parameters
from mobilenets.arch.mobilenet import Bneck, Classifier, Conv, Dense, InvertedResidual, Pool, Row, Separable
from mobilenets.arch.plan import Shape
from mobilenets.errors import CheckpointError, InputError
from mobilenets.show.memory import MemoryUse, memory_use
from mobilenets.text import printable, table

SETTINGS = ("t", "exp", "c", "n", "SE", "NL", "s", "anchors")
"""The papers' columns: expansion, expansion size, output channels, repeats, squeeze-excite, non-linearity, stride; for
detectors the boxes that are expected at every place of a map."""

NON_LINEARITIES = {"relu": "RE", "relu6": "RE6", "hard_swish": "HS"}  # as V3's tables abbreviate them


@dataclass(frozen=True)
class ShowRow:
    """One line of the paper's table and what it costs.

    `settings` are the paper's own numbers, before the width multiplier, by the names in `SETTINGS`; the stride is the
    one used, which a small picture may have changed. Shapes are (channels, height, width).
    """

    operator: str
    settings: Mapping[str, str]
    in_shape: Shape
    out_shape: Shape
    parameters: int
    multiply_adds: int
    activation_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return an item of `rows`."""
        return {
            "operator": self.operator,
            "settings": dict(self.settings),
            "in_shape": list(self.in_shape),
            "out_shape": list(self.out_shape),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "activation_bytes": self.activation_bytes,
        }


@dataclass(frozen=True)
class ShowResult:
    """Hold a planned network; in print the paper's table, in JSON every operation too.

    Costs are for one picture. Activation bytes are what is written; the peak is for plain execution, layer by layer,
    every output in a buffer of its own and the picture counted.
    """

    model: str
    plan: Plan
    precision: Precision
    notes: tuple[str, ...] = ()
    memory: MemoryUse | None = None

    @property
    def cost(self) -> Cost:
        """The totals."""
        return cost(self.plan, self.precision)

    @property
    def rows(self) -> tuple[ShowRow, ...]:
        """The table's lines."""
        table, detector = self.plan.arch.rows, self.plan.arch.detector
        rows = [
            self._row(index, _operator(row), _settings(row, self.plan, self.plan.strides[index]))
            for index, row in enumerate(table)
        ]
        if detector is not None:
            for extra in detector.extras:
                settings = {"c": f"{extra.c}", "s": f"{extra.s}"}
                rows.append(self._row(len(rows), f"extra {extra.kernel}x{extra.kernel}", settings))
            for number, anchors in enumerate(detector.anchors.counts, 1):
                rows.append(self._row(len(rows), f"{detector.heads} head {number}", {"anchors": f"{anchors}"}))
        return tuple(rows)

    def _row(self, index: int, operator: str, settings: Mapping[str, str]) -> ShowRow:
        """Return a line; a head's output is all that is said of its map, boxes and scores."""
        ops = [op for op in self.plan.ops if op.row == index]
        last = ops[-1].out
        if self.plan.arch.detector is not None:
            said = [op.out for op in ops if op.name in self.plan.outputs]
            last = (sum(channels for channels, _, _ in said), *last[1:]) if said else last
        return ShowRow(
            operator=operator,
            settings=settings,
            in_shape=ops[0].source_shape,
            out_shape=last,
            parameters=sum(parameters(op) for op in ops),
            multiply_adds=sum(multiply_adds(op) for op in ops),
            activation_bytes=sum(activation_bytes(op, self.precision) for op in ops),
        )

    def __str__(self) -> str:
        layout = self.plan
        name = layout.arch.name if self.model == layout.arch.name else f"{self.model}: {layout.arch.name}"
        size = _picture((layout.in_channels, *layout.resolution))
        classes = f"{layout.classes:,} classes{'' if layout.arch.detector is None else ' and the background'}"
        setting = f"width {layout.width:g}, input {size}, {classes}, {self.precision} activations"
        parts = [f"{printable(name)}, {printable(layout.arch.paper)}\n{setting}", self._table(), self._totals()]
        if self.memory is not None:
            parts.append(str(self.memory))
        if self.notes:
            parts.append("\n".join(f"note: {printable(note)}" for note in self.notes))
        return "\n\n".join(parts)

    def _table(self) -> str:
        rows = self.rows
        used = [name for name in SETTINGS if any(name in row.settings for row in rows)]
        lines = [
            [
                f"{number}",
                _picture(row.in_shape),
                row.operator,
                *(row.settings.get(name, "") for name in used),
                _picture(row.out_shape),
                f"{row.parameters:,}",
                f"{row.multiply_adds:,}",
                f"{row.activation_bytes:,}",
            ]
            for number, row in enumerate(rows, 1)
        ]
        header = ["#", "input", "operator", *used, "output", "parameters", "multiply-adds", "activation bytes"]
        return table(header, lines, left=3)

    def _totals(self) -> str:
        total = self.cost
        row = self.plan.op(total.peak_op).row + 1
        lines = (
            ("parameters", total.parameters, ""),
            ("multiply-adds", total.multiply_adds, "  a multiplication and an addition each"),
            ("FLOPs", 2 * total.multiply_adds, "  twice that; others print multiply-adds under this name"),
            ("activation bytes", sum(row.activation_bytes for row in self.rows), "  written in all"),
            ("peak memory", total.peak_activation_bytes, f"  bytes, layer by layer, at {total.peak_op} (row {row})"),
        )
        width = max(len(f"{value:,}") for _, value, _ in lines)
        return "\n".join(f"{name:<16}  {value:>{width},}{what}" for name, value, what in lines)

    def to_json(self) -> dict[str, Any]:
        """Return totals, `rows` (the table) and `ops` (every operation); shapes are [channels, height, width]."""
        total = self.cost
        return {
            "model": self.model,
            "paper": self.plan.arch.paper,
            "width": self.plan.width,
            "resolution": list(self.plan.resolution),
            "classes": self.plan.classes,
            "in_channels": self.plan.in_channels,
            "precision": self.precision,
            "parameters": total.parameters,
            "multiply_adds": total.multiply_adds,
            "flops": 2 * total.multiply_adds,
            "peak_activation_bytes": total.peak_activation_bytes,
            "peak_op": total.peak_op,
            "task": "classification" if self.plan.arch.detector is None else "detection",
            "outputs": list(self.plan.outputs),
            "rows": [row.to_json() for row in self.rows],
            "ops": [_op_to_json(op, self.precision) for op in self.plan.ops],
            "notes": list(self.notes),
        } | ({} if self.memory is None else {"memory": self.memory.to_json()})


def show(
    model: str,
    *,
    width: float | None = None,
    resolution: int | tuple[int, int] | None = None,
    classes: int | None = None,
    in_channels: int | None = None,
    precision: Literal["float32", "float16", "int8"] | None = None,
    memory: bool = False,
    out: Path | None = None,
) -> ShowResult:
    """Print a network's table with shapes, parameters, multiply-adds and memory.

    What is not given is as in the paper, or as in the checkpoint.

    >>> show("mobilenet_v2", resolution=(96, 128)).plan.op("head").out
    (1280, 3, 4)

    Args:
        model: an architecture (`mobilenet_v2`, `mobilenet_v2:shortcut=none,expansion=3`), published weights
            (`mobilenet_v2.tv2_in1k`), a checkpoint or an exported file.
        width: the multiplier of the table's channel counts; the table itself is 1.0.
        resolution: of the picture, in pixels: a side (224) or height x width (192x256).
        classes: outputs of the classifier; of a detector without the background.
        in_channels: 1 for grey, 3 for colour, or any number.
        precision: of the activations, for their bytes.
        memory: plan the memory of activations, layer by layer, in fused blocks, and streamed.
        out: with --memory, draw that into this .png, or into memory.png in this folder.

    Raises:
        InputError: an unknown architecture, or a value out of range.
        CheckpointError: a file that is no checkpoint.
    """
    base = _planned(model)
    layout = plan(
        base.plan.arch,
        width=base.plan.width if width is None else width,
        resolution=base.plan.resolution if resolution is None else resolution,
        classes=base.plan.classes if classes is None else classes,
        in_channels=base.plan.in_channels if in_channels is None else in_channels,
    )
    used = precision or base.precision
    if out is not None and not memory:
        raise InputError(f"--out {out}: only --memory is drawn: give both, or leave it out")
    planned = memory_use(layout, used, f"{model}, {used} activations", out) if memory else None
    return ShowResult(model, layout, used, (*base.notes, *_differences(layout), *layout.notes), planned)


def _planned(model: str) -> ShowResult:
    """Return the network as its table, its checkpoint or its publisher has it."""
    if model.partition(":")[0] in ARCHITECTURES:
        return ShowResult(model, plan(arch_named(model)), "float32")
    from mobilenets import runtime as runtimes

    if runtimes.exported(model) is not None:
        with closing(runtimes.load(model)) as predictor:
            card = predictor.card
        return ShowResult(model, card.plan, "int8" if card.precision == "int8" else "float32", card.notes)
    if Path(model).suffix == ".safetensors" or Path(model).is_file():
        from mobilenets.checkpoint import read_card

        card = read_card(model)
        try:
            return ShowResult(model, card.plan, "int8" if card.precision == "int8" else "float32")
        except InputError as error:
            raise CheckpointError(f"{model}: {error}") from None
    from mobilenets.nn.published import PUBLISHED

    if model in PUBLISHED:
        weights = PUBLISHED[model]
        layout = plan(weights.arch, width=weights.width, resolution=weights.resolution)
        return ShowResult(model, layout, "float32", (f"weights by {weights.origin}",))
    return ShowResult(model, plan(arch_named(model)), "float32")


def _differences(layout: Plan) -> list[str]:
    """Say where the network differs from its paper's table, other than in width."""
    arch = layout.arch
    notes = []
    if arch.detector is not None:
        maps = (*arch.detector.taps, *(f"extra {number}" for number, _ in enumerate(arch.detector.extras, 1)))
        places = (layout.op(name).out[1:] for name in layout.outputs[::2])
        anchors = sum(h * w * n for (h, w), n in zip(places, arch.detector.anchors.counts, strict=True))
        notes.append(f"the heads look at {', '.join(maps)}: {anchors:,} anchors in all")
    if layout.classes != arch.classes:
        notes.append(f"classes: {layout.classes:,}, where the table has {arch.classes:,}")
    if layout.in_channels != arch.in_channels:
        notes.append(f"input channels: {layout.in_channels:,}, where the table has {arch.in_channels:,}")
    if arch.base_width != 1:
        factor = arch.base_width * layout.width
        notes.append(f"this network is wider than its table by {arch.base_width:g}: channels are scaled by {factor:g}")
    return notes


def _operator(row: Row) -> str:
    match row:
        case Conv():
            return f"conv {row.kernel}x{row.kernel}"
        case Separable():
            return f"separable {row.kernel}x{row.kernel}"
        case InvertedResidual():
            return f"bottleneck {row.kernel}x{row.kernel}"
        case Bneck():
            return f"bneck {row.kernel}x{row.kernel}"
        case Pool():
            return "average pool"
        case Dense():
            return "dense"
        case Classifier():
            return "classifier"


def _settings(row: Row, layout: Plan, stride: int) -> dict[str, str]:
    """Return the paper's numbers of a row, as text by column."""
    arch = layout.arch
    match row:
        case Conv():
            cells = {"c": f"{row.c}", "s": f"{stride}"}
            return cells | ({"NL": NON_LINEARITIES[row.activation]} if row.activation in NON_LINEARITIES else {})
        case Separable():
            return {"c": f"{row.c}", "n": f"{row.n}", "s": f"{stride}"}
        case InvertedResidual():
            t = row.t if row.t == 1 or arch.expansion is None else arch.expansion
            inner = {"t": f"{t:g}"} if row.inner is None else {"exp": f"{row.inner}"}
            cells = inner | {"c": f"{row.c}", "n": f"{row.n}", "s": f"{stride}"}
            return cells | ({"SE": "SE"} if row.se else {})
        case Bneck():
            cells = {"exp": f"{row.inner or row.exp}", "c": f"{row.c}", "SE": "SE" if row.se else "-", "s": f"{stride}"}
            return cells | {"NL": NON_LINEARITIES.get(row.nl, row.nl)}
        case Dense():
            return {"c": f"{row.c}", "NL": NON_LINEARITIES.get(row.activation, row.activation)}
        case Classifier():
            return {"c": f"{layout.classes}"}
        case Pool():
            return {}


def _picture(shape: Shape) -> str:
    """Write a shape as the papers do: height x width x channels."""
    channels, height, width = shape
    return f"{height}x{width}x{channels}"


def _op_to_json(op: Op, precision: Precision) -> dict[str, Any]:
    return {
        "name": op.name,
        "kind": op.kind,
        "row": op.row,
        "sources": list(op.sources),
        "in_shape": list(op.source_shape),
        "out_shape": list(op.out),
        "kernel": op.kernel,
        "stride": op.stride,
        "padding": list(op.padding),
        "groups": op.groups,
        "activation": op.activation,
        "parameters": parameters(op),
        "multiply_adds": multiply_adds(op),
        "activation_bytes": activation_bytes(op, precision),
    }
