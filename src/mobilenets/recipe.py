"""Every training hyperparameter, and the named recipes.

A recipe is data: it is printed in the report, stored in the card of every checkpoint it made, and can be replayed from
there (`--recipe some.safetensors`). The named ones are starting points; :func:`fitted` adapts one to the data at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from mobilenets.errors import InputError
from mobilenets.image import Augmentation

Optimizer = Literal["sgd", "adam", "adamw", "rmsprop"]
Schedule = Literal["constant", "cosine", "exponential"]
Rounding = Literal["none", "channel", "tensor"]

PHOTO_SIDE = 96
"""From this many pixels on, pictures are treated as photographs: cropped at random scales, and worth ImageNet weights.

Below it the published networks have no resolution (TF-slim's smallest is 96)."""

_GOOD_BATCH = 32  # no smaller for the sake of more steps: each picture would take longer
_SMALLEST_BATCH = 8  # BatchNorm's statistics of fewer pictures are mostly noise
_LEAST_STEPS_AN_EPOCH = 4
_MOST_EPOCHS = 100  # `least_steps` never asks for more


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Raises InputError, naming the flag or the field, for values that contradict.

    The learning rate rises linearly over `warmup_epochs`, then follows `schedule`: constant; cosine down to
    `final_rate` of its peak; or multiplied by `rate_decay` after every epoch. `momentum` is SGD's and RMSProp's,
    and the first beta of Adam's; `square_decay` is RMSProp's decay and the second beta of Adam's. Weight decay is
    decoupled in AdamW and L2 elsewhere, and never touches BatchNorm or biases. `clip_norm` bounds the gradient's norm,
    0 leaves it. `ema` is the decay of the average of the weights that is validated and saved, 0 for none; it ramps up,
    so that a short training has a short average. `patience` is the number of epochs without a better top-1 after which
    training ends early, 0 for never. `least_steps`: small data sets get more epochs, until they have as many steps.
    The classifier learns at `head_rate` times the learning rate, as it begins from random weights where the rest does
    not. The first `early_share` of the epochs is trained on pictures shrunk to `early_scale` of their sides: the
    network is fully convolutional, and early epochs need no fine detail (progressive resizing).

    With a `granularity` other than none, training is quantization-aware: the network rounds its values as int8 will,
    its weights by one scale for each output channel or for all of a layer. For `batch_norm_share` of the epochs
    BatchNorm normalizes by the batch, then by its running statistics, as the int8 network does; for `following_share`
    the ranges of the activations follow what comes, then they stay.

    A detector learns from `negatives` times as many anchors of background as match a box, the hardest ones, or with
    `focal` above 0, the power of the focal loss (arXiv:1708.02002), from all.
    """

    name: str
    epochs: int
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    final_rate: float = 0.0
    rate_decay: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    square_decay: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    patience: int = 0
    least_steps: int = 0
    head_rate: float = 1.0
    early_share: float = 0.0
    early_scale: float = 1.0
    granularity: Rounding = "none"
    batch_norm_share: float = 1.0
    following_share: float = 1.0
    negatives: float = 3.0
    focal: float = 0.0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        for field, low, high in _LIMITS:
            value = getattr(self, field)
            if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
                raise InputError(f"{_flag(field)} must be from {low:g} to {high:g}, not {value!r}")
        for field in ("epochs", "batch_size", "patience", "least_steps"):
            if not isinstance(getattr(self, field), int):
                raise InputError(f"{_flag(field)} must be a whole number, not {getattr(self, field)!r}")
        for field, kind in (("optimizer", Optimizer), ("schedule", Schedule), ("granularity", Rounding)):
            if getattr(self, field) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise InputError(f"recipe: {field} {getattr(self, field)!r} is not one of {known}")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise InputError("recipe: nesterov needs optimizer sgd and a momentum above 0")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise InputError(
                f"--epochs {self.epochs} must be more than the recipe's {self.warmup_epochs:g} epochs of warm-up"
            )
        if self.rate_decay != 1 and self.schedule != "exponential":
            raise InputError(f"recipe: rate_decay is for schedule exponential, not {self.schedule}")

    @property
    def quantizes(self) -> bool:
        """Say whether training is quantization-aware, and makes an int8 network."""
        return self.granularity != "none"

    def scale_at(self, epoch: int) -> float:
        """Return how far the pictures of an epoch (from 0) are shrunk, 1.0 for not at all."""
        return self.early_scale if epoch < self.early_share * self.epochs else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, which :meth:`from_json` reads back to an equal recipe."""
        return {**asdict(self), "augmentation": self.augmentation.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Recipe:
        """Read what :meth:`to_json` wrote; raises InputError for anything missing, unknown or of the wrong kind."""
        unknown = sorted(set(document) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"recipe: unknown field {unknown[0]!r}: not written by this version")
        values = dict(document)
        hints = get_type_hints(cls)
        for key, value in values.items():
            kind = hints[key]
            fits = type(value) in (int, float) if kind is float else type(value) is kind
            if kind in (int, float, bool, str) and not fits:
                raise InputError(f"recipe: {key} cannot be {value!r}")
        if "augmentation" in values:
            if not isinstance(values["augmentation"], Mapping):
                raise InputError("recipe: augmentation must be a JSON object")
            values["augmentation"] = Augmentation.from_json(values["augmentation"])
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"recipe: {error}") from None


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("epochs", 1, 100_000),
    ("batch_size", 1, 1_000_000),
    ("learning_rate", 1e-12, 1000),
    ("warmup_epochs", 0, 1000),
    ("final_rate", 0, 1),
    ("rate_decay", 1e-6, 1),
    ("momentum", 0, 0.99999),
    ("square_decay", 0, 0.99999999),
    ("epsilon", 0, 10),
    ("weight_decay", 0, 10),
    ("label_smoothing", 0, 0.99),
    ("clip_norm", 0, 1e9),
    ("ema", 0, 0.9999999),
    ("patience", 0, 100_000),
    ("least_steps", 0, 10_000_000),
    ("head_rate", 1e-3, 1000),
    ("early_share", 0, 1),
    ("early_scale", 0.1, 1),
    ("batch_norm_share", 0, 1),
    ("following_share", 0, 1),
    ("negatives", 0, 1000),
    ("focal", 0, 10),
)
_FLAGS = ("epochs", "batch_size", "learning_rate", "patience")


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}" if field in _FLAGS else f"recipe: {field}"


