"""The `prune` verb: a network without the channels that say nothing, computing the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.errors import CheckpointError, InputError, needing
from mobilenets.files import need_folder
from mobilenets.text import percent, printable, table

if TYPE_CHECKING:
    from mobilenets.checkpoint import Card, Checkpoint


@dataclass(frozen=True)
class Removed:
    """Count the channels that went from one layer: `proved` to be constant, and merely `silent` on the pictures."""

    name: str
    channels: int  # before
    proved: int
    silent: int

    def to_json(self) -> dict[str, Any]:
        """Return an item of `removed`."""
        return {"name": self.name, "channels": self.channels, "proved": self.proved, "silent": self.silent}


@dataclass(frozen=True)
class PruneResult:
    """Hold what went, what is left, and how much the outputs moved.

    `max_abs_error` is the largest difference of any logit on `images` pictures, both networks computed in float64;
    `top1_agreement` the share of these pictures, 0..1, with the same best class. Where channels went that were silent
    on some pictures, these here are others.
    """

    model: str
    checkpoint: Path
    parameters_before: int
    parameters_after: int
    multiply_adds_before: int
    multiply_adds_after: int
    max_abs_error: float
    top1_agreement: float
    images: int
    measured_on: str
    removed: tuple[Removed, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = (
            ("saved", printable(str(self.checkpoint))),
            ("parameters", _change(self.parameters_before, self.parameters_after)),
            ("multiply-adds", _change(self.multiply_adds_before, self.multiply_adds_after)),
            ("max abs error", f"{self.max_abs_error:.3g} of a logit, on {printable(self.measured_on)}"),
            ("same top-1", percent(self.top1_agreement)),
            *(("note", printable(note)) for note in self.notes),
        )
        parts = ["\n".join(f"{name:<13}  {text}" for name, text in lines)]
        if self.removed:
            rows = [[row.name, f"{row.channels:,}", f"{row.proved:,}", f"{row.silent:,}"] for row in self.removed]
            parts.insert(0, table(["layer", "channels", "proved constant", "silent"], rows))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return every field; paths as text."""
        return {
            "model": self.model,
            "checkpoint": str(self.checkpoint),
            "parameters_before": self.parameters_before,
            "parameters_after": self.parameters_after,
            "multiply_adds_before": self.multiply_adds_before,
            "multiply_adds_after": self.multiply_adds_after,
            "max_abs_error": self.max_abs_error,
            "top1_agreement": self.top1_agreement,
            "images": self.images,
            "measured_on": self.measured_on,
            "removed": [row.to_json() for row in self.removed],
            "notes": list(self.notes),
        }


def _change(before: int, after: int) -> str:
    share = f" ({100 * (after - before) / before:.2f} %)" if after != before else ", as before"
    return f"{before:,} -> {after:,}{share}" if after != before else f"{after:,}{share}"


def prune(
    model: str,
    *,
    dead: bool = False,
    silent: bool = False,
    out: Path | None = None,
    data: str | None = None,
    images: int = 128,
    root: Path | None = None,
    seed: int = 0,
) -> PruneResult:
    """Take the dead channels out of a network: fewer parameters, the same outputs.

    With --dead goes what provably never changes, for any picture: a channel that ReLU always sets to 0, a depthwise
    kernel of zeros, whatever nobody reads. Its constant goes into the bias of what reads it. With --silent goes also
    what never changes on some pictures of --data; how far that moves the outputs is measured on other pictures of it.

    The result is an ordinary checkpoint with a table of its own.

    Args:
        model: A float32 checkpoint, or the name of published weights such as efficientnet_lite0.
        dead: Take out what is proved to be dead.
        silent: Take out what is dead on the pictures, too.
        out: The checkpoint to write; MODEL-pruned.safetensors by default.
        data: A folder, a CSV, an .npz, or a known name: pictures to measure on, instead of drawn ones.
        images: How many pictures to look at, and how many others to measure on.
        root: Where mnist, fashion_mnist or cifar10 are.
        seed: Decides which pictures are taken.

    Raises:
        MobileNetsError: one line that names the file or the flag, and the remedy.
    """
    from mobilenets import runtime

    with needing("train"):
        from mobilenets.compress import sample
        from mobilenets.compress.activity import logits, observe
        from mobilenets.compress.dead import without_dead

    _check_flags(dead=dead, silent=silent, data=data, images=images)
    source = runtime.resolve(model)
    if source.card.task == "detection":
        raise InputError(f"{model} finds boxes, and only classifiers are pruned: prune the classifier it is made of")
    if source.card.precision != "float32":
        raise CheckpointError(
            f"{model}: {source.card.precision}: prune the float32 checkpoint that it was made from, then quantize again"
        )
    path = out or _default_path(model)
    need_folder(path.parent)
    fed = source.card.preprocess
    proved = without_dead(source)
    made, looked = proved, 0
    if data is not None and silent:
        seen = sample.taken(data, fed, count=images, seed=seed, root=root)
        looked = len(seen.pictures)
        made = without_dead(proved, {name: each.range for name, each in observe(proved, seen.pictures).items()})
    judged = (
        sample.drawn(fed) if data is None else sample.taken(data, fed, count=images, after=looked, seed=seed, root=root)
    )
    before, after = logits(source, judged.pictures), logits(made, judged.pictures)
    removed = _removed(source.card, proved.card, made.card)
    written = _write(source, made, removed, path, looked)
    return _result(
        model,
        source.card,
        made.card,
        checkpoint=written,
        removed=removed,
        max_abs_error=float(abs(before - after).max()),
        top1_agreement=float((before.argmax(1) == after.argmax(1)).mean()),
        images=len(judged.pictures),
        measured_on=judged.what if not looked else f"{len(judged.pictures):,} other pictures than those looked at",
        notes=(*judged.problems, *_notes(removed, looked)),
    )


