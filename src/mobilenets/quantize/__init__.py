"""The `quantize` verb: a float32 network as an int8 one, with what that costs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mobilenets.errors import MissingExtraError
from mobilenets.quantize.result import Accuracy, QuantizeResult

__all__ = ["Accuracy", "QuantizeResult", "quantize"]


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
    from mobilenets.quantize.request import Request

    request = Request(
        model=model,
        data=data,
        granularity=granularity,
        method=method,
        out=out,
        images=images,
        calibration=calibration,
        equalize=equalize,
        correct_bias=correct_bias,
        weights=weights,
        limit=limit,
        max_drop=max_drop,
        even_if_collapsed=even_if_collapsed,
        epochs=epochs,
        resume=resume,
        report=report,
        root=root,
        val_fraction=val_fraction,
        seed=seed,
        strict=strict,
    )
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    from mobilenets.quantize.run import run

    return run(request)
