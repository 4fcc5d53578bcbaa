"""COCO's numbers on findings whose precision is known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mobilenets.average_precision import measure_boxes
from mobilenets.data.annotations import Truth
from mobilenets.image.detection import Found


def truth(*rows: tuple[float, float, float, float, int], crowd: tuple[int, ...] = ()) -> Truth:
    table = np.array(rows, np.float32).reshape(-1, 5)
    boxes = table[:, :4]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Truth(boxes, table[:, 4].astype(np.int64), np.isin(np.arange(len(table)), crowd), areas)


def found(*rows: tuple[float, float, float, float, int, float]) -> Found:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4].astype(np.int64), table[:, 5])


BIG, SMALL = (10, 10, 130, 130), (200, 200, 220, 220)


def test_all_found() -> None:
    report = measure_boxes(
        [truth((*BIG, 0), (*SMALL, 1))], [found((*BIG, 0, 0.9), (*SMALL, 1, 0.8))], ("cat", "dog", "emu")
    )
    assert report.map == report.map_50 == 1
    assert report.metrics["voc_ap_50"] == pytest.approx(1)
    assert report.metrics["map_small"] == report.metrics["map_large"] == 1
    assert report.metrics["map_medium"] is None
    assert report.metrics["ar_100"] == 1
    assert [row.ap for row in report.per_class] == [1, 1, None]
    assert [row.boxes for row in report.per_class] == [1, 1, 0]
    assert (report.images, report.boxes) == (1, 2)
    assert set(report.curves) == {"cat", "dog"}
    assert "mAP .5" in str(report)
    assert report.to_json()["map_50"] == 1


def test_half_found_with_a_false_one_before() -> None:
    """Of two, the second best finding is the first true one: precision 1/2 up to recall 1/2, then none."""
    truths = [truth((*BIG, 0)), truth((*BIG, 0))]
    said = [found((300, 300, 400, 400, 0, 0.9), (*BIG, 0, 0.8)), found()]
    report = measure_boxes(truths, said, ("cat",))
    assert report.map_50 == pytest.approx(0.5 * 51 / 101)  # 51 of the 101 recalls are at most 1/2
    assert report.metrics["voc_ap_50"] == pytest.approx(0.25, abs=1e-3)
    assert report.metrics["ar_100"] == pytest.approx(0.5)


def test_overlap_decides() -> None:
    """A box with an overlap of .7 is right at .5, .55 ... .7 and wrong above."""
    report = measure_boxes([truth((0, 0, 100, 100, 0))], [found((0, 0, 70.5, 100, 0, 0.9))], ("cat",))
    assert report.map_50 == 1
    assert report.metrics["map_75"] == 0
    assert report.map == pytest.approx(0.5)


def test_crowds_neither_count_nor_harm() -> None:
    truths = [truth((*BIG, 0), (200, 200, 400, 400, 0), crowd=(1,))]
    said = [found((210, 210, 240, 240, 0, 0.95), (250, 250, 300, 300, 0, 0.9), (*BIG, 0, 0.5))]
    report = measure_boxes(truths, said, ("cat",))
    assert report.map == 1
    assert report.boxes == 1


def test_nothing_found_at_all() -> None:
    report = measure_boxes([truth((*BIG, 0)), truth()], [found(), found()], ("cat",))
    assert report.map == report.map_50 == 0
    assert report.metrics["voc_ap_50"] == 0
