"""One self-contained HTML page about a training run or an evaluation.

The page loads nothing: styles, script and pictures are inside, and its own security policy forbids requests. It follows
the reader's light or dark setting and fits a phone. Everything that comes from data is escaped.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mobilenets import draw
from mobilenets.errors import MissingExtraError
from mobilenets.files import write_atomically
from mobilenets.metrics import Judged, most_wrong
from mobilenets.results import Report
from mobilenets.text import duration, percent, printable

WRONG_PICTURES = 24
"""How many of the most confidently wrong pictures a page shows."""
THUMBNAIL_PIXELS = 240
PIXEL_ART_PIXELS = 80
"""Pictures no larger than this are shown with sharp pixels, and stored without loss."""


class NamedPictures(Protocol):
    """What is needed of the pictures that were judged."""

    def name(self, index: int) -> str:
        """Return a picture's name."""

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """Return a picture, uint8 (H, W, 1 or 3)."""


@dataclass(frozen=True, eq=False)
class WrongPicture:
    """A picture the model got wrong: uint8 (H, W, 1 or 3), and the score in 0..1 of the class it was taken for."""

    name: str
    picture: npt.NDArray[np.uint8]
    truth: str
    predicted: str
    score: float


def wrong_pictures(
    judged: Judged, pictures: NamedPictures, labels: Sequence[str], *, count: int = WRONG_PICTURES
) -> list[WrongPicture]:
    """Return the pictures that were most confidently taken for another class; `pictures` are those judged, in order."""
    return [
        WrongPicture(
            name=pictures.name(index),
            picture=pictures.picture(index),
            truth=labels[judged.target[index]],
            predicted=labels[judged.predicted[index]],
            score=float(judged.score[index]),
        )
        for index in most_wrong(judged, count)
    ]


def write_report(
    path: Path,
    report: Report,
    *,
    title: str = "",
    history: Sequence[Mapping[str, float | None]] = (),
    wrong: Sequence[WrongPicture] = (),
    recipe: Mapping[str, object] | None = None,
    command: str = "",
    machine: Mapping[str, object] | None = None,
) -> Path:
    """Write the page for `report` to `path`, atomically, and return the path.

    `history` is what `draw.draw_curves` takes; `wrong` are pictures in the order to show them; `recipe` and `machine`
    are printed as tables of name and value. What is empty is left out of the page. Raises InputError where the file
    cannot be written and MissingExtraError where jinja2 or matplotlib is not installed.
    """
    html = rendered(
        "page.html",
        {
            "title": title or " on ".join(part for part in (report.model, report.data) if part) or "report",
            "headline": _headline(report),
            "report": report,
            "classes": [row for row in report.per_class if row.images or row.predicted],
            "pairs": report.confused(20),
            "curves": draw.draw_curve_svgs(history),
            "confusion": draw.draw_confusion_svg(report.confusion, report.labels),
            "wrong": [(item, data_url(item.picture), _is_pixel_art(item.picture)) for item in wrong],
            "recipe": table_rows(recipe or {}),
            "machine": table_rows(machine or {}),
            "command": command,
        },
    )
    return write_atomically(path, html)


def rendered(template: str, values: Mapping[str, object]) -> str:
    """Return the page that one of our templates makes of these values.

    Marked safe in the templates: our own files, and drawings whose labels are escaped by what draws them. Raises
    MissingExtraError where jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "train") from error

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_text),
    )
    environment.filters.update(percent=percent, printable=printable)
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    page = environment.get_template(template)
    return page.render(style=_text("page.css"), script=_text("page.js"), written=written, **values)


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _headline(report: Report) -> list[tuple[str, str]]:
    """Return the numbers of the tiles at the top, as (name, text)."""
    tiles = [("top-1", percent(report.top1))]
    if len(report.labels) > 5:
        tiles.append(("top-5", percent(report.top5)))
    if report.loss is not None:
        tiles.append(("loss", f"{report.loss:.4f}"))
    tiles += [("images", f"{report.images:,}"), ("classes", f"{len(report.labels):,}")]
    if report.seconds is not None:
        tiles.append(("time", duration(report.seconds)))
    return tiles


def table_rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return names and values as text, for a table on a page."""
    return [(name.replace("_", " "), _value_text(value)) for name, value in values.items()]


def _value_text(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return "none" if value is None else str(value)


def _is_pixel_art(picture: npt.NDArray[np.uint8]) -> bool:
    return bool(max(picture.shape[:2]) <= PIXEL_ART_PIXELS)


def data_url(picture: npt.NDArray[np.uint8], *, longest: int = THUMBNAIL_PIXELS) -> str:
    """Return a thumbnail as a data: URL, PNG for tiny pictures and JPEG for photographs."""
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((longest, longest))
    kind = "png" if _is_pixel_art(picture) else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
