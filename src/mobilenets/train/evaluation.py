"""Judge a network on all pictures of a set, each once, over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from mobilenets.metrics import Judged, join, judge


@torch.no_grad()
def judge_all(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
    to_input: Callable[[Tensor], Tensor],
    advance: Callable[[int], None] | None = None,
) -> Judged:
    """Return what `network`, put in eval mode, says of every picture, in the order of the pictures, on all processes.

    Of several processes, each goes through its own batches: of picture r, r + world_size, ... `advance` is called with
    the number of pictures of each batch.
    """
    network.eval()
    parts = []
    for images, targets in batches:
        logits = network.forward(to_input(images))  # not network(...): what is compiled is compiled for training
        parts.append(judge(logits.float().cpu().numpy(), targets.numpy()))
        if advance is not None:
            advance(len(targets))
    mine = join(parts)
    if accelerator.num_processes == 1:
        return mine
    return _interleaved(gather_object([mine]))


def _interleaved(parts: list[Judged]) -> Judged:
    """Put pictures back in order, of which process r had r, r + world_size, ..."""
    world_size = len(parts)
    places = np.concatenate([np.arange(len(part)) * world_size + rank for rank, part in enumerate(parts)])
    order = np.argsort(places, kind="stable")
    whole = join(parts)
    return Judged(*(getattr(whole, field.name)[order] for field in fields(whole)))
