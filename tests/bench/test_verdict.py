from __future__ import annotations

from mobilenets.bench.configuration import Configuration
from mobilenets.bench.timing import Timing, summarize
from mobilenets.bench.verdict import verdict


def around(ms: float) -> Timing:
    return summarize([ms - 0.02, ms - 0.01, ms, ms + 0.01, ms + 0.02])


def test_the_winner_is_named_for_each_number_of_threads() -> None:
    measured = [
        (Configuration("torch", "float32", 1), around(9.0)),
        (Configuration("onnx", "float32", 1), around(4.0)),
        (Configuration("openvino", "float32", 2), around(2.0)),
    ]
    assert verdict(measured) == (
        "fastest with 1 thread: onnx float32, 4.00 ms; next is torch float32 (9.00 ms), 2.25x that",
        "fastest with 2 threads: openvino float32, 2.00 ms",
    )


def test_a_win_within_the_spread_is_none() -> None:
    measured = [
        (Configuration("onnx", "float32", 1), around(4.0)),
        (Configuration("torch", "float32", 1), around(4.01)),
    ]
    assert verdict(measured)[0].endswith("is so close that another measurement could turn them round")


def test_int8_that_loses_is_said_to_lose() -> None:
    measured = [
        (Configuration("onnx", "float32", 1), around(4.0)),
        (Configuration("onnx", "int8", 1), around(6.0)),
        (Configuration("litert", "float32", 1), around(8.0)),
        (Configuration("litert", "int8", 1), around(5.0)),
    ]
    sentences = verdict(measured)
    assert "int8 loses: onnx with 1 thread takes 6.00 ms in int8 and 4.00 ms in float32" in sentences
    assert not any("litert with 1 thread takes" in sentence for sentence in sentences)
    assert sentences[-1] == (
        "with 1 thread the fastest int8 (litert, 5.00 ms) is behind the fastest without it (onnx, 4.00 ms)"
    )


def test_int8_that_wins_needs_no_sentence_of_its_own() -> None:
    measured = [(Configuration("onnx", "float32", 1), around(4.0)), (Configuration("onnx", "int8", 1), around(2.0))]
    assert verdict(measured) == (
        "fastest with 1 thread: onnx int8, 2.00 ms; next is onnx float32 (4.00 ms), 2.00x that",
    )


def test_nothing_measured_is_nothing_said() -> None:
    assert verdict([]) == ()
