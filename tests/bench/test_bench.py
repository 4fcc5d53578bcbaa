"""The verb from end to end, with the runtime that is always there, and its failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mobilenets.bench import bench, children, synthetic
from mobilenets.bench.children import Child
from mobilenets.bench.configuration import Job
from mobilenets.bench.result import BenchResult
from mobilenets.bench.subject import file_bytes, write
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import int8_checkpoint
from mobilenets.engine.quantized import quantization
from mobilenets.errors import CheckpointError, InputError
from mobilenets.runtime import RUNTIMES

ROW = {
    *("runtime", "precision", "threads", "batch", "runs", "median_ms", "min_ms", "p95_ms", "spread"),
    *("images_per_second", "load_ms", "peak_bytes", "added_bytes", "running_bytes", "activation_bytes", "file_bytes"),
    *("error", "operations", "kinds", "operations_error"),
}
RESULT = {
    *("model", "arch", "width", "resolution", "batch", "multiply_adds", "rows", "verdict", "published", "machine"),
    *("notes", "files"),
}


@pytest.fixture(scope="module")
def result(colour_file: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    out = tmp_path_factory.mktemp("out")
    return bench(str(colour_file), runtimes="reference", threads="1,2", repeats=3, batch=2, out=out)


def test_every_configuration_has_a_row(result: BenchResult) -> None:
    shown = [(r.configuration.runtime, r.configuration.precision, r.configuration.threads) for r in result.rows]
    assert shown == [
        ("reference", "float32", 1),
        ("reference", "float32", 2),
        ("reference", "int8", 1),
        ("reference", "int8", 2),
    ]
    for row in result.rows:
        assert row.error is None
        assert row.timing is not None
        assert row.timing.count == 3
        assert row.images_per_second == pytest.approx(2000 / row.timing.median_ms)


def test_json_has_the_promised_fields(result: BenchResult) -> None:
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(document) == RESULT
    assert {"processor", "cores", "python"} <= set(document["machine"])
    for row in document["rows"]:
        assert set(row) == ROW
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p95_ms"]
    if sys.platform == "linux":
        assert all(row["peak_bytes"] > row["added_bytes"] > 0 for row in document["rows"])


def test_activations_are_computed_for_the_batch_and_the_precision(result: BenchResult) -> None:
    pixels = 16 * 16
    floats, codes = result.rows[0], result.rows[2]
    assert floats.activation_bytes == 2 * 4 * pixels * (3 + 8)  # the picture and the eight channels of the stem
    assert codes.activation_bytes == 2 * pixels * (3 + 8)


def test_files_are_written(result: BenchResult) -> None:
    picture, document = result.files
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(document.read_text()) == result.to_json()


def test_the_text_names_winner_machine_and_what_int8_is(result: BenchResult) -> None:
    text = str(result)
    assert "fastest with 1 thread: reference" in text
    assert "fastest with 2 threads: reference" in text
    assert "quantized here on noise, for timing alone" in text
    assert "bench.png" in text
    assert result.machine["processor"] in text


def test_an_int8_checkpoint_is_timed_in_int8_alone(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    names = ["input", *(op.name for op in colour_checkpoint.card.plan.ops)]
    ranges = {name: quantization(-1.0, 6.0) for name in names}
    made = int8_checkpoint(colour_checkpoint.card, folded(colour_checkpoint), ranges, "channel")
    path = save(made, tmp_path / "int8.safetensors")
    timed = bench(str(path), runtimes=("reference",), repeats=1)
    assert [row.configuration.precision for row in timed.rows] == ["int8"]
    assert timed.rows[0].error is None
    assert not any("quantized here" in note for note in timed.notes)
    with pytest.raises(InputError, match="nothing to time: float32 cannot be had of int8 weights"):
        bench(str(path), runtimes="reference", precisions="float32")


def test_an_architecture_gets_random_weights_at_any_width_and_resolution() -> None:
    timed = bench("mobilenet_v2_mnist", runtimes="reference", precisions="float32", width=0.5, resolution=20, repeats=1)
    assert timed.rows[0].error is None
    assert (timed.width, timed.resolution) == (0.5, (20, 20))
    assert "random weights: speed does not depend on them" in timed.notes


def test_a_detector_by_name_is_timed_too() -> None:
    timed = bench("ssdlite_mobilenet_v3_small", runtimes="reference", threads=1, width=0.35, resolution=64, repeats=1)
    assert [(row.configuration.precision, row.error) for row in timed.rows] == [("float32", None), ("int8", None)]


def test_a_checkpoint_can_be_timed_at_another_resolution(colour_file: Path) -> None:
    timed = bench(str(colour_file), runtimes="reference", precisions="float32", resolution=(8, 24), repeats=1)
    assert timed.resolution == (8, 24)
    assert timed.multiply_adds == 8 * 24 * 3 * 8 + 8 * 3
    assert timed.rows[0].error is None


def test_what_fails_is_a_row_with_an_error(colour_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration whose child dies in the middle stops nobody else."""
    code = (
        "import json, os, signal, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if 'run' in request: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    print(json.dumps({'load_ms': 1.0}), flush=True)\n"
    )
    start = Child.__init__

    def sabotage(self: Child, job: Job) -> None:
        with monkeypatch.context() as patched:
            if job.precision == "int8":
                patched.setattr(children, "COMMAND", (sys.executable, "-c", code))
            start(self, job)

    monkeypatch.setattr(Child, "__init__", sabotage)
    timed = bench(str(colour_file), runtimes="reference", repeats=4)
    floats, codes = timed.rows
    assert floats.error is None
    assert floats.timing is not None
    assert floats.timing.count == 4
    assert codes.timing is None
    assert codes.error is not None
    assert "SIGSEGV" in codes.error
    assert "could not be timed\n  reference int8, 1 thread: the process was ended by SIGSEGV" in str(timed)
    assert timed.to_json()["rows"][1]["median_ms"] is None


