"""The `quantize` verb: a float32 network as an int8 one, with what that costs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mobilenets.errors import CheckpointError, InputError, MissingExtraError, ParityError
from mobilenets.results import file_lines, json_number
from mobilenets.text import percent, printable, table

if TYPE_CHECKING:
    from mobilenets.checkpoint import Checkpoint
    from mobilenets.compress.judging import Divided, Fitted
    from mobilenets.compress.post_training import Quantized, Trial
    from mobilenets.compress.sensitivity import LayerError
    from mobilenets.metrics import Judged

LEAST_AGREEMENT = 0.8
"""An int8 network that gives another answer more often than for one picture in five has collapsed."""
LAYER_PICTURES = 16
"""The layers' errors are means over very many values; more pictures move them by tenths of a decibel."""

ADVICE = {
    "channel": (
        "one weight scale per channel: right for CPUs and GPUs, whose kernels take it at no cost. Some NPUs run such "
        "layers off the accelerator (an STM32MP2: 76 ms where a network per tensor takes 12): quantize with "
        "--granularity tensor for those"
    ),
    "tensor": (
        "one weight scale per layer: for NPUs that run nothing else on the accelerator. CPUs and GPUs lose nothing by "
        "--granularity channel, and it is more accurate"
    ),
}


@dataclass(frozen=True)
class Accuracy:
    """Say how good a network is: fractions of `images`, None where these have no labels."""

    top1: float | None
    top5: float | None
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return `before` or `after`."""
        return {"top1": json_number(self.top1), "top5": json_number(self.top5), "images": self.images}


@dataclass(frozen=True)
class QuantizeResult:
    """Hold the int8 network's file, and float32 beside int8 on pictures that neither training nor calibration saw.

    `after` is of the file, read back. `agreement` is the share of pictures, 0..1, with the same best class. `layers`
    are all operations in the plan's order; `tried` are the ways that were tried. Sizes are of the weights.
    """

    model: str
    data: str
    checkpoint: Path
    granularity: str
    method: str
    before: Accuracy
    after: Accuracy
    agreement: float
    layers: tuple[LayerError, ...]
    part: str
    tried: tuple[Trial, ...] = ()
    calibration_images: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def advice(self) -> str:
        """Which targets this granularity is for."""
        return ADVICE[self.granularity]

    def __str__(self) -> str:
        title = f"{printable(self.model)} on {printable(self.data)}: int8, weights per {self.granularity}"
        way = self._way()
        parts = [title, self._accuracy(), *([way] if way else []), self._layers(), f"note: {self.advice}"]
        if self.problems:
            parts.append("\n".join(["problems", *(f"  {printable(problem)}" for problem in self.problems)]))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join([*parts, f"saved  {printable(str(self.checkpoint))}"])

    def _accuracy(self) -> str:
        rows = [["weights", f"{self.bytes_before / 1e6:.2f} MB", f"{self.bytes_after / 1e6:.2f} MB", ""]]
        pairs = {"top-5": (self.before.top5, self.after.top5), "top-1": (self.before.top1, self.after.top1)}
        for name, (before, after) in pairs.items():
            if before is not None and after is not None:
                rows.insert(0, [name, percent(before), percent(after), f"{100 * (after - before):+.2f}"])
        same = f"same answer for {percent(self.agreement)} of {self.after.images:,} images ({printable(self.part)})"
        return f"{table(['', 'float32', 'int8', 'points'], rows)}\n{same}"

    def _way(self) -> str:
        for trial in self.tried:
            if trial.chosen:
                way = trial.way
                others = f", the best of {len(self.tried)} ways" if len(self.tried) > 1 else ""
                bias = "biases corrected" if way.bias_corrected else "biases as they were"
                return (
                    f"calibrated on {self.calibration_images:,} images: {way.calibration} ranges, equalization "
                    f"{way.equalization}, {way.weights} weight scales, {bias}{others}"
                )
        return ""

    def _layers(self) -> str:
        rows = [
            [
                layer.name,
                layer.kind,
                f"{layer.sqnr_db:.1f}",
                f"{layer.own_sqnr_db:.1f}",
                "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f}",
                percent(layer.clipped_share),
                "hurts" if layer.hurts else "",
            ]
            for layer in self.layers
        ]
        header = ["layer", "kind", "SQNR dB", "its own", "weights", "clipped", ""]
        meaning = "signal to quantization noise: of the output, of this layer alone, of its weights"
        return f"{table(header, rows, left=2)}\n{meaning}"

    def to_json(self) -> dict[str, Any]:
        """Return everything above; `before` and `after` have top1, top5 and images."""
        return {
            "model": self.model,
            "data": self.data,
            "checkpoint": str(self.checkpoint),
            "granularity": self.granularity,
            "method": self.method,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "agreement": self.agreement,
            "part": self.part,
            "calibration_images": self.calibration_images,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "layers": [layer.to_json() for layer in self.layers],
            "tried": [trial.to_json() for trial in self.tried],
            "advice": self.advice,
            "problems": list(self.problems),
            "files": [str(path) for path in self.files],
        }


def quantize(
    model: str,
    *,
    data: str,
    granularity: Literal["channel", "tensor"] = "channel",
    method: Literal["ptq", "qat"] = "ptq",
    out: Path | None = None,
    images: int = 128,
    calibration: Literal["auto", "minmax", "percentile-99.99", "percentile-99.9", "mse"] = "auto",
    equalize: Literal["auto", "off", "exact", "loose", "relu"] = "auto",
    correct_bias: Literal["auto", "on", "off"] = "auto",
    weights: Literal["auto", "max", "mse"] = "auto",
    limit: int | None = None,
    max_drop: float = 5.0,
    even_if_collapsed: bool = False,
    epochs: int | None = None,
    resume: bool = False,
    report: Path | None = None,
    root: Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    strict: bool = False,
) -> QuantizeResult:
    """Make an int8 network of a float32 one, and measure what that costs on the file, read back.

    Ranges of values are found on pictures of the training part; accuracy is measured on the validation part. Data
    without a validation part, on which the model was not trained, is divided: a fifth at most calibrates, and the rest
    is judged. What is "auto" is tried both ways, and chosen by the answers on calibration pictures kept aside.

    Args:
        model: A float32 checkpoint, or the name of published weights.
        data: As for evaluate; classes are matched with the model's by name, or by index. Or a folder with pictures
            directly in it, which have no labels: int8 is then judged by how often it agrees with float32.
        granularity: One weight scale per channel, which CPUs want, or per tensor, which some NPUs need.
        method: ptq rounds the network as it is; qat trains it on with rounding in place, which takes a training.
        out: The int8 checkpoint to write; NAME.int8.safetensors beside the model's by default.
        images: Calibrate on at most this many pictures.
        calibration: How ranges follow from the values seen.
        equalize: Bring the channels of successive layers to like ranges: exact as far as the network computes the
            same; loose with ReLU6 clipping some channels later; relu with ReLU6 replaced by ReLU, as in
            arXiv:1906.04721.
        correct_bias: Shift biases so that channels keep their means.
        weights: Weight scales by the largest weight, or of least squared error.
        limit: Judge at most this many pictures, spread over the classes.
        max_drop: Write nothing if top-1 falls by more than this many points.
        even_if_collapsed: Write the file however bad it is.
        epochs: How long qat trains; the recipe's number by default.
        resume: Go on with a qat that was interrupted.
        report: A folder to write layers.png to.
        root: Where mnist, fashion_mnist or cifar10 are.
        val_fraction: The share that training held back, where the data has no validation part of its own.
        seed: Decides which pictures calibrate, which are held back, and which a limit takes.
        strict: Stop at the first picture that cannot be used, instead of leaving it out.

    Raises:
        ParityError: the int8 network has collapsed; names the layers that hurt, and what to try.
        MobileNetsError: one line that names the file or the flag, and the remedy.
    """
    from mobilenets.checkpoint import save
    from mobilenets.compress import judging
    from mobilenets.compress.drawing import write_layers
    from mobilenets.compress.post_training import Asked, quantize_after_training
    from mobilenets.compress.sensitivity import layer_errors
    from mobilenets.compress.stored import read_back, with_sample
    from mobilenets.compress.unlabelled import plain_folder
    from mobilenets.data import open_data

    _check({"--images": images, "--limit": limit, "--epochs": epochs}, method, epochs=epochs, resume=resume)
    float32 = _float32(model)
    target = _target(model, out)
    plain = plain_folder(data, float32.card.labels, float32.card.in_channels) if method == "ptq" else None
    opened = plain or open_data(
        data, root=root, seed=seed, val_fraction=val_fraction, strict=strict, labels=float32.card.labels
    )
    divided = judging.divide(opened, float32.card, images, seed=seed, trained=method == "qat")
    divided = judging.limited(divided, limit, seed)
    seen = _calibration(divided, float32, strict=strict)
    if method == "qat":
        made = _trained(float32, _Training(model, data, granularity, target, epochs, seed, resume, root))
    else:
        asked = Asked(granularity, calibration, equalize, correct_bias, weights)
        made = quantize_after_training(float32, seen.pictures, asked, _tell)
    written = read_back(with_sample(made.checkpoint, float32))
    judged = judging.judge_both(float32, written, divided.judged, strict=strict)
    result = QuantizeResult(
        model=model,
        data=data,
        checkpoint=target,
        granularity=granularity,
        method=method,
        before=_accuracy(judged.before, labelled=plain is None),
        after=_accuracy(judged.after, labelled=plain is None),
        agreement=judged.agreement,
        layers=layer_errors(made.card, made.layers, written, seen.pictures[:LAYER_PICTURES]),
        part=divided.part,
        tried=made.trials,
        calibration_images=len(seen.pictures),
        bytes_before=sum(array.nbytes for array in float32.tensors.values()),
        bytes_after=sum(array.nbytes for array in written.tensors.values()),
        problems=(*opened.problems, *seen.problems, *judged.problems),
    )
    if not even_if_collapsed:
        _refuse_collapsed(result, max_drop)
    save(_with_metrics(written, result, opened.name, divided), target)
    return result if report is None else replace(result, files=(write_layers(report, result.layers),))


def _check(counts: Mapping[str, int | None], method: str, *, epochs: int | None, resume: bool) -> None:
    for flag, value in counts.items():
        if value is not None and value < 1:
            raise InputError(f"{flag} must be 1 or more, not {value}")
    if method != "qat" and (epochs is not None or resume):
        flag = "--resume" if resume else "--epochs"
        raise InputError(f"{flag} is for trainings: add --method qat, or leave it out")
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train")


def _float32(model: str) -> Checkpoint:
    """Return the network to quantize."""
    from mobilenets import runtime as runtimes

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
        return (path.parent if path.is_file() else Path()) / f"{stem}.int8.safetensors"
    if out.is_dir():
        raise InputError(f"{out}: a folder: name the file to write, as in --out {out / 'int8.safetensors'}")
    if out.exists() and path.is_file() and out.samefile(path):
        raise InputError(f"{out}: that is the float32 network itself: choose another --out")
    return out


def _calibration(divided: Divided, checkpoint: Checkpoint, *, strict: bool) -> Fitted:
    from mobilenets.compress.judging import fitted

    seen = fitted(divided.calibration, checkpoint.card, range(len(divided.calibration)), strict=strict)
    if not len(seen.pictures):
        raise InputError(f"none of the pictures to calibrate on can be read: {seen.problems[0]}")
    return seen


@dataclass(frozen=True)
class _Training:
    """What a quantization-aware training is asked for."""

    model: str
    data: str
    granularity: Literal["channel", "tensor"]
    target: Path
    epochs: int | None
    seed: int
    resume: bool
    root: Path | None


def _trained(checkpoint: Checkpoint, asked: _Training) -> Quantized:
    """Train on with rounding in place; the run's folder is beside the file, under its name."""
    from mobilenets.checkpoint import load
    from mobilenets.compress.post_training import Quantized
    from mobilenets.engine.folding import folded
    from mobilenets.train.quantized import train_quantized

    training = train_quantized(
        asked.model,
        data=asked.data,
        granularity=asked.granularity,
        out=asked.target.with_suffix(""),
        epochs=asked.epochs,
        seed=asked.seed,
        resume=asked.resume,
        root=asked.root,
    )
    return Quantized(load(training.checkpoint), checkpoint.card, folded(checkpoint), ())


