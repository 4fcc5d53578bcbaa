"""From a picture to what a network takes: resize, centre crop, normalize; stored with every checkpoint as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mobilenets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

# Mean and standard deviation of ImageNet's training pictures on the 0..1 scale, as torchvision and timm publish them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

# A resized picture larger than this is computed only where the crop will be: a strip of 1 x 10,000 pixels would
# otherwise swell to gigabytes on its way to 224 x 224.
_WHOLE_RESIZE_PIXELS = 16_000_000


@dataclass(frozen=True)
class Preprocess:
    """How pictures become network input; the same for training's validation, `evaluate`, `predict` and every export.

    `resize` is the short side before the centre crop to (height, width); None stretches the picture to
    (height, width). `mean` and `std` are on the 0..1 scale, one per channel (TensorFlow's models: 0.5 and 0.5).
    Raises InputError for values that cannot be meant.

    >>> Preprocess(224, 224, resize=256).channels
    3
    """

    height: int
    width: int
    channels: int = 3
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for field in ("height", "width", "channels", "resize"):
            value = getattr(self, field)
            if field == "resize" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"preprocess: {field} must be a whole number of 1 or more, not {value!r}")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise InputError(f"preprocess: interpolation {self.interpolation!r} is not one of {known}")
        for field in ("mean", "std"):
            values = getattr(self, field)
            if len(values) != self.channels:
                raise InputError(
                    f"preprocess: {len(values)} values of {field} for {self.channels} channels: give one each"
                )
            if not all(math.isfinite(value) for value in values):
                raise InputError(f"preprocess: {field} must be finite numbers, not {values}")
        if min(self.std) <= 0:
            raise InputError(f"preprocess: std must be above 0, not {self.std}")

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values, which `from_json` reads back to an equal Preprocess."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Preprocess:
        """Read what `to_json` wrote; raises InputError for missing, unknown or misshapen fields."""
        unknown = sorted(set(document) - set(cls.__dataclass_fields__))
        missing = sorted({"height", "width"} - set(document))
        if unknown or missing:
            raise InputError(
                f"preprocess: unknown fields {unknown}, missing fields {missing}: not written by this version"
            )
        values = dict(document)
        for field in ("mean", "std"):
            numbers = values.get(field)
            if numbers is None:
                continue
            if not isinstance(numbers, list | tuple) or not all(isinstance(number, int | float) for number in numbers):
                raise InputError(f"preprocess: {field} must be a list of numbers, not {numbers!r}")
            values[field] = tuple(float(number) for number in numbers)
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks each value


def resized_sides(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    """Return the (height, width) that a picture is resized to before the crop.

    The short side becomes `resize` and the long side keeps the proportion, rounded down, as torchvision does. Where
    the crop would reach beyond that (only possible when `resize` is below height or width) the picture is enlarged
    until it covers the crop, instead of being padded with black.
    """
    if preprocess.resize is None:
        return preprocess.height, preprocess.width
    short, long = min(height, width), max(height, width)
    new_short, new_long = preprocess.resize, int(preprocess.resize * long / short)
    new_height, new_width = (new_short, new_long) if height <= width else (new_long, new_short)
    if new_height >= preprocess.height and new_width >= preprocess.width:
        return new_height, new_width
    scale = max(preprocess.height / height, preprocess.width / width)
    return max(preprocess.height, round(height * scale)), max(preprocess.width, round(width * scale))


def fit(picture: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and centre-crop one picture: uint8 (H, W, C) to uint8 (height, width, channels).

    Equal to torchvision's Resize (antialiased) and CenterCrop on Pillow images. On tensors these round in another order
    and so differ by one grey level (bilinear; by two in one picture of noise in 2,000), or by more (bicubic, whose
    overshoot is clipped at another moment). Grey becomes colour by repetition and colour grey by luma; other channel
    counts must agree. Raises InputError where they do not, and for a picture without pixels.
    """
    picture = with_channels(picture, preprocess.channels)
    height, width = picture.shape[:2]
    if height < 1 or width < 1:
        raise InputError(f"a picture of {height} x {width} pixels is empty")
    sides = resized_sides(height, width, preprocess)
    # round() to even at .5, as torchvision's CenterCrop
    top, left = round((sides[0] - preprocess.height) / 2), round((sides[1] - preprocess.width) / 2)
    if sides[0] * sides[1] > _WHOLE_RESIZE_PIXELS:
        return _resize_part(picture, sides, (top, left), preprocess)
    resized = resize(picture, sides, preprocess.interpolation)
    return resized[top : top + preprocess.height, left : left + preprocess.width]


def normalize(batch: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Scale a batch to network input: uint8 (N, H, W, C) in 0..255 to float32 (N, C, H, W), (x / 255 - mean) / std."""
    import numpy as np

    if batch.ndim != 4 or batch.shape[3] != preprocess.channels:
        raise InputError(f"a batch of shape {batch.shape} is not (N, H, W, {preprocess.channels})")
    scale, shift = scale_and_shift(preprocess)
    planes = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).astype(np.float32)
    planes *= np.asarray(scale, np.float32)[:, np.newaxis, np.newaxis]
    planes += np.asarray(shift, np.float32)[:, np.newaxis, np.newaxis]
    return planes


def scale_and_shift(preprocess: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return normalization as value * scale + shift on 0..255 values, one of each per channel."""
    scale = tuple(1 / (255 * std) for std in preprocess.std)
    shift = tuple(-mean / std for mean, std in zip(preprocess.mean, preprocess.std, strict=True))
    return scale, shift


def apply(picture: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Fit and normalize one picture: uint8 (H, W, C) to float32 (C, height, width)."""
    import numpy as np

    planes: NDArray[np.float32] = normalize(fit(picture, preprocess)[np.newaxis], preprocess)[0]
    return planes


def with_channels(pictures: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return uint8 (..., C) with `channels` channels: grey repeated, RGB to luma (Rec. 601), equal counts untouched.

    Luma is Pillow's: (19595 R + 38470 G + 7471 B + 32768) / 65536, rounded down.
    """
    import numpy as np

    present = pictures.shape[-1]
    if present == channels:
        return pictures
    if present == 1 and channels == 3:
        return np.repeat(pictures, 3, axis=-1)
    if present == 3 and channels == 1:
        luma = pictures.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        return ((luma + 32768) >> 16).astype(np.uint8)[..., np.newaxis]
    raise InputError(f"a picture of {present} channels cannot be turned into one of {channels}: only 1 and 3 can")


def resize(picture: NDArray[np.uint8], sides: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize uint8 (H, W, C) to (*sides, C), antialiased; the picture itself where it has that size already."""
    if picture.shape[:2] == sides:
        return picture
    return _by_planes(picture, sides, interpolation, None)


def _resize_part(
    picture: NDArray[np.uint8], sides: tuple[int, int], corner: tuple[int, int], preprocess: Preprocess
) -> NDArray[np.uint8]:
    """Return the crop at `corner` of the picture resized to `sides`, computing only that part."""
    step_y, step_x = picture.shape[0] / sides[0], picture.shape[1] / sides[1]
    top, left = corner
    box = (left * step_x, top * step_y, (left + preprocess.width) * step_x, (top + preprocess.height) * step_y)
    return _by_planes(picture, (preprocess.height, preprocess.width), preprocess.interpolation, box)


def _by_planes(
    picture: NDArray[np.uint8],
    sides: tuple[int, int],
    interpolation: str,
    box: tuple[float, float, float, float] | None,
) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    method = Image.Resampling[interpolation.upper()]
    size = (sides[1], sides[0])

    def resized(image: Image.Image) -> NDArray[np.uint8]:
        return np.array(image.resize(size, method, box=box))

    if picture.shape[2] == 3:
        return resized(Image.fromarray(picture))
    planes = [resized(Image.fromarray(picture[:, :, channel])) for channel in range(picture.shape[2])]
    return np.stack(planes, axis=-1)
