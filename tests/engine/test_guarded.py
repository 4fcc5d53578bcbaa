"""No kernel reads or writes what is not its own: see `guarded`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mobilenets.arch import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    for needed in ("halide", "ziglang"):
        pytest.importorskip(needed, reason="the extra `engine` is not installed")
    command = [sys.executable, "-m", "tests.engine.guarded", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_nothing_is_out_of_bounds(name: str, precision: str, tmp_path: Path) -> None:
    done = guarded(name, precision, str(tmp_path))
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    ended = signal.strsignal(-done.returncode) if done.returncode < 0 else f"exit code {done.returncode}"
    assert done.returncode == 0, f"{ended} in {last} {done.stderr[-2000:]}"


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("short", ["input", "weights", "block_2_project", "scratch"])
def test_memory_that_is_too_short_is_noticed(
    precision: str, short: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"short_{precision}"
    done = guarded("mobilenet_v2_mnist", precision, str(folder), f"short={short}")
    if short == "scratch":
        assert done.returncode == 1
        assert "more scratch memory than planned" in done.stderr
    else:
        assert done.returncode == -signal.SIGSEGV, done.stderr
