"""What is decided before the first step, stored with the run's state, and not decided again when it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mobilenets.checkpoint import Card
from mobilenets.data import Data
from mobilenets.data.boxed import BoxedPictures
from mobilenets.errors import InputError
from mobilenets.recipe import Recipe
from mobilenets.train.request import Request
from mobilenets.train.speed import Speed


@dataclass(frozen=True)
class Decisions:
    """What a run trains, and how."""

    request: Request
    card: Card
    recipe: Recipe
    speed: Speed
    threads: int
    processes: int
    data_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values; :meth:`from_json` reads them back."""
        return {
            "request": self.request.to_json(),
            "card": self.card.to_json(),
            "recipe": self.recipe.to_json(),
            "speed": self.speed.to_json(),
            "threads": self.threads,
            "processes": self.processes,
            "data_sha256": self.data_sha256,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], request: Request, data: Data) -> Decisions:
        """Read what :meth:`to_json` wrote; `request` is what of it still holds.

        Raises:
            InputError: the data is not what the run was begun with.
        """
        if stored["data_sha256"] != fingerprint(data):
            raise InputError(
                f"{request.data}: other pictures, labels or split than when the run was begun: "
                "restore them, or start anew with another --out"
            )
        return cls(
            request=request,
            card=Card.from_json(stored["card"]),
            recipe=Recipe.from_json(stored["recipe"]),
            speed=Speed(**stored["speed"]),
            threads=int(stored["threads"]),
            processes=int(stored["processes"]),
            data_sha256=stored["data_sha256"],
        )


def run_facts(request: Request, data: Data) -> dict[str, Any]:
    """Return what a card keeps beside its recipe: it goes where the weights go, so without this machine's folders."""
    return {
        "command": request.without_folders().command,
        "data": data.name,
        "images": len(data.train),
        "seed": request.seed,
        "val_fraction": None if data.own_val else request.val_fraction,
        "freeze": request.freeze,
    }


def fingerprint(data: Data) -> str:
    """Return a digest of labels, split, names, classes and boxes; the pixels of pictures are not read again."""
    digest = hashlib.sha256(repr(data.labels).encode("utf-8", "surrogateescape"))
    for pictures in (data.train, data.val):
        digest.update(pictures.targets.tobytes())
        for truth in pictures.truths if isinstance(pictures, BoxedPictures) else ():
            for values in (truth.boxes, truth.classes, truth.crowd):
                digest.update(values.tobytes())
        for index in range(len(pictures)):
            digest.update(pictures.name(index).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()
