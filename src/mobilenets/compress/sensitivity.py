"""Which operations of an int8 network hurt: how far each is from its float32 form, alone and with all before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobilenets.arch import Op
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress.arithmetic import FloatArithmetic, Int8Arithmetic, decoded, encoded, split
from mobilenets.compress.statistics import Pictures
from mobilenets.engine.folding import Layer
from mobilenets.image.preprocess import normalize
from mobilenets.results import json_number

HURTS_BELOW_DB = 20.0
"""An operation that alone leaves an error of more than a tenth of its signal."""
MOST_HURTING = 5
"""So many are named, the worst first."""
MOST_DB = 120.0
"""Of an operation that is as good as exact."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """What 8 bits do to one operation.

    sqnr_db: signal to quantization noise of its output in the int8 network: with the errors of all before it.
    own_sqnr_db: the same with sources that are right but for their rounding to 8 bits: its own error.
    weight_sqnr_db: of its weights; None where it has none.
    clipped_share: of the float values, those its 8 bits cannot reach, 0..1.
    hurts: it is among the worst by itself.
    """

    name: str
    kind: str
    row: int
    sqnr_db: float
    own_sqnr_db: float
    weight_sqnr_db: float | None
    clipped_share: float
    hurts: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return an item of `layers`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "row": self.row,
            "sqnr_db": json_number(self.sqnr_db),
            "own_sqnr_db": json_number(self.own_sqnr_db),
            "weight_sqnr_db": None if self.weight_sqnr_db is None else json_number(self.weight_sqnr_db),
            "clipped_share": json_number(self.clipped_share),
            "hurts": self.hurts,
        }


def decibel(signal: float, noise: float) -> float:
    """Return 10 log10(signal / noise), from -120 to 120.

    >>> decibel(100.0, 1.0)
    20.0
    """
    if noise <= 0:
        return MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * math.log10(max(signal, 1e-300) / noise)))


def layer_errors(
    card: Card, layers: Mapping[str, Layer], quantized: Checkpoint, pictures: Pictures
) -> tuple[LayerError, ...]:
    """Measure every operation, in the plan's order.

    Args:
        card: of the float32 network.
        layers: its weights and biases, scaled as those that were quantized.
        quantized: the int8 network.
        pictures: uint8 (N, H, W, C).
    """
    meter = _Meter(FloatArithmetic(card, layers), Int8Arithmetic(quantized))
    for part in split(pictures):
        meter.add(card, normalize(part, card.preprocess))
    found = []
    for op in card.plan.ops:
        seen = meter.sums[op.name]
        weight = _weight_sqnr(layers[op.name], quantized, op) if op.name in layers else None
        kind = "depthwise" if op.depthwise else op.kind
        error = LayerError(
            op.name,
            kind,
            op.row,
            decibel(seen[0], seen[1]),
            decibel(seen[0], seen[2]),
            weight,
            seen[3] / seen[4],
        )
        found.append(error)
    worst = sorted((each for each in found if each.own_sqnr_db < HURTS_BELOW_DB), key=lambda each: each.own_sqnr_db)
    names = {each.name for each in worst[:MOST_HURTING]}
    return tuple(replace(each, hurts=each.name in names) for each in found)


class _Meter:
    """Both networks run side by side; by operation the sums of signal, noise, own noise, clipped and all values."""

    def __init__(self, real: FloatArithmetic, codes: Int8Arithmetic) -> None:
        self.real, self.codes = real, codes
        self.sums: dict[str, NDArray[np.float64]] = {}

    @torch.inference_mode()
    def add(self, card: Card, batch: NDArray[np.float32]) -> None:
        """Run one batch, float32 (N, C, H, W)."""
        layout = card.plan
        last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
        pictures = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
        real = {"input": pictures}
        codes = {"input": self.codes.enter(pictures)}
        for index, op in enumerate(layout.ops):
            real[op.name] = self.real.after(op, self.real.before(op, [real[source] for source in op.sources]))
            codes[op.name] = self._int8(op, [codes[source] for source in op.sources])
            rounded = [encoded(real[source], self.codes.quantizations[source]) for source in op.sources]
            self._note(op, real[op.name], codes[op.name], self._int8(op, rounded))
            for source in op.sources:
                if last_use[source] == index:
                    real.pop(source, None)
                    codes.pop(source, None)

    def _int8(self, op: Op, sources: list[Tensor]) -> Tensor:
        return self.codes.after(op, self.codes.before(op, sources))

    def _note(self, op: Op, real: Tensor, codes: Tensor, own: Tensor) -> None:
        of = self.codes.quantizations[op.name]
        outside = (real > of.high + of.scale / 2) | (real < of.low - of.scale / 2)
        found = np.array(
            [
                _energy(real),
                _energy(decoded(codes, of) - real),
                _energy(decoded(own, of) - real),
                float(outside.sum()),
                real.numel(),
            ]
        )
        self.sums[op.name] = self.sums.get(op.name, np.zeros(5)) + found


def _energy(values: Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))


def _weight_sqnr(layer: Layer, quantized: Checkpoint, op: Op) -> float:
    steps = quantized.tensors[f"{op.name}.weight_scale"].astype(np.float64)
    real = layer.weight.astype(np.float64)
    kept = quantized.tensors[f"{op.name}.weight"] * steps.reshape(-1, *(1,) * (real.ndim - 1))
    return decibel(float(np.square(real).sum()), float(np.square(kept - real).sum()))
