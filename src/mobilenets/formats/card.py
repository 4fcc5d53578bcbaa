"""What all exported files have in common: the card, one JSON text under the key `mobilenets`, and two names."""

from __future__ import annotations

import json
from pathlib import Path

from mobilenets.arch import Plan
from mobilenets.checkpoint import FORMAT, KEY, Card
from mobilenets.errors import CheckpointError, InputError

__all__ = ["INPUT", "KEY", "OUTPUT", "card_from_text", "card_to_text", "output_names"]

INPUT, OUTPUT = "input", "logits"
"""What a graph's input and a classifier's output are called."""


def output_names(layout: Plan) -> tuple[str, ...]:
    """Return what a graph's outputs are called: a detector's as the operations that compute them."""
    return (OUTPUT,) if layout.arch.detector is None else layout.outputs


def card_to_text(card: Card) -> str:
    """Return the card as an exported file holds it."""
    return json.dumps(card.to_json(), sort_keys=True)


def card_from_text(text: str | None, path: Path) -> Card:
    """Return the card that an exported file holds; `text` is None where it holds none.

    Raises:
        CheckpointError: absent, damaged, or from a newer version; names the file.
    """
    if text is None:
        raise CheckpointError(
            f"{path}: holds no card, so labels and preprocessing are unknown: use a file that `mobilenets export` wrote"
        )
    try:
        data = json.loads(text)
        version = data["format"]
        if version > FORMAT:
            raise CheckpointError(
                f"{path}: written by a newer mobilenets (format {version}, this one reads up to {FORMAT}): "
                "pip install -U mobilenets"
            )
        return Card.from_json(data)
    except (ValueError, KeyError, TypeError, RecursionError, InputError) as error:
        raise CheckpointError(f"{path}: its card is damaged ({error}): export the model again") from None
