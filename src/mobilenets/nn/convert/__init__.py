"""Other people's weights in: read, recognised, assembled, and proved against their source."""

from __future__ import annotations

from pathlib import Path

from mobilenets.results import ConvertResult


def convert(
    source: Path,
    *,
    out: Path,
    labels: Path | None = None,
    architecture: str | None = None,
    width: float | None = None,
    resolution: int | tuple[int, int] | None = None,
    layout: str | None = None,
) -> ConvertResult:
    """Turn somebody else's weights into a checkpoint, and prove that it computes the same.

    Reads TFLite (float and quantized), Keras, ONNX, and PyTorch state dicts of torchvision, timm and others; of
    detectors torchvision's SSDLite and frozen graphs of the TensorFlow Object Detection API. What kind of file it is,
    and which network, is told from what is in it. Nothing in the file is ever executed.

    Args:
        source: the file of weights.
        out: the checkpoint to write.
        labels: a text file with the names of the classes, one a line. Without it, 1,000 classes are ImageNet's.
        architecture: look for this one only; options may follow, as in `mobilenet_v2:padding=same`.
        width: look for this width multiplier only.
        resolution: side of the pictures in pixels, or height x width, where the file does not say it.
        layout: whose PyTorch state dict it is, where its keys do not tell: `timm-tf` for timm's tf_ models.

    Raises:
        InputError: a file that is missing or unreadable, or a flag that cannot be meant.
        ConvertError: weights that are not recognised, are damaged, or compute something else than their table.
        CheckpointError: the checkpoint cannot be written.
        MissingExtraError: reading this format needs a package that is not installed.
    """
    from importlib.util import find_spec

    from mobilenets.errors import InputError, MissingExtraError

    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    if out.is_dir():
        raise InputError(f"{out}: a folder; name the checkpoint to write, as in --out {out / 'model.safetensors'}")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"{out}: the source itself; give the checkpoint another name")
    from mobilenets.nn.convert.conversion import run

    return run(source, out, labels, architecture, width, resolution, layout)
