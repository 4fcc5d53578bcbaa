"""Overlaps and suppression, beside torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mobilenets.image.boxes import BLOCK, class_nms, clip, iou, nms

SETTINGS = settings(max_examples=60, deadline=None)


def drawn(random: np.random.Generator, count: int, *, side: int = 40, grid: bool = False) -> np.ndarray:
    corners = random.uniform(0, side, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, side / 2, (count, 2))], axis=1)
    return (np.rint(boxes) if grid else boxes).astype(np.float32)


def torch_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    import torch
    from torchvision import ops

    kept: np.ndarray = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()
    return kept


@SETTINGS
@given(st.integers(0, 10_000), st.integers(0, 700), st.floats(0, 1), st.booleans())
def test_nms_is_torchvisions(seed: int, count: int, threshold: float, grid: bool) -> None:
    """Also for boxes without area, equal boxes and equal scores, which whole pixels and few levels bring about."""
    random = np.random.default_rng(seed)
    boxes = drawn(random, count, grid=grid)
    drawn_scores = random.uniform(size=count)
    scores: np.ndarray = (np.rint(drawn_scores * 20) / 20 if grid else drawn_scores).astype(np.float32)
    assert nms(boxes, scores, threshold).tolist() == torch_nms(boxes, scores, threshold).tolist()


@SETTINGS
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=st.floats(0, 50, width=16)),
    st.sampled_from([0.3, 0.5]),
)
def test_nms_is_torchvisions_on_whatever_is_called_a_box(corners: np.ndarray, threshold: float) -> None:
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    scores = np.linspace(1, 0, len(boxes), dtype=np.float32)
    assert nms(boxes, scores, threshold).tolist() == torch_nms(boxes, scores, threshold).tolist()


@SETTINGS
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_iou_is_torchvisions(seed: int, count: int) -> None:
    import torch
    from torchvision import ops

    random = np.random.default_rng(seed)
    first, second = drawn(random, count), drawn(random, 7)
    theirs = ops.box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(iou(first, second), theirs, rtol=1e-6)


@SETTINGS
@given(st.integers(0, 10_000), st.integers(0, 900), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 30)))
def test_classes_do_not_suppress_each_other(seed: int, count: int, most: int, candidates: int | None) -> None:
    """Each class by itself through torchvision, its highest scores alone, then all of them by score."""
    random = np.random.default_rng(seed)
    boxes, scores = drawn(random, count), random.permutation(count).astype(np.float32)
    classes = random.integers(0, 5, count)
    expected: list[int] = []
    for number in range(5):
        members = np.flatnonzero(classes == number)
        members = members[np.argsort(-scores[members])][:candidates]
        expected += members[torch_nms(boxes[members], scores[members], 0.4)].tolist()
    expected.sort(key=lambda index: -scores[index])
    found = class_nms(boxes, scores, classes, 0.4, most=most, most_candidates=candidates)
    assert found.tolist() == expected[:most]
    assert class_nms(boxes, scores, classes, 0.4, most_candidates=candidates).tolist() == expected


def test_many_candidates_are_as_few() -> None:
    """Where only the best are wanted, the others need not be sorted; ties at that edge must not matter."""
    random = np.random.default_rng(3)
    count = 40 * BLOCK
    boxes, scores = drawn(random, count, side=900), (random.integers(0, 40, count) / 40).astype(np.float32)
    whole = torch_nms(boxes, scores, 0.5)
    assert nms(boxes, scores, 0.5, most=20).tolist() == whole[:20].tolist()
    assert nms(boxes, scores, 0.5, most=900).tolist() == whole[:900].tolist()


def test_a_box_between_two_others_is_no_longer_in_the_way() -> None:
    """B goes because of A, and so cannot take C along: that is what greedy means."""
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert nms(boxes, scores, 0.4).tolist() == [0, 2]


def test_an_overlap_of_exactly_a_third_is_compared_as_torchvision_does() -> None:
    """A third is larger in float32 than in float64, and so is "above a third" there."""
    boxes, scores = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32), np.array([0.9, 0.8], np.float32)
    for threshold in (1 / 3, 0.3333, 0.3334, float(np.float32(1 / 3))):
        assert nms(boxes, scores, threshold).tolist() == torch_nms(boxes, scores, threshold).tolist()
    assert nms(boxes, scores, 1 / 3).tolist() == [0]


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count: int) -> None:
    boxes, scores = np.zeros((count, 4), np.float32), np.ones(count, np.float32)
    assert nms(boxes, scores, 0.5).tolist() == list(range(count))
    assert class_nms(boxes, scores, np.zeros(count, np.int64), 0.5, most_candidates=1).tolist() == list(range(count))


def test_clipped_boxes_lie_in_the_picture() -> None:
    boxes = np.array([[-5, -1, 3, 700], [10, 20, 30, 40]], np.float32)
    assert clip(boxes, 480, 25).tolist() == [[0, 0, 3, 480], [10, 20, 25, 40]]
