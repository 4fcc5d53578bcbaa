"""An int8 network as it will be stored: with a sample to prove itself by, and read back before it is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.compress.arithmetic import Int8Arithmetic, run
from mobilenets.engine import reference
from mobilenets.errors import ParityError
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize


def with_sample(quantized: Checkpoint, float32: Checkpoint) -> Checkpoint:
    """Store what the int8 network says of the float32 network's stored picture, by the reference.

    It is computed in torch as well: everything that follows relies on the two being one arithmetic.

    Raises:
        ParityError: they are not, on this machine.
    """
    card = quantized.card
    picture = pictures(card.preprocess, 2)[1] if float32.sample is None else float32.sample[0]
    batch = normalize(picture[np.newaxis], card.preprocess)
    answer = reference.run(quantized, batch)
    if not np.array_equal(answer, run(card.plan, Int8Arithmetic(quantized), batch)):
        raise ParityError("torch on this machine does not compute integers exactly: quantize on another, or report it")
    return replace(quantized, sample=(picture, answer[0]))


def read_back(checkpoint: Checkpoint) -> Checkpoint:
    """Write the file where nobody looks, and read it: what is measured is what will be there."""
    with TemporaryDirectory() as folder:
        return load(save(checkpoint, Path(folder) / "int8.safetensors"))
