"""V2's Table 3: the memory that must be kept at every resolution, with activations of 16 bits."""

from __future__ import annotations

from dataclasses import replace

from mobilenets.arch import ARCHITECTURES, Plan, cost, plan
from mobilenets.draw import FAINT, RIGHT, WRONG, figure_style, to_png
from mobilenets.engine.memory import between_stages
from mobilenets.reproduce.outcome import Reproduction, Row, Settings, compared

SIDES = (112, 56, 28, 14, 7, 1)
PRINTED = {  # channels and kilobytes at 112, 56, 28, 14, 7 and 1; 160e1 is 1600, known to about 10
    "MobileNetV1": ((64, "160e1"), (128, "80e1"), (256, "40e1"), (512, "20e1"), (1024, "199"), (1024, "2")),
    "MobileNetV2": ((16, "40e1"), (32, "20e1"), (64, "10e1"), (160, "62"), (320, "32"), (1280, "2")),
    "ShuffleNet (2x, g=3)": ((32, "80e1"), (48, "30e1"), (400, "6e2"), (800, "31e1"), (1600, "156"), (1600, "3")),
}
SHUFFLENET = {  # arXiv:1707.01083 Table 1: channels of the stages at 28, 14 and 7, by the number of groups
    2: (200, 400, 800),
    3: (240, 480, 960),
}
SHUFFLENET_STEM = 24  # same table: first convolution and pooling, at 112 and 56
MAXIMUM = {"MobileNetV1": ("160e1", "80e1"), "MobileNetV2": ("40e1", "20e1"), "ShuffleNet (2x, g=3)": ("6e2", "6e2")}

NEXT_LINE = (
    "the channels printed are the outputs of the line of Table 2 that has this input size: they already lie at half "
    "the side, or further on. Table 2 itself has fewer"
)
ONE_TENSOR = "100 is one tensor of 7x7x1024; every other cell of the table counts one, this one about two"
GROUPS = (
    "the channels printed are those of g = 2 (200, 400, 800), doubled; g = 3 has 240, 480 and 960, "
    "so that the saving is larger than printed"
)
STEM = "the first convolution has 24 channels, 48 at 2x; with 32 it is what is printed"
CUT_UP = "31.36, printed 32"


def reproduce_v2_table3(_settings: Settings) -> Reproduction:
    """Compute the memory per resolution of V1, V2 and ShuffleNet."""
    kept = {
        "MobileNetV1": _between_blocks(plan(ARCHITECTURES["mobilenet_v1"])),
        "MobileNetV2": _between_blocks(plan(ARCHITECTURES["mobilenet_v2"])),
        "ShuffleNet (2x, g=3)": _shufflenet(3),
    }
    rows: list[Row] = []
    for model, channels in kept.items():
        for side, ours, (theirs, printed) in zip(SIDES, channels, PRINTED[model], strict=True):
            rows += _cell(model, side, ours, theirs, printed)
    rows += _maxima(kept)
    section = "Beyond the table: layer by layer, nothing fused, input and output alive"
    for model, name in (("MobileNetV1", "mobilenet_v1"), ("MobileNetV2", "mobilenet_v2")):
        peak = cost(plan(ARCHITECTURES[name]), "float16")
        rows.append(Row(f"{model}, at {peak.peak_op}", peak.peak_activation_bytes / 1000, None, "kB", section=section))
    return Reproduction(
        name="v2-table3",
        title="MobileNetV2, Table 3: memory per resolution",
        says=(
            "arXiv:1801.04381 section 5.1: if a block is one operation, whose wide inside is computed group by group "
            "and thrown away, only the narrow tensors between blocks must be kept. Table 3 prints the largest of them "
            "at every resolution, at 16 bits (here a kB is 1000 bytes, which is what meets the table)."
        ),
        rows=tuple(rows),
        notes=(
            (
                "Executed layer by layer V2 needs more memory than V1, not less: its insides are six times as wide "
                "as its ends. The table holds for an implementation that splits the blocks (see t-split), or streams "
                "their rows."
            ),
            (
                "The first convolution's 112x112x32 (803 kB in V2) is in neither column: it and the first block must "
                "be one operation, too, for the first line to hold."
            ),
            (
                "The last revision prints O(1) in place of the first line, where the same trick splits the first "
                "block, and so 800K, 200K and 600K as the largest."
            ),
            (
                "The 1x1 convolution before the pooling writes 7x7x1280, 125 kB, where the table has the 320 channels "
                "before it; pooled as it is written, it need not be kept."
            ),
        ),
        picture=_draw(kept),
        caption="What is kept between blocks at each resolution, 16 bits: ours from the networks' tables",
    )


