"""V2's Table 2, line by line: the inputs as printed beside the ones that follow from the lines before."""

from __future__ import annotations

from dataclasses import replace

from mobilenets.arch import ARCHITECTURES, cost, plan
from mobilenets.arch.mobilenet import InvertedResidual
from mobilenets.arch.mobilenet import Row as TableRow
from mobilenets.arch.plan import Shape
from mobilenets.reproduce.outcome import Reproduction, Row, Settings, compared
from mobilenets.show import show

PRINTED = (  # arXiv:1801.04381v4 Table 2: input and t, c, n, s of each line
    ("224x224x3", "conv2d", "- 32 1 2"),
    ("112x112x32", "bottleneck", "1 16 1 1"),
    ("112x112x16", "bottleneck", "6 24 2 2"),
    ("56x56x24", "bottleneck", "6 32 3 2"),
    ("28x28x32", "bottleneck", "6 64 4 2"),
    ("14x14x64", "bottleneck", "6 96 3 1"),
    ("14x14x96", "bottleneck", "6 160 3 2"),
    ("7x7x160", "bottleneck", "6 320 1 1"),
    ("7x7x320", "conv2d 1x1", "- 1280 1 1"),
    ("7x7x1280", "avgpool 7x7", "- - 1 -"),
    ("1x1x1280", "conv2d 1x1", "- k - -"),
)
FIRST_VERSION = (
    "the first version printed a 28x28x64 input here, which contradicts the stride 2 of the line above; "
    "later versions have 14x14x64"
)
LAST_LINE = "the first version printed 1x1xk, the number of classes, for the input: it is what the pooling leaves, 1280"


def reproduce_v2_table2(_settings: Settings) -> Reproduction:
    """Follow V2's Table 2 through its lines."""
    lines = show("mobilenet_v2").rows
    notes = {5: FIRST_VERSION, 10: LAST_LINE}
    section = "Table 2: the input of every line, followed through the lines above"
    rows = []
    for index, (line, (size, operator, numbers)) in enumerate(zip(lines, PRINTED, strict=True)):
        ours = _size(line.in_shape)
        what = f"{index + 1}. {operator}, t c n s: {numbers}"
        rows.append(Row(what, ours, size, agrees=ours == size, note=notes.get(index, ""), section=section))
    arch = ARCHITECTURES["mobilenet_v2"]
    blocks = sum(row.n for row in arch.rows if isinstance(row, InvertedResidual))
    section = "What the text and other readers made of it"
    nineteen = (
        "the n of the table add up to 17, and every published network has 17; with the first convolution and the "
        "last 1x1 it would be 19"
    )
    other = (
        "ONNX's model zoo carried such a network (onnx/models issue 353): its multiply-adds and its accuracy are not "
        "MobileNetV2's. 430 was reported for it; a tool that counts more than multiply-adds may account for the rest"
    )
    misread = cost(plan(replace(arch, rows=_late_stride()))).multiply_adds / 1e6
    rows += [
        Row("bottlenecks", blocks, "19", "blocks", nineteen, agrees=blocks == 19, section=section),
        compared(
            "multiply-adds, as the table stands", cost(plan(arch)).multiply_adds / 1e6, "300", "M", section=section
        ),
        compared("multiply-adds, stride 2 in line 6 in place of 5", misread, "43e1", "M", section=section, note=other),
    ]
    return Reproduction(
        name="v2-table2",
        title="MobileNetV2, Table 2: the network",
        says=(
            "arXiv:1801.04381 section 4: each line is a sequence of n blocks with expansion t and c output channels, "
            "the first of them with stride s. `mobilenets show mobilenet_v2` prints it with every cost."
        ),
        rows=tuple(rows),
    )


def _late_stride() -> tuple[TableRow, ...]:
    """Return the rows with the stride of (6, 64, 4, 2) moved to (6, 96, 3, 1), as readers of the first version did."""
    strides = {64: 1, 96: 2}
    return tuple(
        replace(row, s=strides.get(row.c, row.s)) if isinstance(row, InvertedResidual) else row
        for row in ARCHITECTURES["mobilenet_v2"].rows
    )


def _size(shape: Shape) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"
