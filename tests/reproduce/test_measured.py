"""What is measured: operators and split blocks. Nothing here judges a time."""

from __future__ import annotations

import pytest
import torch

from mobilenets.arch.cost import multiply_adds
from mobilenets.reproduce import operators, splitting


def test_every_operator_is_timed_once() -> None:
    found = operators.profile("mobilenet_v2", 1, resolution=32, repeats=2)
    assert len(found.ops) == 53  # 52 convolutions and the classifier
    assert sum(len(found.of_kind(kind)) for kind in operators.KINDS) == len(found.ops)
    assert all(timed.milliseconds > 0 for timed in found.ops)
    first = found.ops[0]
    assert first.gigamadds == pytest.approx(multiply_adds(first.op) / first.milliseconds / 1e6)
    assert first.bytes_moved == 4 * (3 * 32 * 32 + 27 * 32 + 2 * 32 + 32 * first.op.out[1] * first.op.out[2])


@pytest.mark.parametrize("name", ["block_2", "block_3"])
@pytest.mark.parametrize("groups", [2, 5, 7])
def test_split_block_is_the_block(name: str, groups: int) -> None:
    block = splitting.block_of_v2(name)
    x = torch.randn(1, block.picture_shape[0], 10, 12)
    with torch.no_grad():
        torch.testing.assert_close(splitting.run(block, x, groups), splitting.run(block, x, 1))


def test_alive_bytes_are_those_of_living_tensors() -> None:
    x = torch.zeros(1000)
    with splitting.AliveBytes(x) as watched:
        assert watched.peak == 4000
        y = x + 1
        z = y * 2
        assert watched.alive == 12000
        del y
        assert watched.alive == 8000
        z.add_(1)  # in place: nothing new
        view = z[:10]  # a view: nothing new
        assert watched.alive == 8000
        del z
        assert watched.alive == 8000  # the view holds the buffer
        del view
        assert watched.alive == 4000
    assert watched.peak == 12000


def test_splitting_keeps_what_the_formula_says() -> None:
    """Whole: no output yet while both inner tensors are there. In few groups: the formula. In many: two outputs."""
    block = splitting.block_of_v2("block_3")
    pixels = 4 * 56 * 56
    assert splitting.peak_bytes(block, 1) == (24 + 144 + 144) * pixels
    assert splitting.peak_bytes(block, 2) == block.predicted_bytes(2) == (24 + 24 + 72 + 72) * pixels
    assert splitting.peak_bytes(block, 9) == (24 + 2 * 24 + 16) * pixels
    assert block.predicted_bytes(9) == (24 + 24 + 2 * 16) * pixels
