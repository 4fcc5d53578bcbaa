"""RECIPE + DATA -> CHECKPOINT."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal

from mobilenets.errors import needing
from mobilenets.results import TrainResult

Switch = Literal["auto", "on", "off"]
Granularity = Literal["channel", "tensor"]

__all__ = ["Granularity", "Switch", "train"]


def train(
    data: str | Path,
    *,
    model: str = "mobilenet_v2",
    width: float | None = None,
    resolution: int | tuple[int, int] | None = None,
    weights: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    granularity: Granularity | None = None,
    patience: int | None = None,
    freeze: bool = False,
    seed: int = 0,
    out: Path = Path("runs/train"),
    resume: bool = False,
    root: Path | None = None,
    val_fraction: float = 0.2,
    strict: bool = False,
    workers: int | None = None,
    threads: int | None = None,
    bf16: Switch = "auto",
    channels_last: Switch = "auto",
    compile: Switch = "auto",
) -> TrainResult:
    """Train a network on pictures, or a detector on pictures with boxes, and say how good it is.

    In OUT afterwards: best.safetensors (with the best validation top-1, or mean average precision), last.safetensors,
    report.html and curves.png to look at, history.json, a TensorBoard log, and state.pt, from which `--resume` goes on
    to the same weights as if nothing had happened. In several processes:
    `torchrun --nproc-per-node 2 -m mobilenets train DATA`.

    Raises a MobileNetsError, one line that names the file or flag and the remedy, for whatever a user can cause.

    Args:
        data: A folder with one sub-folder a class (with or without train/ and val/), a CSV, an .npz, or digits, mnist,
            fashion_mnist, cifar10. With boxes: VOC, COCO, YOLO, or a CSV with corners, recognised by themselves.
        model: An architecture's name, or a checkpoint to start from. With boxes, a classifier becomes the detector
            built on it.
        width: Width multiplier; without it the weights', or 1.0.
        resolution: The network's input in pixels, a side or HEIGHTxWIDTH; without it the weights', the pictures' own if
            these are small, or the architecture's.
        weights: none, a published name, or a checkpoint; without it the best at hand.
        recipe: finetune, scratch, v2-paper, simple, detect, qat (quantization-aware: from a trained float32 checkpoint
            to an int8 one), or a file: a checkpoint made with it, or its JSON. Without it detect for boxes, finetune
            where there are weights, scratch where there are none.
        epochs: How often to go through the data; the recipe says if you do not.
        batch_size: Pictures per step, of all processes together; the recipe's learning rate is scaled along.
        learning_rate: The peak learning rate.
        granularity: With recipe qat: one weight scale for each output channel, or for each tensor.
        patience: Stop after this many epochs without a better validation result; 0 never.
        freeze: Train the classifier alone; the features of all pictures are computed once and kept.
        seed: Every random number follows from it.
        out: Where everything is written.
        resume: Go on with the interrupted training in OUT.
        root: Where mnist, fashion_mnist or cifar10 are.
        val_fraction: Share held back for validation where the data has no such part.
        strict: Stop at the first picture that cannot be used, instead of leaving it out.
        workers: Processes that prepare pictures; the loader decides if you do not.
        threads: CPU threads that compute.
        bf16: Mixed precision; auto measures whether it is faster here.
        channels_last: Memory order of the activations; auto measures.
        compile: torch.compile; auto measures where the training is long enough to pay for it.
    """
    from mobilenets.train.request import Request

    _check_extra()
    from mobilenets.train.run import run

    return run(
        Request(
            data=str(data),
            model=model,
            width=width,
            resolution=resolution,
            weights=weights,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            granularity=granularity,
            patience=patience,
            freeze=freeze,
            seed=seed,
            root=None if root is None else str(root),
            val_fraction=val_fraction,
            strict=strict,
            workers=workers,
            threads=threads,
            bf16=bf16,
            channels_last=channels_last,
            compile=compile,
        ),
        out=Path(out),
        resume=resume,
    )


def _check_extra() -> None:
    """Raise MissingExtraError for the first package of the extra `train` that cannot be imported."""
    with needing("train"):
        import_module("matplotlib")  # draws the curves after the last epoch, a bad time to find it missing
        import_module("mobilenets.train.run")
