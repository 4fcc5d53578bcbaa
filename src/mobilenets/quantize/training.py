"""Quantization by training on: what `--method qat` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.compress.post_training import Asked, Quantized, quantize_after_training
from mobilenets.compress.statistics import Pictures
from mobilenets.engine.folding import folded, unfolded
from mobilenets.quantize.request import Request
from mobilenets.train.quantized import train_quantized


def trained(checkpoint: Checkpoint, pictures: Pictures, asked: Request, target: Path) -> Quantized:
    """Train on with rounding in place; the run's folder is beside the file, under its name.

    Per tensor, training begins with channels brought to like ranges, which changes nothing that is computed in float32:
    weights far below a step of the layer's largest would have to be learned anew.
    """
    model, folder = asked.model, target.with_suffix("")
    card, layers = checkpoint.card, folded(checkpoint)
    if asked.granularity == "tensor":
        way = Asked("tensor", calibration="mse", equalization="exact", bias_correction="off", weights="max")
        even = quantize_after_training(checkpoint, pictures, way)
        model = str(folder.with_name(f"{folder.name}.equalized.safetensors"))
        card, layers = even.card, dict(even.layers)
        save(unfolded(card, layers), model)
    training = train_quantized(
        model,
        data=asked.data,
        granularity=asked.granularity,
        out=folder,
        epochs=asked.epochs,
        seed=asked.seed,
        resume=asked.resume,
        root=asked.root,
        val_fraction=asked.val_fraction,
        strict=asked.strict,
    )
    made = load(training.checkpoint)
    made = replace(made, card=replace(made.card, parent=checkpoint.sha256))
    return Quantized(made, card, layers, ())  # layers compare with channels scaled as theirs are
