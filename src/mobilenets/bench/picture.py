"""The measured times as a picture: bars of the medians with whiskers from the fastest run to the 95th percentile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobilenets.bench.configuration import PRECISIONS
from mobilenets.bench.timing import Timing, summarize
from mobilenets.draw import FAINT, INK, LINE, RIGHT, WRONG, figure_style, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mobilenets.bench.result import BenchResult, BenchRow

FARTHEST = 8
"""Bars longer than this many times the usual one leave the picture; their numbers say how long they are."""

COLOURS = dict(zip(PRECISIONS, (FAINT, RIGHT, WRONG), strict=True))


def draw_bench(result: BenchResult) -> bytes:
    """Draw the rows that were timed as one PNG: a panel for each precision, on one scale, the fastest on top."""
    groups = [
        (precision, sorted(rows, key=_median))
        for precision in PRECISIONS
        if (rows := [row for row in result.rows if row.timing and row.configuration.precision == precision])
    ]
    heights = [len(rows) + 1.0 for _, rows in groups] or [1.0]
    height, side = result.resolution
    with figure_style() as figure_class:
        figure = figure_class(figsize=(7.2, 0.9 + 0.3 * sum(heights)), layout="constrained")
        title = f"{result.arch}, width {result.width:g}, {height}x{side}, batch {result.batch}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
        if not groups:
            figure.text(0.5, 0.4, "nothing could be timed", ha="center", color=FAINT)
            return to_png(figure)
        grid = figure.add_gridspec(len(groups), 1, height_ratios=heights)
        reach = _reach([row.timing for _, rows in groups for row in rows if row.timing])
        for place, (precision, rows) in enumerate(groups):
            axes = figure.add_subplot(grid[place, 0])
            _draw_group(axes, precision, rows, reach)
            axes.tick_params(labelbottom=place == len(groups) - 1)
        axes.set_xlabel("milliseconds: median, with whiskers from the fastest run to the 95th percentile")
        return to_png(figure)


def _draw_group(axes: Axes, precision: str, rows: list[BenchRow], reach: float) -> None:
    for place, row in enumerate(rows):
        timing = row.timing
        assert timing is not None
        axes.barh(place, timing.median_ms, 0.66, color=COLOURS[precision], alpha=0.75)
        axes.plot([timing.min_ms, timing.p95_ms], [place, place], color=INK, linewidth=1, marker="|", markersize=6)
        label = f"{timing.median_ms:.2f} ms"
        axes.text(
            min(max(timing.p95_ms, timing.median_ms), reach) + 0.01 * reach, place, label, va="center", fontsize=8
        )
    names = [_name(row) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.14 * reach)
    axes.set_title(precision, loc="left", fontsize=9, fontweight="bold", color=COLOURS[precision])
    axes.grid(visible=True, axis="x", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def _reach(timings: list[Timing]) -> float:
    """Return how far the scale goes: to the slowest, unless that is so slow that nothing else could be seen."""
    usual = summarize([timing.median_ms for timing in timings]).median_ms
    return min(max(timing.p95_ms for timing in timings), FARTHEST * usual)


def _name(row: BenchRow) -> str:
    threads = row.configuration.threads
    return f"{row.configuration.runtime}, {threads} thread{'' if threads == 1 else 's'}"


def _median(row: BenchRow) -> float:
    return 0.0 if row.timing is None else row.timing.median_ms
