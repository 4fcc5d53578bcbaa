"""The use side needs none of what training needs: sub-processes in which those packages look absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.errors import MissingExtraError
from mobilenets.evaluate import evaluate
from mobilenets.export import Format, export
from mobilenets.image.drawn import pictures
from mobilenets.runtime import RUNTIMES, choose, load

TRAINING = ("torch", "torchvision", "sklearn", "matplotlib", "accelerate", "tensorboard", "jinja2", "h5py", "timm")
FORMATS: tuple[Format, ...] = ("onnx", "openvino", "litert")

# To the import system and to find_spec these packages are not installed; everything else is found as usual.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def run(hidden: tuple[str, ...], *commands: list[str]) -> list[Any]:
    """Run command lines in one process without the hidden packages; return the JSON that each prints, or its error."""
    code = f"""{HIDE.replace("HIDDEN", repr(set(hidden)))}
import contextlib, io, json
from mobilenets.cli import main
for command in {commands!r}:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    print(json.dumps(json.loads(out.getvalue()) if code == 0 else err.getvalue()))
assert not {set(hidden)!r} & {{name.partition(".")[0] for name in sys.modules}}
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, random_network: Callable[..., Checkpoint]) -> Path:
    """Return a folder of two classes of the random network's, with three drawn pictures each."""
    folder = tmp_path_factory.mktemp("photos")
    preprocess = random_network("mobilenet_v3_small").card.preprocess
    for index, picture in enumerate(pictures(replace(preprocess, height=70, width=90), 6)):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("to", FORMATS)
def test_an_exported_file_needs_its_runtime_alone(
    to: Format,
    precision: str,
    photos: Path,
    random_network: Callable[..., Checkpoint],
    random_int8_network: Callable[..., Checkpoint],
    tmp_path: Path,
) -> None:
    try:
        choose(to)
    except MissingExtraError as error:
        pytest.skip(str(error))
    make = random_int8_network if precision == "int8" else random_network
    model = str(save(make("mobilenet_v3_small"), tmp_path / "m.safetensors"))
    path = str(export(model, to=to, pictures=precision == "int8").path)
    others = tuple(each.package for name, each in RUNTIMES.items() if name not in (to, "reference"))
    picture = str(photos / "a" / "0.png")
    predicted, judged, shown, drawn = run(
        (*TRAINING, "onnx", *others),
        ["predict", path, picture, "--top", "2", "--json"],
        ["evaluate", path, str(photos), "--json"],
        ["show", path, "--json"],
        ["evaluate", path, str(photos), "--out", str(tmp_path / "report"), "--json"],
    )
    expected = evaluate(path, str(photos))
    assert (judged["top1"], judged["images"], judged["runtime"]) == (expected.top1, 6, to)
    assert judged["confusion"] == [list(row) for row in expected.confusion]
    with closing(load(path)) as predictor:
        labels = predictor.card.labels
    assert {item["label"] for item in predicted[0]["predictions"]} < set(labels)
    assert shown["resolution"] == [48, 48]
    assert "pip install 'mobilenets[train]'" in drawn


def test_a_checkpoint_runs_on_numpy_alone(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = str(save(colour_checkpoint, tmp_path / "m.safetensors"))
    for colour, value in {"red": (250, 0, 0), "blue": (0, 0, 250)}.items():
        (tmp_path / "set" / colour).mkdir(parents=True)
        Image.new("RGB", (20, 20), value).save(tmp_path / "set" / colour / "0.png")
    others = tuple(each.package for name, each in RUNTIMES.items() if name != "reference")
    judged, exported = run(
        (*TRAINING, *others),
        ["evaluate", model, str(tmp_path / "set"), "--json"],
        ["predict", str(tmp_path / "m.onnx"), str(tmp_path / "set" / "red" / "0.png"), "--json"],
    )
    assert (judged["top1"], judged["runtime"]) == (1.0, "reference")
    assert "pip install 'mobilenets[onnx]'" in exported


def test_nothing_is_timed_without_a_runtime(tmp_path: Path) -> None:
    hidden = (*TRAINING, *(each.package for name, each in RUNTIMES.items() if name != "reference"))
    errors = run(
        hidden,
        ["bench", "mobilenet_v2"],
        ["bench", "--table", str(tmp_path / "table.json")],
        ["fit", "mobilenet_v2", "--latency-ms", "5", "--table", str(tmp_path / "table.json")],
    )
    assert {error.endswith("is not installed: pip install 'mobilenets[onnx]'\n") for error in errors} == {True}
    assert not list(tmp_path.iterdir())


def test_the_packages_do_look_absent() -> None:
    """What hides them does so: with it, a known data set that needs scikit-learn names the extra."""
    (error,) = run(TRAINING, ["evaluate", "efficientnet_lite0", "digits", "--json"])
    assert "mobilenets[train]" in error
    assert np.__version__  # and numpy is there
