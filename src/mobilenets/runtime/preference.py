"""Whether the engine computes where nobody names a runtime: it is the fastest, once it is compiled.

It is taken where its machine code is in the cache, which it then loads in milliseconds, or where there is so much to
compute that compiling pays. Else whoever asks for one picture would wait for a compiler.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mobilenets.errors import MobileNetsError
from mobilenets.notices import notice

if TYPE_CHECKING:
    from mobilenets.checkpoint import Card

ENDLESS = 1 << 62
"""As many pictures as come: of a service."""

PAYS = 2_000_000_000_000
"""Multiply-adds, 6,600 pictures of V2 at 224, from which the time that the engine saves is longer than compiling takes.

By benchmarks/results/engine.json and engine_int8.json it saves about 6 ps for each beside the fastest peer, and by
engine_start.json compiling takes 3 s in float32 and 8 s in int8.
"""

FASTEST = {"float32": frozenset({"avx512f"}), "int8": frozenset({"avx512f", "avx512vnni"})}
"""Instructions of the processors that it was measured on, where no peer was faster with any of the networks."""

SETTING = "MOBILENETS_ENGINE"
"""Environment variable: with `asked`, only who names the engine gets it."""


def engine_is_best(card: Card, pictures: int) -> bool:
    """Say whether to compute so many pictures of the card's size with the engine, which is installed.

    Where it would be, were it compiled, a line is left that says so.
    """
    from mobilenets.engine.prepared import compiled
    from mobilenets.engine.target import host

    if os.environ.get(SETTING) == "asked" or card.precision not in FASTEST:
        return False
    try:
        target = host()
        if not FASTEST[card.precision] <= set(target.features):
            return False
        if compiled(card, target):
            return True
    except MobileNetsError:  # no processor that it knows; no folder for a cache
        return False
    if find_spec("ziglang") is None and shutil.which("cc") is None:
        return False
    from mobilenets.arch.cost import cost

    if pictures * cost(card.plan).multiply_adds >= PAYS:
        return True
    notice("--runtime engine would be faster: it is compiled for this network once, in some seconds")
    return False
