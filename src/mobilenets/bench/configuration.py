"""What is timed against what: one runtime at one precision with one number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from mobilenets.arch import Precision
from mobilenets.errors import InputError, MissingExtraError

FLOAT32, BFLOAT16, INT8 = "float32", "bf16", "int8"
PRECISIONS = (FLOAT32, BFLOAT16, INT8)
BYTES_AS: dict[str, Precision] = {FLOAT32: "float32", BFLOAT16: "bfloat16", INT8: "int8"}
"""What `arch.cost` calls each of them."""

BFLOAT16_RUNTIMES = ("torch", "openvino")
"""Where float32 weights can be computed in bfloat16: ONNX Runtime and LiteRT have no kernels for it on x86."""

UNTIMED_RUNTIMES = ("reference",)
"""Runtimes that say what operations mean, and are timed only when named."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One thing to time."""

    runtime: str
    precision: str
    threads: int

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}, {self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Job:
    """What a child process needs to know to time a configuration.

    `path` is a checkpoint or an exported file. The batch is noise: `batch` pictures of `resolution` (height, width).
    """

    path: str
    runtime: str
    precision: str
    threads: int
    batch: int
    resolution: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """Return the job that `to_json` wrote."""
        height, width = data["resolution"]
        return cls(**{**data, "resolution": (int(height), int(width))})


def combined(
    runtimes: Sequence[str], asked: Sequence[str] | None, threads: Sequence[int], weights: Sequence[str]
) -> tuple[Configuration, ...]:
    """Return every configuration that can be had, runtime by runtime.

    Args:
        runtimes: names in `mobilenets.runtime.RUNTIMES`.
        asked: out of `PRECISIONS`; None is all.
        threads: numbers of threads.
        weights: the precisions that the weights can be had in; bfloat16 is computed from float32.

    Raises:
        InputError: nothing is left.
    """
    had = {*weights, BFLOAT16} if FLOAT32 in weights else {*weights}
    precisions = [each for each in asked or PRECISIONS if each in had]
    found = tuple(Configuration(*each) for each in product(runtimes, precisions, threads) if computes(each[0], each[1]))
    if not found:
        what = f"{' or '.join(asked or PRECISIONS)} cannot be had of {' and '.join(weights)} weights"
        raise InputError(f"nothing to time: {what} by {', '.join(runtimes)}: choose other --precisions or --runtimes")
    return found


def timed_runtimes() -> tuple[str, ...]:
    """Return the runtimes that are installed and worth timing.

    Raises MissingExtraError where there is none.
    """
    from mobilenets.runtime import RUNTIMES

    found = tuple(name for name, each in RUNTIMES.items() if each.installed and name not in UNTIMED_RUNTIMES)
    if not found:
        raise MissingExtraError("a runtime to time, such as onnxruntime,", RUNTIMES["onnx"].extra)
    return found


def computes(runtime: str, precision: str) -> bool:
    """Say whether a runtime computes at a precision here."""
    from mobilenets.runtime import RUNTIMES

    if precision == BFLOAT16:
        return runtime in BFLOAT16_RUNTIMES
    return precision in RUNTIMES[runtime].precisions


def named(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names in a list or in a text with commas between them; None stays None.

    >>> named("torch, onnx"), named(["torch"]), named(None)
    (('torch', 'onnx'), ('torch',), None)
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def counted(value: str | int | Sequence[int]) -> tuple[int, ...]:
    """Return numbers of threads, from one number, several, or a text such as "1,2".

    Raises InputError for anything that is not 1 or more.

    >>> counted("1,2"), counted(4), counted([1, 2, 2])
    ((1, 2), (4,), (1, 2))
    """
    parts = [value] if isinstance(value, int) else named(value) if isinstance(value, str) else value
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in parts or ()))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"--threads must be numbers from 1 on, such as 1 or 1,2, not {value!r}")
    return numbers
