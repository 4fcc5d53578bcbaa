"""Results as pictures: training curves, the confusion matrix, labelled photographs.

Every function returns the file's bytes. PNGs are on white; the SVGs for the HTML page have no background and take their
colours from its CSS (`--ink`, `--right`, ...), so that one drawing serves light and dark pages. Matplotlib is imported
when something is drawn, never pyplot: no window system and no global figure is touched.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets.errors import MissingExtraError
from mobilenets.results import Classification, Confused
from mobilenets.text import percent, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#1c2733", "#66707c", "#d9dee4"
RIGHT, WRONG = "#2f6fb5", "#d9662b"
"""Blue: right, and validation. Orange: wrong, and training. The colour-blind tell them apart too."""
_VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", RIGHT: "--right", WRONG: "--wrong"}

NAMED_CLASSES = 100
"""Above this many classes a confusion matrix has no room for a name per row: its axes are class numbers."""
COUNTED_CLASSES = 26
"""Up to this many classes every cell of a confusion matrix shows its count."""
MATRIX_CELLS = 200
"""The most rows a confusion matrix is drawn with; more classes than that share cells."""
WIDEST_PIXELS = 2100

SCRIPT_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Noto Sans",
    "Arial",
)
"""Fonts asked for letters that Matplotlib's own font lacks, where the machine has them."""


@dataclass(frozen=True)
class Curve:
    """Name one line of a panel: the key in the history, what the legend calls it, its colour."""

    key: str
    label: str
    colour: str


@dataclass(frozen=True)
class Panel:
    """Describe one panel of the training curves; `percentage` panels hold fractions and print percentages."""

    title: str
    curves: tuple[Curve, ...]
    percentage: bool = False


PANELS = (
    Panel("loss", (Curve("train_loss", "training", WRONG), Curve("val_loss", "validation", RIGHT))),
    Panel(
        "top-1 accuracy",
        (Curve("train_top1", "training", WRONG), Curve("val_top1", "validation", RIGHT)),
        percentage=True,
    ),
    Panel(
        "mean average precision",
        (Curve("val_map_50", "at overlap .5", WRONG), Curve("val_map", "over overlaps .5 to .95", RIGHT)),
        percentage=True,
    ),
    Panel("learning rate", (Curve("learning_rate", "learning rate", FAINT),)),
)


def draw_curves(history: Sequence[Mapping[str, float | None]]) -> bytes:
    """Draw loss, accuracy and learning rate over the epochs as one PNG.

    Each entry of the history is an epoch: `epoch` (from 1; the position where absent) and any of `train_loss`,
    `val_loss`, `learning_rate` and, as fractions, `train_top1`, `val_top1`, `val_map`, `val_map_50`. What is absent,
    None or not finite is left out; a panel without any value is not drawn.
    """
    panels = _panels_with_values(history)
    with figure_style() as figure_class:
        figure = figure_class(figsize=(4.2 * max(1, len(panels)), 3.3), layout="constrained")
        for position, panel in enumerate(panels):
            _draw_panel(figure.add_subplot(1, len(panels), position + 1), panel, history)
        return to_png(figure)


def draw_curve_svgs(history: Sequence[Mapping[str, float | None]]) -> tuple[str, ...]:
    """Draw the panels of `draw_curves` as one SVG each, for pages that put them side by side or one below the other."""
    drawings = []
    for panel in _panels_with_values(history):
        with figure_style() as figure_class:
            figure = figure_class(figsize=(4.6, 3.2), layout="constrained")
            _draw_panel(figure.add_subplot(), panel, history)
            drawings.append(to_svg(figure, f"{panel.title} per epoch"))
    return tuple(drawings)


def draw_confusion(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], confused: Sequence[Confused] = ()
) -> bytes:
    """Draw a confusion matrix as PNG, for 2 classes or 1,000.

    Rows are true classes, columns predicted ones; the strength of a colour is the share of the row: blue is right,
    orange wrong. The `confused` pairs are listed beside the matrix where names do not fit its axes.
    """
    with figure_style() as figure_class:
        return to_png(_confusion_figure(figure_class, confusion, labels, confused))


