"""Serve pictures in batches: the same batches for the same seed, whatever the workers, processes and interruptions."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from mobilenets.data import draws
from mobilenets.data.augment import View, short_side_needed
from mobilenets.data.box_augment import BoxView
from mobilenets.data.boxed import BoxedPictures
from mobilenets.data.memory import held_fitted, held_short
from mobilenets.data.pictures import ArrayPictures, Pictures
from mobilenets.errors import InputError, MobileNetsError
from mobilenets.image.augmentation import Augmentation
from mobilenets.image.preprocess import Preprocess, scale_and_shift

CACHE_BYTES = 1 << 30
_MOST_WORKERS = 8
_Key = tuple[int, NDArray[np.int64]]  # epoch, picture indices of one batch
_Made = tuple[torch.Tensor, torch.Tensor] | str  # views uint8 (N, H, W, C) and targets, or what went wrong


def batches(
    pictures: Pictures,
    *,
    preprocess: Preprocess,
    augmentation: Augmentation | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool | None = None,
    normalized: bool = True,
    workers: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Batches:
    """Return the pictures as batches of network input, to be gone through once per epoch.

    Pictures that are asked for repeatedly are held in memory, in the form asked for, up to `cache_bytes`. `workers`
    processes prepare batches ahead; None takes none where that is quicker and else one per spare core. The rest is
    explained at `Batches`.
    """
    boxed = isinstance(pictures, BoxedPictures)
    kept = pictures if boxed else _held(pictures, preprocess, augmentation, cache_bytes)
    return Batches(
        kept,
        BoxView(preprocess, augmentation) if boxed else View(preprocess, augmentation),
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=shuffle if drop_last is None else drop_last,
        normalized=normalized,
        workers=_workers_for(kept, preprocess, augmentation) if workers is None else workers,
    )


class Batches:
    """The batches of one process, epoch by epoch; batches are (images, targets).

    `images` is (N, channels, height, width) with channels innermost in memory: float32 normalized, or with
    `normalized` False uint8 (`normalize_on_device` finishes those). `targets` is int64 (N,); of pictures with boxes it
    is float32 (N, M, 5), see :class:`mobilenets.data.box_augment.BoxView`.

    With `shuffle`, every epoch has its own order; batch b of all `world_size` processes together is the same set of
    `batch_size * world_size` pictures as of one process with that batch size. `drop_last` leaves out the pictures that
    fill no such batch (others each epoch), unless they are all there are. Without `shuffle`, process r has pictures
    r, r + world_size, ... in order, each picture exactly once over all processes.

    Order and views depend on seed, epoch and picture alone: an epoch can be begun anew at any batch. Shards are taken
    here, so `accelerate` must not shard these batches again.
    """

    def __init__(
        self,
        pictures: Pictures,
        view: View | BoxView,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        normalized: bool = True,
        workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"--batch-size must be 1 or more, not {batch_size}")
        if workers < 0:
            raise InputError(f"--workers must be 0 or more, not {workers}")
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not in 0..{world_size - 1}")
        if shuffle and 0 < len(pictures) < world_size:
            raise InputError(f"{len(pictures)} pictures for {world_size} processes: start fewer processes")
        self.pictures = pictures
        self.preprocess = view.preprocess
        self.normalized = normalized
        self._seed = seed
        self._shuffle = shuffle
        self._shard = _Shard(len(pictures), batch_size, rank, world_size, shuffle=shuffle, drop_last=drop_last)
        self._maker = _Maker(pictures, view, seed)
        self._plan = _Plan()
        self._loader = _loader(self._maker, self._plan, workers) if workers else None

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return self._shard.batch_count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of an epoch, from batch `start` on.

        Raises InputError naming a picture that can no longer be decoded, and MobileNetsError when a worker dies.
        """
        self._plan.keys = [(number, indices) for indices in self.batch_indices(number)[start:]]
        made = self._from_workers(self._loader) if self._loader is not None else map(self._maker.make, self._plan.keys)
        for result in made:
            if isinstance(result, str):
                raise InputError(result)
            views, targets = result
            images = views.permute(0, 3, 1, 2)
            yield (normalize_on_device(images, self.preprocess) if self.normalized else images), targets

    @staticmethod
    def _from_workers(loader: DataLoader[_Made]) -> Iterator[_Made]:
        try:
            yield from loader
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise MobileNetsError(
                f"a data worker died ({str(error).splitlines()[0]}): use fewer with --workers, or free memory"
            ) from None

    def batch_indices(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return which pictures are in each of this process's batches of an epoch, int64 (N,) each."""
        count = len(self.pictures)
        whole = draws.order(self._seed, epoch, count) if self._shuffle else np.arange(count)
        return self._shard.batches_of(whole)

    def close(self) -> None:
        """End the worker processes; a later epoch would start new ones."""
        if self._loader is not None and self._loader._iterator is not None:  # noqa: SLF001 - the only way there is
            self._loader._iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001 - same
            self._loader._iterator = None  # noqa: SLF001 - same

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def normalize_on_device(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Normalize uint8 (N, C, H, W) to float32 where it is, in the same memory order; as `image.normalize` does."""
    scale, shift = (torch.tensor(each, device=images.device) for each in scale_and_shift(preprocess))
    values = images.to(torch.float32)
    inner = values.permute(0, 2, 3, 1)
    if not inner.is_contiguous():
        return torch.addcmul(shift.view(1, -1, 1, 1), values, scale.view(1, -1, 1, 1))
    # Broadcasting three numbers over the innermost axis of three took fifteen times as long as one row over all rows.
    count, height, width, channels = inner.shape
    rows = inner.view(count * height, width * channels)
    torch.addcmul(shift.repeat(width), rows, scale.repeat(width), out=rows)
    return values


class _Shard:
    """Which of an epoch's pictures, in what batches, one process takes."""

    def __init__(
        self, count: int, batch_size: int, rank: int, world_size: int, *, shuffle: bool, drop_last: bool
    ) -> None:
        self._batch_size, self._rank, self._world_size, self._together = batch_size, rank, world_size, shuffle
        together = batch_size * world_size
        rest = count % together if shuffle else 0
        # A last batch must have a picture for every process, or those without one would leave the others waiting.
        self._taken = count - rest if (drop_last or rest < world_size) and count >= together else count
        self.batch_count = len(self.batches_of(np.arange(count)))

    def batches_of(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        taken = order[: self._taken]
        if not self._together:
            return _chunks(taken[self._rank :: self._world_size], self._batch_size)
        shared = _chunks(taken, self._batch_size * self._world_size)
        return [np.array_split(chunk, self._world_size)[self._rank] for chunk in shared]


def _chunks(indices: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


class _Maker(Dataset[_Made]):
    """Makes a whole batch at a time, so that small pictures cost no Python call each."""

    def __init__(self, pictures: Pictures, view: View | BoxView, seed: int) -> None:
        self._pictures, self._view, self._seed = pictures, view, seed
        self._targets = torch.from_numpy(np.ascontiguousarray(pictures.targets))

    def __getitem__(self, key: _Key) -> _Made:
        return self.make(key)

    def make(self, key: _Key) -> _Made:
        """Return one batch, or the message of what went wrong."""
        epoch, indices = key
        try:
            if isinstance(self._view, BoxView):
                assert isinstance(self._pictures, BoxedPictures)
                views, boxes = self._view.render(self._pictures, indices, self._seed, epoch)
                return torch.from_numpy(views), torch.from_numpy(boxes)
            views = self._view.render(self._pictures, indices, self._seed, epoch)
        except InputError as error:  # returned, because an exception leaves a worker process as a printed traceback
            return str(error)
        return torch.from_numpy(views), self._targets[torch.from_numpy(indices)]


class _Plan(Sampler[_Key]):
    """The keys of the batches that are due; set anew for every epoch, read when the loader starts one."""

    def __init__(self) -> None:
        self.keys: list[_Key] = []

    def __iter__(self) -> Iterator[_Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def _loader(maker: _Maker, plan: _Plan, workers: int) -> DataLoader[_Made]:
    return DataLoader(
        maker,
        sampler=plan,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # it draws a base seed from this one instead of torch's global generator
    )


def _ignore_interrupts(worker: int) -> None:  # noqa: ARG001 - the signature is torch's
    """Leave Ctrl-C to the main process, which saves and then ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _held(pictures: Pictures, preprocess: Preprocess, augmentation: Augmentation | None, cache_bytes: int) -> Pictures:
    if augmentation is not None and augmentation.kind == "photo":
        return held_short(pictures, short_side_needed(preprocess, augmentation), cache_bytes)
    return held_fitted(pictures, preprocess, cache_bytes)


def _workers_for(pictures: Pictures, preprocess: Preprocess, augmentation: Augmentation | None) -> int:
    """Return 0 where a batch is a copy out of memory, else one per spare core, up to 8."""
    in_memory = isinstance(pictures, ArrayPictures) and pictures.fitted == preprocess
    if in_memory and not View(preprocess, augmentation).is_per_picture:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return min(_MOST_WORKERS, max(1, cores // processes - 1))
