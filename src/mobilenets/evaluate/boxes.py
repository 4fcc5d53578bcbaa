"""Judging a detector on pictures with boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from mobilenets.average_precision import measure_boxes
from mobilenets.data import Pictures
from mobilenets.data.boxed import BoxedPictures
from mobilenets.detections import DetectionReport
from mobilenets.evaluate.reading import readable
from mobilenets.image.detection import Found
from mobilenets.runtime import Predictor
from mobilenets.runtime.finding import Finder


def measured(
    predictor: Predictor,
    pictures: Pictures,
    named: Mapping[str, Any],
    problems: tuple[Sequence[str], Sequence[str]],
    batch_size: int,
    out: Path | None,
    command: str,
    *,
    strict: bool,
) -> DetectionReport:
    """Return the report of a detector, with what names it, and write its page into `out`.

    Args:
        predictor: of a detector.
        pictures: with boxes.
        named: the report's model, data, part and runtime.
        problems: what was wrong with the data, and what is doubtful; pictures that cannot be read come between.
        batch_size: how many pictures are computed at a time.
        out: a folder, or None to write nothing.
        command: what the page says it was made with.
        strict: stop at a picture that cannot be read.
    """
    assert isinstance(pictures, BoxedPictures)
    began = perf_counter()
    found, broken = _find_all(predictor, pictures, batch_size, strict=strict)
    seconds = perf_counter() - began
    judged = pictures.take(list(found))
    report = measure_boxes(judged.truths, list(found.values()), pictures.labels)
    report = replace(report, **named, seconds=seconds, problems=(*problems[0], *broken, *problems[1]))
    if out is None:
        return report
    return replace(report, files=(_write(out, report, list(found.values()), judged, predictor, command),))


def _find_all(
    predictor: Predictor, pictures: BoxedPictures, batch_size: int, *, strict: bool
) -> tuple[dict[int, Found], list[str]]:
    """Return what is found on each picture that can be read, by index, and a line for each of the others."""
    finder = Finder(predictor)
    everything: dict[int, Found] = {}
    broken: list[str] = []
    for fitted in readable(pictures, predictor.card.preprocess, batch_size, broken, strict=strict):
        found = finder.find(list(fitted.values()), [pictures.size(index) for index in fitted])
        everything.update(zip(fitted, found, strict=True))
    return everything, broken


def _write(
    out: Path,
    report: DetectionReport,
    found: Sequence[Found],
    pictures: BoxedPictures,
    predictor: Predictor,
    command: str,
) -> Path:
    from mobilenets.machine import describe_machine
    from mobilenets.report.boxes import examples, write_box_report

    return write_box_report(
        out / "report.html",
        report,
        shown=examples(pictures.truths, found, pictures, report.labels),
        recipe=predictor.card.recipe,
        command=command,
        machine=describe_machine(),
    )
