"""A folder that runs models in the browser: the page, ONNX Runtime Web, and for each model its file and its card.

    index.html, *.js, page.css ...   the page
    ort.js, ort-wasm.js, .wasm       ONNX Runtime Web
    models.json                      the models' names, the first is shown first
    models/NAME/model.onnx           takes pictures as they are, uint8 (1, height, width, C)
    models/NAME/model.json           labels, preprocessing, and what else the page shows of a model
    service-worker.js                keeps all of it for offline use

Another model exported into the same folder comes beside those that are there.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from mobilenets.arch import Plan, cost
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.formats.card import output_names
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.formats.onnx_heat import head_of
from mobilenets.formats.web_runtime import WebRuntime
from mobilenets.page import behind, files

INDEX, WORKER, MODELS = "index.html", "service-worker.js", "models.json"
MODEL_FILE, CARD_FILE = "model.onnx", "model.json"

_LICENSE = """ONNX Runtime Web (ort.js, ort-wasm.js, ort-wasm.wasm), https://onnxruntime.ai

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def model_name(model: str) -> str:
    """Return what a model is called in the folder: as its file, or as the folder of a training's `best` or `last`.

    >>> model_name("runs/my birds/best.safetensors"), model_name("efficientnet_lite0")
    ('my-birds', 'efficientnet_lite0')
    """
    path = Path(model).expanduser()
    name = path.name.removesuffix(".safetensors")
    if name in {"best", "last"} and path.resolve().parent.name:
        name = path.resolve().parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"


def models_in(folder: Path) -> list[str]:
    """Return the models of an exported folder, none where it does not exist or is empty.

    Raises InputError for a folder with something else in it, and for what is no folder.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise InputError(f"--out {folder}: not a folder: name one for the page and its files")
    if not any(folder.iterdir()):
        return []
    try:
        names = json.loads((folder / MODELS).read_bytes())["models"]
        return [name for name in names if model_name(name) == name and (folder / "models" / name / CARD_FILE).is_file()]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"--out {folder}: not empty, and not an exported page: name another folder") from None


def model_files(checkpoint: Checkpoint, name: str, runtime: str) -> dict[str, bytes]:
    """Return a model's files by their names in the folder.

    Args:
        checkpoint: float32 or int8.
        name: what `model_name` made.
        runtime: what to say of who runs it.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    content = to_onnx(checkpoint, pictures=True, resolution="fixed", heat=True)
    card = described(checkpoint.card, len(content), runtime)
    place = f"models/{name}"
    return {f"{place}/{MODEL_FILE}": content, f"{place}/{CARD_FILE}": _json(card)}


def described(card: Card, size_bytes: int, runtime: str) -> dict[str, Any]:
    """Return what the page shows of a model: of the card what is for people, and what to know of the file."""
    layout = card.plan
    totals, full = cost(layout), card.to_json()
    same = ("task", "width", "resolution", "in_channels", "labels", "preprocess", "precision", "metrics")
    recipe = {key: value for key, value in (full["recipe"] or {}).items() if key != "run"}  # paths of who trained it
    return {
        **{key: full[key] for key in (*same, "origin", "parent", "notes")},
        "recipe": recipe or None,
        "arch": {"name": card.arch.name},
        "parameters": totals.parameters,
        "multiply_adds": totals.multiply_adds,
        "file": MODEL_FILE,
        "bytes": size_bytes,
        "runtime": runtime,
        "explain": head_of(layout) is not None,
        "detector": detector_json(layout),
        "report": False,
    }


def detector_json(layout: Plan) -> dict[str, Any] | None:
    """Return what makes boxes of a detector's maps; None of a classifier."""
    detector = layout.arch.detector
    if detector is None:
        return None
    same = ("coder", "scores", "score_threshold", "nms_iou", "candidates", "detections")
    return {
        "outputs": output_names(layout),
        "form": detector.anchors.form,
        "levels": detector.anchors.levels,
        **{name: getattr(detector, name) for name in same},
    }


def page_files(runtime: WebRuntime) -> dict[str, bytes]:
    """Return the files that are the same whatever the model, apart from the service worker."""
    page, extra = files(), behind()
    index = page[INDEX].decode().replace('data-backend="service"', 'data-backend="browser"', 1)
    return {
        **page,
        INDEX: index.encode(),
        **runtime.files,
        "ort-license.txt": _LICENSE.encode(),
        "package.json": extra["package.json"],
    }


def write_folder(folder: Path, model: dict[str, bytes], name: str, runtime: WebRuntime) -> tuple[Path, ...]:
    """Write a model's files into a folder, beside those of other models, and the page; return all paths written.

    What refers to other files is written after them, so that a folder half written still works as it did.

    Raises:
        InputError: it cannot be written to, or holds something else.
    """
    names = [*(each for each in models_in(folder) if each != name), name]
    shared = {**page_files(runtime), MODELS: _json({"models": names})}
    index = shared.pop(INDEX)
    contents = {**model, **shared, INDEX: index}
    sums = {each: _digest(content) for each, content in contents.items()}
    for other in names:
        for file in (MODEL_FILE, CARD_FILE):
            place = f"models/{other}/{file}"
            if place not in sums:
                sums[place] = _digest((folder / place).read_bytes())
    contents[WORKER] = _worker(sums)
    return tuple(_written(folder / each, content) for each, content in contents.items())


def _written(path: Path, content: bytes) -> Path:
    """Write a file, unless it has that content already."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return path
    return write_atomically(path, content)


def _worker(sums: dict[str, str]) -> bytes:
    script = behind()[WORKER].decode()
    marked = "{/* files */}"
    assert script.count(marked) == 1
    return script.replace(marked, json.dumps(dict(sorted(sums.items())), indent=2)).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
