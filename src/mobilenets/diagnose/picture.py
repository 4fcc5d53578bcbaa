"""A diagnosis as a picture, one line a layer, and as a page around it that needs nothing else."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenets.diagnose import HEADER, DiagnoseResult, cells
from mobilenets.diagnose.advice import MANY_BITS, noteworthy
from mobilenets.diagnose.layers import LayerFacts
from mobilenets.draw import FAINT, INK, LINE, RIGHT, WRONG, figure_style, shorten, to_png
from mobilenets.errors import MissingExtraError
from mobilenets.files import write_atomically
from mobilenets.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES = 0.17
MOST_BITS = 8.0
"""Where the panels of bits end: whoever lost 8 of 8 bits has lost them all."""


def write(out: Path, result: DiagnoseResult) -> tuple[Path, Path]:
    """Write diagnose.html and diagnose.png to a folder; return their paths.

    Raises:
        InputError: the folder cannot be written to.
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    picture = draw_layers(result.layers)
    return (
        write_atomically(out / "diagnose.html", _page(result, picture)),
        write_atomically(out / "diagnose.png", picture),
    )


def draw_layers(layers: tuple[LayerFacts, ...]) -> bytes:
    """Draw the facts of all layers as one PNG: what is dead, what is at 6, and the bits each channel loses to int8."""
    places = np.arange(len(layers))
    with figure_style() as figure_class:
        height = 1.3 + ROW_INCHES * max(8, len(layers))
        figure = figure_class(figsize=(12.5, height), layout="constrained")
        panels: NDArray[np.object_] = figure.subplots(
            1, 4, sharey=True, squeeze=False, gridspec_kw={"width_ratios": (1, 0.8, 1.4, 1.4)}
        )[0]
        for axes in panels:
            axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
            axes.tick_params(length=0)
            axes.grid(visible=True, axis="x", color=LINE, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_ylim(len(layers) - 0.4, -0.6)
        panels[0].set_yticks(places, [shorten(layer.name, 28) for layer in layers], fontsize=7)
        _draw_dead(panels[0], layers)
        _draw_saturation(panels[1], layers)
        _draw_bits(panels[2], [layer.weight_ranges for layer in layers], "weights: bits lost to one int8 scale", layers)
        _draw_bits(
            panels[3], [layer.activation_ranges for layer in layers], "outputs: bits lost to one int8 scale", None
        )
        return to_png(figure)


def _draw_dead(axes: Axes, layers: tuple[LayerFacts, ...]) -> None:
    """Draw the shares of channels that are dead and constant, and of kernels without weights."""
    from matplotlib.ticker import PercentFormatter

    places = np.arange(len(layers))
    channels = np.array([layer.channels for layer in layers])
    dead = np.array([len(layer.dead) for layer in layers]) / channels
    constant = np.array([len(layer.constant) for layer in layers]) / channels
    kernels = np.array([len(layer.dead_kernels) for layer in layers]) / channels
    axes.barh(places, dead, 0.7, color=WRONG, label="never fires")
    axes.barh(places, constant, 0.7, left=dead, color=WRONG, alpha=0.4, label="constant")
    shown = kernels > 0
    axes.scatter(kernels[shown], places[shown], marker="|", s=45, linewidths=2, color=INK, label="no weights", zorder=3)
    axes.set_xlim(0, max(0.05, 1.15 * float(max((dead + constant).max(), kernels.max()))))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_title("channels that say nothing", loc="left", fontsize=9, fontweight="bold")
    axes.legend(frameon=False, fontsize=7, labelcolor=FAINT, loc="lower right")


def _draw_saturation(axes: Axes, layers: tuple[LayerFacts, ...]) -> None:
    from matplotlib.ticker import PercentFormatter

    shares = np.array([layer.saturated or 0.0 for layer in layers])
    axes.barh(np.arange(len(layers)), shares, 0.7, color=RIGHT)
    axes.set_xlim(0, max(0.05, 1.15 * float(shares.max())))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_title("values at ReLU6's 6", loc="left", fontsize=9, fontweight="bold")


def _draw_bits(
    axes: Axes, ranges: list[NDArray[np.float64]], title: str, layers: tuple[LayerFacts, ...] | None
) -> None:
    """Draw a dot for every live channel at the bits it loses, and a stroke at the median.

    Where `layers` are given, their kernels without weights are left out.
    """
    for place, of_layer in enumerate(ranges):
        alive = np.ones(len(of_layer), np.bool_)
        if layers is not None:
            alive[list(layers[place].dead_kernels)] = False
        values = of_layer[alive & (of_layer > 0)]
        if not len(values):
            continue
        bits = np.minimum(np.log2(of_layer.max() / values), MOST_BITS)
        median = float(np.median(bits))
        jitter = np.linspace(-0.28, 0.28, len(bits))
        axes.scatter(bits, place + jitter, s=2.2, color=FAINT, alpha=min(1.0, 0.25 + 30 / len(bits)), linewidths=0)
        colour = WRONG if median >= MANY_BITS else RIGHT
        axes.plot([median, median], [place - 0.42, place + 0.42], color=colour, linewidth=2.4, zorder=3)
    axes.set_xlim(-0.2, MOST_BITS + 0.2)
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel("bits of 8; a dot is a channel, the stroke the median")


def _page(result: DiagnoseResult, picture: bytes) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "train") from error

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(printable=printable)
    report = resources.files("mobilenets.report")
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        result=result,
        # Marked safe in the template: our own files.
        style=report.joinpath("page.css").read_text(encoding="utf-8"),
        script=report.joinpath("page.js").read_text(encoding="utf-8"),
        picture=f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        header=HEADER,
        rows=[(noteworthy(layer), cells(layer)) for layer in result.layers],
    )
