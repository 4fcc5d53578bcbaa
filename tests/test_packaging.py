"""The wheel holds the package, all of it and nothing else; with its own requirements alone every command starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from PIL import Image

import mobilenets
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.cli import VERBS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mobilenets"


def built(root: Path, folder: Path) -> Path:
    """Build the wheel of a source tree as pip does."""
    return Path(next(WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    """Return every file of a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_is_the_package_folder(wheel: Path) -> None:
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {f"mobilenets/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in files}
    assert {Path(name).suffix for name in expected} > {".py", ".c", ".h", ".csv", ".json", ".html", ".js", ".css"}
    found = contents(wheel)
    assert sorted(found) == sorted(expected)
    assert found == expected


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        own = {name.partition("/")[2]: archive.read(name) for name in archive.namelist() if ".dist-info/" in name}
    assert own["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert own["entry_points.txt"].decode() == "[console_scripts]\nmobilenets = mobilenets.cli:main\n"
    header, _, description = own["METADATA"].decode().partition("\n\n")
    assert f"\nVersion: {mobilenets.__version__}\n" in header
    assert description == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = Path(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path))))
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / source.name.removesuffix(".tar.gz")
    assert {"tests", "docs", "benchmarks", "Makefile", "constraints.txt"} < {path.name for path in root.iterdir()}
    assert contents(built(root, tmp_path)) == contents(wheel)


# -- Installed --


def required() -> set[str]:
    """Return the names of what the package requires without extras, and of what that requires."""
    waiting, names = ["mobilenets"], set()
    while waiting:
        for line in metadata.requires(waiting.pop()) or []:
            wanted = Requirement(line)
            if wanted.name not in names and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                names.add(wanted.name)
                waiting.append(wanted.name)
    return names


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel and what it requires, without extras.

    What it requires is linked from here, so that no network is asked.
    """
    place = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(place)
    (site,) = (place / "lib").glob("python*/site-packages")
    for name in required():
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            (site / top).symlink_to(str(found.locate_file(top)))
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return place


@pytest.fixture(scope="module")
def folder(colour_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint, pictures of its classes, and files for `convert`."""
    folder = tmp_path_factory.mktemp("work")
    save(colour_checkpoint, folder / "m.safetensors")
    for name, colour in {"red": (250, 0, 0), "blue": (0, 0, 250)}.items():
        (folder / "set" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), colour).save(folder / "set" / name / "0.png")
    np.savez(folder / "set.npz", x=np.zeros((2, 16, 16, 3), np.uint8), y=np.array([0, 1]))
    (folder / "network.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return folder


def run(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the folder, with none of this process's settings for Python."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    settings |= {"MOBILENETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, check=False, text=True, timeout=300)


NEEDED = {  # command: the extra that it names; empty where it works without
    "show mobilenet_v2": "",
    "show m.safetensors": "",
    "train set": "train",
    "train digits --model ssdlite_mobilenet_v2": "train",
    "evaluate m.safetensors set": "",
    "evaluate m.safetensors set --out report": "train",
    "evaluate m.safetensors digits": "train",
    "evaluate m.safetensors set --runtime torch": "train",
    "evaluate m.safetensors set --runtime onnx": "onnx",
    "evaluate m.safetensors set --runtime openvino": "openvino",
    "evaluate m.safetensors set --runtime litert": "litert",
    "evaluate m.safetensors set --runtime engine": "engine",
    "evaluate efficientnet_lite0 set": "efficientnet",
    "predict m.safetensors set/red/0.png": "",
    "predict m.safetensors set/red/0.png --out here": "train",
    "serve m.safetensors": "serve",
    "convert network.h5 --out converted.safetensors": "train",
    "quantize m.safetensors --data set": "train",
    "export m.safetensors --to onnx": "onnx",
    "export m.safetensors --to openvino": "openvino",
    "export m.safetensors --to litert": "litert",
    "export m.safetensors --to web": "onnx",
    "bench m.safetensors": "onnx",
    "bench --table table.json": "onnx",
    "tune mobilenet_v2": "engine",
    "fit mobilenet_v2 --multiply-adds 100M": "",
    "fit mobilenet_v2 --latency-ms 5": "onnx",
    "fit m.safetensors set --multiply-adds 1k --method adapt": "train",
    "diagnose m.safetensors": "train",
    "prune m.safetensors --dead": "train",
    "reproduce v2-table2": "",
    "reproduce v2-table4": "train",
    "reproduce ablations": "train",
}


def test_every_command_is_tried() -> None:
    assert {command.split()[0] for command in NEEDED} == {*VERBS}


@pytest.mark.slow
def test_installed_alone(environment: Path, folder: Path) -> None:
    code = "import json, sys, mobilenets; print(json.dumps([mobilenets.__file__, mobilenets.__version__]))"
    file, version = json.loads(run(environment, folder, "python", "-c", code).stdout)
    assert file == str(next((environment / "lib").glob("python*/site-packages")) / "mobilenets" / "__init__.py")
    assert version == mobilenets.__version__
    help_ = run(environment, folder, "mobilenets", "--help")
    assert help_.returncode == 0
    assert {*VERBS} < {*help_.stdout.split()}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "extra"), NEEDED.items(), ids=NEEDED)
def test_a_command_works_or_names_its_extra(environment: Path, folder: Path, command: str, extra: str) -> None:
    done = run(environment, folder, "mobilenets", *command.split())
    if not extra:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
        return
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mobilenets: ")
    assert done.stderr.endswith(f" needed here and is not installed: pip install 'mobilenets[{extra}]'\n")
    assert done.stderr.count("\n") == 1
