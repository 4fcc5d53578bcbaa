"""Bias correction: rounded weights shift the mean of a channel, and the bias can shift it back.

Nagel et al., arXiv:1906.04721, section 4.2 and appendix D (the empirical form), one operation after the other: what an
operation reads is already computed in int8 with the corrections before it, so that those errors are made good too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.arithmetic import Int8Arithmetic, split
from mobilenets.image.preprocess import normalize

if TYPE_CHECKING:
    from torch import Tensor

    from mobilenets.compress.statistics import Pictures

MEMORY_BYTES = 384 << 20
"""For the sums of the operation in hand, of all pictures, as float32."""
FEWEST_PICTURES = 4


def pictures_held(layout: Plan, available: int) -> int:
    """Return how many pictures the correction can work on at once, of those available."""
    largest = max(prod(op.out) for op in layout.ops)
    return min(available, max(FEWEST_PICTURES, MEMORY_BYTES // (4 * largest)))


@torch.inference_mode()
def corrected(checkpoint: Checkpoint, means: Mapping[str, NDArray[np.float64]], pictures: Pictures) -> Checkpoint:
    """Return an int8 checkpoint whose channels have the means they have in float32.

    Args:
        checkpoint: int8; its biases are corrected.
        means: before the activation, of the float32 network on these very pictures, by operation: float64 (c,).
        pictures: uint8 (N, H, W, C), no more than :func:`pictures_held`.
    """
    card, layout = checkpoint.card, checkpoint.card.plan
    arithmetic = Int8Arithmetic(checkpoint)
    last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
    live: dict[str, list[Tensor]] = {
        "input": [
            arithmetic.enter(
                torch.from_numpy(normalize(part, card.preprocess)).contiguous(memory_format=torch.channels_last)
            )
            for part in split(pictures)
        ]
    }
    tensors = dict(checkpoint.tensors)
    for index, op in enumerate(layout.ops):
        sources = zip(*(live[source] for source in op.sources), strict=True)
        before = [arithmetic.before(op, list(each)) for each in sources]
        if op.name in means:
            scale = checkpoint.tensors[f"{op.name}.weight_scale"].astype(np.float64)
            unit = scale * arithmetic.quantizations[op.sources[0]].scale
            more = _missing(before, means[op.name] / unit, checkpoint.tensors[f"{op.name}.bias"])
            arithmetic.add_bias(op, more)
            shift = torch.from_numpy(more.astype(np.float64))[:, None, None]
            before = [(value.double() + shift).to(value.dtype) for value in before]
            tensors[f"{op.name}.bias"] = arithmetic.bias(op)
        live[op.name] = [arithmetic.after(op, value) for value in before]
        del before
        for source in op.sources:
            if last_use[source] == index:
                live.pop(source, None)
    return replace(checkpoint, tensors=tensors)


def _missing(before: list[Tensor], wanted: NDArray[np.float64], bias: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the integers (c,) that bring the mean of the sums to what is wanted, and leave the bias within int32."""
    count = sum(value.numel() // value.shape[1] for value in before)
    total = sum(value.sum((0, 2, 3), dtype=torch.float64) for value in before)
    assert not isinstance(total, int)
    more = np.rint(wanted - total.numpy() / count)
    limit = 2**31 - 1
    return (np.clip(bias + more, -limit, limit) - bias).astype(np.int64)
