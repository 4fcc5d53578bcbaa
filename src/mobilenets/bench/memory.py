"""How much memory this process has and has had, from the system's own books."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_bytes() -> int | None:
    """Return what is in memory now; None where the system does not say (only Linux does)."""
    return _status("VmRSS")


def peak_bytes() -> int | None:
    """Return the most that was in memory since this process began, or since `forget_peak`.

    On Linux this is VmHWM, which begins anew with the program; elsewhere getrusage's maximum, where there is one.
    """
    found = _status("VmHWM")
    if found is not None or sys.platform == "win32":
        return found
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, KiB elsewhere


def forget_peak() -> bool:
    """Begin counting the peak anew from what is in memory now; say whether the system allows it (proc(5))."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
