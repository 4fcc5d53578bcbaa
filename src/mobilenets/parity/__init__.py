"""The gate: does a file compute what it was made from? Both are run on the same pictures, and compared.

What is meant is said by `mobilenets.engine.reference`, and for the stored sample by the checkpoint itself. Nothing that
fails here is kept, and the message names the operation that is at fault, where the runtime shows what is inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets.engine import reference
from mobilenets.engine.quantized import dequantize, quantizations, quantize
from mobilenets.errors import InputError, MobileNetsError, ParityError
from mobilenets.image.decode import SUFFIXES, decode
from mobilenets.image.drawn import pictures as draw
from mobilenets.image.preprocess import fit, normalize
from mobilenets.parity.comparison import (
    CLEAR,
    TOLERANCES,
    Fitted,
    Logits,
    Parity,
    Tolerance,
    compare,
    compare_answers,
)

if TYPE_CHECKING:
    from mobilenets.arch import Op
    from mobilenets.checkpoint import Card, Checkpoint
    from mobilenets.runtime import Predictor

__all__ = [
    "CLEAR",
    "TOLERANCES",
    "Fitted",
    "Logits",
    "Parity",
    "Shown",
    "Tolerance",
    "answers",
    "compare",
    "compare_answers",
    "first_difference",
    "meaning",
    "pictures_for",
    "prove",
    "with_facts",
]

DRAWN = 8
"""Pictures compared where none are given."""

BY_REFERENCE = 8
"""Of more pictures than this, a float network's other answers come from torch, where it is installed: it is faster."""

BATCH = 16

AT_FAULT = {"float32": 1e-4, "int8": 1.5}
"""An operation is at fault that is off by more, given the file's own inputs to it.

For float32 a share of the range of its values, some hundred times float32's own rounding; for int8 in steps of 8 bits,
of which runtimes are off by one.
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures to compare on, uint8 (N, height, width, C) as `image.fit` leaves them, and what to call them."""

    name: str
    fitted: Fitted


def pictures_for(card: Card, data: str | None, images: int, seed: int = 0) -> Shown:
    """Return pictures to compare on, fitted to the card.

    Args:
        card: says how pictures are fitted.
        data: any data set that `open_data` opens, its labels do not matter; or a folder with nothing but pictures.
            What cannot be read is passed over. None takes drawn pictures.
        images: how many at most, spread over the classes.
        seed: decides which.

    Raises:
        InputError: the data cannot be opened, or nothing in it can be read.
    """
    if data is None:
        return Shown("drawn pictures", draw(card.preprocess, min(images, DRAWN)))
    plain = _plain_folder(Path(data).expanduser(), images)
    if plain:
        channels = 1 if card.in_channels == 1 else 3
        name, readers = plain[0].parent.resolve().name, [partial(decode, path, channels=channels) for path in plain]
    else:
        from mobilenets.data import open_data
        from mobilenets.data.split import spread_sample

        opened = open_data(data)
        whole, name = opened.everything, opened.name
        readers = [partial(whole.picture, int(index)) for index in spread_sample(whole.targets, images, seed)]
    fitted, problem = [], ""
    for read in readers:
        try:
            fitted.append(fit(read(), card.preprocess))
        except InputError as error:
            problem = str(error)
    if not fitted:
        raise InputError(f"{data}: none of its pictures can be read: {problem}")
    return Shown(name, np.stack(fitted))


def meaning(checkpoint: Checkpoint, fitted: Fitted) -> Logits:
    """Return the answers that are meant, float32 (N, values), for pictures uint8 (N, height, width, C)."""
    from mobilenets import runtime as runtimes

    by_torch = checkpoint.card.precision == "float32" and runtimes.RUNTIMES["torch"].installed
    first = fitted[:BY_REFERENCE] if by_torch else fitted
    parts = []
    for name, part in (("reference", first), ("torch", fitted[len(first) :])):
        if len(part):
            with closing(runtimes.load(checkpoint, name)) as predictor:
                parts.append(answers(predictor, part))
    return np.concatenate(parts)


