from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.calibrate import RULES, Rule, covered, ranges
from mobilenets.compress.statistics import BINS, Values, observe
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import dequantize, quantization, quantize
from mobilenets.image.drawn import pictures


def values_of(numbers: np.ndarray) -> Values:
    low, high = float(numbers.min()), float(numbers.max())
    return Values(low, high, np.histogram(numbers, BINS, (low, high))[0])


def error(numbers: np.ndarray, low: float, high: float) -> float:
    of = quantization(low, high)
    return float(np.square(dequantize(quantize(numbers, of), of) - numbers).sum())


@given(st.integers(0, 2**32 - 1), st.sampled_from(RULES), st.booleans())
def test_a_range_lies_within_what_was_seen(seed: int, rule: Rule, positive: bool) -> None:
    numbers = np.random.default_rng(seed).standard_t(2, 5000)
    values = values_of(np.abs(numbers) if positive else numbers)
    low, high = covered(values, rule)
    assert values.low <= low < high <= values.high


def test_minmax_covers_everything_and_percentiles_all_but_their_tails() -> None:
    numbers = np.random.default_rng(0).normal(size=1_000_000)
    values = values_of(numbers)
    assert covered(values, "minmax") == (values.low, values.high)
    for rule, tail in (("percentile-99.99", 1e-4), ("percentile-99.9", 1e-3)):
        low, high = covered(values, rule)  # type: ignore[arg-type]
        for share in (np.mean(numbers < low), np.mean(numbers > high)):
            assert tail / 2 < share <= tail


def test_mse_clips_an_outlier_that_would_cost_all_others_their_precision() -> None:
    numbers = np.append(np.random.default_rng(0).normal(size=1_000_000), 40.0)
    low, high = covered(values_of(numbers), "mse")
    assert high < 20
    assert error(numbers, low, high) < 0.6 * error(numbers, float(numbers.min()), 40.0)


def test_mse_keeps_what_is_even() -> None:
    numbers = np.random.default_rng(0).uniform(0, 3, 100_000)
    assert covered(values_of(numbers), "mse")[1] == pytest.approx(3, abs=0.1)


def test_no_code_is_spent_where_an_activation_is_flat(random_network: Callable[..., Checkpoint]) -> None:
    checkpoint = random_network("mobilenet_v3_small")
    card, layers = checkpoint.card, folded(checkpoint)
    found = ranges(card, observe(card, layers, pictures(card.preprocess, 4)), "minmax")
    assert all(found[f"{op.name}.before"].low > -3.1 for op in card.plan.ops if op.activation == "hard_swish")
    gates = [found[f"{op.name}.before"] for op in card.plan.ops if op.activation == "hard_sigmoid"]
    assert gates
    assert all(gate.high < 3.1 for gate in gates)


def test_pictures_keep_black_and_white(random_network: Callable[..., Checkpoint]) -> None:
    checkpoint = random_network("mobilenet_v2")
    card = checkpoint.card
    grey = np.full((1, card.preprocess.height, card.preprocess.width, 3), 128, np.uint8)
    found = ranges(card, observe(card, folded(checkpoint), grey), "mse")["input"]
    assert found.low == pytest.approx(-2, abs=0.02)
    assert found.high == pytest.approx(2, abs=0.02)
    relu6 = [op.name for op in card.plan.ops if op.activation == "relu6"]
    every = ranges(card, observe(card, folded(checkpoint), pictures(card.preprocess, 4)), "minmax")
    assert all(every[name].zero_point == 0 and every[name].high <= 6.0001 for name in relu6)
