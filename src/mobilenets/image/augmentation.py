"""How training varies its pictures, as data; what each knob does is done in `mobilenets.data.augment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mobilenets.errors import InputError

KINDS = ("none", "crop", "photo", "boxes")
POLICIES = ("trivial", "rand")


@dataclass(frozen=True)
class Augmentation:
    """The variation a training picture goes through, drawn anew for every picture and epoch.

    `kind` says where the network's view comes from:

    - "none": the picture as in evaluation (`fit`);
    - "crop": for small pictures; that view, moved by up to `shift` of each side, with black coming in;
    - "photo": for photographs; a part of the picture covering `scale` of its area at a proportion in `ratio`,
      resized to the network's input (Inception crop, arXiv:1409.4842 section 6);
    - "boxes": for pictures with boxes, as SSD varies them (arXiv:1512.02325 section 2.2): half of them are put on a
      canvas up to `zoom` times as large, then with `iou_crop` cut to a part that keeps a box, at overlaps drawn from 0
      to 1; stretched to the network's input. Of the rest, `flip` and `color` apply.

    All other kinds: `flip` mirrors half of the pictures (never for digits and letters); `rotate` turns by up to that
    many degrees; `color` varies brightness, contrast and saturation by up to that fraction; `policy` draws one
    operation at a random strength ("trivial", TrivialAugment, arXiv:2103.10158) or two at a fixed one ("rand",
    RandAugment, arXiv:1909.13719); `erase` is the probability that a rectangle is erased (arXiv:1708.04896); `cutout`
    erases a square of that fraction of the side at a random place in every picture (arXiv:1708.04552). `mixup`
    (arXiv:1710.09412) and `cutmix` (arXiv:1905.04899) are the alpha of their Beta distribution, 0 for off; with both,
    each batch draws one of them. Raises InputError for a value out of range.

    >>> Augmentation("crop", flip=True).shift
    0.125
    """

    kind: str = "none"
    flip: bool = False
    shift: float = 0.125  # 4 pixels of 32, the usual amount for CIFAR
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotate: float = 0.0
    color: float = 0.0
    policy: str | None = None
    erase: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    zoom: float = 1.0
    iou_crop: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"augmentation: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.policy is not None and self.policy not in POLICIES:
            raise InputError(f"augmentation: policy {self.policy!r} is not one of {', '.join(POLICIES)}")
        limits = {"shift": 1.0, "color": 1.0, "erase": 1.0, "cutout": 1.0, "rotate": 180.0}
        for field, limit in limits.items():
            value = getattr(self, field)
            if not 0 <= value <= limit:
                raise InputError(f"augmentation: {field} must lie in 0..{limit:g}, not {value}")
        for field in ("mixup", "cutmix"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(
                    f"augmentation: {field} must be 0 (off) or a positive number, not {getattr(self, field)}"
                )
        if not 1 <= self.zoom <= 16:
            raise InputError(f"augmentation: zoom must lie in 1..16, not {self.zoom}")
        if self.kind == "boxes" and self.mixes:
            raise InputError("augmentation: pictures with boxes cannot be mixed: leave out mixup and cutmix")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise InputError(f"augmentation: scale must be two fractions 0 < low <= high <= 1, not {self.scale}")
        low, high = self.ratio
        if not 0 < low <= high:
            raise InputError(f"augmentation: ratio must be two numbers 0 < low <= high, not {self.ratio}")

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, and targets therefore become one row of class probabilities per picture."""
        return self.mixup > 0 or self.cutmix > 0

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values, which `from_json` reads back to an equal Augmentation."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> Augmentation:
        """Read what `to_json` wrote; raises InputError for unknown fields and values out of range."""
        unknown = sorted(set(document) - set(cls.__dataclass_fields__))
        if unknown:
            raise InputError(f"augmentation: unknown fields {unknown}: not written by this version")
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
        try:
            return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks each value
        except TypeError as error:
            raise InputError(f"augmentation: a value of the wrong type ({error})") from None
