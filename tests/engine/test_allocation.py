"""The figure that the planner gives is the figure that the engine allocates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import memory
from mobilenets.engine.allocation import Allocation, allocated, allocation
from mobilenets.engine.choices import choices
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import host
from mobilenets.engine.lowering import Network, lower, resized
from mobilenets.engine.prepared import Value, rounded
from mobilenets.engine.preparing import prepare
from mobilenets.engine.program import Program
from mobilenets.engine.schedules import Machine
from mobilenets.errors import MissingExtraError

Precision = Literal["float32", "int8"]
Networks = Callable[..., Checkpoint]
WIDE = Machine(16, 32)
NAMES = (
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("efficientnet_lite0", "ssdlite_mobilenet_v2"),
)


def network_of(checkpoint: Checkpoint, sides: tuple[int, int], machine: Machine) -> Network:
    """Return a network with its own weights and the tiles that the runtime takes."""
    layout, tiles = resized(checkpoint.card.plan, sides), choices(machine)
    if checkpoint.card.precision == "int8":
        return lower_int8(layout, checkpoint, machine, tiles)
    return lower(layout, folded(checkpoint), machine, tiles)


@pytest.fixture(params=["float32", "int8"])
def make(request: pytest.FixtureRequest, random_network: Networks, random_int8_network: Networks) -> Networks:
    return random_int8_network if request.param == "int8" else random_network


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", [(48, 48), (53, 39)])
def test_the_plan_alone_tells_what_a_checkpoint_takes(make: Networks, name: str, sides: tuple[int, int]) -> None:
    """Weights decide nothing: those of the planner are zeros."""
    checkpoint = make(name)
    target = replace(host(), machine=WIDE)
    precision: Precision = "int8" if checkpoint.card.precision == "int8" else "float32"
    planned = allocation(resized(checkpoint.card.plan, sides), precision, WIDE)
    found = prepare(network_of(checkpoint, sides, WIDE), target)
    assert planned == Allocation(found.arena_bytes, found.scratch_bytes)
    assert planned.arena_bytes > 0
    # Nothing in the arena is outside of it.
    views = [each for step in found.steps for each in (*step.arguments, step.out) if isinstance(each, Value)]
    for view in views:
        if view.name in found.offsets:
            size = (1 + sum((e - 1) * s for e, s in zip(view.extents, view.strides, strict=True))) * view.item
            assert found.offsets[view.name] + size <= found.arena_bytes


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_allocates_that_and_kernels_take_it(make: Networks, name: str, threads: int) -> None:
    """One block of memory to the byte; and of the scratch memory, what the most demanding kernel asks for."""
    checkpoint, sides = make(name), (48, 48)
    machine = host().machine
    precision: Precision = "int8" if checkpoint.card.precision == "int8" else "float32"
    planned = allocation(resized(checkpoint.card.plan, sides), precision, machine)
    try:
        program = Program(network_of(checkpoint, sides, machine), host(), threads)
    except MissingExtraError as error:
        pytest.skip(str(error))
    with closing(program):
        assert program.memory.nbytes == planned.bytes(threads)
        expected = rounded(planned.arena_bytes) + max(128, threads * rounded(planned.scratch_bytes))
        assert planned.bytes(threads) == expected
        program.run(np.zeros((1, 3, *sides), np.float32))
        peaks = program._scratch[:, 24:32].copy().view(np.uint64)[:, 0]
        assert peaks.max() == planned.scratch_bytes
        ends = [int(base) + int(size) for base, size in program._scratch[:, :16].copy().view(np.uint64)]
        assert max(ends) <= program.memory.ctypes.data + program.memory.nbytes


def test_kernels_take_what_each_of_them_was_planned(random_int8_network: Networks) -> None:
    """In int8, step by step; in float32 that is tested beside the program."""
    checkpoint, sides, machine = random_int8_network("mobilenet_v2"), (48, 48), host().machine
    network = network_of(checkpoint, sides, machine)
    try:
        program = Program(network, host(), 1)
    except MissingExtraError as error:
        pytest.skip(str(error))
    with closing(program):
        steps, batch = int(program._program[1]), np.zeros((1, 3, *sides), np.float32)
        for index, call in enumerate(network.calls):
            program._program[[1, 4]] = steps + 16 * index, 1  # this step and no other
            program._scratch[0, 24:32] = 0
            program.run(batch)
            taken = int(program._scratch[0, 24:32].view(np.uint64)[0])
            alone = Network((call,), network.sizes, (call.out,))
            assert taken == allocated(alone, machine).scratch_bytes, call.kernel


def test_v2_in_float32_takes_what_fused_blocks_must() -> None:
    """Not a byte more than the planner's: whole vectors are filled, and rings hold three rows."""
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    planned = allocation(layout, "float32", WIDE)
    assert planned == Allocation(1_103_872, 150_528)
    assert planned.bytes(1) == memory.layout(layout, "float32", "fused").total
    block_in, block_out = 112 * 112 * 16 * 4, 56 * 56 * 24 * 4
    assert planned.bytes(1) <= block_in + block_out + 160 * 1024


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_the_engine_takes_less_than_layer_by_layer(name: str, precision: Precision) -> None:
    layout = plan(ARCHITECTURES[name], resolution=320 if name.startswith("ssdlite") else 224)
    taken = allocation(layout, precision, WIDE).bytes(1)
    assert memory.peak(layout, precision, "fused") <= taken
    if name not in ("mobilenet_v1", "mobilenet_v3_small"):  # V1 expands nothing; V3's whole maps are most of it
        assert taken < memory.peak(layout, precision, "layerwise")
