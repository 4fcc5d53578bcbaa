"""The papers, re-run: tables and figures computed or measured again, beside the published numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mobilenets.errors import InputError, needing
from mobilenets.files import need_folder
from mobilenets.reproduce.outcome import ReproduceResult, Reproduction, Row, Settings

__all__ = ["COMPUTED", "NAMES", "ReproduceResult", "Reproduction", "Row", "reproduce"]

_HOMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cost": ("laws", "reproduce_cost"),
        "v1-tables": ("classifiers", "reproduce_v1_tables"),
        "v2-table2": ("layout", "reproduce_v2_table2"),
        "v2-table3": ("memory", "reproduce_v2_table3"),
        "v2-table4": ("classifiers", "reproduce_v2_table4"),
        "v2-table5": ("detectors", "reproduce_v2_table5"),
        "v2-table6": ("detectors", "reproduce_v2_table6"),
        "v3-tables": ("classifiers", "reproduce_v3_tables"),
        "resnet-block": ("residual", "reproduce_resnet_block"),
        "relu": ("spiral", "reproduce_relu"),
        "ablations": ("ablations", "reproduce_ablations"),
        "v1-vs-v2": ("operators", "reproduce_v1_vs_v2"),
        "t-split": ("splitting", "reproduce_t_split"),
    }
)
NAMES = (*_HOMES, "all")
"""What can be reproduced."""
COMPUTED = tuple(name for name in _HOMES if name not in ("ablations", "v1-vs-v2", "t-split"))
"""Those that are arithmetic alone, with random numbers from fixed seeds: the same on every machine."""


def reproduce(
    name: str,
    *,
    out: Path | None = None,
    data: str = "digits",
    root: Path | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    pictures: int | None = None,
    threads: int = 1,
) -> ReproduceResult:
    """Re-run a table or figure of the MobileNet papers, and print it beside the published numbers.

    With OUT each NAME writes a page NAME.md, its picture NAME.png and the rows, NAME.json. Names: cost, v1-tables,
    v2-table2, v2-table3, v2-table4, v2-table5, v2-table6, v3-tables (counts); resnet-block (two blocks side by side);
    relu (what ReLU destroys); ablations (trains small networks, one a core, and goes on where it was interrupted if
    OUT is the same); v1-vs-v2 and t-split (measured on this machine); or all, which takes minutes.

    >>> reproduce("v2-table5").rows[0].published
    '14.8'

    Args:
        name: The table or figure, or all.
        out: A folder for the pages and pictures.
        data: What ablations trains on: digits, cifar10, or any data `train` takes.
        root: Where cifar10 is.
        epochs: Of each of the ablations' trainings; small without it.
        seeds: How often each of the ablations' networks is trained.
        pictures: Train and judge the ablations with so many of the data's pictures; 5,000 without it.
        threads: CPU threads that v1-vs-v2 and t-split measure with; the papers use one large core.

    Raises:
        InputError: an unknown name, or a value out of range.
        MissingExtraError: what draws or trains is not installed.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} cannot be reproduced: there are {', '.join(NAMES)}")
    for flag, value in (("--epochs", epochs), ("--seeds", seeds), ("--pictures", pictures), ("--threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{flag} must be 1 or more, not {value}")
    if out is not None:
        need_folder(Path(out))
    settings = Settings(None if out is None else Path(out), data, root, epochs, seeds, threads, pictures)
    chosen = tuple(_HOMES) if name == "all" else (name,)
    items: list[Reproduction] = []
    seconds: list[float] = []
    files: list[Path] = []
    for count, each in enumerate(chosen, 1):
        if len(chosen) > 1:
            print(f"reproduce {count}/{len(chosen)}: {each}", file=sys.stderr, flush=True)  # noqa: T201 - progress
        begun = time.monotonic()
        item = _made(each, settings)
        items.append(item)
        if settings.out is not None:
            from mobilenets.reproduce.pages import write

            files += write(item, settings.out)
        seconds.append(time.monotonic() - begun)
    return ReproduceResult(tuple(items), tuple(seconds), tuple(files))


def _made(name: str, settings: Settings) -> Reproduction:
    module, function = _HOMES[name]
    with needing("train"):
        make: Any = getattr(import_module(f"mobilenets.reproduce.{module}"), function)
        made: Reproduction = make(settings)
    return made
