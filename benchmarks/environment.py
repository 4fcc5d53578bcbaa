"""Where and when a figure was measured, and the file it is written to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mobilenets.files import write_atomically
from mobilenets.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("accelerate", "ai-edge-litert", "onnxruntime", "pillow", "torchvision")


@dataclass(frozen=True)
class Figure:
    """One measured number, as the README prints it: `value unit` beside what was wanted (`under 300 ms`)."""

    what: str
    value: float
    unit: str
    wanted: str


def environment() -> dict[str, str | None]:
    """Describe this machine, this checkout and what is installed.

    `date` is UTC; `commit` ends in `+` where src/ had changes that are in no commit; `accelerator` is None where torch
    is not installed or finds none.
    """
    packages = {name: found for name in PACKAGES if (found := installed(name)) is not None}
    date = datetime.now(tz=UTC).isoformat(timespec="seconds")
    return {"date": date, "commit": commit(), "accelerator": accelerator(), **describe_machine(), **packages}


def write(name: str, figures: Sequence[Figure], details: object = None) -> Path:
    """Write benchmarks/results/NAME.json; return its path.

    Args:
        name: the script's, with what it was asked for where it measures one of several things.
        figures: what the README's table shows.
        details: whatever else was measured (curves, single runs), as JSON can hold it.
    """
    document = {
        "name": name,
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "environment": environment(),
        "figures": [asdict(figure) for figure in figures],
        "details": details,
    }
    return write_atomically(RESULTS / f"{name}.json", json.dumps(document, indent=2, allow_nan=False) + "\n")


def commit() -> str:
    """Return the short hash of HEAD, with `+` where tracked files of src/ differ; "unknown" outside a repository."""
    try:
        head = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
        changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", "src")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def accelerator() -> str | None:
    """Return the first GPU's name, None without one or without torch."""
    if installed("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def installed(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
