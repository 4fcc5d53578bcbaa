from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mobilenets.arch import Op
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.arithmetic import Int8Arithmetic, run
from mobilenets.compress.bias import corrected, pictures_held
from mobilenets.compress.calibrate import ranges
from mobilenets.compress.statistics import observe, observe_means
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import int8_checkpoint
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_channels_get_the_means_of_float32(
    name: str, granularity: str, random_network: Callable[..., Checkpoint]
) -> None:
    checkpoint = random_network(name)
    card, layers = checkpoint.card, folded(checkpoint)
    seen = pictures(card.preprocess, 6)
    means = observe_means(card, layers, seen)
    made = int8_checkpoint(card, layers, ranges(card, observe(card, layers, seen), "minmax"), granularity)  # type: ignore[arg-type]
    mended = corrected(made, means, seen)
    before, after = off(made, means, seen), off(mended, means, seen)
    assert after.max() <= 0.51  # units of the bias: it is a whole number
    assert before.mean() > 20 * after.mean()
    assert all(np.array_equal(made.tensors[each], mended.tensors[each]) for each in made.tensors if "bias" not in each)


def off(checkpoint: Checkpoint, means: dict[str, np.ndarray], seen: np.ndarray) -> np.ndarray:
    """Return how far the mean of every channel is from what it should be, in units of its bias."""
    found: list[np.ndarray] = []
    by = Int8Arithmetic(checkpoint)

    def watch(op: Op, before: object, _out: object) -> None:
        if op.name in means:
            unit = checkpoint.tensors[f"{op.name}.weight_scale"] * by.quantizations[op.sources[0]].scale
            mean = np.asarray(before, np.float64).mean((0, 2, 3))
            found.append(np.abs(mean - means[op.name] / unit))

    run(checkpoint.card.plan, by, normalize(seen, checkpoint.card.preprocess), watch)
    return np.concatenate(found)


def test_large_pictures_are_corrected_by_fewer(random_network: Callable[..., Checkpoint]) -> None:
    layout = random_network("mobilenet_v2").card.plan
    assert pictures_held(layout, 100) == 100
    assert pictures_held(layout, 10**9) < 10**6
