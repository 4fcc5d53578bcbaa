"""V1's Tables 2 to 10, V2's Table 4 and V3's Table 3: parameters and multiply-adds, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mobilenets.arch import Op, plan
from mobilenets.arch.cost import multiply_adds, parameters
from mobilenets.arch.published import Printed
from mobilenets.draw import FAINT, RIGHT, WRONG, figure_style, to_png
from mobilenets.reproduce.detectors import v3_table6
from mobilenets.reproduce.outcome import Reproduction, Row, Settings, compared
from mobilenets.reproduce.published import beside, counted, network, printed_on

BATCH_NORM = "Parameters are counted as the papers do, without BatchNorm's, which `mobilenets show` counts too."
ACCURACY = (
    "Accuracies and phone times are as published: they took weeks of ImageNet training, and phones. "
    "What was counted is in the columns of ours."
)


def reproduce_v1_tables(_settings: Settings) -> Reproduction:
    """Count V1's Tables 2 to 10."""
    printed = printed_on("v1-tables")
    return Reproduction(
        name="v1-tables",
        title="MobileNetV1, Tables 2 to 10",
        says=(
            "arXiv:1704.04861 builds a network of depthwise separable convolutions alone, and shrinks it by a width "
            "multiplier and by its resolution. Its tables say what that costs and what accuracy is left."
        ),
        rows=(*_layer_types(), *_one_layer(), *(beside(line) for line in printed)),
        notes=(
            (
                "Section 3.2 counts 28 layers: a convolution, 13 blocks of two, and the classifier, which is what "
                "`mobilenets show mobilenet_v1` has."
            ),
            (
                "Table 1 prints stride 2 for the last depthwise convolution, which its own input and output, both 7x7, "
                "contradict: it is 1."
            ),
            BATCH_NORM,
            ACCURACY,
        ),
        picture=_accuracy_over_cost(["v1-tables"], "The authors' own grid, in TF-slim"),
        caption="The 16 MobileNetV1 of the authors' grid: published accuracy over counted multiply-adds",
    )


def reproduce_v2_table4(_settings: Settings) -> Reproduction:
    """Count V2's Table 4."""
    return Reproduction(
        name="v2-table4",
        title="MobileNetV2, Table 4: ImageNet",
        says=(
            "arXiv:1801.04381 section 6.1 compares MobileNetV2 at widths 1.0 and 1.4 with its predecessor and with "
            "others of its size: better than V1 with half of the multiply-adds."
        ),
        rows=tuple(beside(line) for line in printed_on("v2-table4")),
        notes=(BATCH_NORM, ACCURACY, "TF-slim's multiply-adds are cut, not rounded: 153.94 is printed 153."),
        picture=_accuracy_over_cost(["v1-tables", "v2-table4"], "The authors' own grid, in TF-slim"),
        caption="Figure 5 drawn again: published accuracies of V1 and V2 over counted multiply-adds",
    )


def reproduce_v3_tables(_settings: Settings) -> Reproduction:
    """Count V3's Tables 3 and 6."""
    return Reproduction(
        name="v3-tables",
        title="MobileNetV3, Tables 3 and 6: phones and COCO",
        says=(
            "arXiv:1905.02244 searches a network for a phone's own milliseconds and redesigns its expensive ends. "
            "Tables 1 and 2 are `mobilenets show mobilenet_v3_large` and `mobilenet_v3_small`; Table 3 compares them "
            "as classifiers, Table 6 as detectors."
        ),
        rows=(*(beside(line) for line in printed_on("v3-tables")), *v3_table6()),
        notes=(
            BATCH_NORM,
            ACCURACY,
            "Table 2 ticks squeeze-excite in the last 1x1 convolution of V3-Small; no published weight has one there.",
            "The stride of V3-Small's line (5x5, 96, 40) was printed one line late in the first version.",
        ),
        picture=_accuracy_over_cost(["v3-tables"], "Table 3: floating point on phones", names=True),
        caption="Table 3 as a picture: published accuracy over counted multiply-adds",
    )


