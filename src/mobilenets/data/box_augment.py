"""Training's variation of pictures with boxes, by torchvision's v2 transforms: what moves a picture moves its boxes.

Every random number is a pure function of (seed, epoch, picture), as for pictures with a class.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2

from mobilenets.data import draws
from mobilenets.data.annotations import Truth
from mobilenets.data.augment import interpolation_of, mean_colour
from mobilenets.data.boxed import BoxedPictures
from mobilenets.errors import InputError
from mobilenets.image.augmentation import Augmentation
from mobilenets.image.detection import fitting
from mobilenets.image.preprocess import Preprocess, fit, with_channels

NOTHING, CROWD = -1.0, -2.0
"""In the last column of targets: a row that fills up, and a crowd."""

_TRANSFORM = 5  # the number of the draw that seeds torchvision's transforms, as in `augment`


class BoxView:
    """What the network sees of each picture and where its boxes are then: varied with an augmentation, else fitted."""

    def __init__(self, preprocess: Preprocess, augmentation: Augmentation | None = None) -> None:
        self.preprocess = preprocess
        self.augmentation = augmentation
        if augmentation is not None and augmentation.kind != "boxes":
            raise InputError(
                f"augmentation: pictures with boxes need kind boxes, not {augmentation.kind}: name recipe detect"
            )
        self._each = None if augmentation is None else _transform(augmentation, preprocess)

    @property
    def is_per_picture(self) -> bool:
        """Whether each picture goes through Python on its own, so that worker processes pay."""
        return True

    def render(
        self, pictures: BoxedPictures, indices: NDArray[np.int64], seed: int, epoch: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return views and targets of these pictures in this epoch.

        Views are uint8 (N, height, width, channels). Targets are float32 (N, M, 5): x1, y1, x2, y2 in pixels of the
        view and the class index; M is the most boxes of one of them, and what a picture has fewer is filled up with
        `NOTHING`. A crowd has `CROWD` for its class. Raises InputError naming a picture that cannot be decoded.
        """
        preprocess = self.preprocess
        views = np.empty((len(indices), preprocess.height, preprocess.width, preprocess.channels), np.uint8)
        rows = []
        for position, index in enumerate(indices.tolist()):
            picture, truth = pictures.picture(index), pictures.truth(index)
            if self._each is None:
                views[position] = fit(picture, preprocess)
                rows.append(fitted_targets(truth, preprocess, *picture.shape[:2]))
            else:
                with draws.torch_seeded(seed, epoch, index, _TRANSFORM):
                    views[position], varied = self._varied(with_channels(picture, preprocess.channels), truth)
                rows.append(varied)
        targets = np.full((len(indices), max(1, *map(len, rows)) if rows else 1, 5), NOTHING, np.float32)
        for target, of_picture in zip(targets, rows, strict=True):
            target[: len(of_picture)] = of_picture
        return views, targets

    def _varied(self, picture: NDArray[np.uint8], truth: Truth) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        assert self._each is not None
        height, width = picture.shape[:2]
        picture = np.require(picture, requirements="W")  # torch warns of memory that it may not write to
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(picture).permute(2, 0, 1)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(truth.boxes.copy()),
                format=tv_tensors.BoundingBoxFormat.XYXY,
                canvas_size=(height, width),
            ),
            "labels": torch.from_numpy(_codes(truth)),
        }
        varied = self._each(sample)
        boxes = varied["boxes"].as_subclass(torch.Tensor).reshape(-1, 4).numpy()
        view: NDArray[np.uint8] = varied["image"].permute(1, 2, 0).numpy()
        return view, np.concatenate([boxes, varied["labels"].numpy()[:, None]], axis=1)


def fitted_targets(truth: Truth, preprocess: Preprocess, height: int, width: int) -> NDArray[np.float32]:
    """Return the targets (N, 5) of a picture of this size as `fit` leaves it; boxes that are cropped away are gone."""
    scale, shift = fitting(preprocess, height, width)
    boxes = truth.boxes * np.array([*scale, *scale], np.float32) + np.array([*shift, *shift], np.float32)
    most = np.array([preprocess.width, preprocess.height] * 2, np.float32)
    boxes = np.clip(boxes, np.float32(0), most)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    targets: NDArray[np.float32] = np.concatenate([boxes, _codes(truth)[:, None]], axis=1)[inside]
    return targets


def _codes(truth: Truth) -> NDArray[np.float32]:
    return np.where(truth.crowd, np.float32(CROWD), truth.classes.astype(np.float32))


def _transform(augmentation: Augmentation, preprocess: Preprocess) -> v2.Transform:
    """Return the transforms of a sample: the picture is placed first, and varied when it is small."""
    fill = mean_colour(preprocess).tolist()
    steps: list[v2.Transform] = []
    if augmentation.zoom > 1:
        steps.append(v2.RandomZoomOut(fill=fill, side_range=(1.0, augmentation.zoom), p=0.5))
    if augmentation.iou_crop:
        steps.append(v2.RandomIoUCrop())
    sides = (preprocess.height, preprocess.width)
    steps += [
        v2.Resize(sides, interpolation=interpolation_of(preprocess), antialias=True),
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(),
    ]
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.color and preprocess.channels == 3:
        amount = augmentation.color  # SSD also exchanges the channels, after which a network of photographs starts anew
        steps.append(v2.ColorJitter(brightness=amount / 2, contrast=amount, saturation=amount, hue=amount / 10))
    return v2.Compose(steps)