def answers(predictor: Predictor, fitted: Fitted) -> Logits:
    """Return a predictor's answers, float32 (N, values), to pictures uint8 (N, height, width, C)."""
    from mobilenets.data.scan import followed
    from mobilenets.runtime import feed

    starts = followed(range(0, len(fitted), BATCH), "comparing pictures")
    batches = (list(fitted[start : start + BATCH]) for start in starts)
    return np.concatenate([reference.flat(feed.outputs_of(predictor, batch)) for batch in batches])


def prove(
    checkpoint: Checkpoint,
    path: Path,
    shown: Shown,
    *,
    tolerance: Tolerance | None = None,
    threads: int | None = None,
    run: Callable[[Path, Fitted], Logits] | None = None,
) -> tuple[Parity, Logits]:
    """Load an exported file back by its own runtime, and compare it with the checkpoint it was made from.

    Args:
        checkpoint: what the file was made from.
        path: the file; its ending says which runtime it is for.
        shown: pictures; the checkpoint's stored sample is compared beside them, with its stored output.
        tolerance: what is let through; None takes that of the checkpoint's precision.
        threads: how many the runtime may use.
        run: runs the file on pictures uint8 (N, height, width, C) where that is not for the runtime of its ending.

    Returns:
        How far apart they are, and the file's logits, float32 (N, classes), the sample's first.

    Raises:
        ParityError: it does not compute the same; says how much differs and, where that can be seen, which operation.
        CheckpointError: the runtime does not open the file.
    """
    from mobilenets import runtime as runtimes

    precision = checkpoint.card.precision
    tolerance = tolerance or TOLERANCES[precision]
    expected = meaning(checkpoint, shown.fitted)
    fitted = shown.fitted
    if checkpoint.sample is not None:
        picture, output = checkpoint.sample
        fitted, expected = np.concatenate([picture[np.newaxis], fitted]), np.concatenate([output[np.newaxis], expected])
    if run is None:
        with closing(runtimes.load(path, threads=threads)) as predictor:
            measured = answers(predictor, fitted)
    else:
        measured = run(path, fitted)
    if measured.shape != expected.shape:
        raise ParityError(f"{path.name}: it gives logits {measured.shape} where {expected.shape} are meant")
    parity = compare_answers(checkpoint.card.plan, expected, measured, clear=CLEAR[precision])
    objection = parity.objection(tolerance)
    if objection is None:
        return parity, measured
    worst = int(np.nan_to_num(np.abs(measured - expected), nan=np.inf).max(1).argmax())
    culprit = _culprit(checkpoint, path, fitted[worst : worst + 1])
    where = "" if culprit is None else f"; {culprit}"
    raise ParityError(f"{path.name} does not compute what it was made from: {objection}{where}; nothing was written")


def with_facts(card: Card, parity: Parity, shown: Shown, what: str, by: str) -> Card:
    """Return the card of what was made ("exported for onnx"), with what was measured of it, run `by` some runtime."""
    from mobilenets.checkpoint import Metric

    on = f"{shown.name}, this file against its checkpoint"  # no data set's own name: it was not trained on
    facts = {
        "max_abs_error": parity.max_abs_error,
        "relative_error": parity.relative_error,
        "top1_agreement": parity.top1_agreement,
    }
    metrics = tuple(Metric(name, value, on, parity.images) for name, value in facts.items())
    note = f"{what}, compared with its checkpoint by {by}"
    return replace(card, metrics=(*card.metrics, *metrics), notes=(*card.notes, note))


@dataclass(frozen=True, slots=True)
class Difference:
    """An operation of a file, and how far its output is from what its own inputs should give.

    `error` is a share of the range of its values for float32, and in steps of 8 bits for int8.
    """

    op: str
    error: float
    at_fault: bool


