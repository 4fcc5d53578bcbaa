"""The compiled int8 engine against the numpy reference: every answer the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.arch import ARCHITECTURES
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import int8_packing as packing
from mobilenets.engine import reference
from mobilenets.engine.int8_kernels import order, tiles
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import Target, host
from mobilenets.engine.lowering import resized
from mobilenets.engine.program import Program
from mobilenets.engine.quantized import Quantization
from mobilenets.engine.schedules import Machine
from mobilenets.engine.tuning import others, tiled
from mobilenets.errors import MissingExtraError

Networks = Callable[..., Checkpoint]
WITHOUT = ("avx512vnni", "avx512vbmi", "avx512vbmi2")


def assert_exact(
    checkpoint: Checkpoint,
    sides: tuple[int, int],
    threads: int = 1,
    target: Target | None = None,
    count: int = 2,
    changes: int = 0,
) -> None:
    """Compare answers; `changes`: so many times something about the tiles of every kernel is changed first."""
    try:
        target = target or host()
        layout = resized(checkpoint.card.plan, sides)
        network = lower_int8(layout, checkpoint, target.machine)
        chance, tiles_by_shape = Random(0), tiled(network)
        for _ in range(changes):
            tiles_by_shape = others(network, target.machine, chance)
            network = lower_int8(layout, checkpoint, target.machine, tiles_by_shape)
        assert tiled(network) == tiles_by_shape
        program = Program(network, target, threads)
    except MissingExtraError as error:
        pytest.skip(str(error))
    random = np.random.default_rng(3)
    batch = random.normal(size=(count, checkpoint.card.in_channels, *sides)).astype(np.float32)
    expected = reference.outputs(layout, reference.arithmetic(checkpoint), batch)
    with closing(program):
        found = program.outputs(program.run(batch))
    for value, wanted in zip(found, expected, strict=True):
        assert len(np.unique(wanted)) > 3 or min(sides) < 8
        np.testing.assert_array_equal(value[:, : wanted.shape[1]].reshape(wanted.shape), wanted)


@pytest.mark.parametrize(
    ("name", "sides", "threads"),
    [
        ("mobilenet_v2", (53, 39), 1),
        ("mobilenet_v2", (48, 48), 3),
        ("mobilenet_v1", (8, 65), 2),
        ("mobilenet_v3_small", (48, 48), 2),
    ],
)
def test_answers_are_the_references(
    name: str, sides: tuple[int, int], threads: int, random_int8_network: Networks
) -> None:
    assert_exact(random_int8_network(name), sides, threads)


@pytest.mark.parametrize(
    ("name", "sides"),
    [("mobilenet_v2", (53, 39)), pytest.param("mobilenet_v3_small", (48, 48), marks=pytest.mark.slow)],
)
def test_other_tiles_change_no_bit(name: str, sides: tuple[int, int], random_int8_network: Networks) -> None:
    assert_exact(random_int8_network(name), sides, 2, changes=6)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_padding_and_granularity(granularity: str, padding: str, random_int8_network: Networks) -> None:
    assert_exact(random_int8_network("mobilenet_v1", padding=padding, granularity=granularity), (33, 18))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("sides", [(48, 48), (33, 70), (1, 1)])
def test_every_architecture_and_size(name: str, sides: tuple[int, int], random_int8_network: Networks) -> None:
    assert_exact(random_int8_network(name), sides, 2)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(["mobilenet_v2", "mnasnet_a1"]), height=st.integers(1, 120), width=st.integers(1, 120))
def test_random_sizes(name: str, height: int, width: int, random_int8_network: Networks) -> None:
    assert_exact(random_int8_network(name), (height, width))


@pytest.mark.parametrize("channels", [1, 5])
def test_pictures_of_other_channels(channels: int, random_int8_network: Networks) -> None:
    assert_exact(random_int8_network("mobilenet_v1", channels=channels), (33, 18))


def lesser_targets() -> list[Target]:
    """Return targets that this processor runs, too, with fewer instructions."""
    own = host()
    if "sse4.1" not in own.features:
        return [replace(own, features=own.features[:count]) for count in range(len(own.features))]
    avx2 = tuple(name for name in own.features if not name.startswith("avx512"))
    found = [replace(own, features=("sse4.1",), machine=Machine(4, 16))]
    if "avx2" in avx2:
        found.append(replace(own, features=avx2, machine=Machine(8, 16)))
    if "avx512bw" in own.features:
        plain = tuple(name for name in own.features if name not in WITHOUT)
        found.append(replace(own, features=plain))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", lesser_targets(), ids=lambda target: " ".join(target.features[-1:]))
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_processors_without_products_of_bytes(name: str, target: Target, random_int8_network: Networks) -> None:
    assert_exact(random_int8_network(name), (48, 48), 2, target)


@pytest.mark.parametrize("vectors", [1, 2, 9, 63])
@pytest.mark.parametrize("pixels", [1, 7, 56])
def test_tiles_fit_registers(vectors: int, pixels: int) -> None:
    for machine in (Machine(16, 32), Machine(8, 16), Machine(4, 16)):
        count, length = tiles(vectors, pixels, machine)
        assert 1 <= count <= vectors
        assert 1 <= length <= pixels
        assert count * length + count + 1 <= machine.registers


def test_packed_groups_are_all_there_once_and_in_turn() -> None:
    """Four vectors are packed at a time: from each, the next group of four channels."""
    assert order(4)[:5] == [0, 4, 8, 12, 1]
    assert order(6)[16:] == list(range(16, 24))
    for vectors in (3, 4, 9):
        assert sorted(order(vectors)) == list(range(4 * vectors))


def test_only_what_is_clipped_at_both_ends_of_a_byte_saturates() -> None:
    weight, bias = np.full((2, 1, 3, 3), 127, np.int8), np.zeros(2, np.int32)
    factors = np.full(2, 1e-3, np.float32)
    for scale, zero, expected in ((6 / 255, 0, True), (6 / 200, 0, False), (6 / 255, 9, False)):
        assert packing.saturating(weight, bias, factors, packing.coding("relu6", None, Quantization(scale, zero))) is (
            expected
        )
    wide = packing.coding("relu6", None, Quantization(6 / 255, 0))
    assert not packing.saturating(weight, bias, factors * np.float32(1e7), wide)  # beyond what int32 holds
