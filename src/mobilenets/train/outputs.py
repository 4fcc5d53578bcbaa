"""What a run leaves in its folder to be looked at, and the checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobilenets import checkpoint as files
from mobilenets.checkpoint import Card, Checkpoint, Metric
from mobilenets.data import Data
from mobilenets.draw import draw_curves
from mobilenets.files import write_atomically
from mobilenets.image import fit, normalize
from mobilenets.machine import describe_machine
from mobilenets.metrics import Judged, most_wrong
from mobilenets.nn.network import Network, from_checkpoint, to_tensors
from mobilenets.report import WrongPicture, write_report
from mobilenets.results import Report

BEST, LAST = "best.safetensors", "last.safetensors"
WRONG_PICTURES = 24


def save_checkpoint(path: Path, network: Network, card: Card, sample: np.ndarray, metrics: Sequence[Metric]) -> None:
    """Write a checkpoint with its metrics and a sample: a picture, uint8 (H, W, C), and what the network says of it."""
    tensors = to_tensors(network)
    bare = Checkpoint(replace(card, metrics=tuple(metrics)), tensors)
    files.save(replace(bare, sample=(sample, sample_output(bare, sample))), path)


@torch.no_grad()
def sample_output(checkpoint: Checkpoint, sample: np.ndarray) -> np.ndarray:
    """Return the logits, float32 (classes,), of one picture as a checkpoint's readers will compute them."""
    state = torch.get_rng_state()  # building a network draws random numbers
    network = from_checkpoint(checkpoint)
    torch.set_rng_state(state)
    logits = network(torch.from_numpy(normalize(sample[np.newaxis], checkpoint.card.preprocess)))
    result: np.ndarray = logits[0].numpy()
    return result


def sample_of(data: Data, card: Card) -> np.ndarray:
    """Return the picture that checkpoints prove themselves with: the first one, as evaluation sees it."""
    pictures = data.val if len(data.val) else data.train
    return fit(pictures.picture(0), card.preprocess)


def metrics_of(entry: Mapping[str, Any], data: Data) -> tuple[Metric, ...]:
    """Return what was measured in an epoch, for the card."""
    named = (("top1", "val_top1"), ("top5", "val_top5"), ("loss", "val_loss"))
    return tuple(
        Metric(name, entry[key], data.name, len(data.val)) for name, key in named if entry.get(key) is not None
    )


def write_history(out: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Write one JSON object per epoch."""
    return write_atomically(out / "history.json", json.dumps(list(history), indent=1) + "\n")


def write_curves(out: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the curves."""
    return write_atomically(out / "curves.png", draw_curves(history))


def write_page(
    out: Path,
    report: Report,
    judged: Judged,
    data: Data,
    *,
    history: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    command: str,
) -> Path:
    """Write report.html: curves, confusion matrix, classes, the most confidently wrong pictures, recipe, command."""
    wrong = [
        WrongPicture(
            name=data.val.name(index),
            picture=data.val.picture(index),
            truth=data.labels[judged.target[index]],
            predicted=data.labels[judged.predicted[index]],
            score=float(judged.score[index]),
        )
        for index in most_wrong(judged, WRONG_PICTURES)
    ]
    return write_report(
        out / "report.html",
        report,
        history=history,
        wrong=wrong,
        recipe=recipe,
        command=command,
        machine=describe_machine(),
    )
