"""Train the classifier alone: what it reads is computed once for every picture, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from torch import Tensor

from mobilenets.checkpoint import Card
from mobilenets.data import Data, draws
from mobilenets.data.loader import Batches
from mobilenets.errors import MobileNetsError
from mobilenets.files import write_atomically
from mobilenets.nn.network import Network, to_tensors
from mobilenets.train.evaluation import in_order
from mobilenets.train.inputs import ToInput, input_batches
from mobilenets.train.progress import Progress

NAME = "features.safetensors"
_VIEW = 101  # which random number the choice of a view is; the augmentations have theirs


@dataclass(frozen=True)
class Features:
    """What the classifier reads: float32 (views, pictures, channels), and the pictures' classes, int64 (pictures,).

    The first view is the picture as evaluation sees it, the second its mirror image.
    """

    values: Tensor
    targets: Tensor


class FeatureBatches:
    """Features in batches, of the same pictures that :class:`mobilenets.data.loader.Batches` would take.

    A random view of each with `shuffle`, else the first.
    """

    def __init__(
        self, features: Features, *, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int
    ) -> None:
        self._features, self._shuffle, self._seed, self._batch_size = features, shuffle, seed, batch_size
        self._rank, self._world_size = rank, world_size
        together = batch_size * world_size
        count = len(features.targets)
        self._taken = count // together * together if shuffle and count >= together else count

    def __len__(self) -> int:
        return len(self._indices(0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (features, targets) of an epoch, from batch `start` on."""
        views = len(self._features.values)
        for indices in self._indices(number)[start:]:
            chosen = draws.below(views, self._seed, number, indices, _VIEW) if self._shuffle else np.zeros_like(indices)
            places = torch.from_numpy(indices)
            yield self._features.values[torch.from_numpy(chosen), places], self._features.targets[places]

    def close(self) -> None:
        """There is nothing to close."""

    def _indices(self, epoch: int) -> list[NDArray[np.int64]]:
        count = len(self._features.targets)
        if not self._shuffle:
            mine = np.arange(self._rank, count, self._world_size)
            return [mine[start : start + self._batch_size] for start in range(0, len(mine), self._batch_size)]
        order = draws.order(self._seed, epoch, count)[: self._taken]
        together = self._batch_size * self._world_size
        chunks = [order[start : start + together] for start in range(0, len(order), together)]
        return [np.array_split(chunk, self._world_size)[self._rank] for chunk in chunks]


def kept_features(
    network: Network,
    card: Card,
    data: Data,
    data_sha256: str,
    *,
    mirrored: bool,
    out: Path,
    accelerator: Accelerator,
    progress: Progress,
    workers: int | None,
) -> tuple[Features, Features]:
    """Return the features of the training and the validation pictures, read from `out` or computed and kept there."""
    key = _key(network, card, data_sha256, mirrored=mirrored)
    kept = _read(out / NAME, key)
    if kept is not None:
        progress.say(f"{out / NAME}: features of {len(data.train) + len(data.val):,} pictures, computed before")
        return kept
    made = []
    for pictures, views in ((data.train, 2 if mirrored else 1), (data.val, 1)):
        batches, to_input = input_batches(pictures, card.preprocess, accelerator, workers=workers)
        with batches:
            progress.counting("computing features", len(batches))
            values = _computed(network, batches, to_input, views, accelerator, progress)
        made.append(Features(values, torch.from_numpy(np.ascontiguousarray(pictures.targets))))
    progress.close()
    train, val = made
    if accelerator.is_main_process:
        tensors = {"train": train.values.numpy(), "val": val.values.numpy()}
        tensors |= {"train_targets": train.targets.numpy(), "val_targets": val.targets.numpy()}
        try:
            write_atomically(out / NAME, to_bytes(tensors | {"key": _digest(key, tensors)}))
        except MobileNetsError as error:  # they are in memory, which is what training needs
            progress.say(f"{error}; the features are not kept")
    return train, val


@torch.no_grad()
def _computed(
    network: Network, batches: Batches, to_input: ToInput, views: int, accelerator: Accelerator, progress: Progress
) -> Tensor:
    """Return float32 (views, pictures, channels), of all processes' pictures, on the CPU."""
    network.eval()
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(views)]
    for images, _ in batches:
        inputs = to_input(images)
        for view, into in enumerate(parts):
            features = network.features(inputs if view == 0 else inputs.flip(-1))
            into.append(features.float().cpu().numpy())
        progress.advance()
    channels = network.plan.ops[-1].source_shape[0]
    empty = np.zeros((0, channels), np.float32)
    mine = np.stack([np.concatenate([empty, *into]) for into in parts], axis=1)  # (pictures, views, channels)
    everyone: list[Any] = [mine] if accelerator.num_processes == 1 else gather_object([mine])
    whole = np.concatenate(everyone)[in_order([len(part) for part in everyone])]
    return torch.from_numpy(np.ascontiguousarray(whole.swapaxes(0, 1)))


def _key(network: Network, card: Card, data_sha256: str, *, mirrored: bool) -> bytes:
    """Return a digest of all that features depend on: trunk, preprocessing, pictures, views."""
    classifier = network.plan.ops[-1].name
    digest = hashlib.sha256(repr((card.preprocess, card.arch, data_sha256, mirrored)).encode())
    for name, value in to_tensors(network).items():
        if not name.startswith(f"{classifier}."):
            digest.update(value.tobytes())
    return digest.digest()


def _digest(key: bytes, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """Return the sha256 of what features depend on and of the features themselves."""
    digest = hashlib.sha256(key)
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _read(path: Path, key: bytes) -> tuple[Features, Features] | None:
    """Return the features in a file, None where there is none, or one of something else."""
    if not path.is_file():
        return None
    try:
        tensors = from_bytes(path.read_bytes())
    except (OSError, SafetensorError, ValueError):
        return None
    found = tensors.pop("key", None)
    if found is None or not np.array_equal(found, _digest(key, tensors)):
        return None
    train, val = (
        Features(torch.from_numpy(tensors[part].copy()), torch.from_numpy(tensors[f"{part}_targets"].copy()))
        for part in ("train", "val")
    )
    return train, val
