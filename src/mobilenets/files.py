"""Writing files so that nobody ever reads half of one, and where what can be made again is kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mobilenets.errors import InputError, WeightsError


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