def test_what_cannot_be_made_is_a_row_with_an_error(colour_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Path:
        raise ZeroDivisionError("no scale")

    monkeypatch.setattr(synthetic, "quick_int8", fail)
    timed = bench(str(colour_file), runtimes="reference", repeats=1)
    assert [row.error for row in timed.rows] == [None, "cannot be made for reference: ZeroDivisionError: no scale"]


def test_interrupting_leaves_no_child_behind(colour_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    ask = Child.ask

    def interrupted(self: Child, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        pids.append(self.pid)
        if "run" in request:
            raise KeyboardInterrupt
        return ask(self, request, timeout_s)

    monkeypatch.setattr(Child, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(str(colour_file), runtimes="reference", repeats=2)
    assert len(set(pids)) == 2
    for pid in set(pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the children through /proc")
def test_ctrl_c_ends_the_command_and_its_children(colour_file: Path) -> None:
    code = f"from mobilenets.bench import bench; bench({str(colour_file)!r}, runtimes='reference', repeats=10**9)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as command:
        listed = Path(f"/proc/{command.pid}/task/{command.pid}/children")
        deadline = time.monotonic() + 120
        while len(found := listed.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=120)
    assert command.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not any(Path(f"/proc/{pid}").exists() for pid in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "--repeats must be 1 or more"),
        ({"batch": 0}, "--batch must be 1 or more"),
        ({"threads": "none"}, "--threads must be numbers from 1 on"),
        ({"precisions": "float64"}, "--precisions are float32, bf16, int8, not 'float64'"),
        ({"runtimes": "abacus"}, "no runtime is called 'abacus'"),
        ({"width": 0.5}, "--width is for architectures by name"),
        ({"resolution": 0}, "--resolution must be 1 or more"),
    ],
)
def test_bad_flags_are_refused(colour_file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench(str(colour_file), **options)


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        bench(str(tmp_path / "none.safetensors"))
    suffix = next(each.suffix for each in RUNTIMES.values() if each.suffix and each.installed)
    with pytest.raises(CheckpointError, match="no such file"):
        bench(str(tmp_path / f"none{suffix}"))
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="damaged"):
        bench(str(damaged))


HIDE = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {"torch", "onnx", "matplotlib"}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "litert"])
def test_an_exported_file_needs_its_runtime_alone(runtime: str, colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Neither this process nor its children find the packages of training: Python itself is told at its start."""
    if not RUNTIMES[runtime].installed:
        pytest.skip(f"{RUNTIMES[runtime].package} is not installed")
    path = write(colour_checkpoint, runtime, tmp_path / "colours.safetensors")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    code = (
        "import json; from mobilenets.bench import bench; from pathlib import Path\n"
        f"print(json.dumps(bench({str(path)!r}, precisions='float32', repeats=2, out=Path('out')).to_json()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["rows"]
    assert (row["runtime"], row["precision"], row["error"]) == (runtime, "float32", None)
    assert row["file_bytes"] == file_bytes(path) > 0
    assert [Path(name).name for name in document["files"]] == ["bench.json"]
    assert "no bench.png: Matplotlib is not installed: pip install 'mobilenets[train]'" in document["notes"]