FINETUNE = Recipe(
    name="finetune",
    epochs=12,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.004,
    warmup_epochs=1,
    nesterov=True,
    weight_decay=1e-4,
    label_smoothing=0.1,
    clip_norm=5.0,
    ema=0.99,
    least_steps=100,
    head_rate=5.0,
    augmentation=Augmentation("photo", flip=True, color=0.2),
)
"""All weights, from a network that already knows pictures.

    mobilenets train PHOTOS --model efficientnet_lite0
"""

SCRATCH = Recipe(
    name="scratch",
    epochs=30,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    warmup_epochs=2,
    nesterov=True,
    weight_decay=5e-4,
    label_smoothing=0.1,
    clip_norm=5.0,
    ema=0.995,
    least_steps=1500,
    augmentation=Augmentation("photo", flip=True),
)
"""From random weights: SGD with Nesterov momentum, warm-up and cosine.

    mobilenets train cifar10 --model mobilenet_v2_cifar --width 0.5
"""

V2_PAPER = Recipe(
    name="v2-paper",
    epochs=300,
    batch_size=96,
    optimizer="rmsprop",
    learning_rate=0.045,
    schedule="exponential",
    rate_decay=0.98,
    momentum=0.9,
    square_decay=0.9,
    epsilon=1.0,
    weight_decay=4e-5,
    ema=0.9999,
    augmentation=Augmentation("photo", flip=True, scale=(0.08, 1.0)),
)
"""What arXiv:1801.04381 section 6.1 says: RMSProp with decay and momentum 0.9, 0.045 x 0.98 per epoch, decay 4e-5.

    mobilenets train IMAGENET --weights none --recipe v2-paper

The paper does not print epsilon, crops and the number of epochs: 1.0 and the crops are TF-slim's, with which the
authors trained; 0.98 per epoch has come down to 1/400 after 300. The paper's 72.0 top-1 took 16 GPUs.
"""

SIMPLE = Recipe(
    name="simple",
    epochs=10,
    batch_size=64,
    optimizer="adam",
    learning_rate=1e-3,
    schedule="constant",
)
"""Adam at 1e-3, batches of 64, and nothing else: what a first tutorial does.

    mobilenets train mnist --root MNIST --model mobilenet_v2_mnist --recipe simple --epochs 3
"""

