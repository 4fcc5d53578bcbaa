"""What a run leaves in its folder to be looked at, and the checkpoints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets import checkpoint as files
from mobilenets.checkpoint import Card, Checkpoint, Metric
from mobilenets.data import Data
from mobilenets.draw import draw_curves
from mobilenets.engine import reference
from mobilenets.files import write_atomically
from mobilenets.image import fit, normalize
from mobilenets.machine import describe_machine
from mobilenets.metrics import Judged, most_wrong
from mobilenets.nn.network import Network, load_tensors
from mobilenets.report import WrongPicture, write_report
from mobilenets.results import Report
from mobilenets.train.decisions import Decisions
from mobilenets.train.quantized import to_checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BEST, LAST = "best.safetensors", "last.safetensors"
WRONG_PICTURES = 24


class Writer:
    """Writes the files of each epoch: checkpoints, history, TensorBoard's log."""

    def __init__(self, out: Path, card: Card, data: Data) -> None:
        self._out, self._card, self._data = out, card, data
        pictures = data.val if len(data.val) else data.train
        self._sample = fit(pictures.picture(0), card.preprocess)
        with torch.random.fork_rng():  # building a network draws random numbers
            self._prover = Network(card.plan).eval()
        self._log: SummaryWriter | None = None

    def write_epoch(self, network: Network, history: Sequence[Mapping[str, Any]], *, best: bool) -> None:
        """Write last.safetensors, with `best` also best.safetensors, history.json, and TensorBoard's log."""
        checkpoint = to_checkpoint(network, replace(self._card, metrics=metrics_of(history[-1], self._data)))
        checkpoint = replace(checkpoint, sample=(self._sample, self._output(checkpoint)))
        files.save(checkpoint, self._out / LAST)
        if best:
            files.save(checkpoint, self._out / BEST)
        write_atomically(self._out / "history.json", json.dumps(list(history), indent=1) + "\n")
        self._log_epoch(history[-1])

    def close(self) -> None:
        """Close TensorBoard's log."""
        if self._log is not None:
            self._log.close()

    def _log_epoch(self, entry: Mapping[str, Any]) -> None:
        """Append an epoch's numbers to TensorBoard's log; without tensorboard installed there is none."""
        if self._log is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._log = SummaryWriter(str(self._out / "tensorboard"), purge_step=entry["epoch"])
        for name, value in entry.items():
            if name != "epoch" and value is not None:
                self._log.add_scalar(name.replace("_", "/", 1), value, entry["epoch"])
        self._log.flush()

    @torch.no_grad()
    def _output(self, checkpoint: Checkpoint) -> NDArray[np.float32]:
        """Return the answer to the sample, float32 (values,), as the checkpoint's readers will compute it."""
        planes = normalize(self._sample[np.newaxis], self._card.preprocess)
        if checkpoint.card.precision == "int8":
            of_codes: NDArray[np.float32] = reference.run(checkpoint, planes)[0]
            return of_codes
        load_tensors(self._prover, checkpoint.tensors)
        outputs = self._prover(torch.from_numpy(planes))
        maps = outputs if isinstance(outputs, tuple) else (outputs,)
        return np.concatenate([each.numpy().ravel() for each in maps])


def metrics_of(entry: Mapping[str, Any], data: Data) -> tuple[Metric, ...]:
    """Return what was measured in an epoch, for the card."""
    named = ("top1", "top5", "map", "map_50", "loss")
    return tuple(
        Metric(name, entry[f"val_{name}"], data.name, len(data.val))
        for name in named
        if entry.get(f"val_{name}") is not None
    )


def write_curves(out: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the curves."""
    return write_atomically(out / "curves.png", draw_curves(history))


def write_page(
    out: Path,
    report: Report,
    judged: Judged,
    data: Data,
    history: Sequence[Mapping[str, Any]],
    decisions: Decisions,
) -> list[Path]:
    """Write report.html: curves, confusion matrix, classes, the most confidently wrong pictures, recipe, command.

    The report's numbers are in report.json, for programs.
    """
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
    page = write_report(
        out / "report.html",
        report,
        history=history,
        wrong=wrong,
        recipe=decisions.recipe.to_json(),
        command=f"{decisions.request.command} --out {shlex.quote(str(out))}",
        machine={**describe_machine(), "computed as": str(decisions.speed), "threads": decisions.threads},
    )
    write_atomically(out / "report.json", json.dumps(report.to_json()) + "\n")
    return [page]