def _between_blocks(layout: Plan) -> list[int]:
    """Return the channels of the largest map that leaves a block, or the pooling, at each of the sides."""
    sizes = between_stages(layout, "float16")
    return [sizes[side] // (2 * side**2) for side in SIDES]


def _shufflenet(groups: int) -> list[int]:
    stages = [2 * channels for channels in SHUFFLENET[groups]]
    return [2 * SHUFFLENET_STEM, 2 * SHUFFLENET_STEM, *stages, stages[-1]]


def kilobytes(channels: int, side: int) -> float:
    """Return the size of a tensor of 16-bit numbers, in units of 1000 bytes."""
    return channels * side**2 * 2 / 1000


def _cell(model: str, side: int, ours: int, theirs: int, printed: str) -> list[Row]:
    """Return the cell with our channels and, where these differ, once more with the printed channels."""
    section = f"{model}: the largest tensor kept at each resolution"
    note = ""
    if ours != theirs:
        note = NEXT_LINE if model == "MobileNetV2" else STEM if side == 112 else GROUPS
    elif printed == "199":
        note = ONE_TENSOR
    elif printed == "32":
        note = CUT_UP
    what = f"{side}x{side}x{ours}"
    row = compared(what, kilobytes(ours, side), printed, "kB", section=section)
    rows = [row if row.agrees else replace(row, note=note)]
    if ours != theirs:
        again = f"{side}x{side}x{theirs}, the channels printed"
        rows.append(compared(again, kilobytes(theirs, side), printed, "kB", section=section))
    return rows


def _maxima(kept: dict[str, list[int]]) -> list[Row]:
    section = "The largest of all"
    rows = []
    for model, channels in kept.items():
        sizes = [kilobytes(each, side) for each, side in zip(channels, SIDES, strict=True)]
        first, last = MAXIMUM[model]
        if model.startswith("ShuffleNet"):
            sizes[:2] = [0, 0]  # max-pooled as it is computed: the printed maximum leaves these lines out
            rows.append(compared(model, max(sizes), first, "kB", section=section, note=GROUPS))
            continue
        rows.append(compared(model, max(sizes), first, "kB", section=section))
        without = compared(f"{model}, first block split", max(sizes[1:]), last, "kB", section=section)
        rows.append(without if without.agrees else replace(without, note=NEXT_LINE))
    return rows


PALE = "#b4bcc6"


def _draw(kept: dict[str, list[int]]) -> bytes:
    with figure_style() as figure_class:
        figure = figure_class(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for index, ((model, channels), colour) in enumerate(zip(kept.items(), (WRONG, RIGHT, PALE), strict=True)):
            sizes = [kilobytes(each, side) for each, side in zip(channels, SIDES, strict=True)]
            places = [place + (index - 1) * 0.27 for place in range(len(SIDES))]
            bars = axes.bar(places, sizes, 0.25, color=colour, label=model)
            axes.bar_label(bars, [f"{size:,.0f}" for size in sizes], padding=2, fontsize=7, color=FAINT)
        axes.set_xticks(range(len(SIDES)), [f"{side}x{side}" for side in SIDES])
        axes.set_ylabel("kB kept, 16-bit activations")
        axes.set_xlabel("resolution")
        axes.legend(frameon=False, loc="upper right")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        return to_png(figure)
