from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mobilenets.arch import CLASSIFIERS
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.arithmetic import Int8Arithmetic
from mobilenets.compress.post_training import Asked, Trial, divergence, logits, quantize_after_training
from mobilenets.compress.sensitivity import layer_errors
from mobilenets.compress.stored import read_back, with_sample
from mobilenets.engine import reference
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize

RandomNetwork = Callable[..., Checkpoint]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_architecture(name: str, random_network: RandomNetwork) -> None:
    checkpoint = random_network(name)
    seen = pictures(checkpoint.card.preprocess, 8)
    made = quantize_after_training(checkpoint, seen, Asked(calibration="minmax", weights="max", bias_correction="on"))
    errors = layer_errors(made.card, made.layers, made.checkpoint, seen)
    assert min(error.own_sqnr_db for error in errors) > 15
    assert len(np.unique(logits(made.checkpoint.card, Int8Arithmetic(made.checkpoint), seen))) > 2
    assert read_back(made.checkpoint).card == made.checkpoint.card


def test_the_best_of_all_ways_is_taken(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    told: list[Trial] = []
    made = quantize_after_training(
        checkpoint, pictures(checkpoint.card.preprocess, 12), Asked(granularity="tensor"), told.append
    )
    assert [trial.way for trial in told] == [trial.way for trial in made.trials]
    assert len({trial.way for trial in told}) == len(told) >= 7
    assert {trial.way.equalization for trial in told} == {"exact", "loose", "relu"}
    assert {trial.way.bias_corrected for trial in told} == {True, False}
    chosen = [trial for trial in made.trials if trial.chosen]
    assert len(chosen) == 1
    assert chosen[0].divergence == min(trial.divergence for trial in told)
    facts = made.checkpoint.card.quantization
    assert facts is not None
    assert facts["calibration"] == chosen[0].way.calibration
    assert facts["granularity"] == "tensor"
    assert facts["calibration_images"] == 9
    assert made.checkpoint.card.arch == made.card.arch
    assert (made.card.arch.activation == "relu") == (chosen[0].way.equalization == "relu")


def test_what_is_settled_is_not_tried(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    asked = Asked("channel", "percentile-99.9", "off", "off", "mse")
    made = quantize_after_training(checkpoint, pictures(checkpoint.card.preprocess, 4), asked)
    assert len(made.trials) == 1
    way = made.trials[0].way
    assert (way.calibration, way.equalization, way.bias_corrected, way.weights) == (
        "percentile-99.9",
        "off",
        False,
        "mse",
    )


def test_the_stored_sample_is_the_references(random_network: RandomNetwork) -> None:
    checkpoint = random_network("mobilenet_v2")
    asked = Asked(calibration="minmax", weights="max", equalization="off", bias_correction="off")
    made = quantize_after_training(checkpoint, pictures(checkpoint.card.preprocess, 4), asked)
    stored = with_sample(made.checkpoint, checkpoint)
    assert stored.sample is not None
    batch = normalize(stored.sample[0][np.newaxis], stored.card.preprocess)
    assert np.array_equal(reference.run(made.checkpoint, batch)[0], stored.sample[1])


def test_divergence() -> None:
    wanted = np.log(np.array([[0.5, 0.5]], np.float32))
    found = np.log(np.array([[0.25, 0.75]], np.float32))
    assert divergence(wanted, found) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
    assert divergence(wanted, wanted + 3) == pytest.approx(0, abs=1e-9)