def draw_confusion_svg(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Draw the matrix of `draw_confusion` as SVG, without a list of pairs."""
    with figure_style() as figure_class:
        return to_svg(_confusion_figure(figure_class, confusion, labels, ()), "confusion matrix")


def draw_predictions(pictures: Sequence[npt.NDArray[np.uint8]], predictions: Sequence[Classification]) -> bytes:
    """Draw a contact sheet as PNG: each picture (H, W, 1 or 3) with its name and a bar for each of its predictions.

    Pictures and predictions go together one by one; a picture's bars are on the scale 0..1.
    """
    bars = max((len(item.predictions) for item in predictions), default=0)
    columns = min(4, max(1, len(predictions)))
    rows = -(-len(predictions) // columns)
    tile = _Tile(picture_height=210, bars=bars)
    width, height = columns * tile.width, max(1, rows) * tile.height
    with figure_style() as figure_class:
        figure = figure_class(figsize=(width / 100, height / 100))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for position, (picture, item) in enumerate(zip(pictures, predictions, strict=True)):
            tile.draw(axes, (position % columns) * tile.width, (position // columns) * tile.height, picture, item)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_aspect("auto")
        return to_png(figure)


@dataclass(frozen=True)
class _Tile:
    """One picture of a contact sheet with its text, in pixels at 100 dpi."""

    picture_height: int
    bars: int
    picture_width: int = 260
    margin: int = 20
    bar_height: int = 24

    @property
    def width(self) -> int:
        return self.picture_width + self.margin

    @property
    def height(self) -> int:
        return self.picture_height + self.margin + 24 + self.bars * self.bar_height

    def draw(self, axes: Axes, x: float, y: float, picture: npt.NDArray[np.uint8], item: Classification) -> None:
        left, top = x + self.margin / 2, y + self.margin / 2
        _place_picture(axes, picture, left, top, self.picture_width, self.picture_height)
        base = top + self.picture_height + 16
        axes.text(left, base, shorten(PurePath(item.image).name, 40), color=FAINT, fontsize=7.5, va="center")
        for row, prediction in enumerate(item.predictions):
            centre = base + 22 + row * self.bar_height
            colour = RIGHT if row == 0 else FAINT
            axes.barh(centre, self.picture_width, self.bar_height - 6, left=left, color=LINE, alpha=0.35)
            axes.barh(
                centre, self.picture_width * prediction.score, self.bar_height - 6, left=left, color=colour, alpha=0.35
            )
            weight = "bold" if row == 0 else "normal"
            axes.text(left + 6, centre, shorten(prediction.label, 30), fontsize=8, va="center", weight=weight)
            axes.text(
                left + self.picture_width - 6, centre, percent(prediction.score), fontsize=8, va="center", ha="right"
            )


def _place_picture(
    axes: Axes, picture: npt.NDArray[np.uint8], left: float, top: float, width: float, height: float
) -> None:
    """Put the whole picture in the middle of a box, as large as fits; small ones keep their pixels sharp."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    w, h = picture.shape[1] * scale, picture.shape[0] * scale
    x, y = left + (width - w) / 2, top + (height - h) / 2
    shown = picture[..., 0] if picture.shape[2] == 1 else picture
    sharp = "nearest" if scale > 2 else "antialiased"
    axes.barh(top + height / 2, width, height, left=left, color=LINE, alpha=0.35)
    axes.imshow(shown, extent=(x, x + w, y + h, y), cmap="gray", vmin=0, vmax=255, interpolation=sharp, zorder=2)


def shorten(text: str, limit: int) -> str:
    """Cut text to at most `limit` characters, the last an ellipsis if any went; escape control characters."""
    shown = printable(text)
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def _values(history: Sequence[Mapping[str, float | None]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) wherever the key has a finite value."""
    points = []
    for position, entry in enumerate(history):
        value, epoch = entry.get(key), entry.get("epoch")
        if value is not None and np.isfinite(value):
            points.append((float(position + 1 if epoch is None else epoch), float(value)))
    return points


def _panels_with_values(history: Sequence[Mapping[str, float | None]]) -> list[Panel]:
    return [panel for panel in PANELS if any(_values(history, curve.key) for curve in panel.curves)]


def _draw_panel(axes: Axes, panel: Panel, history: Sequence[Mapping[str, float | None]]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    drawn = [(curve, points) for curve in panel.curves if (points := _values(history, curve.key))]
    for curve, points in drawn:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) < 15 else None
        axes.plot(epochs, values, color=curve.colour, label=curve.label, marker=marker, markersize=3, linewidth=1.6)
    if len(drawn) > 1:
        axes.legend(frameon=False, labelcolor=FAINT)
    if panel.percentage:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        _mark_best(axes, drawn[-1][1], drawn[-1][0].colour)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.margins(x=0.04, y=0.12)


def _mark_best(axes: Axes, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Mark the best point, and write its value above the panel, where no curve can cross it."""
    epoch, value = max(points, key=lambda point: point[1])
    axes.plot([epoch], [value], marker="o", color=colour, markersize=6)
    axes.set_title(f"best {percent(value)}, epoch {epoch:.0f}", loc="right", fontsize=8.5, color=colour)


def _confusion_figure(
    figure_class: type[Figure], confusion: Sequence[Sequence[int]], labels: Sequence[str], confused: Sequence[Confused]
) -> Figure:
    counts = np.asarray(confusion, np.int64)
    classes = len(labels)
    step = _classes_per_cell(classes)
    named = classes <= NAMED_CLASSES
    side = 2.2 + (0.5 if classes <= COUNTED_CLASSES else 0.15) * classes if named else 7.5
    listed = () if named else tuple(confused)
    figure = figure_class(figsize=(max(side, 3.6) + (4.2 if listed else 0), max(side, 3.4)), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(7.5, 4.2)) if listed else figure.add_gridspec(1, 1)
    axes = figure.add_subplot(grid[0, 0])
    colours = np.rint(255 * _confusion_colours(counts)).astype(np.uint8)  # as uint8 it is drawn several times quicker
    axes.imshow(colours, interpolation="none", extent=(-0.5, classes - 0.5, classes - 0.5, -0.5))
    axes.set_xlabel("predicted" if step == 1 else f"predicted class, {step} to a square")
    axes.set_ylabel("true" if step == 1 else "true class")
    axes.tick_params(length=0)
    axes.spines[:].set_color(LINE)
    if named:
        size = 8 if classes <= COUNTED_CLASSES else 6
        short = [shorten(label, 24) for label in labels]
        crowded = classes > 4 or max(map(len, short)) > 10
        axes.set_xticks(range(classes), short, rotation=90 if crowded else 0, fontsize=size)
        axes.set_yticks(range(classes), short, fontsize=size)
    if classes <= COUNTED_CLASSES:
        _write_counts(axes, counts)
    if listed:
        _list_pairs(figure.add_subplot(grid[0, 1]), listed)
    return figure


def _classes_per_cell(classes: int) -> int:
    return -(-classes // MATRIX_CELLS)


def _confusion_colours(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return RGBA cells: transparent where nothing was counted, stronger with the share of the true class.

    With many classes, squares of cells are summed into one. The wrong ones follow the square root of their share, since
    a few per cent spread over many classes would be invisible.
    """
    from matplotlib.colors import to_rgb

    step = _classes_per_cell(len(counts))
    starts = np.arange(0, len(counts), step)
    right = np.add.reduceat(np.diagonal(counts), starts)
    wrong = np.add.reduceat(np.add.reduceat(counts - np.diag(np.diagonal(counts)), starts, axis=0), starts, axis=1)
    totals = np.maximum(1, right + wrong.sum(axis=1))
    cells = np.zeros((*wrong.shape, 4))
    cells[..., :3] = to_rgb(WRONG)
    cells[..., 3] = np.where(wrong, 0.15 + 0.85 * np.sqrt(wrong / totals[:, None]), 0)
    diagonal = np.arange(len(right))
    cells[diagonal, diagonal, :3] = to_rgb(RIGHT)
    cells[diagonal, diagonal, 3] = right / totals
    return cells


def _write_counts(axes: Axes, counts: npt.NDArray[np.int64]) -> None:
    alpha = _confusion_colours(counts)[..., 3]
    digits = len(str(counts.max()))
    for row, column in np.argwhere(counts):
        colour = "white" if alpha[row, column] > 0.55 else INK
        text = f"{counts[row, column]}"
        number = axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=min(9, 30 / digits))
        number.set_in_layout(False)  # hundreds of numbers inside the axes need not be measured to place the axes


def _list_pairs(axes: Axes, pairs: Sequence[Confused]) -> None:
    """Write the pairs most often confused, one below the other."""
    axes.set_axis_off()
    axes.set_title("most often confused", loc="left", fontsize=10, fontweight="bold")
    lines = max(16, len(pairs))
    for position, pair in enumerate(pairs):
        y = 1 - (position + 0.5) / lines
        axes.text(0.1, y, f"{pair.images}", ha="right", va="center", color=WRONG, fontweight="bold", fontsize=9)
        text = f"{shorten(pair.truth, 22)} → {shorten(pair.predicted, 22)}"
        axes.text(0.14, y, text, va="center", fontsize=8)


@contextmanager
def figure_style() -> Iterator[type[Figure]]:
    """Set the look for the figures made inside, and hand out the figure class."""
    try:
        import matplotlib as mpl
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train") from error

    known = set(font_manager.get_font_names())
    settings: Any = {
        "font.family": ["DejaVu Sans", *(name for name in SCRIPT_FONTS if name in known)],
        "font.size": 8.5,
        "text.color": INK,
        "text.parse_math": False,  # a class may be called "$5"
        "axes.edgecolor": LINE,
        "axes.labelcolor": FAINT,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "svg.fonttype": "none",
        "image.composite_image": False,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A label in a script without a font here is drawn as boxes: no reason to stop.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield Figure


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG on white, at most `WIDEST_PIXELS` wide; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    dots_per_inch = min(160, WIDEST_PIXELS / figure.get_figwidth())
    figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, title: str) -> str:
    """Return a figure as <svg>: its colours come from CSS; its ids, made from the title, clash with no other's."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    referred = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in referred else "", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