QAT = Recipe(
    name="qat",
    epochs=10,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.0002,
    warmup_epochs=0.5,
    nesterov=True,
    weight_decay=1e-4,
    label_smoothing=0.1,
    clip_norm=5.0,
    ema=0.99,
    least_steps=200,
    granularity="channel",
    batch_norm_share=0.2,
    following_share=0.7,
    augmentation=Augmentation("photo", flip=True),
)
"""Quantization-aware, from a trained float32 network to an int8 one.

    mobilenets train PHOTOS --model runs/train/best.safetensors --recipe qat --granularity tensor

BatchNorm is frozen before the end, as arXiv:1806.08342 found best (section 3.2.2), and the ranges later still, since
they move when it is. Most of the epochs come after: what was learned with a batch's statistics, the int8 network has to
do with the running ones, and with few pictures these are far apart.
"""

DETECT = Recipe(
    name="detect",
    epochs=60,
    batch_size=16,
    optimizer="adamw",
    learning_rate=0.001,
    warmup_epochs=2,
    weight_decay=0.02,
    clip_norm=10.0,
    ema=0.99,
    least_steps=600,
    augmentation=Augmentation("boxes", flip=True, color=0.5, zoom=1.5, iou_crop=True),
)
"""A detector, all of it, on a network that already knows pictures; hard negatives 3:1, as SSD has them.

    mobilenets train BLOOD_CELLS --model ssdlite_mobilenet_v2 --weights mobilenet_v2.safetensors
"""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (FINETUNE, SCRATCH, V2_PAPER, SIMPLE, QAT, DETECT)}
)
"""The named recipes."""


def recipe_named(name: str) -> Recipe:
    """Return a recipe by its name, or out of a file: a checkpoint's card, or JSON as :meth:`Recipe.to_json` gives.

    >>> recipe_named("simple").optimizer
    'adam'

    Raises:
        InputError: there is none of that name, or the file holds none.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from None
        if not isinstance(document, dict):
            raise InputError(f"{path}: a recipe is a JSON object")
        return Recipe.from_json(document)
    raise InputError(f"--recipe {name}: there are {', '.join(RECIPES)}, or give a checkpoint or a .json file")


def fitted(
    recipe: Recipe, *, images: int, side: int, mirrorable: bool, freeze: bool = False, boxed: bool = False
) -> Recipe:
    """Adapt a named recipe to the data: the number of training pictures and the network's (shorter) side in pixels.

    Few pictures make smaller batches (and learning rates with them) and more epochs; small pictures are moved by a few
    pixels instead of being cropped at random scales; what must not be mirrored is not. With `freeze`, only a linear
    classifier is trained: AdamW at a constant batch, many cheap epochs, no mixing and no average. Pictures with boxes
    are varied as recipe detect says.
    """
    augmentation = recipe.augmentation
    if boxed and augmentation.kind != "boxes":
        augmentation = DETECT.augmentation
    if augmentation.kind == "photo" and side < PHOTO_SIDE:
        augmentation = replace(augmentation, kind="crop", color=0.0)
    if not mirrorable:
        augmentation = replace(augmentation, flip=False, mixup=0.0, cutmix=0.0)
    if freeze:
        plain = Augmentation(flip=augmentation.flip)
        recipe = replace(
            recipe,
            optimizer="adamw",
            learning_rate=3e-3,
            nesterov=False,
            epochs=40,
            warmup_epochs=0.0,
            ema=0.0,
            early_share=0.0,
        )
        return resized(replace(recipe, augmentation=plain, weight_decay=1e-2, least_steps=1000), images=images)
    return resized(replace(recipe, augmentation=augmentation), images=images)


def resized(recipe: Recipe, *, images: int) -> Recipe:
    """Return the recipe with a batch that the data can fill several times an epoch, and enough steps.

    For more steps the batch is halved first, down to 32, then epochs are added.
    """
    batch = recipe.batch_size
    while batch > _GOOD_BATCH and recipe.epochs * images < batch * recipe.least_steps:
        batch //= 2
    while batch > _SMALLEST_BATCH and images < batch * _LEAST_STEPS_AN_EPOCH:
        batch //= 2
    recipe = with_batch_size(recipe, max(1, min(batch, images)))
    steps = max(1, images // recipe.batch_size)
    epochs = min(max(recipe.epochs, math.ceil(recipe.least_steps / steps)), max(recipe.epochs, _MOST_EPOCHS))
    return replace(recipe, epochs=epochs)


def with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    """Return the recipe for another batch size, its learning rate scaled along.

    In proportion for SGD (arXiv:1706.02677), with the square root for optimizers that divide by the gradient's size.
    """
    ratio = batch_size / recipe.batch_size
    rate = recipe.learning_rate * (ratio if recipe.optimizer == "sgd" else math.sqrt(ratio))
    return replace(recipe, batch_size=batch_size, learning_rate=rate)
