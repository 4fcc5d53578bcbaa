from __future__ import annotations

import io
from itertools import product

import pytest
from PIL import Image

from mobilenets.bench.configuration import PRECISIONS, Configuration
from mobilenets.bench.picture import FARTHEST, _reach, draw_bench
from mobilenets.bench.result import BenchResult, BenchRow
from mobilenets.bench.timing import summarize


def result(rows: tuple[BenchRow, ...]) -> BenchResult:
    return BenchResult("mobilenet_v2", "mobilenet_v2", 1.0, (224, 224), 1, 300_774_272, rows, {"processor": "one"})


def row(runtime: str, precision: str, ms: float) -> BenchRow:
    return BenchRow(Configuration(runtime, precision, 1), summarize([0.9 * ms, ms, 1.2 * ms]))


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("count", [1, 3])
def test_more_rows_make_a_taller_picture(count: int) -> None:
    rows = tuple(row(runtime, precision, 3.0) for runtime, precision in product("abcd"[:count], PRECISIONS))
    width, height = size(draw_bench(result(rows)))
    assert width == round(7.2 * 160)
    assert height == pytest.approx(160 * (0.9 + 0.3 * 3 * (count + 1)), abs=2)


def test_rows_with_errors_are_left_out() -> None:
    broken = BenchRow(Configuration("b", "int8", 1), error="no such kernel")
    timed = (row("a", "float32", 2.0),)
    assert draw_bench(result((*timed, broken))) == draw_bench(result(timed))
    assert size(draw_bench(result((broken,))))[0] > 0


def test_an_outlier_does_not_flatten_the_others() -> None:
    usual = [summarize([2.0])] * 3
    assert _reach([*usual, summarize([5.0])]) == 5.0
    assert _reach([*usual, summarize([500.0])]) == FARTHEST * 2.0
    slow = row("d", "float32", 500.0)
    assert size(draw_bench(result((row("a", "float32", 2.0), row("b", "float32", 2.0), slow))))[1] > 0
