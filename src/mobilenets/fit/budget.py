"""The one dial: how much time, memory, storage and work a network may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobilenets.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*")
_AMOUNTS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds; None is no bound. Milliseconds, bytes, and multiply-adds for one picture."""

    latency_ms: float | None = None
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    multiply_adds: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.bounds().items():
            if not value > 0:
                raise InputError(
                    f"--{name.removesuffix('_bytes').replace('_', '-')} must be more than 0, not {value:g}"
                )

    def bounds(self) -> dict[str, float]:
        """Return the bounds there are, by field."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        """Return the bounds there are."""
        return dict(self.bounds())

    def __str__(self) -> str:
        texts = [quantity(name, value) for name, value in self.bounds().items()]
        return ", ".join(texts) or "no bounds"


def quantity(name: str, value: float) -> str:
    """Print a bounded quantity with its unit.

    >>> quantity("ram_bytes", 262144), quantity("latency_ms", 3)
    ('256.0 KiB of RAM', '3.00 ms')
    """
    match name:
        case "latency_ms":
            return f"{value:.3g} ms" if value < 1 else f"{value:.2f} ms"
        case "multiply_adds":
            return f"{in_units(value, 1000, ('', 'k', 'M', 'G'))} multiply-adds"
        case "ram_bytes":
            return f"{in_units(value, 1024, ('B', 'KiB', 'MiB', 'GiB'))} of RAM"
        case _:
            return f"{in_units(value, 1000, ('B', 'KB', 'MB', 'GB'))} of flash"


def in_units(value: float, step: int, units: Sequence[str]) -> str:
    """Print a number in the unit that leaves one to four digits before the point.

    >>> in_units(262144, 1024, ("B", "KiB", "MiB")), in_units(1500, 1000, ("B", "KB")), in_units(7, 1000, ("", "k"))
    ('256.0 KiB', '1.5 KB', '7')
    """
    place = 0
    while value >= step and place + 1 < len(units):
        value, place = value / step, place + 1
    number = f"{value:.1f}" if place else f"{value:g}"
    return f"{number} {units[place]}".strip()


def read_bytes(text: str | int | None, flag: str) -> int | None:
    """Return a number of bytes, from a number or a text with a unit: KB and MB are powers of 10, KiB and MiB of 2.

    >>> read_bytes("256KiB", "--ram"), read_bytes("1MB", "--flash"), read_bytes(None, "--ram")
    (262144, 1000000, None)

    Raises:
        InputError: anything else; names the flag.
    """
    return _read(text, flag, UNITS, "a size such as 256KiB or 1MB")


def read_count(text: str | int | None, flag: str) -> int | None:
    """Return a number of things, from a number or a text such as 100M.

    >>> read_count("100M", "--multiply-adds")
    100000000

    Raises:
        InputError: anything else; names the flag.
    """
    return _read(text, flag, _AMOUNTS, "a number such as 100M")


def _read(text: str | int | None, flag: str, units: dict[str, int], wanted: str) -> int | None:
    if text is None:
        return None
    match = _NUMBER.fullmatch(str(text))
    if match is None or match[2].upper() not in units:
        raise InputError(f"{flag} is {wanted}, not {text!r}")
    return round(float(match[1]) * units[match[2].upper()])
