from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mobilenets import metrics


def test_softmax_survives_large_logits_and_sums_to_one() -> None:
    probabilities = metrics.softmax(np.array([[1e4, 1e4 - 1, -1e4], [0.0, 0.0, 0.0]], np.float32))
    assert probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert probabilities[0] == pytest.approx([1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1)), 0])


def test_softmax_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(0, 4, (5, 7))
    np.testing.assert_allclose(metrics.softmax(logits), torch.softmax(torch.from_numpy(logits), 1).numpy(), rtol=1e-12)


def test_judged_by_hand() -> None:
    judged = metrics.judge(np.log([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), [0, 1, 2])
    assert judged.predicted.tolist() == [0, 2, 0]
    assert judged.rank.tolist() == [0, 1, 2]
    assert judged.score == pytest.approx([0.7, 0.7, 0.5])
    assert judged.loss == pytest.approx(-np.log([0.7, 0.2, 0.2]))
    assert metrics.top_k(judged, 1) == pytest.approx(1 / 3)
    assert metrics.top_k(judged, 2) == pytest.approx(2 / 3)
    assert metrics.top_k(judged, 5) == 1


def test_constant_logits_are_right_for_the_first_class_alone() -> None:
    judged = metrics.judge(np.zeros((4, 4)), [0, 1, 2, 3])
    assert judged.rank.tolist() == [0, 1, 2, 3]
    assert metrics.top_k(judged, 1) == 0.25


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_overflowed_network_is_wrong_about_every_class(bad: float) -> None:
    judged = metrics.judge(np.array([[bad, bad, 0.0]] * 3 + [[5.0, 0.0, 0.0]]), [0, 1, 2, 0])
    assert judged.rank.tolist() == [3, 3, 3, 0]
    assert metrics.top_k(judged, 3) == 0.25
    assert np.isnan(judged.loss[:3]).all()


def test_masked_logits_are_allowed() -> None:
    judged = metrics.judge(np.array([[-np.inf, 1.0]]), [0])
    assert judged.rank.tolist() == [1]
    assert judged.loss.tolist() == [np.inf]


@pytest.mark.parametrize(
    ("logits", "targets"),
    [(np.zeros((2, 3)), [0]), (np.zeros(3), [0]), (np.zeros((1, 3)), [3]), (np.zeros((1, 3)), [-1])],
)
def test_logits_and_targets_that_disagree_are_refused(logits: np.ndarray, targets: list[int]) -> None:
    with pytest.raises(ValueError, match="targets"):
        metrics.judge(logits, targets)


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 6)), elements=st.sampled_from([-3.0, 0.0, 0.5, 2.0])
    ),
    st.data(),
)
def test_rank_is_the_place_among_the_best_classes(logits: np.ndarray, data: st.DataObject) -> None:
    classes = logits.shape[1]
    targets = data.draw(arrays(np.int64, len(logits), elements=st.integers(0, classes - 1)))
    judged = metrics.judge(logits, targets)
    order = metrics.best_classes(logits, classes)
    assert [row.tolist().index(target) for row, target in zip(order, targets, strict=True)] == judged.rank.tolist()
    assert order[:, 0].tolist() == judged.predicted.tolist()
    assert np.all((judged.score > 0) & (judged.score <= 1) & (judged.loss >= 0))


def test_joined_batches_measure_as_one() -> None:
    random = np.random.default_rng(1)
    logits, targets = random.normal(size=(50, 4)), random.integers(0, 4, 50)
    whole = metrics.measure(metrics.judge(logits, targets), "abcd")
    parts = metrics.join([metrics.judge(logits[i : i + 7], targets[i : i + 7]) for i in range(0, 50, 7)])
    assert metrics.measure(parts, "abcd") == whole


def test_class_reports_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(2)
    targets, predicted = random.integers(0, 7, 300), random.integers(0, 8, 300)  # 7 has no picture, 8 is never said
    labels = [str(index) for index in range(9)]
    confusion = metrics.confusion_matrix(targets, predicted, 9)
    np.testing.assert_array_equal(confusion, sklearn.confusion_matrix(targets, predicted, labels=range(9)))
    expected = sklearn.precision_recall_fscore_support(targets, predicted, labels=range(9), zero_division=0)
    rows = metrics.class_reports(confusion, labels)
    np.testing.assert_allclose(
        [[r.precision, r.recall, r.f1, r.images] for r in rows], np.transpose(expected), rtol=1e-12
    )


def test_measure_counts_every_picture_once() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]] * 9
    report = metrics.measure(metrics.judge(logits, [0, 1, 2, 2]), ["a", "b", "c"], problems=["one file is empty"])
    assert (report.images, report.top1, report.top5) == (4, 0.75, 1.0)
    assert report.confusion == ((1, 0, 0), (0, 1, 0), (0, 1, 1))
    assert report.problems == ("one file is empty",)
    assert [row.recall for row in report.per_class] == [1, 1, 0.5]


def test_nothing_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        metrics.measure(metrics.join([]), ["a"])


def test_most_wrong_puts_the_most_confident_first() -> None:
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    judged = metrics.judge(logits, [0, 1, 0, 0])
    assert metrics.most_wrong(judged, 5) == [2, 3, 1]
    assert metrics.most_wrong(judged, 1) == [2]
