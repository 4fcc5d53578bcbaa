"""Quantize as asked: calibrate or train on, judge the file read back, refuse what has collapsed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilenets import runtime as runtimes
from mobilenets.checkpoint import Card, Checkpoint, Metric, save
from mobilenets.compress import judging
from mobilenets.compress.drawing import write_layers
from mobilenets.compress.judging import Divided, Fitted
from mobilenets.compress.post_training import Asked, Quantized, Trial, quantize_after_training
from mobilenets.compress.sensitivity import layer_errors
from mobilenets.compress.statistics import Pictures
from mobilenets.compress.stored import read_back, with_sample
from mobilenets.compress.unlabelled import plain_folder
from mobilenets.data import Data, open_data
from mobilenets.data.boxed import boxes_in
from mobilenets.detections import DetectionReport
from mobilenets.errors import CheckpointError, InputError, ParityError
from mobilenets.files import need_folder
from mobilenets.metrics import Judged, top_k
from mobilenets.quantize.request import Request
from mobilenets.quantize.result import Accuracy, QuantizeResult
from mobilenets.text import percent

LEAST_AGREEMENT = 0.8
"""An int8 network that gives another answer more often than for one picture in five has collapsed."""
LAYER_PICTURES = 16
"""The layers' errors are means over very many values; more pictures move them by tenths of a decibel."""


def run(request: Request) -> QuantizeResult:
    """Quantize as asked; see :func:`mobilenets.quantize`."""
    strict, trains = request.strict, request.method == "qat"
    float32 = _float32(request.model)
    target = _target(request.model, request.out)
    labelled = trains or (float32.card.task == "detection" and boxes_in(Path(request.data).expanduser()) is not None)
    plain = None if labelled else plain_folder(request.data, float32.card.labels, float32.card.in_channels)
    opened = plain or _opened(request, float32.card)
    _check_task(float32.card, opened, request, unlabelled=plain is not None)
    divided = judging.divide(opened, float32.card, request.images, seed=request.seed, trained=trains)
    divided = judging.limited(divided, request.limit, request.seed)
    seen = _calibration(divided, float32, strict=strict)
    made = _made(float32, seen.pictures, request, target)
    written = read_back(with_sample(made.checkpoint, float32))
    before, after, agreement, problems = _judged(float32, written, divided, labelled=plain is None, strict=strict)
    result = QuantizeResult(
        model=request.model,
        data=request.data,
        checkpoint=target,
        granularity=request.granularity,
        method=request.method,
        before=before,
        after=after,
        agreement=agreement,
        layers=layer_errors(made.card, made.layers, written, seen.pictures[:LAYER_PICTURES]),
        part=divided.part,
        tried=made.trials,
        calibration_images=len(seen.pictures),
        bytes_before=sum(array.nbytes for array in float32.tensors.values()),
        bytes_after=sum(array.nbytes for array in written.tensors.values()),
        problems=(*opened.problems, *seen.problems, *problems),
        boxes=float32.card.task == "detection",
    )
    if not request.even_if_collapsed:
        _refuse_collapsed(result, request.max_drop)
    save(_with_metrics(written, result, opened.name, divided), target)
    return result if request.report is None else replace(result, files=(write_layers(request.report, result.layers),))


def _opened(request: Request, card: Card) -> Data:
    """Open the data for a network's classes; where they are others since the data are of another kind, say that."""

    def opened(labels: Sequence[str] | None) -> Data:
        return open_data(
            request.data,
            root=request.root,
            seed=request.seed,
            val_fraction=request.val_fraction,
            strict=request.strict,
            labels=labels,
        )

    try:
        return opened(card.labels)
    except InputError:
        _check_task(card, opened(None), request, unlabelled=False)
        raise


def _check_task(card: Card, opened: Data, request: Request, *, unlabelled: bool) -> None:
    """Raise InputError where data and network do not fit, or the method is not for detectors."""
    if card.task == "detection" and request.method == "qat":
        raise InputError(f"{request.model} finds boxes, and --method qat is for classifiers: leave it out")
    if not unlabelled and opened.boxed != (card.task == "detection"):
        has, does = ("boxes", "classifies pictures") if opened.boxed else ("no boxes", "finds boxes")
        raise InputError(f"{opened.name} has {has}, and {request.model} {does}: name data of its kind")


def _made(float32: Checkpoint, pictures: Pictures, request: Request, target: Path) -> Quantized:
    if request.method == "qat":
        from mobilenets.quantize.training import trained

        return trained(float32, pictures, request, target)
    asked = Asked(request.granularity, request.calibration, request.equalize, request.correct_bias, request.weights)
    return quantize_after_training(float32, pictures, asked, _tell)


def _float32(model: str) -> Checkpoint:
    """Return the network to quantize."""
    if runtimes.exported(model) is not None:
        raise InputError(f"{model}: an exported file: name the checkpoint it was made from")
    checkpoint = runtimes.resolve(model)
    if checkpoint.card.precision != "float32":
        raise CheckpointError(f"{model}: it is {checkpoint.card.precision} already: name the float32 network it was")
    return checkpoint


