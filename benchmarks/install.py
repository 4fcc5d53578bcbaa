"""What has to be installed to run a model, beside what training it takes.

    python -m benchmarks.install [train]

Each variant is installed with pip into a virtual environment of its own, with the versions in constraints.txt. Its size
is what site-packages takes on the disk, pip apart. Then the command line of that environment classifies a picture with
an exported file, so that what was weighed is also enough. `train` is weighed too where it is asked for: gigabytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.environment import ROOT, Figure, write
from mobilenets.export import Format, export
from mobilenets.runtime import RUNTIMES

MODEL = "efficientnet_lite0"


@dataclass(frozen=True)
class Variant:
    """Something to install, and the format of the file it is to run; None runs the checkpoint itself."""

    what: str
    packages: tuple[str, ...]
    to: Format | None


VARIANTS = (
    Variant("mobilenets and ONNX Runtime", (".", "onnxruntime"), "onnx"),
    Variant("mobilenets and OpenVINO", (".", "openvino"), "openvino"),
    Variant("mobilenets and LiteRT", (".", "ai-edge-litert"), "litert"),
)
TRAIN = Variant("mobilenets[train], with which models are trained", (".[train,efficientnet]",), None)


def main() -> None:
    """Install, weigh and try every variant, and write the figures."""
    variants = (*VARIANTS, TRAIN) if "train" in sys.argv[1:] else VARIANTS
    figures, details = [], {}
    with TemporaryDirectory() as folder:
        for variant in variants:
            model = MODEL
            if variant.to is not None:
                model = str(export(MODEL, to=variant.to, out=Path(folder) / f"model{RUNTIMES[variant.to].suffix}").path)
            place = Path(folder) / "environment"
            packages = install(place, variant.packages)
            size = round(sum(packages.values()) / 2**20)
            answer = predicted(place, model)
            shutil.rmtree(place)
            figures.append(Figure(f"Installed size: {variant.what}", size, "MiB", "small beside training's"))
            largest = dict(sorted(packages.items(), key=lambda item: -item[1])[:8])
            details[variant.what] = {"packages": variant.packages, "answer": answer, "largest_bytes": largest}
            print(f"{variant.what}: {size} MiB, says {answer}")
    print(write("install", figures, details))


def install(place: Path, packages: tuple[str, ...]) -> dict[str, int]:
    """Make an environment with these packages; return what each folder and file of site-packages takes, in bytes."""
    venv.create(place, with_pip=True)
    (site,) = (place / "lib").glob("python*/site-packages")
    before = {path.name for path in site.iterdir()}
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*command, *packages], check=True, cwd=ROOT)
    return {path.name: disk_bytes(path) for path in site.iterdir() if path.name not in before}


def disk_bytes(path: Path) -> int:
    """Return what a file, or a folder with all below it, takes on the disk."""
    every = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(each.lstat().st_blocks * 512 for each in every)


def predicted(place: Path, model: str) -> str:
    """Return what the environment's own command line says of scikit-learn's photograph of a flower."""
    picture = str(files("sklearn.datasets.images") / "flower.jpg")
    command = [str(place / "bin" / "mobilenets"), "predict", model, picture, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
    return str(json.loads(done.stdout)[0]["predictions"][0]["label"])


if __name__ == "__main__":
    main()
