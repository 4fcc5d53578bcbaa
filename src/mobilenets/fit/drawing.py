"""The frontier as a picture: accuracy against time, what fits beside what was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilenets.draw import FAINT, INK, RIGHT, WRONG, figure_style, to_png

if TYPE_CHECKING:
    from mobilenets.fit.result import Choice, FitResult

TICKS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
"""In each decade."""


def draw_frontier(result: FitResult) -> bytes:
    """Draw the frontier as a PNG: each network's top-1 over its milliseconds or, where unknown, multiply-adds."""
    timed = all(each.predicted_ms is not None for each in (*result.frontier, result.chosen))
    bound = result.budget.latency_ms if timed else result.budget.multiply_adds
    choosing = result.method == "choose"
    with figure_style() as figure_class:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        figure = figure_class(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        points = [(_spent(each, timed=timed), 100 * (each.top1 or 0.0)) for each in result.frontier]
        axes.plot(
            *zip(*points, strict=True),
            color=RIGHT,
            marker="o",
            markersize=4,
            linewidth=1,
            label="fits" if choosing else "found",
        )
        chosen = (_spent(result.chosen, timed=timed), 100 * (result.chosen.top1 or 0.0))
        if choosing or result.checkpoint is not None:  # else it goes on
            axes.plot(*chosen, color=WRONG, marker="o", markersize=8, linestyle="none", label="chosen")
            height, side = result.chosen.resolution
            name = f"{result.chosen.model} {result.chosen.width:g}, {height}x{side}, {result.chosen.precision}"
            right = chosen[0] > (min(points)[0] * max(points)[0]) ** 0.5  # of the middle, on a logarithmic axis
            aside, side_of = (-8, "right") if right else (8, "left")
            axes.annotate(
                name, chosen, xytext=(aside, 8), textcoords="offset points", ha=side_of, fontsize=8, color=INK
            )
        if bound is not None:
            axes.axvline(bound if timed else bound / 1e6, color=FAINT, linewidth=1, linestyle="--", label="budget")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=TICKS, numticks=30))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("milliseconds, predicted or measured" if timed else "million multiply-adds")
        axes.set_ylabel("top-1, %")
        figure.suptitle(f"{result.method}: {result.budget}", x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.legend(loc="lower right", fontsize=8)
        return to_png(figure)


def _spent(choice: Choice, *, timed: bool) -> float:
    ms = choice.measured_ms or choice.predicted_ms
    return ms if timed and ms is not None else choice.multiply_adds / 1e6
