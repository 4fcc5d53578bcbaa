"""Which pictures calibrate and which judge; a float32 network and its int8 form judged side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress.arithmetic import BATCH, FloatArithmetic, Int8Arithmetic, run
from mobilenets.data import Data, Pictures
from mobilenets.data.scan import followed
from mobilenets.data.split import spread_sample
from mobilenets.engine.folding import folded
from mobilenets.errors import InputError
from mobilenets.image.preprocess import fit, normalize
from mobilenets.metrics import Judged, join, judge

SHARE_TO_CALIBRATE = 5
"""Where data has no parts of its own, at most one picture of so many calibrates; all others are judged."""


@dataclass(frozen=True, slots=True, eq=False)
class Divided:
    """Pictures to calibrate on, pictures to judge by, and what to call the latter.

    `standing`: they are a validation part, and not merely what calibration has left.
    """

    calibration: Pictures
    judged: Pictures
    part: str
    standing: bool


def divide(opened: Data, card: Card, images: int, *, seed: int, trained: bool = False) -> Divided:
    """Keep what calibrates apart from what judges.

    Args:
        opened: with a validation part of its own; or else divided as training did, if the card or `trained` says that
            there was one on this data; or else divided here.
        card: of the model.
        images: calibrate on at most so many, spread over the classes, in an order that the seed decides.
        seed: of the division.
        trained: the model was, or is about to be, trained on the data.

    Raises:
        InputError: one of the two would have no picture.
    """
    order = np.random.default_rng(seed)
    if opened.own_val or trained or any(metric.dataset == opened.name for metric in card.metrics):
        if not len(opened.train) or not len(opened.val):
            empty = "validation" if len(opened.train) else "training"
            raise InputError(f"{opened.name}: its {empty} part is empty: it takes pictures of both to quantize")
        sample = spread_sample(opened.train.targets, images, seed)
        part = "the validation part" if opened.own_val else "what training held back"
        return Divided(opened.train.take(order.permutation(sample)), opened.val, part, standing=True)
    whole = opened.everything
    if len(whole) < 2:
        raise InputError(f"{opened.name}: a single picture: it takes some to calibrate and others to judge by")
    sample = spread_sample(whole.targets, min(images, max(1, len(whole) // SHARE_TO_CALIBRATE)), seed)
    others = np.setdiff1d(np.arange(len(whole)), sample)
    part = f"all but the {len(sample):,} that calibrated"
    return Divided(whole.take(order.permutation(sample)), whole.take(others), part, standing=False)


def limited(divided: Divided, limit: int | None, seed: int) -> Divided:
    """Judge by at most so many pictures, spread over the classes."""
    judged = divided.judged
    if limit is None or limit >= len(judged):
        return divided
    part = f"{limit:,} of {len(judged):,}, {divided.part}"
    return Divided(divided.calibration, judged.take(spread_sample(judged.targets, limit, seed)), part, standing=False)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Pictures as `image.fit` leaves them, uint8 (N, H, W, C), their places, and a line for each unreadable one."""

    pictures: NDArray[np.uint8]
    places: tuple[int, ...]
    problems: tuple[str, ...]


def fitted(pictures: Pictures, card: Card, places: range, *, strict: bool) -> Fitted:
    """Read some pictures; what cannot be read is left out, or with `strict` raises its InputError."""
    found: dict[int, NDArray[np.uint8]] = {}
    problems = []
    for place in places:
        try:
            found[place] = fit(pictures.picture(place), card.preprocess)
        except InputError as error:
            if strict:
                raise
            problems.append(f"{error} (skipped)")
    sides = (card.preprocess.height, card.preprocess.width, card.preprocess.channels)
    stacked = np.stack(list(found.values())) if found else np.zeros((0, *sides), np.uint8)
    return Fitted(stacked, tuple(found), tuple(problems))


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What both networks said of the pictures that could be read."""

    before: Judged
    after: Judged
    problems: tuple[str, ...]

    @property
    def agreement(self) -> float:
        """The share of pictures, 0..1, with the same best class."""
        return float((self.before.predicted == self.after.predicted).mean())


def judge_both(real: Checkpoint, quantized: Checkpoint, pictures: Pictures, *, strict: bool = False) -> Judgement:
    """Judge a float32 network and its int8 form by the same pictures.

    Raises:
        InputError: no picture can be read; with `strict`, any.
    """
    card = real.card
    float32, int8 = FloatArithmetic(card, folded(real)), Int8Arithmetic(quantized)
    parts: list[tuple[Judged, Judged]] = []
    problems: list[str] = []
    for start in followed(range(0, len(pictures), BATCH), "judging pictures"):
        part = fitted(pictures, card, range(start, min(start + BATCH, len(pictures))), strict=strict)
        problems += part.problems
        if not part.places:
            continue
        batch = normalize(part.pictures, card.preprocess)
        targets = [pictures.target(place) for place in part.places]
        before, after = run(card.plan, float32, batch), run(quantized.card.plan, int8, batch)
        parts.append((judge(before, targets), judge(after, targets)))
    if not parts:
        raise InputError(f"none of the {len(pictures)} pictures can be read: {problems[0]}")
    return Judgement(join([before for before, _ in parts]), join([after for _, after in parts]), tuple(problems))
