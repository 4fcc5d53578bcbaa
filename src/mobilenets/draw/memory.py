"""Memory while a network runs, block by block, for several ways to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png

_COLOURS = (WRONG, FAINT, RIGHT)


def draw_memory(title: str, blocks: Sequence[str], bytes_in_use: Mapping[str, Sequence[int]]) -> bytes:
    """Draw bars as PNG: for each block and each way to run, the bytes in use, and a line at the way's most.

    Args:
        title: what is shown.
        blocks: the names, in the order they run.
        bytes_in_use: for each way to run, by the name the legend gives it, one number for each block; three at most.
    """
    with figure_style() as figure_class:
        figure = figure_class(figsize=(max(6.0, 0.36 * len(blocks) + 2), 3.8), layout="constrained")
        axes = figure.add_subplot()
        for index, ((name, sizes), colour) in enumerate(zip(bytes_in_use.items(), _COLOURS, strict=False)):
            places = [place + (index - 1) * 0.28 for place in range(len(blocks))]
            kibibytes = [size / 1024 for size in sizes]
            most = max(kibibytes, default=0)
            axes.bar(places, kibibytes, 0.26, color=colour, label=f"{name}: {most:,.0f} KiB")
            axes.axhline(most, color=colour, linewidth=0.7, linestyle=":")
        axes.set_xticks(range(len(blocks)), blocks, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        axes.set_ylabel("KiB in use")
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.legend(loc="upper right", facecolor="white", edgecolor="none", framealpha=1)
        axes.grid(axis="y", color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        return to_png(figure)
