"""The `evaluate` verb: how good a model is on labelled pictures, or a detector on pictures with boxes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from mobilenets.errors import InputError, MissingExtraError
from mobilenets.files import need_folder
from mobilenets.results import Report

if TYPE_CHECKING:
    from mobilenets.checkpoint import Card
    from mobilenets.data import Data, Pictures
    from mobilenets.metrics import Judged
    from mobilenets.runtime import Predictor

Split = Literal["auto", "val", "test", "all"]


def evaluate(
    model: str,
    data: str,
    *,
    runtime: str | None = None,
    limit: int | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    root: Path | None = None,
    split: Split = "auto",
    val_fraction: float = 0.2,
    seed: int = 0,
    strict: bool = False,
    out: Path | None = None,
) -> Any:
    """Measure a classifier: top-1, top-5, confusion matrix; a detector: COCO's average precisions and recalls.

    Data with a validation part of its own is judged on that. Other data is judged whole, unless the model was trained
    on data of that name: then only on what training held back, for which seed and fraction must be those it was
    trained with. Accuracies are fractions from 0 to 1 in Python and JSON.

    Args:
        model: A checkpoint, an exported file, or the name of published weights such as efficientnet_lite0.
        data: A folder with one sub-folder a class, a CSV, an .npz, or digits, mnist, fashion_mnist, cifar10; for a
            detector VOC, COCO, YOLO, or a CSV with corners. Classes are matched with the model's by name, or by index
            where all are whole numbers.
        runtime: What computes: torch, onnx, openvino, litert, engine, reference. The engine by default where it is
            compiled already or worth it, else the first installed; an exported file has its own.
        limit: Judge at most this many pictures, spread over the classes.
        threads: How many the computation may use.
        batch_size: How many pictures are computed at a time; the result does not depend on it.
        root: Where mnist, fashion_mnist or cifar10 are.
        split: auto as said above; val for the validation part or what would be held back; test for the test part of
            data with boxes; all for every picture but those.
        val_fraction: The share held back, where the data has no validation part of its own.
        seed: Decides which pictures are held back, and which a limit takes.
        strict: Stop at the first picture that cannot be used, instead of leaving it out.
        out: A folder to write report.html and confusion.png to.

    Returns:
        A `Report`, or of a detector a `DetectionReport`.

    Raises:
        MobileNetsError: one line that names the file or the flag, and the remedy.
    """
    from mobilenets import runtime as runtimes
    from mobilenets.data import open_data
    from mobilenets.metrics import measure

    _check_counts({"--limit": limit, "--batch-size": batch_size})
    if out is not None:
        _check_drawing()
    with ExitStack() as opening:
        source = model if runtimes.exported(model) else runtimes.resolve(model)
        if isinstance(source, str):
            runtime = runtimes.choose(runtime, source)
            predictor = opening.enter_context(closing(runtimes.load(source, runtime, threads)))
            card = predictor.card
        else:
            runtimes.choose(runtime, precision=source.card.precision)  # better refused before the data are read
            predictor, card = None, source.card
        try:
            opened = open_data(data, root=root, seed=seed, val_fraction=val_fraction, strict=strict, labels=card.labels)
        except InputError:  # of other classes; where that is since it is of another kind, this is what to say
            _check_task(card, open_data(data, root=root, seed=seed, val_fraction=val_fraction, strict=strict), model)
            raise
        _check_task(card, opened, model)
        whole, part = _part_of(opened, card, split, f"{val_fraction:.0%} held back with seed {seed}")
        pictures, part = _limited(whole, part, limit, seed)
        if out is not None:
            need_folder(out)
        if predictor is None:
            runtime = runtimes.choose(runtime, source, precision=card.precision, pictures=len(pictures))
            predictor = opening.enter_context(closing(runtimes.load(source, runtime, threads)))
        command = _command(model, data, {"limit": limit, "split": split, "val-fraction": val_fraction, "seed": seed})
        named: dict[str, Any] = {"model": model, "data": data, "part": part, "runtime": runtime}
        doubts = _doubts(opened, card, split)
        if card.task == "detection":
            from mobilenets.evaluate.boxes import measured

            return measured(
                predictor, pictures, named, (opened.problems, doubts), batch_size, out, command, strict=strict
            )
        outcome = _judge_all(predictor, pictures, batch_size, strict=strict)
    report = measure(outcome.judged, card.labels)
    problems = (*opened.problems, *outcome.broken, *doubts)
    report = replace(report, **named, seconds=outcome.seconds, problems=problems)
    if out is None:
        return report
    return replace(report, files=_write(out, report, outcome, card, command))


def _check_task(card: Card, opened: Data, model: str) -> None:
    """Raise InputError where a detector is given classes, or a classifier boxes."""
    if card.task == "detection" and not opened.boxed:
        raise InputError(f"{opened.name}: no boxes found, and {model} finds boxes: name data with boxes")
    if card.task != "detection" and opened.boxed:
        raise InputError(f"{opened.name} has boxes, and {model} classifies pictures: name a detector")


def _check_counts(flags: Mapping[str, int | None]) -> None:
    for flag, value in flags.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} must be 1 or more, not {value}")


def _check_drawing() -> None:
    """Raise MissingExtraError where a report could not be written, which is better known before the work than after."""
    from importlib.util import find_spec

    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train")


def _part_of(opened: Data, card: Card, split: Split, held_back: str) -> tuple[Pictures, str]:
    """Return the pictures to judge and what to call them."""
    if split == "test":
        if opened.test is None:
            raise InputError(f"{opened.name}: no test part that is known as one: use --split val or all")
        return opened.test, "the test part"
    if split == "all" or (split == "auto" and not opened.own_val and not _measured_on(opened, card)):
        return opened.everything, "all pictures"
    if not len(opened.val):
        raise InputError(f"{opened.name}: its validation part is empty: use --split all")
    return opened.val, "the validation part" if opened.own_val else held_back


def _limited(pictures: Pictures, part: str, limit: int | None, seed: int) -> tuple[Pictures, str]:
    if limit is None or limit >= len(pictures):
        return pictures, part
    from mobilenets.data.split import spread_sample

    sample = spread_sample(pictures.targets, limit, seed)
    return pictures.take(sample), f"{limit:,} of {len(pictures):,}, {part}"


def _measured_on(opened: Data, card: Card) -> list[int]:
    """Return over how many pictures of this data the card has metrics: training writes them."""
    return [metric.images for metric in card.metrics if metric.dataset == opened.name]


def _doubts(opened: Data, card: Card, split: Split) -> list[str]:
    """Say so where pictures are judged that the model was probably trained on."""
    held_back = _measured_on(opened, card)
    if not held_back or opened.own_val or split == "test":
        return []
    if split == "all":
        return ["the model was trained on part of these pictures: leave out --split all for an honest number"]
    if len(opened.val) not in held_back:
        counts = f"{held_back[0]:,} pictures of this data and here it is {len(opened.val):,}"
        remedy = "give the --val-fraction and --seed of its training"
        return [f"training held back {counts}: the model was trained on some of them; {remedy}"]
    return []


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a model said of the pictures that could be read, and a line for each of the others."""

    judged: Judged
    pictures: Pictures
    broken: tuple[str, ...]
    seconds: float


