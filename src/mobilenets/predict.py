"""The `predict` verb: what is on these pictures, and with a detector, where."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.detections import Detection, Detections
from mobilenets.errors import CheckpointError, InputError, MissingExtraError
from mobilenets.files import need_folder
from mobilenets.results import Classification, Prediction, Predictions

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mobilenets.checkpoint import Card
    from mobilenets.image.detection import Found
    from mobilenets.runtime import Predictor

PICTURES_PER_SHEET = 24
SHEET_SIDE_PIXELS = 640
"""Pictures wait for their sheet no larger than this."""


def predict(
    model: str,
    *images: str,
    top: int = 5,
    min_score: float = 0.5,
    runtime: str | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    out: Path | None = None,
    url: str | None = None,
) -> Predictions[Any]:
    """Classify pictures; with a detector, find things on them.

    A picture that cannot be read does not stop the others: its item says why. Only if none can be read is that an
    error.

    Args:
        model: A checkpoint, an exported file, or the name of published weights such as efficientnet_lite0.
        images: Pictures, folders (with all below them) and patterns such as 'photos/*.jpg'.
        top: How many classes to name per picture, the likeliest first.
        min_score: With a detector: leave out boxes that it is less sure of, 0 to 1.
        runtime: What computes: torch, onnx, openvino, litert, engine, reference. The engine by default where it is
            compiled already or worth it, else the first installed; an exported file has its own.
        threads: How many the computation may use.
        batch_size: How many pictures are computed at a time; the answers do not depend on it.
        out: A folder to draw the pictures into, with their predictions beside them, or with the boxes on them.
        url: A service that computes, as `mobilenets serve` runs it, such as http://127.0.0.1:8000; MODEL is then what
            it serves: its name there. Where it asks for a key, that is in MOBILENETS_API_KEY.

    Returns:
        One `Classification` per picture, or with a detector one `Detections`, in the order given; scores are from 0 to
        1, boxes in pixels of the picture.

    Raises:
        InputError: no picture was given, or none could be read.
        CheckpointError: the checkpoint is missing or damaged.
        WeightsError: no weights are published under that name, or they cannot be had.
    """
    from mobilenets import runtime as runtimes
    from mobilenets.runtime import feed

    if top < 1:
        raise InputError(f"--top must be 1 or more, not {top}")
    if batch_size < 1:
        raise InputError(f"--batch-size must be 1 or more, not {batch_size}")
    if not 0 <= min_score <= 1:
        raise InputError(f"--min-score must be from 0 to 1, not {min_score:g}")
    paths = find_pictures(images)
    if url is not None:
        return _asked(url, model, paths, top=top, min_score=min_score, computed_here=(runtime, threads, out))
    with closing(runtimes.load(model, runtime, threads, pictures=len(paths))) as predictor:
        if out is not None:
            need_folder(out)
        if predictor.card.task == "detection":
            return _found_on(predictor, paths, min_score, batch_size, out)
        if out is not None and find_spec("matplotlib") is None:  # better known before the work than after
            raise MissingExtraError("matplotlib", "train")
        sheets = None if out is None else _Sheets(out)
        items: list[Classification] = []
        read = _reader(predictor.card, keep=sheets is not None)
        for batch in feed.batches(feed.prepared(paths, read, ahead=2 * batch_size), batch_size):
            classified = _classified(predictor, batch, top)
            items += classified
            if sheets is not None:
                sheets.add(batch, classified)
    _refuse_if_all_failed(items)
    return Predictions(tuple(items), files=() if sheets is None else sheets.finish())


def _asked(
    url: str, model: str, paths: Sequence[Path], *, top: int, min_score: float, computed_here: tuple[object, ...]
) -> Predictions[Any]:
    """Let a service look at the pictures."""
    from mobilenets.client import ask

    if any(each is not None for each in computed_here):
        raise InputError("--runtime, --threads and --out are for models that run here: leave them out beside --url")
    items = list(ask(url, model, paths, top=top, min_score=min_score))
    _refuse_if_all_failed(items)
    return Predictions(tuple(items))


def _refuse_if_all_failed(items: Sequence[Classification | Detections]) -> None:
    if all(item.error is not None for item in items):
        more = f" (nor can the other {len(items) - 1})" if len(items) > 1 else ""
        raise InputError(f"{items[0].error}{more}")


def _found_on(
    predictor: Predictor, paths: Sequence[Path], min_score: float, batch_size: int, out: Path | None
) -> Predictions[Detections]:
    """Find things on pictures, and draw each picture with its boxes."""
    from mobilenets.runtime import feed
    from mobilenets.runtime.finding import Finder

    finder = Finder(predictor, score_threshold=min_score)
    read = _reader(predictor.card, keep=out is not None, whole=True)
    items: list[Detections] = []
    files: list[Path] = []
    for batch in feed.batches(feed.prepared(paths, read, ahead=2 * batch_size), batch_size):
        usable = [picture for picture in batch if picture.fitted is not None]
        found = iter(finder.find([each.fitted for each in usable if each.fitted is not None], [p.size for p in usable]))
        for picture in batch:
            if picture.fitted is None:
                items.append(Detections(str(picture.path), error=picture.error))
                continue
            items.append(Detections(str(picture.path), named(next(found), predictor.card.labels)))
            if out is not None and picture.shown is not None:
                files.append(_draw(out, picture.path, picture.shown, items[-1].detections, files))
    _refuse_if_all_failed(items)
    return Predictions(tuple(items), files=tuple(files))


def named(found: Found, labels: Sequence[str]) -> tuple[Detection, ...]:
    """Return found boxes with the names of their classes."""
    rows = zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return tuple(Detection(labels[index], index, score, (x1, y1, x2, y2)) for (x1, y1, x2, y2), index, score in rows)


def _draw(
    out: Path, path: Path, picture: npt.NDArray[np.uint8], detections: Sequence[Detection], taken: Sequence[Path]
) -> Path:
    """Write a picture with boxes on it, the surest on top, called like the picture."""
    from mobilenets.draw.boxes import DrawnBox, colour_of, draw_boxes, to_jpeg
    from mobilenets.files import write_atomically
    from mobilenets.text import percent

    drawn = [
        DrawnBox(each.box, f"{each.label} {percent(each.score)}", colour_of(each.index))
        for each in reversed(detections)
    ]
    target, number = out / f"{path.stem}.jpg", 2
    while target in taken:
        target, number = out / f"{path.stem}-{number}.jpg", number + 1
    return write_atomically(target, to_jpeg(draw_boxes(picture, drawn)))


def detect(
    predictor: Predictor, pictures: Sequence[npt.NDArray[np.uint8]], *, min_score: float = 0.5
) -> list[tuple[Detection, ...]]:
    """Find things on pictures that are in memory.

    Args:
        predictor: what `mobilenets.load` returned for a detector.
        pictures: uint8 (H, W, C) each, of any height and width: RGB, or grey with C = 1.
        min_score: leave out boxes that it is less sure of.

    Returns:
        For each picture what was found, the surest first.
    """
    from mobilenets.image.preprocess import fit
    from mobilenets.runtime.finding import Finder

    fitted = [fit(picture, predictor.card.preprocess) for picture in pictures]
    sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    finder = Finder(predictor, score_threshold=min_score)
    return [named(found, predictor.card.labels) for found in finder.find(fitted, sizes)]


def classify(
    predictor: Predictor, pictures: Sequence[npt.NDArray[np.uint8]], *, top: int = 5
) -> list[tuple[Prediction, ...]]:
    """Classify pictures that are in memory.

    Args:
        predictor: what `mobilenets.load` returned.
        pictures: uint8 (H, W, C) each, of any height and width: RGB, or grey with C = 1.
        top: how many classes to name per picture.

    Returns:
        For each picture its classes, the likeliest first.
    """
    from mobilenets.image.preprocess import fit
    from mobilenets.runtime import feed

    fitted = [fit(picture, predictor.card.preprocess) for picture in pictures]
    return likeliest(feed.logits_of(predictor, fitted), predictor.card.labels, top)


def find_pictures(images: Iterable[str]) -> list[Path]:
    """Return the paths that files, folders and patterns stand for, in the order given; those of a folder are sorted.

    Below a folder, files count as pictures by their ending, and hidden ones not at all. A path that does not exist is
    returned as it is, for whoever reads it to name. Raises InputError where there is nothing to return, and for a
    folder without pictures.
    """
    paths: list[Path] = []
    for image in images:
        path = Path(image).expanduser()
        matches = [path] if path.exists() else [Path(name) for name in sorted(_matches(path))]
        for match in matches or [path]:
            paths += _pictures_below(match) if match.is_dir() else [match]
    if not paths:
        raise InputError("no pictures given: name files, folders or patterns such as 'photos/*.jpg'")
    return paths


def _matches(pattern: Path) -> list[str]:
    return glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns


def _pictures_below(folder: Path) -> list[Path]:
    from mobilenets.image.decode import SUFFIXES

    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(f"{folder}: no pictures in this folder or below it")
    return found


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture as the network takes it, uint8 (height, width, C), or why there is none; `shown` is for the sheet."""

    path: Path
    fitted: npt.NDArray[np.uint8] | None = None
    shown: npt.NDArray[np.uint8] | None = None
    error: str | None = None
    size: tuple[int, int] = (0, 0)  # height and width of the file's picture


