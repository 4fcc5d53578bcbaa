"""`kill -9`, for real: whatever was under way, a resumed run ends with the weights of one that was never killed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from mobilenets.train import train

Tiny = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], bool]

KILLS_AT_SECONDS = (0.0, 0.05, 0.15, 0.3, 0.02, 0.6, 0.1)
"""After the run has first written its state, or gone on from it. Some fall into a step, some into a write."""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServerContext]:
    """Return what starts processes that have imported everything already, with one thread each."""
    threads, os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS"), "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mobilenets.train.run", "torch.utils.tensorboard", "torch._dynamo"])
    yield context
    if threads is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = threads


def started(server: ForkServerContext, arguments: dict[str, Any]) -> ForkServerProcess:
    process = server.Process(target=train, kwargs=arguments)
    process.start()
    return process


def wait_for_change(path: Path, before: int | None, process: ForkServerProcess) -> None:
    """Wait until the file is there, newer than `before` (nanoseconds), or the process has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


def test_killed_again_and_again_ends_with_the_same_weights(
    server: ForkServerContext, tiny: Tiny, same_weights: Same, tmp_path: Path
) -> None:
    arguments = tiny(epochs=8, recipe="scratch")
    train(**arguments, out=tmp_path / "whole")
    state, out = tmp_path / "killed" / "state.pt", tmp_path / "killed"
    killed = 0
    for delay in KILLS_AT_SECONDS:
        before = state.stat().st_mtime_ns if state.exists() else None
        process = started(server, {**arguments, "out": out, "resume": True})
        wait_for_change(state, before, process)
        time.sleep(delay)
        process.kill()
        process.join()
        killed += process.exitcode == -9
    assert killed >= 3  # a fast machine may be done before the last ones
    result = train(**arguments, out=out, resume=True)
    assert result.epochs == 8
    assert same_weights(tmp_path / "whole", out)
    assert not list(out.glob(".*")), "what a killed process was writing is swept up"