def _judge_all(predictor: Predictor, pictures: Pictures, batch_size: int, *, strict: bool) -> _Outcome:
    from mobilenets.evaluate.reading import readable
    from mobilenets.metrics import join, judge
    from mobilenets.runtime import feed

    started = perf_counter()
    parts: list[Judged] = []
    places: list[int] = []
    broken: list[str] = []
    for fitted in readable(pictures, predictor.card.preprocess, batch_size, broken, strict=strict):
        logits = feed.logits_of(predictor, list(fitted.values()))
        parts.append(judge(logits, [pictures.target(index) for index in fitted]))
        places += fitted
    return _Outcome(join(parts), pictures.take(places), tuple(broken), perf_counter() - started)


def _write(out: Path, report: Report, outcome: _Outcome, card: Card, command: str) -> tuple[Path, Path]:
    """Write the page and the matrix; return their paths."""
    from mobilenets.draw import draw_confusion
    from mobilenets.files import write_atomically
    from mobilenets.machine import describe_machine
    from mobilenets.report import write_report, wrong_pictures

    page = write_report(
        out / "report.html",
        report,
        wrong=wrong_pictures(outcome.judged, outcome.pictures, report.labels),
        recipe=card.recipe,
        command=command,
        machine=describe_machine(),
    )
    matrix = draw_confusion(report.confusion, report.labels, report.confused(24))
    return page, write_atomically(out / "confusion.png", matrix)


def _command(model: str, data: str, flags: Mapping[str, object]) -> str:
    """Return the command line that asks for this evaluation."""
    given = [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["mobilenets", "evaluate", model, data, *given])
