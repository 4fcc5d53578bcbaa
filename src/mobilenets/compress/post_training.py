"""Post-training quantization: several ways are tried, and the one whose answers are nearest to float32's is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress import detector
from mobilenets.compress.arithmetic import Arithmetic, FloatArithmetic, Int8Arithmetic, run, split
from mobilenets.compress.bias import corrected, pictures_held
from mobilenets.compress.calibrate import RULES, Rule, ranges
from mobilenets.compress.equalize import Equalization, equalized, pairs, with_relu
from mobilenets.compress.statistics import Pictures, Statistics, observe, observe_channels, observe_means
from mobilenets.engine.folding import Layer, folded
from mobilenets.engine.int8 import Granularity, int8_checkpoint
from mobilenets.image.preprocess import normalize
from mobilenets.metrics import log_softmax
from mobilenets.results import json_number

Switch = Literal["auto", "on", "off"]
Weights = Literal["max", "mse"]
"""Weight scales by the largest weight, or of least squared error."""

HELD_OUT = 4
"""One picture of so many is kept to choose by; the others give the ranges."""
FEWEST_TO_DIVIDE = 8
"""Fewer pictures than this are used for both."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to quantize."""

    calibration: Rule
    equalization: Equalization
    bias_corrected: bool
    weights: Weights


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a way.

    divergence: of the float32 network's answers from this one's: Kullback-Leibler, in nats, the mean over pictures; of
    a detector as `compress.detector` says. agreement: the share of pictures, or of a detector's anchors that see an
    object, with the same best class.
    """

    way: Way
    divergence: float
    agreement: float
    chosen: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return an item of `tried`."""
        return {
            "calibration": self.way.calibration,
            "equalization": self.way.equalization,
            "bias_corrected": self.way.bias_corrected,
            "weights": self.way.weights,
            "divergence": json_number(self.divergence),
            "agreement": self.agreement,
            "chosen": self.chosen,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What is settled beforehand; "auto" is tried."""

    granularity: Granularity = "channel"
    calibration: Rule | Literal["auto"] = "auto"
    equalization: Equalization | Literal["auto"] = "auto"
    bias_correction: Switch = "auto"
    weights: Weights | Literal["auto"] = "auto"


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """The int8 network, the float32 one with the same channels that its layers compare with, and all trials."""

    checkpoint: Checkpoint
    card: Card
    layers: Mapping[str, Layer]
    trials: tuple[Trial, ...]


def quantize_after_training(
    checkpoint: Checkpoint, pictures: Pictures, asked: Asked, tell: Callable[[Trial], None] | None = None
) -> Quantized:
    """Quantize a float32 checkpoint.

    Args:
        checkpoint: float32.
        pictures: to calibrate and to choose by, uint8 (N, H, W, C) in no particular order.
        asked: what is settled.
        tell: called after each trial.
    """
    search = _Search(checkpoint, pictures, asked.granularity, tell)
    first, others = _ways(asked, checkpoint.card)
    search.attempt(first)
    for alternatives in others:
        for changes in alternatives:
            search.attempt(replace(search.best.way, **changes))
    way = search.best.way
    trials = tuple(replace(trial, chosen=trial.way == way) for trial in search.trials)
    made = search.made(way)
    facts = {
        "method": "ptq",
        "calibration": way.calibration,
        "equalization": way.equalization,
        "bias_corrected": way.bias_corrected,
        "weights": way.weights,
        "calibration_images": len(search.seen),
        "divergence": json_number(search.best.divergence),
    }
    card = replace(made.card, quantization={**facts, **(made.card.quantization or {})})
    base = search.base(way.equalization)
    return Quantized(replace(made, card=card), base.card, base.layers, trials)


def _ways(asked: Asked, card: Card) -> tuple[Way, list[list[dict[str, Any]]]]:
    """Return the way to begin with, and what to try in its place: one list of changes for each thing left open."""
    equalizations = _equalizations(asked, card)
    first = Way(
        calibration="mse" if asked.calibration == "auto" else asked.calibration,
        equalization=equalizations[0],
        bias_corrected=asked.bias_correction != "off",
        weights="max" if asked.weights == "auto" else asked.weights,
    )
    others: list[list[dict[str, Any]]] = [[{"equalization": each} for each in equalizations[1:]]]
    if asked.weights == "auto":
        others.append([{"weights": "mse"}])
    if asked.calibration == "auto":
        others.append([{"calibration": rule} for rule in RULES])
    if asked.bias_correction == "auto":
        others.append([{"bias_corrected": False}])
    return first, others


def _equalizations(asked: Asked, card: Card) -> list[Equalization]:
    """Return which to try, the likeliest first.

    Weights per tensor need it; per channel, only activations can gain. What changes the function, which ReLU6 clipping
    later does, costs accuracy of its own, and is tried per tensor alone.
    """
    if not pairs(card.plan):
        return ["off"]
    if asked.equalization != "auto":
        return [asked.equalization]
    if asked.granularity == "channel":
        return ["off", "exact"]
    return ["exact", "loose", "relu"] if with_relu(card.arch) != card.arch else ["exact", "off"]


@dataclass(frozen=True, slots=True, eq=False)
class _Base:
    """A float32 network as one equalization leaves it, and what was seen of it.

    `means` are those of the network as it was, scaled as its channels were: where equalization changes what is
    computed, the biases are corrected for that, too.
    """

    card: Card
    layers: Mapping[str, Layer]
    statistics: Statistics
    means: Mapping[str, NDArray[np.float64]]


class _Search:
    """Tries ways to quantize; what two of them share is computed once."""

    def __init__(
        self, checkpoint: Checkpoint, pictures: Pictures, granularity: Granularity, tell: Callable[[Trial], None] | None
    ) -> None:
        self.card, self.granularity, self.tell = checkpoint.child(), granularity, tell
        self.layers: Mapping[str, Layer] = folded(checkpoint)
        divided = len(pictures) >= FEWEST_TO_DIVIDE
        kept = np.arange(len(pictures)) % HELD_OUT == HELD_OUT - 1
        self.seen: Pictures = pictures[~kept] if divided else pictures
        self.judged: Pictures = pictures[kept] if divided else pictures
        self.wanted = logits(self.card, FloatArithmetic(self.card, self.layers), self.judged)
        held = self.seen[: pictures_held(self.card.plan, len(self.seen))]
        self.means = observe_means(self.card, self.layers, held)
        self.trials: list[Trial] = []
        self._bases: dict[Equalization, _Base] = {}

    @property
    def best(self) -> Trial:
        """The trial of the least divergence; the first of equals."""
        return min(self.trials, key=lambda trial: trial.divergence if np.isfinite(trial.divergence) else np.inf)

    def attempt(self, way: Way) -> None:
        """Quantize one way and see what comes of it, unless it has been tried."""
        if any(trial.way == way for trial in self.trials):
            return
        made = self.made(way)
        found = logits(made.card, Int8Arithmetic(made), self.judged)
        if self.card.arch.detector is None:
            agreement = float((found.argmax(1) == self.wanted.argmax(1)).mean())
            apart = divergence(self.wanted, found)
        else:
            agreement = detector.same_objects(self.card.plan, self.wanted, found)
            apart = detector.divergence(self.card.plan, self.wanted, found)
        self.trials.append(Trial(way, apart, agreement))
        if self.tell is not None:
            self.tell(self.trials[-1])

    def base(self, equalization: Equalization) -> _Base:
        """Return the float32 network to round."""
        if equalization not in self._bases:
            relu = equalization == "relu"
            card = replace(self.card, arch=with_relu(self.card.arch)) if relu else self.card
            layers, means = self.layers, self.means
            if equalization != "off":
                seen = observe_channels(card, layers, self.seen)
                scaled = equalized(card, layers, seen, loose=equalization == "loose")
                layers = scaled.layers
                means = {name: mean * scaled.factors.get(name, 1.0) for name, mean in means.items()}
            self._bases[equalization] = _Base(card, layers, observe(card, layers, self.seen), means)
        return self._bases[equalization]

    def made(self, way: Way) -> Checkpoint:
        """Return the int8 network of a way."""
        base = self.base(way.equalization)
        codes = ranges(base.card, base.statistics, way.calibration)
        made = int8_checkpoint(base.card, base.layers, codes, self.granularity, search=way.weights == "mse")
        if not way.bias_corrected:
            return made
        return corrected(made, base.means, self.seen[: pictures_held(made.card.plan, len(self.seen))])


def logits(card: Card, by: Arithmetic, pictures: Pictures) -> NDArray[np.float32]:
    """Return a network's logits, float32 (N, classes)."""
    layout: Plan = card.plan
    return np.concatenate([run(layout, by, normalize(part, card.preprocess)) for part in split(pictures)])


def divergence(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the mean Kullback-Leibler divergence of found from wanted answers in nats, both logits (N, classes).

    >>> divergence(np.array([[1, 2]], np.float32), np.array([[3, 4]], np.float32))
    0.0
    """
    meant, given = log_softmax(wanted), log_softmax(found)
    return max(0.0, float((np.exp(meant) * (meant - given)).sum(1).mean()))
