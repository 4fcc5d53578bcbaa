"""Writing files so that nobody ever reads half of one, and where what can be made again is kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mobilenets.errors import CheckpointError, InputError, WeightsError

_ENDINGS = (".safetensors", ".onnx", ".xml", ".tflite", ".h5", ".keras", ".pth", ".pt", ".pb")
"""Of files that a model may be in: no name of an architecture or of published weights ends so."""


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write data (text as UTF-8) to a temporary file beside `path` and rename it; folders are made as needed.

    Returns:
        The path written.

    Raises:
        InputError: the folder cannot be written to, the disk is full, or `path` is no file; what was there stays.
    """
    temporary = None
    try:
        if path.exists() and not path.is_file():  # renaming onto /dev/full would replace the device
            raise InputError(f"{path}: a folder or a device: choose the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # a temporary file is private; what it becomes should be an ordinary file
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}): free some space or choose another folder") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def need_folder(out: Path) -> None:
    """Make a folder for what is to come out, and raise where nothing can be written to it.

    That is better known before hours of work than after.

    Raises:
        InputError: `out` is a file, or cannot be made or written to.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file: choose a folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror}): choose another --out") from None


def refuse_path(model: str, wanted: str) -> None:
    """Raise if `model`, which is not the name that it was looked up as, was meant as a path.

    It was where it has a folder in it or the ending of a model's file, and where there is a file or folder so called.

    Args:
        model: what the user gave.
        wanted: what the caller takes instead of an existing file, such as "the name of an architecture".

    Raises:
        CheckpointError: a path, to nothing, to a folder or to a file; says which.
    """
    if not model:
        return
    path = Path(model)
    try:
        is_folder, is_there = path.expanduser().is_dir(), path.expanduser().exists()
    except (OSError, RuntimeError):  # longer than any file's name; the home of a user that there is not
        is_folder = is_there = False
    if is_folder:
        raise CheckpointError(f"{model}: a folder, not a checkpoint: name the .safetensors file in it")
    if is_there:
        raise CheckpointError(f"{model}: a file, where {wanted} is wanted")
    if path.name != model or path.suffix.lower() in _ENDINGS:
        raise CheckpointError(f"{model}: no such file")


def cache_folder() -> Path:
    """Return the folder for what can be had again, weights and compiled kernels; it need not exist yet.

    It is `$MOBILENETS_CACHE`, or `mobilenets` in :func:`all_caches`.

    Raises:
        WeightsError: this user has no home folder, and the environment names no other.
    """
    named = os.environ.get("MOBILENETS_CACHE")
    return Path(named).expanduser() if named else all_caches() / "mobilenets"


def all_caches() -> Path:
    """Return the folder that programs keep their caches in, as the XDG base directory specification says."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # a relative one counts as none
        return named
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise WeightsError("this user has no home folder: name a folder for weights in MOBILENETS_CACHE") from None
