"""What the user asked for: the flags of `train`, checked, stored with the run and compared when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.errors import InputError

if TYPE_CHECKING:
    from mobilenets.train import Granularity

_FREE = ("workers", "strict")
"""Flags that change no weight, and so may differ when a run is resumed."""

_PATHS = ("data", "model", "weights", "recipe", "root")
"""Flags that may name a file or a folder."""


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`mobilenets.train`; None stands for "decide for me". Raises InputError for bad values."""

    data: str
    model: str = "mobilenet_v2"
    width: float | None = None
    resolution: int | tuple[int, int] | None = None
    weights: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    granularity: Granularity | None = None
    patience: int | None = None
    freeze: bool = False
    seed: int = 0
    root: str | None = None
    val_fraction: float = 0.2
    strict: bool = False
    workers: int | None = None
    threads: int | None = None
    bf16: str = "auto"
    channels_last: str = "auto"
    compile: str = "auto"

    def __post_init__(self) -> None:
        for name in ("bf16", "channels_last", "compile"):
            if getattr(self, name) not in ("auto", "on", "off"):
                raise InputError(f"{flag(name)} must be auto, on or off, not {getattr(self, name)!r}")
        if self.granularity not in (None, "channel", "tensor"):
            raise InputError(f"--granularity must be channel or tensor, not {self.granularity!r}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed must be from 0 to 2^63 - 1, not {self.seed}")
        for name, least in (("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{flag(name)} must be {least} or more, not {value}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values; :meth:`from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Request:
        """Read what :meth:`to_json` wrote."""
        values = dict(document)
        if isinstance(values.get("resolution"), list):
            values["resolution"] = tuple(values["resolution"])
        return cls(**values)

    @property
    def command(self) -> str:
        """The command line that asks for this, without `--out`."""
        return " ".join(["mobilenets train", _quoted(self.data), *(text for _, text in self._given())])

    def without_folders(self) -> Request:
        """Return the same with the last part alone of every path: what strangers may know of this machine."""
        given = {name: getattr(self, name) for name in _PATHS}
        last: dict[str, Any] = {name: Path(value).name or value for name, value in given.items() if value is not None}
        return replace(self, **last)

    def _given(self) -> list[tuple[str, str]]:
        given = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "data" or value == field.default:
                continue
            if isinstance(value, tuple):
                value = "x".join(map(str, value))
            given.append((field.name, flag(field.name) if value is True else f"{flag(field.name)} {_quoted(value)}"))
        return given


def merged(asked: Request, stored: Request, out: Path) -> Request:
    """Return the request of a run that is resumed: the stored one.

    A flag left at its default is taken from the run; one that was given must agree with it, but for `--workers` and
    `--strict`. Raises InputError naming the first flag that does not.
    """
    changes: dict[str, Any] = {}
    for field in fields(Request):
        value, before = getattr(asked, field.name), getattr(stored, field.name)
        if field.name in _FREE:
            changes[field.name] = value
        elif value != before and (field.name == "data" or value != field.default):
            name = "DATA" if field.name == "data" else flag(field.name)
            shown = "at its default" if before is None else before
            remedy = f"give {before}" if field.name == "data" else f"leave {name} out"
            raise InputError(
                f"{out}: the run there has {name} {shown}, not {value}: {remedy}, or start anew with another --out"
            )
    return Request(**{**asdict(stored), **changes})


def flag(name: str) -> str:
    """Return the flag of a field.

    >>> flag("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def _quoted(value: object) -> str:
    import shlex

    return shlex.quote(str(value))