def _check_flags(*, dead: bool, silent: bool, data: str | None, images: int) -> None:
    if not dead:
        raise InputError("prune takes out dead channels only: say so with --dead")
    if silent and data is None:
        raise InputError("--silent needs pictures to look at: give some with --data")
    if images < 1:
        raise InputError(f"--images must be 1 or more, not {images}")


def _default_path(model: str) -> Path:
    path = Path(model)
    stem = path.stem if path.suffix == ".safetensors" else path.name  # published names have dots of their own
    return path.with_name(f"{stem}-pruned.safetensors")


def _removed(before: Card, proved: Card, after: Card) -> tuple[Removed, ...]:
    """Return what went from each layer; the operations are the same in all three."""
    rows = []
    for old, first, last in zip(before.plan.ops, proved.plan.ops, after.plan.ops, strict=True):
        if old.kind in ("conv", "linear") and old.out != last.out:
            rows.append(Removed(old.name, old.out[0], old.out[0] - first.out[0], first.out[0] - last.out[0]))
    return tuple(rows)


def _notes(removed: tuple[Removed, ...], looked: int) -> list[str]:
    if not removed:
        return ["nothing is dead: the network is as it was"]
    if any(row.silent for row in removed):
        return [f"silent means: on {looked:,} pictures; another picture may wake such a channel"]
    return ["every removal is proved: the outputs are the same for any picture, but for rounding"]


def _write(source: Checkpoint, made: Checkpoint, removed: tuple[Removed, ...], out: Path, looked: int) -> Path:
    """Write the checkpoint with a card that says what was done, and a sample of its own."""
    import numpy as np

    from mobilenets.checkpoint import save
    from mobilenets.compress.activity import logits
    from mobilenets.compress.sample import drawn

    card = replace(made.card, parent=source.sha256)
    silent = sum(row.silent for row in removed)
    if removed:
        taken_out = f"pruned: {sum(row.proved for row in removed):,} channels of its layers were proved constant"
        seen = f", {silent:,} more were constant on {looked:,} pictures" if silent else ""
        card = replace(card, notes=(*card.notes, taken_out + seen), metrics=() if silent else card.metrics)
    picture = drawn(card.preprocess, 2).pictures[1] if source.sample is None else source.sample[0]
    output = logits(made, picture[np.newaxis])[0].astype(np.float32)
    return save(replace(made, card=card, sha256=None, sample=(picture, output)), out)


def _result(
    model: str,
    before: Card,
    after: Card,
    *,
    checkpoint: Path,
    removed: tuple[Removed, ...],
    max_abs_error: float,
    top1_agreement: float,
    images: int,
    measured_on: str,
    notes: tuple[str, ...],
) -> PruneResult:
    from mobilenets.arch import cost

    costs: Mapping[str, Any] = {"before": cost(before.plan), "after": cost(after.plan)}
    return PruneResult(
        model=model,
        checkpoint=checkpoint,
        parameters_before=costs["before"].parameters,
        parameters_after=costs["after"].parameters,
        multiply_adds_before=costs["before"].multiply_adds,
        multiply_adds_after=costs["after"].multiply_adds,
        max_abs_error=max_abs_error,
        top1_agreement=top1_agreement,
        images=images,
        measured_on=measured_on,
        removed=removed,
        notes=notes,
    )
