from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms import v2

from mobilenets.data import draws, open_data
from mobilenets.data.augment import View, mix, moved, short_side_needed
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError
from mobilenets.image import Augmentation, Preprocess, fit

ALL = np.arange(10)
P = Preprocess(24, 20, resize=26)


def noise(count: int, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(1, 256, (count, height, width, channels), np.uint8)


def array_pictures(count: int = 10, height: int = 24, width: int = 20, channels: int = 3) -> ArrayPictures:
    targets = np.arange(count) % 2
    return ArrayPictures(("a", "b"), targets, tuple(map(str, range(count))), noise(count, height, width, channels))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.floats(0, 0.5), st.booleans(), st.integers(0, 99))
def test_moved_pictures_are_windows_of_the_padded_one(
    count: int, height: int, width: int, shift: float, flip: bool, seed: int
) -> None:
    batch = noise(count, height, width)
    indices = np.arange(count) * 7
    result = moved(batch, indices, seed, 3, shift=shift, flip=flip)
    down, right = round(shift * height), round(shift * width)
    padded = np.pad(batch, ((0, 0), (down, down), (right, right), (0, 0)))
    for number in range(count):
        windows = [
            padded[number, top : top + height, left : left + width]
            for top in range(2 * down + 1)
            for left in range(2 * right + 1)
        ]
        candidates = windows + ([window[:, ::-1] for window in windows] if flip else [])
        assert any((result[number] == candidate).all() for candidate in candidates)
        alone = moved(batch[number : number + 1], indices[number : number + 1], seed, 3, shift=shift, flip=flip)
        assert (alone[0] == result[number]).all(), "company changes nothing"


def test_moves_and_mirrors_are_even() -> None:
    ramp = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 9, 1).repeat(4000, axis=0)
    result = moved(ramp, np.arange(4000), 0, 0, shift=1 / 9, flip=True)[:, 0, 4, 0]
    counts = np.bincount(result, minlength=10)[4:7]  # the middle moved by -1, 0, 1: a mirrored picture as well
    assert counts.sum() == 4000
    assert abs(counts - 4000 / 3).max() < 150
    mirrored = moved(ramp, np.arange(4000), 0, 0, shift=0, flip=True)[:, 0, 0, 0] == 9
    assert abs(mirrored.sum() - 2000) < 160


def test_without_an_augmentation_the_view_is_fit(pets: Path) -> None:
    pictures = open_data(pets).everything
    views = View(P).render(pictures, ALL, 0, 0)
    assert all((views[index] == fit(pictures.picture(index), P)).all() for index in range(10))