def _layer_types() -> list[Row]:
    """V1's Table 2: where the multiply-adds and the parameters are."""
    layout = plan(network("mobilenet_v1"))
    swapped = "the two middle digits are swapped: with 1.91 the column adds up to 100"
    kinds: tuple[tuple[str, Callable[[Op], bool], str, str, str], ...] = (
        ("1x1 convolutions", lambda op: op.kind == "conv" and op.kernel == 1, "94.86", "74.59", ""),
        ("3x3 depthwise convolutions", lambda op: op.depthwise, "3.06", "1.06", ""),
        ("3x3 convolution", lambda op: op.kernel == 3 and not op.depthwise, "1.19", "0.02", swapped),
        ("fully connected", lambda op: op.kind == "linear", "0.18", "24.33", ""),
    )
    section = "Table 2: resources by kind of layer"
    rows = []
    for what, chosen, madds, params, note in kinds:
        for quantity, printed, unit in ((multiply_adds, madds, "% multiply-adds"), (_weights, params, "% parameters")):
            whole = sum(quantity(op) for op in layout.ops)
            share = 100 * sum(quantity(op) for op in layout.ops if chosen(op)) / whole
            rows.append(compared(what, share, printed, unit, section=section, note=note if printed == madds else ""))
    return rows


def _weights(op: Op) -> int:
    """Count the weights of one operation, without bias and BatchNorm: so Table 2 adds up."""
    return parameters(op) - (2 * op.out[0] if op.batch_norm else 0) - (op.out[0] if op.bias else 0)


def _one_layer() -> list[Row]:
    """V1's Table 3: one layer of 14x14x512 made cheaper in three steps."""
    section = "Table 3: one layer of 14x14x512, step by step"
    rows = []
    for what, channels, side, separable, madds, params in (
        ("3x3 convolution", 512, 14, False, "462", "2.36"),
        ("depthwise separable", 512, 14, True, "52.3", "0.27"),
        ("width 0.75", 384, 14, True, "29.6", "0.15"),
        ("resolution 0.714", 384, 10, True, "15.1", "0.15"),
    ):
        weights = 9 * channels + channels**2 if separable else 9 * channels**2
        rows.append(compared(what, weights * side**2 / 1e6, madds, "M multiply-adds", section=section))
        rows.append(compared(what, weights / 1e6, params, "M parameters", section=section))
    return rows


def _accuracy_over_cost(pages: Sequence[str], section: str, *, names: bool = False) -> bytes:
    """Draw published top-1 over our counts, one curve a width; or points with their names."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with figure_style() as figure_class:
        figure = figure_class(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        looks = ((WRONG, "o"), (RIGHT, "^")) if len(pages) > 1 else ((RIGHT, "o"),)
        for page, (colour, marker) in zip(pages, looks, strict=True):
            lines = [line for line in printed_on(page) if line.section == section and line.quantity == "top1"]
            lines = [line for line in lines if line.arch]
            label = "MobileNetV1" if page == "v1-tables" else "MobileNetV2"
            for width in dict.fromkeys(line.width for line in lines):
                points = [_point(line) for line in lines if line.width == width or names]
                style = marker if names else f"{marker}-"
                axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4.5, label=label)
                label = "_"
                if names:
                    for line, (x, y) in zip(lines, points, strict=True):
                        axes.annotate(
                            line.model, (x, y), (0, -12), textcoords="offset points", ha="center", fontsize=7.5
                        )
                    break
                # A width published at one resolution is no curve; 1.3 and 1.4 are too close for two names between them.
                where, side = ((5, -9), "left") if len(points) > 1 or width == "1.4" else ((-6, -3), "right")
                axes.annotate(width, points[0], where, textcoords="offset points", ha=side, fontsize=7.5, color=colour)
        if not names:
            axes.legend(
                frameon=False,
                loc="lower right",
                title="each curve a width, as written, at several resolutions",
                title_fontsize=8,
            )
        axes.set_xscale("log")
        axes.margins(x=0.14, y=0.09)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([10, 20, 50, 100, 200, 500])
        axes.set_xlim((27, 420) if names else None)
        axes.set_xlabel("million multiply-adds (counted)")
        axes.set_ylabel("top-1 on ImageNet, % (published)", color=FAINT)
        axes.grid(visible=True, alpha=0.35)
        axes.spines[["top", "right"]].set_visible(False)
        return to_png(figure)


def _point(line: Printed) -> tuple[float, float]:
    madds = counted(line.arch, float(line.width), line.resolution, line.classes).multiply_adds
    return madds / 1e6, float(line.printed)
