"""Boxes on pictures, drawn by Pillow in the picture's own pixels; and precision against recall."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mobilenets.draw import FAINT, LINE, figure_style, shorten, to_svg
from mobilenets.text import percent

COLOURS = ("#2f6fb5", "#d9662b", "#1f8a5b", "#a8457a", "#8a6d00", "#4b8fa8", "#6a4fb0", "#7a4a2b")
"""Of classes, in turn; the first two, and any two neighbours, differ in brightness too."""
_LEAST_FONT, _MOST_FONT = 10, 28
_QUALITY = 92


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw: (x1, y1, x2, y2) in pixels of the picture, what is written at it, and its colour."""

    corners: tuple[float, float, float, float]
    text: str
    colour: str
    dashed: bool = False


def colour_of(index: int) -> str:
    """Return the colour of a class by its index."""
    return COLOURS[index % len(COLOURS)]


def draw_boxes(
    picture: npt.NDArray[np.uint8], boxes: Sequence[DrawnBox], *, longest: int | None = None
) -> npt.NDArray[np.uint8]:
    """Return a copy of the picture, uint8 (H, W, 3), with boxes on it; the last given lies on top.

    Args:
        picture: uint8 (H, W, 1 or 3).
        boxes: in pixels of the picture.
        longest: shrink the picture first, so that its longer side has at most so many pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    grey = picture.shape[2] == 1
    image = Image.fromarray(picture[..., 0] if grey else picture).convert("RGB")
    scale = 1.0 if longest is None else min(1.0, longest / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    brush = ImageDraw.Draw(image)
    line = max(1, round(min(image.size) / 240))
    font = ImageFont.load_default(min(_MOST_FONT, max(_LEAST_FONT, min(image.size) // 28)))
    for box in boxes:
        x1, y1, x2, y2 = (corner * scale for corner in box.corners)
        if box.dashed:
            _dash(brush, (x1, y1, x2, y2), box.colour, line)
        else:
            brush.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=box.colour, width=line)
        if box.text:
            _write(brush, x1, y1, shorten(box.text, 40), box.colour, font)
    return np.asarray(image)


def _dash(brush: object, corners: tuple[float, float, float, float], colour: str, line: int) -> None:
    """Draw a rectangle whose sides are as much gap as line."""
    from PIL import ImageDraw

    assert isinstance(brush, ImageDraw.ImageDraw)
    x1, y1, x2, y2 = corners
    step = 4 * line
    for start in np.arange(x1, x2, 2 * step):
        for y in (y1, y2 - 1):
            brush.line((start, y, min(start + step, x2), y), fill=colour, width=line)
    for start in np.arange(y1, y2, 2 * step):
        for x in (x1, x2 - 1):
            brush.line((x, start, x, min(start + step, y2)), fill=colour, width=line)


def _write(brush: object, x: float, y: float, text: str, colour: str, font: object) -> None:
    """Write white on the colour above a box's corner, or inside where there is no room above."""
    from PIL import ImageDraw, ImageFont

    assert isinstance(brush, ImageDraw.ImageDraw)
    assert isinstance(font, ImageFont.FreeTypeFont | ImageFont.ImageFont)
    left, top, right, bottom = brush.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    place = (x, y - height if y >= height else y)
    brush.rectangle((*place, place[0] + width, place[1] + height), fill=colour)
    brush.text((place[0] + 2 - left, place[1] + 2 - top), text, fill="white", font=font)


def to_jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (H, W, 3), as a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="jpeg", quality=_QUALITY)
    return buffer.getvalue()


def draw_precision_svg(curves: Mapping[str, Sequence[float]], precisions: Mapping[str, float | None]) -> str:
    """Draw precision against recall at overlap .5 as one SVG, a line for each class.

    `curves` has precisions at evenly spaced recalls from 0 to 1, `precisions` the area under each. With more classes
    than colours, the best and the worst are drawn.
    """
    known = sorted(curves, key=lambda label: -(precisions.get(label) or 0.0))
    half = len(COLOURS) // 2
    shown = known if len(known) <= len(COLOURS) else [*known[:half], *known[-half:]]
    with figure_style() as figure_class:
        from matplotlib.ticker import PercentFormatter

        figure = figure_class(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for place, label in enumerate(shown):
            values = np.asarray(curves[label], float)
            name = f"{shorten(label, 24)}  {percent(precisions.get(label) or 0.0)}"
            axes.plot(np.linspace(0, 1, len(values)), values, color=COLOURS[place], label=name, linewidth=1.6)
        axes.set_xlabel("recall: share of the true boxes that are found")
        axes.set_ylabel("precision: share of the found boxes that are true")
        axes.set_title("precision at overlap .5", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=True, color=LINE, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
        if shown:
            axes.legend(frameon=False, labelcolor=FAINT, loc="lower left")
        return to_svg(figure, "precision and recall")
