"""Streaming: rings of pixels and whole maps in one arena give what whole maps in any amount of memory give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES, CLASSIFIERS, plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.memory import peak
from mobilenets.engine.streaming import Streaming, run

Networks = Callable[..., Checkpoint]
V2 = plan(ARCHITECTURES["mobilenet_v2"])


def noise(checkpoint: Checkpoint, count: int = 2) -> np.ndarray:
    random = np.random.default_rng(3)
    height, width = checkpoint.card.resolution
    brightness = random.normal(size=(count, checkpoint.card.in_channels, 1, 1))
    pictures: np.ndarray = (brightness + random.normal(size=(count, 3, height, width))).astype(np.float32)
    return pictures


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_int8_is_the_reference_to_the_bit(name: str, random_int8_network: Networks) -> None:
    checkpoint = random_int8_network(name)
    batch = noise(checkpoint)
    np.testing.assert_array_equal(run(checkpoint, batch), reference.run(checkpoint, batch))


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet_a1"])
def test_float32_is_the_reference(name: str, random_network: Networks) -> None:
    checkpoint = random_network(name)
    batch = noise(checkpoint, 1)
    expected = reference.run(checkpoint, batch)
    np.testing.assert_allclose(run(checkpoint, batch), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("pixels", [1, 3, 48])
def test_any_chunk_is_right(pixels: int, random_int8_network: Networks) -> None:
    checkpoint = random_int8_network("mobilenet_v2", padding="same")
    batch = noise(checkpoint, 1)
    np.testing.assert_array_equal(run(checkpoint, batch, pixels), reference.run(checkpoint, batch))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_nothing_is_computed_twice_and_rows_are_taken_when_due(name: str, random_int8_network: Networks) -> None:
    checkpoint = random_int8_network(name)
    layout = checkpoint.card.plan
    times: Counter[tuple[str, int]] = Counter()
    taken: list[int] = []

    def watch(name: str, first: int, last: int) -> None:
        times.update((name, pixel) for pixel in range(first, last))
        if name == "stem":
            taken.append(given)

    given = 0

    def rows() -> object:
        nonlocal given
        for row in noise(checkpoint, 1)[0].transpose(1, 0, 2):
            given += 1
            yield row

    Streaming(checkpoint).run(rows(), watch)  # type: ignore[arg-type]
    assert set(times.values()) == {1}
    for op in layout.ops:
        pixels = prod((op.source_shape if op.kind == "pool" else op.out)[1:])
        assert sum(name == op.name for name, _ in times) == pixels
    assert taken[0] == 2  # the first row of the stem needs rows 0 and 1, for row -1 is padding
    assert taken[-1] == checkpoint.card.resolution[0]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_arena_is_as_planned_to_the_byte(
    precision: str, random_network: Networks, random_int8_network: Networks
) -> None:
    checkpoint = (random_int8_network if precision == "int8" else random_network)("mobilenet_v2")
    streaming = Streaming(checkpoint)
    assert streaming.arena.nbytes == peak(checkpoint.card.plan, precision, "streamed")  # type: ignore[arg-type]
    assert streaming.memory.total == max(each.end for each in streaming.memory.placed)
    streaming.arena[:] = 0xFF  # whatever lies there before: everything that is read was written
    picture = noise(checkpoint, 1)
    logits = streaming.run(picture[0].transpose(1, 0, 2))
    np.testing.assert_array_equal(logits, run(checkpoint, picture)[0])
    np.testing.assert_array_equal(streaming.run(picture[0].transpose(1, 0, 2)), logits)
    assert streaming._kept["stem"].base is not None
    assert all(np.shares_memory(kept, streaming.arena) for kept in streaming._kept.values())


def test_v2_at_224_in_int8_needs_less_than_128_kib() -> None:
    """MCUNetV2 (arXiv:2110.15352, Figure 1) needs 172 KB by patches, part of which it computes twice."""
    assert peak(V2, "int8", "streamed") <= 104 * 1024