def test_the_photo_view_is_torchvision_s(pets: Path) -> None:
    pictures = open_data(pets).everything
    augmentation = Augmentation("photo", flip=True, scale=(0.2, 0.9), color=0.3, policy="trivial", erase=0.5)
    views = View(P, augmentation).render(pictures, ALL, seed=3, epoch=2)
    reference = v2.Compose(
        [
            v2.RandomResizedCrop((24, 20), scale=(0.2, 0.9), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(0.3, 0.3, 0.3),
            v2.RandomErasing(0.5, value=[124.0, 116.0, 104.0]),
        ]
    )
    for index in range(10):
        with draws.torch_seeded(3, 2, index, 5):
            expected = reference(torch.from_numpy(pictures.picture(index)).permute(2, 0, 1))
        assert (views[index] == expected.permute(1, 2, 0).numpy()).all()


VARIED = {
    "none": Augmentation(flip=True),
    "rotated": Augmentation("none", rotate=20),
    "crop": Augmentation("crop", flip=True, shift=0.2),
    "crop and all": Augmentation("crop", True, policy="rand", color=0.2, erase=0.3, rotate=5, cutout=0.4),
    "photo": Augmentation("photo", flip=True),
    "photo and all": Augmentation("photo", True, policy="trivial", color=0.2, erase=0.3, rotate=5, cutout=0.4),
}


@pytest.mark.parametrize("augmentation", VARIED.values(), ids=VARIED)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_depends_on_seed_epoch_and_picture_alone(augmentation: Augmentation, channels: int) -> None:
    p = Preprocess(24, 20, channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    pictures = array_pictures(channels=channels)
    before = pictures.pixels.copy()
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002 - it is watched
    view = View(p, augmentation)
    whole = view.render(pictures, ALL, 1, 2)
    assert whole.shape == (10, 24, 20, channels)
    assert whole.dtype == np.uint8
    backwards = view.render(pictures, ALL[::-1].copy(), 1, 2)
    assert (backwards[::-1] == whole).all()
    assert (View(p, augmentation).render(pictures, ALL[4:5], 1, 2)[0] == whole[4]).all()
    assert (view.render(pictures, ALL, 1, 3) != whole).any()
    assert (view.render(pictures, ALL, 2, 2) != whole).any()
    assert (torch.get_rng_state() == torch_state).all()
    assert repr(np.random.get_state()) == numpy_state  # noqa: NPY002 - same
    assert (pictures.pixels == before).all(), "what is held in memory stays as it is"


def test_cutout_erases_a_square_of_that_share() -> None:
    p = Preprocess(40, 40, mean=(0.0, 0.0, 0.0))
    views = View(p, Augmentation(cutout=0.5)).render(array_pictures(300, 40, 40), np.arange(300), 0, 0)
    erased = (views == 0).all(axis=-1).sum(axis=(1, 2))
    assert erased.max() == 400
    assert erased.min() >= 100, "a centre in the corner leaves a quarter"
    assert len(set(erased.tolist())) > 20


def test_memory_that_may_not_be_written_is_fine() -> None:
    pictures = array_pictures()
    pictures.pixels.flags.writeable = False
    View(P, Augmentation("photo")).render(pictures, ALL, 0, 0)


def test_colour_changes_need_colours() -> None:
    p = Preprocess(8, 8, 4, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(InputError, match="color and policy need 1 or 3 channels, not 4"):
        View(p, Augmentation(color=0.1))
    View(p, Augmentation("photo", flip=True)).render(array_pictures(channels=4), ALL, 0, 0)


@pytest.mark.parametrize("knobs", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_weigh_as_the_pictures_do(knobs: dict[str, Any]) -> None:
    augmentation = Augmentation(**knobs)
    targets = torch.arange(8) % 4
    images = targets.view(8, 1, 1, 1).float().expand(8, 3, 16, 16).contiguous()
    state = torch.get_rng_state()
    seen = set()
    for batch in range(12):
        mixed, soft = mix(images, targets, augmentation, classes=4, seed=0, epoch=1, batch=batch)
        assert soft.shape == (8, 4)
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(8))
        # Each picture's level is its class: its mean must be the mean of its soft target.
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft @ torch.arange(4.0), atol=1e-4, rtol=0)
        again = mix(images, targets, augmentation, classes=4, seed=0, epoch=1, batch=batch)
        assert (again[0] == mixed).all()
        seen.add(bool((mixed != mixed[:, :, :1, :1]).any()))  # a patch leaves two levels in a picture
    assert (torch.get_rng_state() == state).all()
    assert len(seen) == 2 or len(knobs) == 1, "with both, each has its turn"


def test_without_mixing_targets_become_rows() -> None:
    images = torch.zeros(3, 3, 4, 4)
    mixed, soft = mix(images, torch.tensor([2, 0, 1]), Augmentation(), classes=3, seed=0, epoch=0, batch=0)
    assert mixed is images
    assert soft.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_the_short_side_needed_follows_the_smallest_crop() -> None:
    p = Preprocess(224, 160)
    assert short_side_needed(p, Augmentation("photo", scale=(1.0, 1.0))) == 224
    assert short_side_needed(p, Augmentation("photo", scale=(0.35, 1.0))) == 379
    assert short_side_needed(p, Augmentation("photo", scale=(0.08, 1.0))) == 448
