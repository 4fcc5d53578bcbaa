"""An arena: nothing that lives together overlaps, and nothing is wasted where that can be known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.engine.arena import Buffer, Placed, arrange, check, lower_bound, occupied, total


@st.composite
def buffer_lists(draw: st.DrawFn) -> list[Buffer]:
    count = draw(st.integers(0, 9))
    buffers: list[Buffer] = []
    for number in range(count):
        first = draw(st.integers(0, 6))
        over = [
            (other.name, draw(st.integers(0, 40))) for other in buffers if other.last == first and draw(st.booleans())
        ]
        last = first + draw(st.integers(0, 3))
        buffers.append(Buffer(f"{number}", draw(st.integers(0, 100)), first, last, tuple(over)))
    return buffers


@settings(max_examples=60, deadline=None)
@given(buffer_lists(), st.sampled_from([1, 4, 64]))
def test_what_lives_together_is_apart(buffers: list[Buffer], align: int) -> None:
    placed = arrange(buffers, align)
    check(placed)
    assert [each.buffer for each in placed] == buffers
    assert all(each.offset % align == 0 for each in placed)
    assert total(placed) <= sum(-(-buffer.bytes // align) * align for buffer in buffers)
    for step in range(10):
        assert occupied(placed, step) <= total(placed)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 500)), min_size=1, max_size=12))
def test_a_chain_of_maps_and_their_scratch_wastes_nothing(sizes: list[tuple[int, int]]) -> None:
    """Each step reads the map before it, writes its own and needs a scratch: nothing better than the worst step."""
    buffers = [Buffer(f"map {step}", size, step, step + 1) for step, (size, _) in enumerate(sizes)]
    buffers += [Buffer(f"scratch {step}", size, step, step) for step, (_, size) in enumerate(sizes)]
    assert total(arrange(buffers)) <= 1.1 * lower_bound(buffers)


def test_written_over_what_is_read() -> None:
    buffers = [Buffer("a", 100, 0, 1), Buffer("b", 100, 1, 2, (("a", 8),)), Buffer("c", 100, 2, 3, (("b", 8),))]
    placed = arrange(buffers)
    assert [each.offset for each in placed] == [16, 8, 0]
    assert total(placed) == 116
    check(placed)


def test_a_step_counts_shared_bytes_once() -> None:
    placed = (
        Placed(Buffer("a", 10, 0, 1), 5),
        Placed(Buffer("b", 10, 1, 1, (("a", 5),)), 0),
        Placed(Buffer("c", 10, 2, 2), 0),
    )
    assert [occupied(placed, step) for step in range(3)] == [10, 15, 10]


def test_an_overlap_is_found() -> None:
    one = Placed(Buffer("a", 10, 0, 1), 0)
    with pytest.raises(AssertionError):
        check([one, Placed(Buffer("b", 10, 1, 1), 9)])
    with pytest.raises(AssertionError):
        check([one, Placed(Buffer("b", 10, 1, 1, (("a", 5),)), 0)])
    check([one, Placed(Buffer("b", 10, 2, 2), 0)])


def test_nothing_needs_nothing() -> None:
    assert total(arrange([])) == 0
