"""The layers of an int8 network as a picture: which ones hurt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilenets.compress.sensitivity import HURTS_BELOW_DB, LayerError
from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.files import write_atomically


def draw_layers(layers: Sequence[LayerError]) -> bytes:
    """Draw a bar for every operation, in the plan's order, as a PNG.

    The bar is the operation's own signal to quantization noise, orange where it is among the worst; the line is that of
    its output in the int8 network, with the errors of all before it.
    """
    places = range(len(layers))
    with figure_style() as figure_class:
        figure = figure_class(figsize=(max(6.0, 1.5 + 0.15 * len(layers)), 4.6), layout="constrained")
        axes = figure.add_subplot()
        colours = [WRONG if layer.hurts else RIGHT for layer in layers]
        axes.bar(places, [layer.own_sqnr_db for layer in layers], color=colours, width=0.8, alpha=0.75)
        axes.plot(places, [layer.sqnr_db for layer in layers], color=FAINT, marker="o", markersize=2.5, linewidth=1.2)
        axes.axhline(HURTS_BELOW_DB, color=LINE, linewidth=1.2, zorder=0)
        axes.set_xticks(places, [layer.name for layer in layers], rotation=90, fontsize=6)
        axes.set_title("int8: signal to quantization noise in dB", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(
            "bars: each by itself, the worst in orange; line: with the errors of all before it", fontsize=8.5
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.margins(x=0.01)
        return to_png(figure)


def write_layers(folder: Path, layers: Sequence[LayerError]) -> Path:
    """Write that picture as layers.png; return its path."""
    return write_atomically(folder / "layers.png", draw_layers(layers))