def _target(model: str, out: Path | None) -> Path:
    """Return the file to write: as asked, or beside the model's, or here for published weights."""
    path = Path(model).expanduser()
    if out is None:
        stem = path.stem if path.suffix == ".safetensors" else path.name
        out = (path.parent if path.is_file() else Path()) / f"{stem}.int8.safetensors"
        need_folder(out.parent)
        return out
    if out.is_dir():
        raise InputError(f"{out}: a folder: name the file to write, as in --out {out / 'int8.safetensors'}")
    if out.exists() and path.is_file() and out.samefile(path):
        raise InputError(f"{out}: that is the float32 network itself: choose another --out")
    need_folder(out.parent)
    return out


def _calibration(divided: Divided, checkpoint: Checkpoint, *, strict: bool) -> Fitted:
    seen = judging.fitted(divided.calibration, checkpoint.card, range(len(divided.calibration)), strict=strict)
    if not len(seen.pictures):
        raise InputError(f"none of the pictures to calibrate on can be read: {seen.problems[0]}")
    return seen


def _judged(
    float32: Checkpoint, written: Checkpoint, divided: Divided, *, labelled: bool, strict: bool
) -> tuple[Accuracy, Accuracy, float, tuple[str, ...]]:
    """Return how good float32 and int8 are, how often they agree, and what could not be read."""
    if float32.card.task == "detection":
        from mobilenets.compress import detector

        boxes = detector.judge_both(float32, written, divided.judged, strict=strict)
        before, after = (_precision(report, boxes.images) for report in (boxes.before, boxes.after))
        return before, after, boxes.agreement, boxes.problems
    judged = judging.judge_both(float32, written, divided.judged, strict=strict)
    first, second = (_accuracy(each, labelled=labelled) for each in (judged.before, judged.after))
    return first, second, judged.agreement, judged.problems


def _precision(report: DetectionReport | None, images: int) -> Accuracy:
    return Accuracy(None, None, images, *((None, None) if report is None else (report.map, report.map_50)))


def _accuracy(judged: Judged, *, labelled: bool) -> Accuracy:
    top1, top5 = (top_k(judged, k) if labelled else None for k in (1, 5))
    return Accuracy(top1, top5, len(judged))


def _refuse_collapsed(result: QuantizeResult, max_drop: float) -> None:
    """Raise ParityError if the int8 network is much worse than the float32 one."""
    before, after = result.before.main, result.after.main
    if result.agreement >= LEAST_AGREEMENT and (before is None or after is None or 100 * (before - after) <= max_drop):
        return
    name = "mAP .5" if result.boxes else "top-1"
    fell = f"{name} {percent(before)} -> {percent(after)}, " if before is not None and after is not None else ""
    worst = sorted((layer for layer in result.layers if layer.hurts), key=lambda layer: layer.own_sqnr_db)
    named = ", ".join(f"{layer.name} ({layer.own_sqnr_db:.0f} dB)" for layer in worst[:3])
    remedies = ["--granularity channel"] if result.granularity == "tensor" else []
    remedies += ["--equalize auto"] if any(trial.way.equalization == "off" for trial in result.tried[:1]) else []
    remedies += ["more --images"] + (["--method qat"] if result.method == "ptq" else ["more --epochs"])
    what = "boxes found again" if result.boxes else "same answer"
    same = f"{what} for {percent(result.agreement)} of {result.after.images:,} images"
    raise ParityError(
        f"{result.model}: int8 has collapsed: {fell}{same}; {f'worst layers: {named}; ' if named else ''}nothing was "
        f"written: try {', '.join(remedies)}, or keep it with --even-if-collapsed"
    )


def _with_metrics(written: Checkpoint, result: QuantizeResult, name: str, divided: Divided) -> Checkpoint:
    """Note on the card what was measured; what is known of the float32 network is kept under its own names.

    Only what was measured on a standing validation part is noted under the data's name: by that, `evaluate` knows what
    training held back.
    """
    card = written.card
    where = name if divided.standing else f"{name} ({divided.part})"
    inherited = [
        replace(metric, name=f"float32_{metric.name}")
        for metric in card.metrics
        if result.method == "ptq" and not metric.name.startswith("float32_")
    ]
    measured = {
        "top1": result.after.top1,
        "top5": result.after.top5,
        "map": result.after.map,
        "map_50": result.after.map_50,
        "float32_agreement": result.agreement,
    }
    metrics = [
        Metric(key, round(value, 6), where, result.after.images) for key, value in measured.items() if value is not None
    ]
    return replace(written, card=replace(card, metrics=(*metrics, *inherited)))


def _tell(trial: Trial) -> None:
    """Print a trial, so that a long search can be followed."""
    way = trial.way
    bias = "biases corrected" if way.bias_corrected else "biases as they were"
    sys.stderr.write(
        f"{way.calibration} ranges, equalization {way.equalization}, {way.weights} weight scales, {bias}: divergence "
        f"{trial.divergence:.4f} nats, same answer for {percent(trial.agreement)}\n"
    )
