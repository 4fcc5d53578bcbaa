"""Batches of pictures, and how they become what the network takes on its device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from mobilenets.data import Batches, Pictures, batches
from mobilenets.data.loader import normalize_on_device
from mobilenets.image import Augmentation, Preprocess

ToInput = Callable[[Tensor], Tensor]

JUDGED_AT_ONCE = 64  # pictures of a batch that is only looked at


def input_batches(
    pictures: Pictures,
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    augmentation: Augmentation | None = None,
    batch_size: int = JUDGED_AT_ONCE,
    shuffle: bool = False,
    seed: int = 0,
    workers: int | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> tuple[Batches, ToInput]:
    """Return this process's share of the pictures in batches, and what brings a batch to the device, normalized.

    An accelerator gets uint8 and normalizes by itself: a quarter of the bytes to move.
    """
    device = accelerator.device
    served = batches(
        pictures,
        preprocess=preprocess,
        augmentation=augmentation,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        normalized=device.type == "cpu",
        workers=workers,
    )

    def to_input(images: Tensor) -> Tensor:
        images = images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalize_on_device(images, preprocess)
        return images.contiguous(memory_format=memory_format)

    return served, to_input
