"""Who won, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mobilenets.bench.configuration import FLOAT32, INT8, PRECISIONS, Configuration
from mobilenets.bench.timing import Timing

Measured = Sequence[tuple[Configuration, Timing]]


def verdict(measured: Measured) -> tuple[str, ...]:
    """Say who is fastest for each number of threads, and where int8 loses to float32.

    >>> one = Timing(9, 2.0, 1.9, 2.2, 1.95, 2.05)
    >>> two = Timing(9, 3.0, 2.9, 3.2, 2.95, 3.05)
    >>> verdict([(Configuration("onnx", "float32", 1), one), (Configuration("onnx", "int8", 1), two)])[1]
    'int8 loses: onnx with 1 thread takes 3.00 ms in int8 and 2.00 ms in float32'
    """
    sentences: list[str] = []
    for threads in dict.fromkeys(configuration.threads for configuration, _ in measured):
        group = sorted(
            ((each, timing) for each, timing in measured if each.threads == threads), key=lambda pair: pair[1].median_ms
        )
        sentences.append(_fastest(group))
    times = dict(measured)
    sentences += _int8(times)
    return tuple(sentences)


def _fastest(group: Measured) -> str:
    """Name the fastest of a group sorted by its medians, and how far ahead it is."""
    (first, best), *others = group
    sentence = f"fastest with {_threads(first.threads)}: {first.runtime} {first.precision}, {best.median_ms:.2f} ms"
    if not others:
        return sentence
    second, timing = others[0]
    name = f"{second.runtime} {second.precision} ({timing.median_ms:.2f} ms)"
    if best.clearly_faster_than(timing):
        return f"{sentence}; next is {name}, {timing.median_ms / best.median_ms:.2f}x that"
    return f"{sentence}; {name} is so close that another measurement could turn them round"


def _int8(times: Mapping[Configuration, Timing]) -> Iterable[str]:
    for configuration, timing in times.items():
        if configuration.precision != INT8:
            continue
        floats = times.get(Configuration(configuration.runtime, FLOAT32, configuration.threads))
        if floats is None or not floats.clearly_faster_than(timing):
            continue
        who = f"{configuration.runtime} with {_threads(configuration.threads)}"
        yield f"int8 loses: {who} takes {timing.median_ms:.2f} ms in int8 and {floats.median_ms:.2f} ms in float32"
    for threads in dict.fromkeys(configuration.threads for configuration in times):
        best = {
            precision: min(
                (
                    (timing.median_ms, each.runtime)
                    for each, timing in times.items()
                    if each.threads == threads and each.precision == precision
                ),
                default=None,
            )
            for precision in PRECISIONS
        }
        eight, others = best[INT8], [found for name, found in best.items() if name != INT8 and found is not None]
        if eight is not None and others and min(others)[0] < eight[0]:
            yield (
                f"with {_threads(threads)} the fastest int8 ({eight[1]}, {eight[0]:.2f} ms) is behind the fastest "
                f"without it ({min(others)[1]}, {min(others)[0]:.2f} ms)"
            )


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