def _accuracy(judged: Judged, *, labelled: bool) -> Accuracy:
    from mobilenets.metrics import top_k

    top1, top5 = (top_k(judged, k) if labelled else None for k in (1, 5))
    return Accuracy(top1, top5, len(judged))


def _refuse_collapsed(result: QuantizeResult, max_drop: float) -> None:
    """Raise ParityError if the int8 network is much worse than the float32 one."""
    before, after = result.before.top1, result.after.top1
    if result.agreement >= LEAST_AGREEMENT and (before is None or after is None or 100 * (before - after) <= max_drop):
        return
    fell = f"top-1 {percent(before)} -> {percent(after)}, " if before is not None and after is not None else ""
    worst = sorted((layer for layer in result.layers if layer.hurts), key=lambda layer: layer.own_sqnr_db)
    named = ", ".join(f"{layer.name} ({layer.own_sqnr_db:.0f} dB)" for layer in worst[:3])
    remedies = ["--granularity channel"] if result.granularity == "tensor" else []
    remedies += ["--equalize auto"] if any(trial.way.equalization == "off" for trial in result.tried[:1]) else []
    remedies += ["more --images"] + (["--method qat"] if result.method == "ptq" else ["more --epochs"])
    same = f"same answer for {percent(result.agreement)} of {result.after.images:,} images"
    raise ParityError(
        f"{result.model}: int8 has collapsed: {fell}{same}; {f'worst layers: {named}; ' if named else ''}nothing was "
        f"written: try {', '.join(remedies)}, or keep it with --even-if-collapsed"
    )


def _with_metrics(written: Checkpoint, result: QuantizeResult, name: str, divided: Divided) -> Checkpoint:
    """Note on the card what was measured; what is known of the float32 network is kept under its own names.

    Only what was measured on a standing validation part is noted under the data's name: by that, `evaluate` knows what
    training held back.
    """
    from mobilenets.checkpoint import Metric

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