def _reader(card: Card, *, keep: bool, whole: bool = False) -> Callable[[Path], _Picture]:
    """Return a function that reads one picture for a model; it may run in several threads at once."""
    from mobilenets.image.decode import decode
    from mobilenets.image.preprocess import fit

    channels = card.preprocess.channels
    if channels not in {1, 3}:
        raise InputError(
            f"this model takes {channels} channels and picture files have 1 or 3: call mobilenets.classify"
        )

    def read(path: Path) -> _Picture:
        try:
            picture = decode(path, channels=channels)
        except InputError as error:
            return _Picture(path, error=str(error))
        shown = (picture if whole else _small(picture)) if keep else None
        return _Picture(path, fit(picture, card.preprocess), shown, size=(picture.shape[0], picture.shape[1]))

    return read


def _small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the picture with its longer side at most SHEET_SIDE_PIXELS."""
    from mobilenets.image.preprocess import resize

    height, width = picture.shape[:2]
    scale = min(1.0, SHEET_SIDE_PIXELS / max(height, width))
    return resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))), "bilinear")


def _classified(predictor: Predictor, batch: Sequence[_Picture], top: int) -> list[Classification]:
    from mobilenets.runtime import feed

    fitted = [picture.fitted for picture in batch if picture.fitted is not None]
    answers = iter(likeliest(feed.logits_of(predictor, fitted), predictor.card.labels, top))
    return [
        Classification(str(picture.path), error=picture.error)
        if picture.fitted is None
        else Classification(str(picture.path), next(answers))
        for picture in batch
    ]


def likeliest(logits: npt.NDArray[np.float32], labels: Sequence[str], top: int) -> list[tuple[Prediction, ...]]:
    """Return for each row of logits, float32 (N, classes), its best classes, the likeliest first.

    Raises CheckpointError where a logit is no number.
    """
    import numpy as np

    from mobilenets.metrics import best_classes, softmax

    scores = softmax(logits)
    if not np.isfinite(scores).all():
        raise CheckpointError("the model gives no numbers (nan): its weights are broken, train or convert it again")
    best = best_classes(scores, top)
    return [
        tuple(Prediction(labels[index], int(index), float(row[index])) for index in indices)
        for row, indices in zip(scores, best, strict=True)
    ]


class _Sheets:
    """Draws contact sheets as the predictions come in; at most one sheet of pictures is held in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[tuple[npt.NDArray[np.uint8], Classification]] = []
        self._files: list[Path] = []

    def add(self, pictures: Sequence[_Picture], items: Sequence[Classification]) -> None:
        for picture, item in zip(pictures, items, strict=True):
            if picture.shown is not None:
                self._waiting.append((picture.shown, item))
            if len(self._waiting) == PICTURES_PER_SHEET:
                self._write()

    def finish(self) -> tuple[Path, ...]:
        if self._waiting:
            self._write()
        return tuple(self._files)

    def _write(self) -> None:
        from mobilenets.draw import draw_predictions
        from mobilenets.files import write_atomically

        shown, items = zip(*self._waiting, strict=True)
        path = self._folder / f"predictions-{len(self._files) + 1}.png"
        self._files.append(write_atomically(path, draw_predictions(shown, items)))
        self._waiting.clear()
