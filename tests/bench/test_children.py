"""Processes that are kept, stopped, crash, hang, and are gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenets.bench import children
from mobilenets.bench.children import Child, ChildError
from mobilenets.bench.configuration import Job
from mobilenets.checkpoint import Card, Checkpoint

SECONDS = 120.0  # machines under load take long to start a process


def job(path: Path) -> Job:
    return Job(str(path), "reference", "float32", 1, 2, (16, 16))


@pytest.fixture
def child(colour_file: Path) -> Iterator[Child]:
    with Child(job(colour_file)) as started:
        yield started


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not running(pid)


def test_a_child_opens_runs_and_reports_its_memory(child: Child, colour_checkpoint: Checkpoint) -> None:
    card = child.ask({"card": child.job.to_json()}, SECONDS)["card"]
    assert Card.from_json(card) == colour_checkpoint.card
    opened = child.ask({"open": child.job.to_json()}, SECONDS)
    assert opened["load_ms"] > 0
    first = child.ask({"run": 3, "warm": 1}, SECONDS)["times_ms"]
    second = child.ask({"run": 2, "warm": 0}, SECONDS)["times_ms"]
    assert (len(first), len(second)) == (3, 2)
    assert min(first + second) > 0
    memory = child.ask({"memory": True}, SECONDS)
    assert set(memory) == {"peak_bytes", "added_bytes", "running_bytes"}
    if sys.platform == "linux":
        assert 0 <= memory["added_bytes"] < memory["peak_bytes"]
        assert memory["peak_bytes"] > 10_000_000  # no Python with numpy is smaller


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at through /proc")
def test_a_child_rests_while_it_is_not_asked(child: Child) -> None:
    child.ask({"memory": True}, SECONDS)
    deadline = time.monotonic() + SECONDS
    while (state := Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "T":
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def test_an_error_is_told_and_survived(child: Child, tmp_path: Path) -> None:
    missing = Job(str(tmp_path / "none.safetensors"), "reference", "float32", 1, 1, (16, 16))
    with pytest.raises(ChildError, match=r"none\.safetensors: cannot be read"):
        child.ask({"open": missing.to_json()}, SECONDS)
    with pytest.raises(ChildError, match="no runtime is called 'nowhere'"):
        child.ask({"open": child.job.to_json() | {"runtime": "nowhere"}}, SECONDS)
    assert child.ask({"open": child.job.to_json()}, SECONDS)["load_ms"] > 0


def test_a_crash_is_told_with_its_signal(child: Child) -> None:
    child.ask({"memory": True}, SECONDS)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildError, match="ended by SIGKILL"):
        child.ask({"run": 1, "warm": 0}, SECONDS)


def test_what_a_dying_child_said_last_is_told(colour_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.stdin.readline(); print('no such\\nkernel', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-c", code))
    with Child(job(colour_file)) as dying, pytest.raises(ChildError, match="ended with code 3: kernel"):
        dying.ask({"run": 1, "warm": 0}, SECONDS)


def test_a_child_that_hangs_is_ended(colour_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "COMMAND", (sys.executable, "-c", "import time; time.sleep(1000)"))
    with Child(job(colour_file)) as hanging:
        with pytest.raises(ChildError, match=r"took longer than 0\.2 s and was ended"):
            hanging.ask({"run": 1, "warm": 0}, 0.2)
        assert wait_until_gone(hanging.pid)


def test_closing_ends_a_stopped_child(colour_file: Path) -> None:
    with Child(job(colour_file)) as stopped:
        stopped.ask({"memory": True}, SECONDS)
        assert running(stopped.pid)
    assert not running(stopped.pid)


def test_ctrl_c_is_the_parents_alone(child: Child) -> None:
    child.ask({"memory": True}, SECONDS)
    os.kill(child.pid, signal.SIGINT)
    assert child.ask({"open": child.job.to_json()}, SECONDS)["load_ms"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child only ends with its input")
def test_children_end_with_a_parent_that_is_killed(colour_file: Path) -> None:
    code = (
        "import sys, time\n"
        "from mobilenets.bench.children import Child\n"
        "from mobilenets.bench.configuration import Job\n"
        f"child = Child(Job({str(colour_file)!r}, 'reference', 'float32', 1, 1, (16, 16)))\n"
        f"child.ask({{'memory': True}}, {SECONDS})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert wait_until_gone(pid)
