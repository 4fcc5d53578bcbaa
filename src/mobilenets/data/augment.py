"""Training's variation of pictures: per picture through torchvision's v2 transforms, per batch where that is faster.

Every random number is a pure function of (seed, epoch, picture), and torch's own generator is left as it was found.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import InterpolationMode, v2

from mobilenets.data import draws
from mobilenets.data.pictures import ArrayPictures, Pictures
from mobilenets.errors import InputError
from mobilenets.image.augmentation import Augmentation
from mobilenets.image.preprocess import Preprocess, fit, with_channels

# Which random number a draw is; changing one changes what a seed means.
_FLIP, _DOWN, _RIGHT, _CUT_DOWN, _CUT_RIGHT, _TRANSFORM, _MIX = range(7)


class View:
    """What the network sees of each picture: the evaluation's view without an augmentation, a varied one with it."""

    def __init__(self, preprocess: Preprocess, augmentation: Augmentation | None = None) -> None:
        self.preprocess = preprocess
        self.augmentation = augmentation or Augmentation()
        if self.augmentation.kind == "boxes":
            raise InputError(
                "augmentation: kind boxes is for pictures with boxes, and these have classes: leave it out"
            )
        if preprocess.channels not in (1, 3) and (self.augmentation.color or self.augmentation.policy):
            raise InputError(
                f"augmentation: color and policy need 1 or 3 channels, not {preprocess.channels}: leave them out"
            )
        self._each = _transform(self.augmentation, preprocess)

    @property
    def is_per_picture(self) -> bool:
        """Whether each picture goes through Python on its own, so that worker processes pay."""
        return self._each is not None

    def render(self, pictures: Pictures, indices: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.uint8]:
        """Return the views of these pictures in this epoch, uint8 (N, height, width, channels).

        Raises InputError naming a picture that cannot be decoded.
        """
        if self.augmentation.kind == "photo":
            return self._cut_out(self._transformed(pictures, indices, seed, epoch, whole=True), indices, seed, epoch)
        if self._each is not None:
            batch = self._transformed(pictures, indices, seed, epoch, whole=False)
        else:
            batch = fitted_batch(pictures, indices, self.preprocess)
        shift = self.augmentation.shift if self.augmentation.kind == "crop" else 0.0
        batch = moved(batch, indices, seed, epoch, shift=shift, flip=self.augmentation.flip)
        return self._cut_out(batch, indices, seed, epoch)

    def _transformed(
        self, pictures: Pictures, indices: NDArray[np.int64], seed: int, epoch: int, *, whole: bool
    ) -> NDArray[np.uint8]:
        """Run every picture, whole or as `fit` leaves it, through the transforms."""
        assert self._each is not None
        preprocess = self.preprocess
        batch = np.empty((len(indices), preprocess.height, preprocess.width, preprocess.channels), np.uint8)
        for position, index in enumerate(indices.tolist()):
            if whole:
                picture = with_channels(pictures.picture(index), preprocess.channels)
            else:
                picture = _fitted(pictures, index, preprocess)
            picture = np.require(picture, requirements="W")  # torch warns of memory that it may not write to
            with draws.torch_seeded(seed, epoch, index, _TRANSFORM):
                # Planes of interleaved memory: torchvision resizes that layout in half the time.
                planes = self._each(torch.from_numpy(picture).permute(2, 0, 1))
            batch[position] = planes.permute(1, 2, 0).numpy()
        return batch

    def _cut_out(
        self, batch: NDArray[np.uint8], indices: NDArray[np.int64], seed: int, epoch: int
    ) -> NDArray[np.uint8]:
        share = self.augmentation.cutout
        if share == 0:
            return batch
        height, width = batch.shape[1:3]
        sides = round(share * height), round(share * width)
        fill = mean_colour(self.preprocess)
        # The centre lies anywhere in the picture, so that squares at the edge are cut off, as the paper finds best.
        tops = draws.below(height, seed, epoch, indices, _CUT_DOWN) - sides[0] // 2
        lefts = draws.below(width, seed, epoch, indices, _CUT_RIGHT) - sides[1] // 2
        for picture, top, left in zip(batch, tops.tolist(), lefts.tolist(), strict=True):
            picture[max(top, 0) : max(top + sides[0], 0), max(left, 0) : max(left + sides[1], 0)] = fill
        return batch