def first_difference(
    checkpoint: Checkpoint, traced: Mapping[str, npt.NDArray[np.float32]], batch: npt.NDArray[np.float32]
) -> Difference | None:
    """Find the first operation of a file that computes something else than the reference does.

    Each is given the file's own inputs, as far as these were traced, so that an error is found where it arises and not
    where it has grown. Where no operation is at fault, the one that differs most is returned; None where nothing can be
    compared.

    Args:
        checkpoint: what the file was made from.
        traced: outputs of operations in the file, by name, float32 (N, C, H, W).
        batch: the pictures they were traced with, normalized, float32 (N, C, H, W).
    """
    by = reference.arithmetic(checkpoint)
    codes = quantizations(checkpoint)
    known: dict[str, npt.NDArray[Any]] = {"input": by.enter(batch)}
    largest: Difference | None = None
    for op in checkpoint.card.plan.ops:
        meant = by.compute(op, *(known[source] for source in op.sources))
        known[op.name] = meant
        if op.name not in traced:
            continue
        found = traced[op.name]
        if found.size != meant.size:
            return Difference(op.name, float("inf"), at_fault=True)
        found = found.reshape(meant.shape)
        step = codes.get(op.name)
        if step is None:
            error = _largest(found - meant) / max(float(np.ptp(meant)), 1e-30)
            known[op.name] = found.astype(meant.dtype)
        else:
            error = _largest(found - dequantize(meant, step)) / step.scale
            known[op.name] = quantize(np.nan_to_num(found), step)
        difference = Difference(op.name, error, at_fault=error > AT_FAULT[checkpoint.card.precision])
        if difference.at_fault:
            return difference
        if largest is None or error > largest.error:
            largest = difference
    return largest


def _largest(difference: npt.NDArray[np.floating]) -> float:
    return float(np.nan_to_num(np.abs(difference), nan=np.inf).max(initial=0.0))


def _culprit(checkpoint: Checkpoint, path: Path, fitted: Fitted) -> str | None:
    """Say which operation differs first on a picture uint8 (1, height, width, C), if that can be seen."""
    from importlib import import_module

    from mobilenets import runtime as runtimes

    name = runtimes.exported(path)
    if name is None:
        return None  # no runtime's own file: nobody shows what is inside
    batch = normalize(fitted, checkpoint.card.preprocess)
    try:
        with closing(runtimes.load(path)) as predictor:
            taken = fitted if predictor.pictures else batch
        traced = import_module(runtimes.RUNTIMES[name].module).trace(path, taken)
    except MobileNetsError:  # what is wrong with the file has been found already
        return None
    found = first_difference(checkpoint, traced, batch)
    if found is None:
        return None
    op = checkpoint.card.plan.op(found.op)
    amount = _amount(found, checkpoint.card.precision)
    if found.at_fault:
        return f"{_described(op)} differs first, {amount}"
    return f"no operation is at fault by itself; {_described(op)} differs most, {amount}"


def _amount(difference: Difference, precision: str) -> str:
    if not np.isfinite(difference.error):
        return "wholly"
    if precision == "int8":
        return f"by {difference.error:.3g} steps of 8 bits"
    return f"by {100 * difference.error:.2g} % of its range"


def _described(op: Op) -> str:
    kind = "depthwise conv" if op.depthwise else op.kind
    return f"{op.name} ({kind}{f' {op.kernel}x{op.kernel}' if op.kernel > 1 else ''})"


def _plain_folder(path: Path, images: int) -> list[Path]:
    """Return pictures that lie directly in a folder, spread over it; none where it has no such, or is a data set."""
    if not path.is_dir() or (path / "labels.csv").is_file():
        return []
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and each.name[0] != ".")
    if len(found) <= images:
        return found
    return [found[index] for index in np.linspace(0, len(found) - 1, images).round().astype(int)]
