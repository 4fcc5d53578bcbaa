"""A command in two processes, started as docs/scaling.md says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TURNS, TURN_S = 22, 5
"""Processes that do not meet would wait for half an hour. In turns, so that a pause of the machine is not counted."""


def torchrun(*arguments: str, processes: int = 2) -> str:
    """Return what `torchrun --nproc-per-node 2 -m mobilenets ...` prints; fail where it takes too long or ends badly.

    Where processes meet is left to torchrun: it takes a free port of this machine and tells them. With
    `--master-port 0` it would tell them port 0, and they would look for one another there.
    """
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
            *("-m", "mobilenets", *arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(TURNS):
        try:
            printed, said = launcher.communicate(timeout=TURN_S)
        except subprocess.TimeoutExpired:
            continue
        assert launcher.returncode == 0, said[-2000:]
        return printed
    launcher.terminate()  # it ends its processes, first gently
    said = launcher.communicate()[1]
    pytest.fail(f"took longer than {TURNS * TURN_S} s and said: {said[-2000:]}")