def fitted_batch(pictures: Pictures, indices: NDArray[np.int64], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return pictures as evaluation sees them, uint8 (N, height, width, channels), in memory of their own."""
    if isinstance(pictures, ArrayPictures) and pictures.fitted == preprocess:
        batch: NDArray[np.uint8] = pictures.pixels[indices]
        return batch
    batch = np.empty((len(indices), preprocess.height, preprocess.width, preprocess.channels), np.uint8)
    for position, index in enumerate(indices.tolist()):
        batch[position] = fit(pictures.picture(index), preprocess)
    return batch


def moved(
    batch: NDArray[np.uint8], indices: NDArray[np.int64], seed: int, epoch: int, *, shift: float, flip: bool
) -> NDArray[np.uint8]:
    """Move every picture of uint8 (N, H, W, C) by up to `shift` of its sides, black coming in, and mirror half of them.

    A copy per picture out of a padded batch: measured, three times as fast as one gather over the whole batch.
    """
    count, height, width, channels = batch.shape
    down, right = round(shift * height), round(shift * width)
    if not (down or right or flip):
        return batch
    tops = draws.below(2 * down + 1, seed, epoch, indices, _DOWN)
    lefts = draws.below(2 * right + 1, seed, epoch, indices, _RIGHT)
    mirrored = (draws.uniform(seed, epoch, indices, _FLIP) < 0.5) & flip
    padded = np.zeros((count, height + 2 * down, width + 2 * right, channels), np.uint8)
    padded[:, down : down + height, right : right + width] = batch
    result = np.empty_like(batch)
    for position, (top, left, mirror) in enumerate(zip(tops.tolist(), lefts.tolist(), mirrored.tolist(), strict=True)):
        window = padded[position, top : top + height, left : left + width]
        result[position] = window[:, ::-1] if mirror else window
    return result


def mix(
    images: torch.Tensor,
    targets: torch.Tensor,
    augmentation: Augmentation,
    *,
    classes: int,
    seed: int,
    epoch: int,
    batch: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each picture of a batch with its neighbour by mixup or cutmix, whichever is on, drawing one if both are.

    Takes float (N, C, H, W) and int64 (N,), on any device; returns the mixed images and float32 (N, classes) rows of
    probabilities: one-hot rows where neither is on. `batch` is the batch's number within the epoch over all processes
    or a number of this process's own, so that processes draw apart.
    """
    options: list[v2.Transform] = []
    if augmentation.mixup > 0:
        options.append(v2.MixUp(alpha=augmentation.mixup, num_classes=classes))
    if augmentation.cutmix > 0:
        options.append(v2.CutMix(alpha=augmentation.cutmix, num_classes=classes))
    if not options:
        return images, torch.nn.functional.one_hot(targets, classes).to(torch.float32)
    choice = int(draws.below(len(options), seed, epoch, batch, _MIX))
    with draws.torch_seeded(seed, epoch, batch, _MIX):
        mixed, soft = options[choice](images, targets)
    return mixed, soft.to(torch.float32)


def short_side_needed(preprocess: Preprocess, augmentation: Augmentation) -> int:
    """Return the short side beyond which more pixels of a photograph hardly reach the network.

    The smallest crop then still has as many pixels as the network's input, up to twice its side; ImageNet's own
    photographs have about 1.7 times 224.
    """
    factor = min(2.0, 1 / math.sqrt(augmentation.scale[0]))
    return math.ceil(max(preprocess.height, preprocess.width) * factor)


def _fitted(pictures: Pictures, index: int, preprocess: Preprocess) -> NDArray[np.uint8]:
    picture = pictures.picture(index)
    if isinstance(pictures, ArrayPictures) and pictures.fitted == preprocess:
        return picture
    return fit(picture, preprocess)


def _transform(augmentation: Augmentation, preprocess: Preprocess) -> v2.Transform | None:
    """Return the transforms of one picture, uint8 (C, H, W) to uint8 (C, height, width); None where there are none."""
    steps: list[v2.Transform] = []
    if augmentation.kind == "photo":
        steps.append(
            v2.RandomResizedCrop(
                (preprocess.height, preprocess.width),
                scale=augmentation.scale,
                ratio=augmentation.ratio,
                interpolation=interpolation_of(preprocess),
                antialias=True,
            )
        )
        if augmentation.flip:
            steps.append(v2.RandomHorizontalFlip())
    if augmentation.rotate:
        steps.append(v2.RandomRotation(augmentation.rotate, interpolation=InterpolationMode.BILINEAR))
    if augmentation.policy == "trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    elif augmentation.policy == "rand":
        steps.append(v2.RandAugment(interpolation=InterpolationMode.BILINEAR))
    if augmentation.color:
        amount = augmentation.color
        steps.append(v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount))
    if augmentation.erase:
        steps.append(v2.RandomErasing(augmentation.erase, value=mean_colour(preprocess).tolist()))
    return v2.Compose(steps) if steps else None


def mean_colour(preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return the colour that normalization turns into zeros, uint8 (C,)."""
    return np.array([round(min(max(mean, 0.0), 1.0) * 255) for mean in preprocess.mean], np.uint8)


def interpolation_of(preprocess: Preprocess) -> InterpolationMode:
    """Return the method of the evaluation, so that training sees pictures as sharp; tensors have no lanczos."""
    return InterpolationMode("bicubic" if preprocess.interpolation == "lanczos" else preprocess.interpolation)
