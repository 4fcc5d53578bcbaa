"""Files to samples: open a data set of any kind, split it, hold it in memory, vary it and serve it in batches.

`open_data` turns a folder, a CSV, an `.npz`, a `.zip` or a known name into a `Data`; `batches` serves its pictures to
training and evaluation. Both are brought in when first used: numpy, Pillow and torch cost nothing until then.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobilenets.data.dataset import Data as Data
    from mobilenets.data.dataset import open_data as open_data
    from mobilenets.data.loader import Batches as Batches
    from mobilenets.data.loader import batches as batches
    from mobilenets.data.pictures import Pictures as Pictures

__all__ = ["Batches", "Data", "Pictures", "batches", "open_data"]

_HOMES = {
    "Batches": "mobilenets.data.loader",
    "Data": "mobilenets.data.dataset",
    "Pictures": "mobilenets.data.pictures",
    "batches": "mobilenets.data.loader",
    "open_data": "mobilenets.data.dataset",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
