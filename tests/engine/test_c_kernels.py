"""Kernels in C against numpy and the reference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mobilenets.arch.mobilenet import Activation, Arch, Classifier, Conv, InvertedResidual, Pool
from mobilenets.engine import packing, reference
from mobilenets.engine.c_kernels import LANES, in_c
from mobilenets.engine.choices import choice, shape
from mobilenets.engine.folding import folded
from mobilenets.engine.kernels import Dense, Fused, Pointwise, Tile, Window
from mobilenets.engine.library import host
from mobilenets.engine.lowering import INPUT, Axis, Call, Network, View, flat, lower
from mobilenets.engine.program import Program
from mobilenets.engine.quantized import activated
from mobilenets.engine.schedules import Machine
from tests.engine.networks import noise, random_checkpoint

WIDE = Machine(LANES, 32)


@dataclass(frozen=True)
class Case:
    pixels: int
    channels: int
    out: int
    tile: Tile
    activation: Activation | None = None
    add: bool = False
    mean: bool = False
    threads: int = 1

    @property
    def kernel(self) -> Pointwise:
        dense = Dense(self.out, Window(), self.activation, self.tile)
        return Pointwise(self.pixels, self.channels, dense, add=self.add, mean=self.mean)


@pytest.mark.parametrize(
    "case",
    [
        Case(49, 24, 80, Tile(48, 7)),  # fewer vectors in the last block
        Case(49, 31, 64, Tile(32, 10), "relu6", threads=4),  # channels and pixels that nothing divides
        Case(5, 3, 16, Tile(16, 16), "relu"),  # fewer pixels than a tile has
        Case(20, 32, 32, Tile(32, 13), add=True, threads=2),
        Case(49, 40, 96, Tile(32, 7), "hard_swish", mean=True, threads=2),
        Case(12, 6, 70, Tile(48, 4), "relu6", mean=True),  # a mean's channels are filled up
    ],
    ids=str,
)
def test_answers_are_those_of_numpy(case: Case) -> None:
    target, kernel = host(), case.kernel
    if not in_c(kernel, target.machine):
        pytest.skip("this processor's kernels are Halide's")
    chance = np.random.default_rng(0)
    picture = chance.normal(size=(case.pixels, case.channels)).astype(np.float32)
    weight = chance.normal(size=(case.out, case.channels, 1, 1)).astype(np.float32)
    bias = chance.normal(size=case.out).astype(np.float32)
    dense = kernel.dense
    source = flat(INPUT, case.channels, case.pixels)
    packed = (packing.dense(weight, dense, case.channels), packing.bias(bias, dense.padded, dense.tile.block))
    if case.mean:
        out = View("out", (dense.tile.block, dense.blocks), (1, dense.tile.block))
        axis, size = Axis(1, dense.blocks), dense.padded
    else:
        out, size = flat("out", case.out, case.pixels), case.out * case.pixels
        axis = Axis(1, case.pixels, min(dense.tile.pixels, case.pixels))
    # Outputs are (channels, columns, rows); where this one lies is all that matters.
    call = Call(kernel, (source, *packed, *([source] if case.add else [])), out, axis)
    network = Network((call,), {INPUT: picture.size, "out": size}, (View("out", (size, 1, 1), (1, size, size)),))
    with closing(Program(network, target, case.threads)) as program:
        (found,) = program.outputs(program.run(picture[np.newaxis]))
    wanted = activated(picture.astype(np.float64) @ weight[:, :, 0, 0].T.astype(np.float64) + bias, case.activation)
    wanted = wanted.mean(axis=0, keepdims=True) if case.mean else wanted + picture if case.add else wanted
    np.testing.assert_allclose(found.reshape(len(wanted), -1)[:, : case.out], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 8, 14])  # of tiles of the depthwise convolution
@pytest.mark.parametrize(
    ("out", "tile"),
    [
        (7, Tile(8, 5)),  # half of a vector, and not all of it
        (24, Tile(24, 8)),  # one and a half
        (21, Tile(16, 3)),  # fewer in the last tile
        (40, Tile(16, 14)),  # half of a vector in the last tile
        (61, Tile(32, 6)),  # two vectors in the last tile
        (9, Tile(32, 16)),  # a tile that is not full
    ],
    ids=str,
)
def test_last_convolutions_in_halves(out: int, tile: Tile, width: int) -> None:
    target = host()
    row = InvertedResidual(6, out, 1, 1 + width % 2, kernel=3 if out % 2 else 5)
    arch = Arch("halves", "none", (Conv(out), row, Pool(), Classifier()), divisor=1, small_image_strides=False)
    checkpoint = random_checkpoint(arch, (18, 19))
    network = lower(checkpoint.card.plan, folded(checkpoint), target.machine)
    [kernel] = (call.kernel for call in network.calls if isinstance(call.kernel, Fused) and call.kernel.last)
    if not in_c(kernel, target.machine):
        pytest.skip("this processor's kernels are Halide's")
    choices = {shape(kernel): replace(choice(kernel), last=tile, pixels=width, rows=1 + out % 3)}
    network = lower(checkpoint.card.plan, folded(checkpoint), target.machine, choices)
    batch = noise(checkpoint, 2)
    (wanted,) = reference.outputs(checkpoint.card.plan, reference.arithmetic(checkpoint), batch)
    with closing(Program(network, target, 1 + out % 2)) as program:
        (found,) = program.outputs(program.run(batch))
    found = found.reshape(2, -1)[:, : wanted.shape[1]].reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_pairs_of_terms_lie_beside_one_another() -> None:
    weight = np.arange(24 * 6, dtype=np.float32).reshape(24, 6)
    dense = Dense(24, Window(), None, Tile(24, 8))
    (packed,) = packing.paired(weight, dense, 6)
    assert packed.shape == (3, 48)
    channels = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, *range(16, 24)]
    for pair in range(3):
        np.testing.assert_array_equal(packed[pair], weight[channels, 2 * pair : 2 * pair + 2].reshape(-1))


def test_what_is_not_in_c() -> None:
    plain = Case(49, 24, 80, Tile(48, 7))
    assert in_c(plain.kernel, WIDE)
    assert not in_c(plain.kernel, Machine(8, 16))
    assert not in_c(Case(49, 24, 81, Tile(48, 7)).kernel, WIDE), "channels that are not whole vectors"
    assert not in_c(Case(49, 24, 80, Tile(48, 7), "sigmoid").kernel, WIDE)
    assert not in_c(Pointwise(49, 24, plain.kernel.dense, gate=True), WIDE)
