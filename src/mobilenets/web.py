"""A checkpoint as a web page that runs it, proved by the very files that the browser runs, in Node."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.errors import InputError, ParityError
from mobilenets.formats.web_folder import (
    INDEX,
    MODEL_FILE,
    model_files,
    model_name,
    models_in,
    page_files,
    write_folder,
)
from mobilenets.formats.web_runtime import program, web_runtime
from mobilenets.page import behind
from mobilenets.parity import Fitted, Logits, Parity, Shown, Tolerance, prove, with_facts

if TYPE_CHECKING:
    from mobilenets.checkpoint import Checkpoint

_PATIENCE_S = 1800.0  # for all pictures together


@dataclass(frozen=True, slots=True)
class WebFolder:
    """What was written, and how far what it computes is from what it was made from."""

    path: Path
    files: tuple[Path, ...]
    parity: Parity
    runtime: str


def destination(model: str, out: Path | None) -> Path:
    """Return the folder to write, `NAME_web` beside the checkpoint by default.

    Raises InputError where something else is there.
    """
    folder = Path(f"{Path(model).expanduser().as_posix().removesuffix('.safetensors')}_web") if out is None else out
    folder = folder.expanduser()
    models_in(folder)
    return folder


def export_folder(made: Checkpoint, model: str, folder: Path, shown: Shown, allowed: Tolerance) -> WebFolder:
    """Write the page and a model into a folder, once the model is proved.

    Args:
        made: what to write.
        model: what the user called it, from which it gets its name in the folder.
        folder: where to.
        shown: pictures to compare on.
        allowed: what is let through.

    Raises:
        ParityError: it would not compute what the checkpoint does; nothing was written.
        InputError: there is no npm or Node, or the folder cannot be written to.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    if made.card.in_channels not in {1, 3}:
        raise InputError(f"{model}: pictures in a browser have 1 or 3 channels, not {made.card.in_channels}")
    program("node")
    runtime = web_runtime()
    by, name = f"ONNX Runtime Web {runtime.version} (WebAssembly)", model_name(model)
    with TemporaryDirectory() as temporary:
        draft = Path(temporary)
        _write(draft, {**page_files(runtime), **behind(), **model_files(made, name, by)})
        file = draft / "models" / name / MODEL_FILE
        parity, logits = prove(made, file, shown, tolerance=allowed, run=_in_node)
        card = with_facts(made.card, parity, shown, "exported for web", by)
        content = model_files(replace(made, card=card), name, by)
        _write(draft, content)  # the same network with another card; nobody reads from `folder` what is not proved
        again = _in_node(file, shown.fitted[:1])
        if not np.array_equal(again[0], logits[-len(shown.fitted)]):
            raise ParityError(f"{name}: run again, it gives other numbers; nothing was kept")
    files = write_folder(folder, content, name, runtime)
    return WebFolder(folder, (folder / INDEX, *(file for file in files if file.name != INDEX)), parity, by)


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _in_node(path: Path, fitted: Fitted) -> Logits:
    """Run a model of a drafted folder; return its answers to pictures uint8 (N, height, width, C)."""
    folder, name = path.parents[2], path.parent.name
    pictures, said = folder / "pictures.bin", folder / "answers.bin"
    pictures.write_bytes(np.ascontiguousarray(fitted).tobytes())
    command = [program("node"), str(folder / "prove.js"), name, str(pictures), str(said)]
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"--images: Node needs more than {_PATIENCE_S:.0f} s for these: take fewer") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()[-1:]
        reason = lines[0].strip() if lines else f"exit code {done.returncode}"
        raise ParityError(f"{name}: ONNX Runtime Web does not run it in Node ({reason}); nothing was written")
    return np.fromfile(said, np.float32).reshape(len(fitted), -1)
