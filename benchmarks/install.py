"""What has to be installed to run a model, beside what training it takes.

    python -m benchmarks.install

Each variant is installed with pip into a virtual environment of its own, with the versions in constraints.txt. Its size
is what site-packages takes on the disk, pip apart. Then the command line of that environment classifies, judges and
times with an exported file, so that what was weighed is also enough. What training takes is weighed where it is
installed already, here: mobilenets[train] and all that it requires, which is gigabytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from benchmarks.environment import ROOT, Figure, write
from mobilenets.export import Format, export
from mobilenets.runtime import RUNTIMES

MODEL = "efficientnet_lite0"


@dataclass(frozen=True)
class Variant:
    """Something to install, and the format of the file it is to run."""

    what: str
    packages: tuple[str, ...]
    to: Format


VARIANTS = (
    Variant("mobilenets and ONNX Runtime", (".", "onnxruntime"), "onnx"),
    Variant("mobilenets and OpenVINO", (".", "openvino"), "openvino"),
    Variant("mobilenets and LiteRT", (".", "ai-edge-litert"), "litert"),
)
TRAINING = "mobilenets[train], with which models are trained"


def main() -> None:
    """Install, weigh and try every variant, and write the figures."""
    figures, details = [], {}
    with TemporaryDirectory() as folder:
        for variant in VARIANTS:
            model = str(export(MODEL, to=variant.to, out=Path(folder) / f"model{RUNTIMES[variant.to].suffix}").path)
            place = Path(folder) / "environment"
            packages = install(place, variant.packages)
            said = tried(place, model)
            shutil.rmtree(place)
            figures.append(figure(variant.what, packages))
            details[variant.what] = {"packages": variant.packages, "said": said, "largest_bytes": largest(packages)}
            print(figures[-1], said, flush=True)
    packages = installed("mobilenets", "train")
    figures.append(figure(TRAINING, packages))
    details[TRAINING] = {"packages": ("mobilenets[train]",), "largest_bytes": largest(packages)}
    print(write("install", figures, details))


def figure(what: str, packages: Mapping[str, int]) -> Figure:
    """Return the row of the README."""
    wanted = "beside them" if what == TRAINING else "a fraction of training's"
    return Figure(f"Installed size: {what}", round(sum(packages.values()) / 2**20), "MiB", wanted)


def largest(packages: Mapping[str, int]) -> dict[str, int]:
    """Return the eight largest."""
    return dict(sorted(packages.items(), key=lambda item: -item[1])[:8])


def install(place: Path, packages: tuple[str, ...]) -> dict[str, int]:
    """Make an environment with these packages; return what each folder and file of site-packages takes, in bytes."""
    venv.create(place, with_pip=True)
    (site,) = (place / "lib").glob("python*/site-packages")
    before = {path.name for path in site.iterdir()}
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*command, *packages], check=True, cwd=ROOT)
    return {path.name: disk_bytes(path) for path in site.iterdir() if path.name not in before}


def installed(package: str, extra: str) -> dict[str, int]:
    """Return what a package with an extra and all that it requires take here, in bytes by package."""
    waiting, sizes = [(package, frozenset({extra}))], {}
    asked = set()
    while waiting:
        name, extras = waiting.pop()
        name = name.lower().replace("_", "-")
        if (name, extras) in asked:
            continue
        asked.add((name, extras))
        found = metadata.distribution(name)
        sizes[name] = sum(disk_bytes(Path(str(found.locate_file(file)))) for file in found.files or [])
        for line in found.requires or []:
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": each}) for each in extras | {""}):
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return sizes


def disk_bytes(path: Path) -> int:
    """Return what a file, or a folder with all below it, takes on the disk."""
    every = [path, *path.rglob("*")] if path.is_dir() else [path] if path.exists() else []
    return sum(each.lstat().st_blocks * 512 for each in every)


def tried(place: Path, model: str) -> dict[str, object]:
    """Let the environment's own command line classify, judge and time; return what it says.

    The picture is scikit-learn's photograph of a flower.
    """
    picture = Path(str(files("sklearn.datasets.images") / "flower.jpg"))
    folder = place / "pictures" / "daisy"
    folder.mkdir(parents=True)
    shutil.copy(picture, folder)
    commands = {
        "predict": ["predict", model, str(picture)],
        "evaluate": ["evaluate", model, str(folder.parent)],
        "bench": ["bench", model, "--repeats", "3"],
    }
    said = {}
    for name, words in commands.items():
        command = [str(place / "bin" / "mobilenets"), *words, "--json"]
        said[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=place).stdout)
    return {
        "predict": said["predict"][0]["predictions"][0]["label"],
        "evaluate": {"images": said["evaluate"]["images"], "runtime": said["evaluate"]["runtime"]},
        "bench": sorted({row["runtime"] for row in said["bench"]["rows"] if not row.get("error")}),
    }


if __name__ == "__main__":
    main()
