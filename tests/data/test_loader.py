from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.data import Batches, Pictures, batches, open_data
from mobilenets.data.loader import normalize_on_device
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError, MobileNetsError
from mobilenets.image import Augmentation, Preprocess, fit, normalize

P = Preprocess(16, 16)
PHOTO = Augmentation("photo", flip=True, policy="trivial")


def numbered(count: int) -> ArrayPictures:
    """Pictures of one pixel whose value is their index."""
    pixels = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return ArrayPictures(("a", "b"), np.arange(count) % 2, tuple(map(str, range(count))), pixels)


ONE = Preprocess(1, 1, 1, mean=(0.5,), std=(0.5,))


def plain(
    count: int, batch_size: int, *, shuffle: bool, rank: int = 0, world_size: int = 1, drop_last: bool | None = None
) -> Batches:
    return batches(
        numbered(count),
        preprocess=ONE,
        batch_size=batch_size,
        shuffle=shuffle,
        seed=4,
        rank=rank,
        world_size=world_size,
        normalized=False,
        workers=0,
        drop_last=drop_last,
    )


def all_epochs(served: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Go through twenty epochs, more than workers prepare ahead."""
    return [batch for epoch in range(20) for batch in served.epoch(epoch)]


def values(served: Batches, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [images.flatten().tolist() for images, _ in served.epoch(epoch, start=start)]


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 5))
def test_evaluation_sees_every_picture_once_over_all_processes(count: int, batch_size: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        served = plain(count, batch_size, shuffle=False, rank=rank, world_size=world)
        of_rank = values(served)
        assert len(of_rank) == len(served)
        assert all(len(batch) <= batch_size for batch in of_rank)
        seen += [value for batch in of_rank for value in batch]
    assert sorted(seen) == list(range(count))


def test_evaluation_is_in_order() -> None:
    assert values(plain(7, 3, shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6]]


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_processes_share_the_batches_of_one(count: int, batch_size: int, world: int, drop: bool, epoch: int) -> None:
    if count < world:
        with pytest.raises(InputError, match="start fewer processes"):
            plain(count, batch_size, shuffle=True, world_size=world)
        return
    shards = [
        values(plain(count, batch_size, shuffle=True, rank=rank, world_size=world, drop_last=drop), epoch)
        for rank in range(world)
    ]
    whole = values(plain(count, batch_size * world, shuffle=True, drop_last=drop), epoch)
    assert len({len(shard) for shard in shards}) == 1, "as many batches in every process, or they would wait for ever"
    assert all(batch for shard in shards for batch in shard)
    together = [[value for shard in shards for value in shard[number]] for number in range(len(shards[0]))]
    assert together == whole[: len(together)]
    assert len(whole) - len(together) in ((0,) if drop else (0, 1))


def test_only_a_last_incomplete_batch_is_dropped() -> None:
    assert [len(batch) for batch in values(plain(10, 4, shuffle=True))] == [4, 4]
    assert [len(batch) for batch in values(plain(10, 4, shuffle=True, drop_last=False))] == [4, 4, 2]
    assert [len(batch) for batch in values(plain(10, 64, shuffle=True))] == [10], "all there are"
    assert [len(batch) for batch in values(plain(8, 4, shuffle=True))] == [4, 4]
    dropped = {
        frozenset(range(10)) - {v for batch in values(plain(10, 4, shuffle=True), e) for v in batch} for e in range(9)
    }
    assert len(dropped) > 1, "others in every epoch"


def test_an_epoch_can_be_begun_at_any_batch_and_differs_from_the_next() -> None:
    served = plain(30, 4, shuffle=True)
    whole = values(served, epoch=2)
    assert values(served, epoch=2, start=3) == whole[3:]
    assert values(served, epoch=2, start=99) == []
    assert values(served, epoch=3) != whole
    assert [indices.tolist() for indices in served.batch_indices(2)] == whole
    assert values(plain(30, 4, shuffle=True), epoch=2) == whole


def photo_batches(pictures: Pictures, workers: int, cache_bytes: int = 0) -> Batches:
    return batches(
        pictures,
        preprocess=P,
        augmentation=PHOTO,
        batch_size=3,
        shuffle=True,
        seed=9,
        workers=workers,
        cache_bytes=cache_bytes,
    )


def test_workers_make_the_same_batches_and_leave_the_generators_alone(pets: Path) -> None:
    pictures = open_data(pets, keep_bytes=0).everything
    torch.manual_seed(0)
    state = torch.get_rng_state()
    made = []
    for workers in (0, 1, 2):
        with photo_batches(pictures, workers) as served:
            assert len(served) == 3
            made.append([list(served.epoch(epoch)) for epoch in (0, 1)] + [list(served.epoch(1, start=2))])
    assert (torch.get_rng_state() == state).all()
    for other in made[1:]:
        for epoch, same_epoch in zip(made[0], other, strict=True):
            for (images, targets), (same_images, same_targets) in zip(epoch, same_epoch, strict=True):
                assert (images == same_images).all()
                assert (targets == same_targets).all()
    assert (made[0][2][0][0] == made[0][1][2][0]).all(), "begun at its third batch"


def test_an_epoch_left_early_does_not_spoil_the_next(pets: Path) -> None:
    pictures = open_data(pets).everything
    with photo_batches(pictures, 1) as served:
        expected = [images for images, _ in served.epoch(1)]
        for _ in served.epoch(0):
            break
        again = [images for images, _ in served.epoch(1)]
    assert all((one == other).all() for one, other in zip(expected, again, strict=True))


def test_images_are_normalized_and_channels_lie_innermost(pets: Path) -> None:
    pictures = open_data(pets).everything
    (images, targets), *_ = batches(pictures, preprocess=P, batch_size=10, workers=0)
    assert images.dtype == torch.float32
    assert images.shape == (10, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.int64
    assert targets.tolist() == [0] * 5 + [1] * 5
    expected = normalize(np.stack([fit(pictures.picture(index), P) for index in range(10)]), P)
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)
    (raw, _), *_ = batches(pictures, preprocess=P, batch_size=10, workers=0, normalized=False)
    assert raw.dtype == torch.uint8
    for layout in (raw, raw.contiguous()):
        np.testing.assert_allclose(normalize_on_device(layout, P).numpy(), expected, atol=1e-6)


def test_caching_changes_nothing(pets: Path) -> None:
    files = open_data(pets, keep_bytes=0).everything
    for augmentation in (None, Augmentation("crop", flip=True), PHOTO):
        made = [
            torch.cat(
                [
                    images
                    for images, _ in batches(
                        files, preprocess=P, augmentation=augmentation, workers=0, cache_bytes=cache_bytes
                    )
                ]
            )
            for cache_bytes in (0, 1 << 30)
        ]
        assert (made[0] == made[1]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_during_training_is_named(pets: Path, workers: int) -> None:
    pictures = open_data(pets, keep_bytes=0).everything
    with photo_batches(pictures, workers) as served:
        (pets / "dogs" / "2.png").write_bytes(b"gone bad")
        with pytest.raises(InputError, match=r"^\S*dogs/2\.png: not a picture in a format that is read here: [^\n]*$"):
            all_epochs(served)


def test_a_worker_that_dies_is_one_line(pets: Path) -> None:
    with photo_batches(open_data(pets).everything, 1) as served:
        list(served.epoch(0))
        assert served._loader is not None
        workers = served._loader._iterator._workers  # type: ignore[union-attr]
        os.kill(workers[0].pid, signal.SIGKILL)
        with pytest.raises(
            MobileNetsError, match=r"^a data worker died \([^\n]*\): use fewer with --workers, or free memory$"
        ):
            all_epochs(served)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
        ({"workers": -1}, "--workers must be 0 or more"),
        ({"rank": 2, "world_size": 2}, r"rank 2 is not in 0\.\.1"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batches(numbered(4), preprocess=ONE, **arguments)  # type: ignore[arg-type]


def test_digits_reach_a_network_of_any_channels() -> None:
    data = open_data("digits")
    images, _ = next(iter(batches(data.val, preprocess=Preprocess(32, 32))))
    assert images.shape == (32, 3, 32, 32)
    images, _ = next(iter(batches(data.val, preprocess=Preprocess(16, 16, 1, mean=(0.0,), std=(1.0,)))))
    assert images.shape == (32, 1, 16, 16)
    assert (images.min() >= 0) & (images.max() <= 1)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_training_sees_every_picture_of_a_full_epoch_once(seed: int) -> None:
    served = batches(numbered(40), preprocess=ONE, batch_size=8, shuffle=True, seed=seed, normalized=False, workers=0)
    assert sorted(value for batch in values(served) for value in batch) == list(range(40))
