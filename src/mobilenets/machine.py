"""What a measurement was made on: a number without its machine says little."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Return the processor, its cores, memory, system and the versions of what computes, as text for people.

    Neither host nor user names are among them: a report can be handed on. Packages are named by their metadata; none is
    imported.
    """
    described = {"processor": _processor(), "cores": str(_cores())}
    memory = _memory_bytes()
    if memory:
        described["memory"] = f"{memory / 2**30:.1f} GiB"
    described["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    described["python"] = platform.python_version()
    for package in ("mobilenets", "numpy", "torch"):
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return described


def _cores() -> int:
    """Count the cores this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the processor's name; Linux knows it in /proc/cpuinfo alone."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"model name", "Model", "Hardware"}:
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
