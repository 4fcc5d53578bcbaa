"""The `bench` verb: how long a network takes, by every runtime, precision and number of threads, measured fairly."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenets.errors import InputError

if TYPE_CHECKING:
    from mobilenets.bench.result import BenchResult

BUSY = 0.5
"""A load average above this when the measurement begins is noted in the result."""


def bench(
    model: str | None = None,
    *,
    runtimes: str | tuple[str, ...] | None = None,
    precisions: str | tuple[str, ...] | None = None,
    threads: str | int | tuple[int, ...] = 1,
    repeats: int = 50,
    batch: int = 1,
    resolution: int | tuple[int, int] | None = None,
    width: float | None = None,
    per_op: bool = False,
    slowest_first: bool = False,
    out: Path | None = None,
    table: Path | None = None,
    networks: int = 96,
    minutes: float | None = None,
) -> BenchResult:
    """Time a network in every runtime, precision and number of threads, and say which is fastest.

    Each configuration has a process of its own, so that memory and threads are its own; they take turns in rounds, so
    that a disturbance meets all alike. What cannot be run is a row with an error. Times include everything between a
    prepared batch and its logits, and nothing else.

    Args:
        model: An architecture (random weights: speed does not depend on them), published weights, a checkpoint, or an
            exported file.
        runtimes: Names with commas between them, such as torch,onnx. All that are installed by default.
        precisions: Out of float32,bf16,int8. All that can be had by default; where only float32 weights are there, int8
            is quantized on noise, for timing alone.
        threads: Numbers of threads with commas between them, such as 1,2.
        repeats: How often each configuration is run, warm-up apart.
        batch: How many pictures at a time.
        resolution: Of the pictures; the model's by default.
        width: The multiplier of an architecture's channel counts.
        per_op: Time every operation too, beside its multiply-adds and bytes.
        slowest_first: List the operations by their time and not in their order.
        out: A folder for bench.json and the picture bench.png.
        table: A file for a latency table of this device, which mobilenets fit reads here or elsewhere: many small
            measurements, kept as they come, so that an interrupted one goes on. MODEL adds networks like it.
        networks: How many networks a table has, MODEL's apart.
        minutes: Stop filling a table after this long.

    Returns:
        A row for each configuration, the machine, and what others published of this network.

    Raises:
        InputError: an unknown name, or a flag out of range.
        CheckpointError: the model's file is missing or damaged.
        WeightsError: no weights are published under that name, or they cannot be had.
        MissingExtraError: a runtime that was named is not installed.
    """
    from mobilenets.arch.cost import cost
    from mobilenets.bench.configuration import combined, counted, named
    from mobilenets.bench.measure import measure
    from mobilenets.bench.published import published
    from mobilenets.bench.result import BenchResult
    from mobilenets.bench.subject import runtimes_for, subject
    from mobilenets.machine import describe_machine

    counts, kinds = counted(threads), named(precisions)
    _check({"repeats": repeats, "batch": batch, "networks": networks}, kinds)
    busy = load_average()
    if table is not None:
        from mobilenets.bench.tabulation import fill

        layout = None if model is None else subject(model, width=width, resolution=resolution).card.plan
        wanted = (named(runtimes), kinds, counts)
        return fill(table, model, layout, wanted, networks=networks, repeats=repeats, minutes=minutes)
    if model is None:
        raise InputError("name a MODEL to time, or a file for a latency table with --table")
    found = subject(model, width=width, resolution=resolution)
    names = runtimes_for(found, named(runtimes))
    configurations = combined(names, kinds, counts, found.precisions)
    with tempfile.TemporaryDirectory(prefix="mobilenets-bench-") as folder:
        rows = measure(found, configurations, folder=Path(folder), batch=batch, repeats=repeats, per_op=per_op)
    card = found.card
    result = BenchResult(
        model=model,
        arch=card.arch.name,
        width=card.width,
        resolution=card.resolution,
        batch=batch,
        multiply_adds=cost(card.plan).multiply_adds,
        rows=rows,
        machine=describe_machine(),
        published=published(card.arch.name, card.width, card.resolution),
        notes=(*found.notes, *_busy_note(busy)),
        slowest_first=slowest_first,
    )
    return result if out is None else _written(result, out)


def _check(counts: Mapping[str, int], precisions: Sequence[str] | None) -> None:
    """Raise InputError for a flag that is out of range."""
    from mobilenets.bench.configuration import PRECISIONS

    for flag, value in counts.items():
        if value < 1:
            raise InputError(f"--{flag} must be 1 or more, not {value}")
    for kind in precisions or ():
        if kind not in PRECISIONS:
            raise InputError(f"--precisions are {', '.join(PRECISIONS)}, not {kind!r}")


def load_average() -> float | None:
    """Return how many processes wanted the processor in the last minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _busy_note(load: float | None) -> tuple[str, ...]:
    if load is None or load <= BUSY:
        return ()
    return (f"the machine was not quiet when this began (load average {load:.1f}): times are longer and less steady",)


def _written(result: BenchResult, folder: Path) -> BenchResult:
    """Write bench.png, where Matplotlib is installed, and bench.json."""
    from mobilenets.files import write_atomically

    drawing = find_spec("matplotlib") is not None
    files = tuple(folder / name for name in ("bench.png", "bench.json") if drawing or name == "bench.json")
    note = () if drawing else ("no bench.png: Matplotlib is not installed: pip install 'mobilenets[train]'",)
    result = replace(result, files=files, notes=(*result.notes, *note))
    if drawing:
        from mobilenets.bench.picture import draw_bench

        write_atomically(folder / "bench.png", draw_bench(result))
    write_atomically(folder / "bench.json", json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n")
    return result
