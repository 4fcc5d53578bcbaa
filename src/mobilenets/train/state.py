"""The state of a run on disk: one file from which training goes on to the same weights as if nothing had happened."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mobilenets.errors import CheckpointError, InputError
from mobilenets.files import need_folder, write_atomically

FORMAT = 1
NAME = "state.pt"
WRITTEN = (NAME, "best.safetensors", "last.safetensors", "history.json", "features.safetensors")


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write the state, atomically.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the previous state stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(out / NAME, buffer.getvalue())


def read_state(out: Path) -> dict[str, Any] | None:
    """Return the state in a run's folder, on the CPU, or None where there is none.

    The file holds tensors and plain values only; nothing in it is executed.

    Raises:
        CheckpointError: the file is damaged, or from another version.
    """
    path = out / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged ({reason}): start anew with another --out") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: written by another version (format {version}): start anew with another --out")
    return state


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise InputError where `out` holds a run that is not to be resumed, or cannot be written to."""
    if not resume and any((out / name).exists() for name in (NAME, "best.safetensors", "last.safetensors")):
        raise InputError(f"{out}: holds a training run: go on with it with --resume, or choose another --out")
    need_folder(out)
    try:
        for left in out.glob(".*"):  # of a process that was killed while writing
            if any(left.name.startswith(f".{name}.") for name in WRITTEN):
                left.unlink()
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror}): choose another --out") from None
