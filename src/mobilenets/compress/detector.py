"""A float32 detector beside its int8 form: anchor by anchor while calibrating, box by box when judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.average_precision import measure_boxes
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress.arithmetic import BATCH, Arithmetic, FloatArithmetic, Int8Arithmetic, run
from mobilenets.compress.judging import fitted
from mobilenets.data import Pictures
from mobilenets.data.boxed import BoxedPictures
from mobilenets.data.scan import followed
from mobilenets.detections import DetectionReport
from mobilenets.engine.folding import folded
from mobilenets.errors import InputError
from mobilenets.image.answers import as_maps, by_anchor
from mobilenets.image.boxes import iou
from mobilenets.image.detection import Decoder, Found, on_picture
from mobilenets.image.preprocess import normalize
from mobilenets.metrics import log_softmax

SURE = 0.5
"""Boxes with at least this score are looked for among those of the int8 network."""
ALIKE = 0.5
"""A box is found again by one of its class that overlaps it by more, with at least half the score that is sure."""


def divergence(layout: Plan, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return how far answers (N, values) are from those wanted: a sum over the anchors, the mean over pictures.

    Of every anchor counts the Kullback-Leibler divergence of its classes in nats, and the squared error of its four box
    differences, weighted with how likely float32 takes something to be there.
    """
    (meant_boxes, meant_scores), (boxes, scores) = by_anchor(layout, wanted), by_anchor(layout, found)
    likely, apart = _classes_apart(layout, meant_scores, scores)
    moved = np.square(boxes.astype(np.float64) - meant_boxes).sum(2)
    return max(0.0, float((apart + likely * moved).sum(1).mean()))


def same_objects(layout: Plan, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the share of anchors with the same best class, among those where float32 takes it for an object."""
    meant, said = by_anchor(layout, wanted)[1], by_anchor(layout, found)[1]
    likely, _ = _classes_apart(layout, meant, meant)
    objects = likely >= SURE
    same = meant[:, :, 1:].argmax(2) == said[:, :, 1:].argmax(2)
    still = _classes_apart(layout, said, said)[0] >= SURE
    return float((same & still)[objects].mean()) if objects.any() else float(1 - still.mean())


def _classes_apart(
    layout: Plan, wanted: NDArray[np.float32], found: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for every anchor (N, A) how likely it is an object, and the divergence of its classes in nats."""
    assert layout.arch.detector is not None
    if layout.arch.detector.scores == "sigmoid":
        pairs = [np.stack([each[:, :, 1:], np.zeros_like(each[:, :, 1:])], axis=-1) for each in (wanted, found)]
        meant, said = (log_softmax(pair) for pair in pairs)
        apart = (np.exp(meant) * (meant - said)).sum((2, 3))
        return np.exp(meant[..., 0]).max(2), apart
    meant, said = (log_softmax(each) for each in (wanted, found))
    return 1 - np.exp(meant[:, :, 0]), (np.exp(meant) * (meant - said)).sum(2)


@dataclass(frozen=True, slots=True, eq=False)
class BoxJudgement:
    """What both networks found; None for the reports where the pictures have no boxes.

    agreement: the share of the float32 network's sure boxes that the int8 network finds again, 0..1.
    """

    before: DetectionReport | None
    after: DetectionReport | None
    agreement: float
    images: int
    problems: tuple[str, ...]


def judge_both(real: Checkpoint, quantized: Checkpoint, pictures: Pictures, *, strict: bool = False) -> BoxJudgement:
    """Judge a float32 detector and its int8 form by the same pictures.

    Raises:
        InputError: no picture can be read; with `strict`, any.
    """
    card = real.card
    networks: tuple[tuple[Plan, Arithmetic], ...] = (
        (card.plan, FloatArithmetic(card, folded(real))),
        (quantized.card.plan, Int8Arithmetic(quantized)),
    )
    decoder = Decoder(card.plan)
    everything: tuple[list[Found], list[Found]] = ([], [])
    places: list[int] = []
    problems: list[str] = []
    for start in followed(range(0, len(pictures), BATCH), "judging pictures"):
        part = fitted(pictures, card, range(start, min(start + BATCH, len(pictures))), strict=strict)
        problems += part.problems
        if not part.places:
            continue
        places += part.places
        batch = normalize(part.pictures, card.preprocess)
        for kept, (layout, by) in zip(everything, networks, strict=True):
            found = decoder(as_maps(layout, run(layout, by, batch)))
            kept += [_placed(each, card, pictures, place) for each, place in zip(found, part.places, strict=True)]
    if not places:
        raise InputError(f"none of the {len(pictures)} pictures can be read: {problems[0]}")
    reports: list[DetectionReport | None] = [None, None]
    if isinstance(pictures, BoxedPictures):
        truths = [pictures.truth(place) for place in places]
        reports = [measure_boxes(truths, each, card.labels) for each in everything]
    return BoxJudgement(reports[0], reports[1], found_again(*everything), len(places), tuple(problems))


def found_again(wanted: Sequence[Found], found: Sequence[Found]) -> float:
    """Return the share of sure boxes that are found again; 1 where there are none."""
    again: list[NDArray[np.bool_]] = []
    for meant, said in zip(wanted, found, strict=True):
        sure = meant.take(meant.scores >= SURE)
        near = said.take(said.scores >= SURE / 2)
        alike = (iou(sure.boxes, near.boxes) > ALIKE) & (sure.classes[:, None] == near.classes[None, :])
        again.append(alike.any(1))
    everything = np.concatenate(again)
    return float(everything.mean()) if len(everything) else 1.0


def _placed(found: Found, card: Card, pictures: Pictures, place: int) -> Found:
    """Return boxes in pixels of the picture; where its size is not known beforehand, of the network's input."""
    if not isinstance(pictures, BoxedPictures):
        return found
    return on_picture(found, card.preprocess, *pictures.size(place))
