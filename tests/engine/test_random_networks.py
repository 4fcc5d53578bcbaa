"""The compiled engine on networks that nobody designed, against the numpy reference."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mobilenets.arch.mobilenet import Arch, Bneck, Classifier, Conv, InvertedResidual, Pool, Separable, SqueezeExcite
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.choices import Choice, shape
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.kernels import Convolution, Fused, Linear, Pointwise
from mobilenets.engine.library import Target, host
from mobilenets.engine.lowering import Network, lower
from mobilenets.engine.program import Program
from mobilenets.engine.schedules import Machine
from mobilenets.engine.tuning import other
from mobilenets.errors import MissingExtraError
from mobilenets.machine import vector_instructions
from tests.engine.networks import NETWORKS, Drawn, noise, quantized, random_checkpoint

MOST_ERROR = 1e-5  # of the largest value
END = (Pool(), Classifier())


def table(*rows: Conv | Separable | InvertedResidual | Bneck) -> Arch:
    return Arch("odd", "none", (*rows, *END), divisor=1, se=SqueezeExcite(divisor=1), small_image_strides=False)


WINDOWS = table(
    Conv(9, kernel=3),
    InvertedResidual(2, 9, 1, 1, kernel=7),
    InvertedResidual(2, 9, 1, 1, kernel=5),
    Separable(20, kernel=7),
    InvertedResidual(2, 9, 1, 2, kernel=5, se=True),
)
"""Windows larger than the maps that they move over, with and without an expansion, a shortcut, a gate."""
ODD = table(Conv(17, s=2), InvertedResidual(1, 5, 1, 1, se=True), Conv(23, kernel=3), Conv(28, kernel=5))
"""Channels that fill no vector where whole vectors would be read: in front of a window, of a gate, of a mean."""


@contextmanager
def running(network: Network, target: Target, threads: int, folder: Path) -> Iterator[Program]:
    try:
        program = Program(network, target, threads, folder)
    except MissingExtraError as error:
        pytest.skip(str(error))
    with closing(program):
        yield program


def error(program: Program, checkpoint: Checkpoint, batch: npt.NDArray[np.float32]) -> float:
    """Return the largest difference from the reference as a share of the largest value."""
    (expected,) = reference.outputs(checkpoint.card.plan, reference.arithmetic(checkpoint), batch)
    (found,) = program.outputs(program.run(batch))
    value = found[:, : expected.shape[1]].reshape(expected.shape)
    return float(np.abs(value - expected).max() / np.abs(expected).max())


def check_float32(
    checkpoint: Checkpoint,
    target: Target,
    folder: Path,
    *,
    threads: int = 1,
    count: int = 2,
    choices: Mapping[str, Choice] | None = None,
) -> None:
    network = lower(checkpoint.card.plan, folded(checkpoint), target.machine, choices)
    with running(network, target, threads, folder) as program:
        assert error(program, checkpoint, noise(checkpoint, count)) < MOST_ERROR


def check_int8(checkpoint: Checkpoint, target: Target, folder: Path, *, threads: int = 1, count: int = 2) -> None:
    made = quantized(checkpoint, noise(checkpoint, 4, seed=1))
    with running(lower_int8(made.card.plan, made, target.machine), target, threads, folder) as program:
        assert error(program, made, noise(made, count)) == 0


@pytest.mark.parametrize("sides", [(3, 3), (2, 2), (1, 4), (1, 1)])
def test_windows_larger_than_their_maps(sides: tuple[int, int], tmp_path: Path) -> None:
    check_float32(random_checkpoint(WINDOWS, sides), host(), tmp_path)


def test_windows_larger_than_their_maps_in_int8(tmp_path: Path) -> None:
    check_int8(random_checkpoint(WINDOWS, (3, 3)), host(), tmp_path)


def test_windows_over_a_single_column_in_int8(tmp_path: Path) -> None:
    check_int8(random_checkpoint(ODD, (13, 1)), host(), tmp_path)


def test_channels_that_fill_no_vector_are_not_read_on(tmp_path: Path) -> None:
    check_float32(random_checkpoint(ODD, (13, 9)), host(checked=True), tmp_path)


@pytest.fixture(scope="module")
def targets() -> dict[str, Target]:
    """Return this machine, the same with every access checked, and lesser ones that it runs, too."""
    own, module = host(), sys.modules[host.__module__]
    found = {"own": own, "checked": host(checked=True), "avx2": own, "baseline": own}
    for name, instructions in (("avx2", ("avx2", "fma", "f16c")), ("baseline", ())):
        if own.features and set(instructions) <= set(vector_instructions()):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "vector_instructions", lambda those=instructions: those)
                found[name] = host.__wrapped__()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where kernels are compiled to: those of random networks are of no use to anybody else."""
    return tmp_path_factory.mktemp("kernels")


def other_tiles(network: Network, machine: Machine, seed: int) -> dict[str, Choice]:
    """Return tiles as tuning tries them."""
    chance = random.Random(seed)
    tiled = [call.kernel for call in network.calls if isinstance(call.kernel, Fused | Convolution | Linear | Pointwise)]
    return {shape(kernel): other(kernel, machine, chance) for kernel in tiled}


THREADS, COUNTS = st.integers(1, 2), st.integers(1, 3)
TARGETS, TILES = st.sampled_from(("own", "checked", "avx2", "baseline")), st.none() | st.integers(0, 99)
# A smaller example takes as long to compile as a larger one.
LONG = settings(
    deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
)


@pytest.mark.slow
@settings(LONG, max_examples=400)
@given(drawn=NETWORKS, threads=THREADS, count=COUNTS, name=TARGETS, tiles=TILES)
def test_random_networks(
    drawn: Drawn, threads: int, count: int, name: str, tiles: int | None, targets: dict[str, Target], folder: Path
) -> None:
    target, checkpoint = targets[name], random_checkpoint(*drawn)
    # A part of a row that is shorter than a tile is computed with what is before it, which a check takes for a mistake.
    threads = 1 if name == "checked" else threads
    choices: dict[str, Choice] = {}
    if tiles is not None:
        network = lower(checkpoint.card.plan, folded(checkpoint), target.machine)
        choices = other_tiles(network, target.machine, tiles)
    check_float32(checkpoint, target, folder, threads=threads, count=count, choices=choices)


@pytest.mark.slow
@settings(LONG, max_examples=100)
@given(drawn=NETWORKS, threads=THREADS, count=COUNTS, name=TARGETS)
def test_random_networks_in_int8(
    drawn: Drawn, threads: int, count: int, name: str, targets: dict[str, Target], folder: Path
) -> None:
    check_int8(random_checkpoint(*drawn), targets[name], folder, threads=threads, count=count)
