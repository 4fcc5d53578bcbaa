"""Two processes on this machine's CPU, as torchrun starts them on many."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenets.checkpoint import load
from mobilenets.data import open_data
from mobilenets.errors import MobileNetsError
from mobilenets.image import normalize
from mobilenets.metrics import judge
from mobilenets.nn.network import from_checkpoint
from mobilenets.train import processes
from tests.torchrun import torchrun

Tiny = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], bool]

SCRIPT = """
import json, sys
from mobilenets.errors import MobileNetsError
from mobilenets.train import box_outputs, outputs, train
outputs.write_page, outputs.write_curves = (lambda *_: []), (lambda out, _: out / "curves.png")  # they take longer
box_outputs.write_page = lambda *_: []
for line in sys.stdin:
    try:
        print(json.dumps(train(**json.loads(line)).to_json()), flush=True)
    except MobileNetsError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


class Ranks:
    """Two processes that train whatever they are told, one training after the other, and say what came of it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def begin(self, **arguments: Any) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(arguments, default=str) + "\n")
            process.stdin.flush()

    def answer(self, rank: int) -> dict[str, Any]:
        stream = self.processes[rank].stdout
        assert stream is not None
        answer: dict[str, Any] = json.loads(stream.readline())
        return answer

    def train(self, **arguments: Any) -> dict[str, Any]:
        self.begin(**arguments)
        answers = [self.answer(rank) for rank in range(2)]
        assert answers[0]["metrics"] == answers[1]["metrics"]
        return answers[0]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def ranks() -> Any:
    made = Ranks()
    yield made
    made.end()


def top1_of(checkpoint: Path, data: str) -> float:
    """Return the accuracy of a checkpoint, in this process alone."""
    known, pictures = load(checkpoint), open_data(data).val
    planes = normalize(np.stack([pictures.picture(index) for index in range(len(pictures))]), known.card.preprocess)
    with torch.no_grad():
        logits = from_checkpoint(known)(torch.from_numpy(planes)).numpy()
    return float((judge(logits, pictures.targets).rank < 1).mean())


def test_two_processes_train_one_network(
    ranks: Ranks, tiny: Tiny, same_weights: Same, tmp_path: Path, bar_data: str
) -> None:
    arguments = tiny(epochs=8, learning_rate=0.1, recipe="scratch")
    whole = ranks.train(**arguments, out=tmp_path / "whole")
    assert whole["metrics"]["top1"] > 0.6  # a third by chance
    assert whole["images"] == 47  # an odd number: nothing is counted twice to make it even
    assert whole["metrics"]["top1"] == pytest.approx(top1_of(tmp_path / "whole" / "best.safetensors", bar_data))
    card = load(tmp_path / "whole" / "last.safetensors").card
    last = {metric.name: metric.value for metric in card.metrics}
    assert last["top1"] == pytest.approx(top1_of(tmp_path / "whole" / "last.safetensors", bar_data))

    # Lose one process in the middle: the other ends by itself, and both go on later to the same weights.
    out = tmp_path / "killed"
    ranks.begin(**arguments, out=out)
    deadline = time.monotonic() + 120
    while not (out / "last.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks.processes[1].send_signal(signal.SIGKILL)
    assert "another process of this training has ended" in ranks.answer(0)["error"]
    ranks.end()
    again = Ranks()
    try:
        resumed = again.train(**arguments, out=out, resume=True)
        assert resumed["epochs"] == 8
        assert same_weights(tmp_path / "whole", out)
        frozen = again.train(**tiny(out=tmp_path / "frozen", weights=None, freeze=True, epochs=2))
        assert frozen["metrics"]["top1"] == pytest.approx(top1_of(tmp_path / "frozen" / "best.safetensors", bar_data))
    finally:
        again.end()


@pytest.mark.slow
def test_torchrun(tiny: Tiny, tmp_path: Path) -> None:
    """The command of the documents, whole."""
    arguments = tiny(out=tmp_path / "run", epochs=2)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items() if name != "data"]
    printed = torchrun("train", arguments["data"], *flags, "--json")
    assert json.loads(printed)["images"] == 47
    assert (tmp_path / "run" / "report.html").exists()


def test_a_port_that_is_none_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(MobileNetsError, match="leave --master-port out"):
        processes.accelerator()
