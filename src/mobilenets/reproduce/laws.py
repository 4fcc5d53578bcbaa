"""V1's laws of cost: 1/N + 1/K^2 layer by layer, and the squares of the width and resolution multipliers."""

from __future__ import annotations

from fractions import Fraction

from mobilenets.arch import ARCHITECTURES, Op, cost, plan
from mobilenets.arch.cost import multiply_adds
from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.reproduce.outcome import Reproduction, Row, Settings

WIDTHS = (1.0, 0.75, 0.5, 0.25)
SIDES = (224, 192, 160, 128)
GRIDS = {"mobilenet_v1": WIDTHS, "mobilenet_v2": (1.4, 1.0, 0.75, 0.5, 0.35)}


def reproduce_cost(_settings: Settings) -> Reproduction:
    """Count what V1's formulas promise."""
    saving = [_saving(depthwise, pointwise) for depthwise, pointwise in _blocks()]
    grid = {
        (name, width, side): _relative(name, width, side) for name in GRIDS for width in GRIDS[name] for side in SIDES
    }
    fixed = {name: {cost(plan(ARCHITECTURES[name], resolution=side)).parameters for side in SIDES} for name in GRIDS}
    resolution = tuple(
        Row(
            f"{name}: parameters at {', '.join(map(str, SIDES))}",
            f"{min(counts):,}",
            "the same",
            agrees=len(counts) == 1,
            section="Resolution leaves the parameters alone",
        )
        for name, counts in fixed.items()
    )
    return Reproduction(
        name="cost",
        title="What depthwise separable convolutions and the two multipliers save",
        says=(
            "arXiv:1704.04861 section 3.1: a KxK convolution to N channels, split into a depthwise and a 1x1 "
            "convolution, costs 1/N + 1/K^2 of it. Sections 3.3 and 3.4: the width multiplier reduces the cost "
            "roughly by its square, and so does the resolution multiplier."
        ),
        rows=(*(row for row, _, _ in saving), *(_law_row(*key, ratio) for key, ratio in grid.items()), *resolution),
        notes=(
            (
                "The saving is exact, in fractions: for K = 3 it is between 1/9 + 1/64 and 1/9 + 1/1024, 8 to 9 times "
                "less."
            ),
            (
                "The square of the width is a limit: the first convolution and the depthwise ones grow with the width "
                "itself, not with its square, so that narrow networks cost more than the law says. In V2 the last "
                "convolution is never narrowed, which adds to it."
            ),
            (
                "The square of the resolution holds within 1 % at full width: only the classifier does not follow it, "
                "and weighs the more, the smaller the rest."
            ),
        ),
        picture=_draw([(law, counted) for _, law, counted in saving], grid),
        caption=(
            "Left: the share of a full convolution's multiply-adds that is left, block by block. "
            "Right: whole networks, counted, beside the law"
        ),
    )


def _blocks() -> list[tuple[Op, Op]]:
    ops = [op for op in plan(ARCHITECTURES["mobilenet_v1"]).ops if op.block]
    return list(zip(ops[::2], ops[1::2], strict=True))


def _saving(depthwise: Op, pointwise: Op) -> tuple[Row, float, float]:
    """Return a row, and (law, counted), for one block of V1."""
    full = multiply_adds(pointwise) * depthwise.kernel**2
    counted = Fraction(multiply_adds(depthwise) + multiply_adds(pointwise), full)
    law = Fraction(1, pointwise.out[0]) + Fraction(1, depthwise.kernel**2)
    channels, height, width = depthwise.out
    row = Row(
        f"{depthwise.block}: {height}x{width}x{channels} to {pointwise.out[0]}",
        float(counted),
        f"{float(law):.4f}",
        "of a 3x3 convolution",
        agrees=counted == law,
        section="1/N + 1/K^2, block by block of MobileNetV1",
    )
    return row, float(law), float(counted)


def _relative(name: str, width: float, side: int) -> float:
    """Return a network's multiply-adds relative to its full width and resolution."""
    arch = ARCHITECTURES[name]
    return cost(plan(arch, width=width, resolution=side)).multiply_adds / cost(plan(arch)).multiply_adds


def _law_row(name: str, width: float, side: int, ratio: float) -> Row:
    law = width**2 * (side / 224) ** 2
    return Row(
        f"{name}, width {width:g} at {side}",
        ratio,
        f"{law:.4f}",
        "of the multiply-adds",
        note="" if ratio == law else f"{100 * (ratio / law - 1):+.1f} %",
        agrees=True if ratio == law else None,  # a limit, and called rough: nothing to meet
        section=f"Width^2 x resolution^2, {name}",
    )


def _draw(saving: list[tuple[float, float]], grid: dict[tuple[str, float, int], float]) -> bytes:
    from matplotlib.ticker import FuncFormatter

    with figure_style() as figure_class:
        figure = figure_class(figsize=(9.0, 3.8), layout="constrained")
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        places = range(1, len(saving) + 1)
        left.bar(places, [counted for _, counted in saving], color=RIGHT, width=0.7, label="counted")
        left.plot(places, [law for law, _ in saving], "o", color=WRONG, markersize=5, label="1/N + 1/9")
        left.axhline(1 / 9, color=FAINT, linewidth=0.9, linestyle="--")
        left.annotate("1/9", (13.5, 1 / 9), (2, 3), textcoords="offset points", color=FAINT)
        left.set_ylim(0, 0.155)
        left.set_xticks(list(places))
        left.set_xlabel("block of MobileNetV1")
        left.set_ylabel("of the 3x3 convolution's multiply-adds")
        left.set_title("one layer, split in two: what is left", loc="left", fontsize=9, fontweight="bold")
        left.legend(frameon=False, loc="upper right")
        for name, colour, marker in (("mobilenet_v1", WRONG, "o"), ("mobilenet_v2", RIGHT, "^")):
            points = [(w**2 * (s / 224) ** 2, ratio) for (n, w, s), ratio in grid.items() if n == name]
            right.plot(*zip(*sorted(points), strict=True), marker, color=colour, markersize=4.5, label=name)
        ends = (0.015, 2.2)
        right.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle="--", label="the law", zorder=0)
        right.set_xscale("log")
        right.set_yscale("log")
        for axis in (right.xaxis, right.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.set_xlabel("width² x resolution², as the law says")
        right.set_ylabel("of the full network's multiply-adds")
        right.set_title("the whole network, narrowed and shrunk", loc="left", fontsize=9, fontweight="bold")
        right.legend(frameon=False, loc="upper left")
        for axes in (left, right):
            axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        return to_png(figure)
