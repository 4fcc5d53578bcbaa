"""Judge a network on all pictures of a set, each once, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from mobilenets.metrics import Judged, join, judge


@torch.no_grad()
def judge_all(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
    to_input: Callable[[Tensor], Tensor],
    advance: Callable[[], None] | None = None,
) -> Judged:
    """Return what `network`, put in eval mode, says of every picture, in the order of the pictures, on all processes.

    Of several processes, each goes through its own batches: of picture r, r + world_size, ... `advance` is called after
    each batch.
    """
    network.eval()
    parts = []
    for images, targets in batches:
        logits = network.forward(to_input(images))  # not network(...): what is compiled is compiled for training
        parts.append(judge(logits.float().cpu().numpy(), targets.numpy()))
        if advance is not None:
            advance()
    mine = join(parts)
    if accelerator.num_processes == 1:
        return mine
    return _interleaved(gather_object([mine]))


def _interleaved(parts: list[Judged]) -> Judged:
    whole, order = join(parts), in_order([len(part) for part in parts])
    return Judged(*(getattr(whole, field.name)[order] for field in fields(whole)))


def in_order(counts: Sequence[int]) -> NDArray[np.int64]:
    """Return where the pictures of a set are in the processes' parts, laid end to end.

    Process r had pictures r, r + world_size, ..., counts[r] of them.

    >>> in_order([2, 1]).tolist()
    [0, 2, 1]
    """
    places = np.concatenate([np.arange(count) * len(counts) + rank for rank, count in enumerate(counts)])
    return np.argsort(places, kind="stable").astype(np.int64)
