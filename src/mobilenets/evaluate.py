"""The `evaluate` verb: how good a model is on labelled pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from mobilenets.errors import InputError
from mobilenets.results import Report

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mobilenets.checkpoint import Card
    from mobilenets.data import Data, Pictures
    from mobilenets.metrics import Judged
    from mobilenets.runtime import Predictor

Split = Literal["auto", "val", "all"]

WRONG_PICTURES = 24
"""How many of the most confidently wrong pictures the page shows."""


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
) -> Report:
    """Measure a classifier: top-1, top-5, per-class precision and recall, confusion matrix.

    Data with a validation part of its own is judged on that. Other data is judged whole, unless the model was trained
    on data of that name: then only on what training held back, which takes the seed and the fraction it was
    trained with.

    Args:
        model: A checkpoint, or the name of published weights such as efficientnet_lite0.
        data: A folder with one sub-folder a class, a CSV, an .npz, or digits, mnist, fashion_mnist, cifar10. Classes
            are matched with the model's by name, or by index where all are whole numbers.
        runtime: What computes: torch. The fastest installed by default.
        limit: Judge at most this many pictures, spread over the classes.
        threads: How many the computation may use.
        batch_size: How many pictures are computed at a time; the result does not depend on it.
        root: Where mnist, fashion_mnist or cifar10 are.
        split: auto as said above; val for the validation part or what would be held back; all for every picture.
        val_fraction: The share held back, where the data has no validation part of its own.
        seed: Decides which pictures are held back, and which a limit takes.
        strict: Stop at the first picture that cannot be used, instead of leaving it out.
        out: A folder to write report.html and confusion.png to.

    Returns:
        The report; accuracies are fractions from 0 to 1.

    Raises:
        InputError: unusable data, classes that the model does not know, or a flag out of range.
        CheckpointError: the checkpoint is missing or damaged.
        WeightsError: no weights are published under that name, or they cannot be had.
    """
    from mobilenets import runtime as runtimes
    from mobilenets.data import open_data
    from mobilenets.metrics import measure

    for flag, value in (("--limit", limit), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{flag} must be 1 or more, not {value}")
    chosen = runtimes.choose(runtime)
    with closing(runtimes.load(model, chosen, threads)) as predictor:
        card = predictor.card
        opened = open_data(data, root=root, seed=seed, val_fraction=val_fraction, strict=strict, labels=card.labels)
        pictures, part = _part_of(opened, card, split, held_back=f"{val_fraction:.0%} held back with seed {seed}")
        if limit is not None and limit < len(pictures):
            part = f"{limit:,} of {len(pictures):,}, {part}"
            pictures = pictures.take(spread_sample(pictures.targets, limit, seed))
        started = perf_counter()
        judged, judged_pictures, broken = _judge_all(predictor, pictures, batch_size, strict=strict)
        seconds = perf_counter() - started
    report = measure(
        judged,
        card.labels,
        model=model,
        data=data,
        part=part,
        runtime=chosen,
        seconds=seconds,
        problems=(*opened.problems, *broken),
    )
    if out is None:
        return report
    return replace(report, files=_write(out, report, judged, judged_pictures, card.recipe))


def spread_sample(targets: npt.NDArray[np.int64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose `count` pictures spread over the classes as evenly as these allow; return their places, ascending.

    Which ones depends on targets (N,), count and seed alone.

    >>> import numpy as np
    >>> targets = np.array([0] * 90 + [1] * 10)
    >>> np.bincount(targets[spread_sample(targets, 20, seed=0)]).tolist()
    [10, 10]
    """
    import numpy as np

    shuffled = np.random.default_rng(seed).permutation(len(targets))
    by_class = np.argsort(targets[shuffled], kind="stable")
    ordered = targets[shuffled[by_class]]
    place_in_class = np.empty(len(targets), np.int64)
    place_in_class[by_class] = np.arange(len(targets)) - np.searchsorted(ordered, ordered)
    # The first of every class, then the second: within each round in shuffled order, so that a count below the number
    # of classes takes any of them.
    return np.sort(shuffled[np.argsort(place_in_class, kind="stable")][:count])


def _part_of(opened: Data, card: Card, split: Split, *, held_back: str) -> tuple[Pictures, str]:
    """Return the pictures to judge and what to call them."""
    measured_here = any(metric.dataset == opened.name for metric in card.metrics)
    if split == "all" or (split == "auto" and not opened.own_val and not measured_here):
        return opened.everything, "all pictures"
    part = "the validation part" if opened.own_val else held_back
    if not len(opened.val):
        raise InputError(f"{opened.name}: its validation part is empty: use --split all")
    return opened.val, part


def _judge_all(
    predictor: Predictor, pictures: Pictures, batch_size: int, *, strict: bool
) -> tuple[Judged, Pictures, list[str]]:
    """Return what the model says of every picture, those pictures, and a line for each that could not be read."""
    from mobilenets.data.scan import followed
    from mobilenets.image.preprocess import fit
    from mobilenets.metrics import join, judge
    from mobilenets.runtime import feed

    preprocess = predictor.card.preprocess

    def read(index: int) -> tuple[int, npt.NDArray[np.uint8] | InputError]:
        try:
            return index, fit(pictures.picture(index), preprocess)
        except InputError as error:
            return index, error

    parts: list[Judged] = []
    places: list[int] = []
    broken: list[str] = []
    everything = followed(range(len(pictures)), "judging pictures")
    for batch in feed.batches(feed.prepared(everything, read, ahead=2 * batch_size), batch_size):
        fitted = {}
        for index, picture in batch:
            if not isinstance(picture, InputError):
                fitted[index] = picture
            elif strict:
                raise picture
            else:
                broken.append(f"{picture} (skipped)")
        logits = feed.logits_of(predictor, list(fitted.values()))
        parts.append(judge(logits, [pictures.target(index) for index in fitted]))
        places += fitted
    if not places:
        raise InputError(f"none of the {len(pictures)} pictures can be read: {broken[0]}")
    return join(parts), pictures.take(places), broken


def _write(
    out: Path, report: Report, judged: Judged, pictures: Pictures, recipe: Mapping[str, object] | None
) -> tuple[Path, Path]:
    """Write the page and the matrix; return their paths."""
    from mobilenets.draw import draw_confusion
    from mobilenets.files import write_atomically
    from mobilenets.machine import describe_machine
    from mobilenets.metrics import most_wrong
    from mobilenets.report import WrongPicture, write_report

    wrong = [
        WrongPicture(
            name=pictures.name(place),
            picture=pictures.picture(place),
            truth=report.labels[judged.target[place]],
            predicted=report.labels[judged.predicted[place]],
            score=float(judged.score[place]),
        )
        for place in most_wrong(judged, WRONG_PICTURES)
    ]
    command = shlex.join(["mobilenets", "evaluate", report.model, report.data])
    page = write_report(
        out / "report.html",
        report,
        wrong=wrong,
        recipe=recipe,
        command=command,
        machine=describe_machine(),
    )
    matrix = draw_confusion(report.confusion, report.labels, report.confused(24))
    return page, write_atomically(out / "confusion.png", matrix)
