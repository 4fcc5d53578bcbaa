"""From what was asked and the data to a network ready to be trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mobilenets import checkpoint as files
from mobilenets.arch import ARCHITECTURES, Arch, arch_named, plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Data
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.nn.network import Network, adopt, build
from mobilenets.recipe import PHOTO_SIDE, RECIPES, Recipe, fitted, recipe_named, with_batch_size
from mobilenets.train.request import Request

CROP = 0.875  # the centre that evaluation looks at: 224 of 256, as since AlexNet

Say = Callable[[str], None]


def choose_weights(request: Request, data: Data, say: Say) -> Checkpoint | None:
    """Return the checkpoint to start from, None for random weights.

    Raises:
        InputError: `--weights` or `--model` names nothing there is.
        CheckpointError: the file is damaged.
    """
    model_is_file = is_file(request.model)
    if request.weights == "none":
        return None
    if request.weights is not None and is_file(request.weights):
        return files.load(request.weights)
    if request.weights is not None:
        raise InputError(f"--weights {request.weights}: no such file: give a checkpoint, or none")
    if model_is_file:
        return files.load(request.model)
    say(f"no weights for {request.model} at hand: from random weights")
    return None


def is_file(text: str) -> bool:
    """Say whether a MODEL or a weights argument means a checkpoint file rather than a name."""
    return text.partition(":")[0] not in ARCHITECTURES and (Path(text).suffix == ".safetensors" or Path(text).is_file())


def choose_recipe(request: Request, data: Data, card: Card, *, pretrained: bool) -> Recipe:
    """Return the recipe to train with: the named one adapted to the data, or exactly the one out of a file."""
    name = request.recipe or ("finetune" if pretrained or request.freeze else "scratch")
    if name in RECIPES:
        side = min(card.resolution)
        recipe = fitted(
            recipe_named(name), images=len(data.train), side=side, mirrorable=data.mirrorable, freeze=request.freeze
        )
    else:
        recipe = _recipe_from_file(name)
    if request.batch_size is not None:
        if not 1 <= request.batch_size:
            raise InputError(f"--batch-size must be 1 or more, not {request.batch_size}")
        recipe = with_batch_size(recipe, request.batch_size)
    if recipe.batch_size > len(data.train):
        recipe = with_batch_size(recipe, len(data.train))
    if request.epochs is not None:
        # A short training cannot spend most of its time warming up.
        recipe = replace(recipe, warmup_epochs=min(recipe.warmup_epochs, 0.2 * request.epochs), epochs=request.epochs)
    if request.learning_rate is not None:
        recipe = replace(recipe, learning_rate=request.learning_rate)
    if request.patience is not None:
        recipe = replace(recipe, patience=request.patience)
    return recipe


def _recipe_from_file(name: str) -> Recipe:
    path = Path(name)
    if path.suffix != ".safetensors":
        return recipe_named(name)
    stored = files.read_card(path).recipe
    if stored is None:
        raise InputError(f"--recipe {name}: that checkpoint was not trained here, so it holds no recipe")
    return Recipe.from_json({key: value for key, value in stored.items() if key != "run"})


def make_card(request: Request, data: Data, source: Checkpoint | None) -> Card:
    """Return the card of the network to be trained: its table, width, resolution and preprocessing.

    What was not asked for is as the weights have it. From random weights, a network takes the pictures in their own
    size where that is below its table's, and mean and deviation are 0.5.
    """
    if source is not None:
        return _card_from(source, request, data)
    if is_file(request.model):  # --weights none: the same network as that file's, not its weights
        arch, width, resolution = _network_of(files.read_card(request.model))
    else:
        arch, width, resolution = arch_named(request.model), 1.0, None
    sides = data.train.sides or data.everything.sides
    assert sides is not None  # open_data refuses data without pictures
    if request.resolution is not None:
        resolution = _pair(request.resolution)
    elif resolution is None:
        resolution = sides if max(sides) <= arch.resolution else (arch.resolution, arch.resolution)
    channels = data.train.channels
    return Card(
        arch=arch,
        width=width if request.width is None else request.width,
        resolution=resolution,
        labels=data.labels,
        preprocess=Preprocess(
            *resolution,
            channels,
            resize=_resize(resolution, sides),
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
        ),
        in_channels=channels,
    )


def _card_from(source: Checkpoint, request: Request, data: Data) -> Card:
    card = source.card
    if card.precision != "float32":
        raise CheckpointError(f"the weights are {card.precision}: train from the float32 checkpoint they were made of")
    arch = card.arch
    if not is_file(request.model):
        asked = arch_named(request.model)
        if asked.rows != card.arch.rows:
            raise InputError(
                f"--weights {request.weights}: these are of {card.arch.name}, not of {request.model}: "
                f"give --model {card.arch.name}, or --weights none"
            )
        if ":" in request.model:  # options that were asked for by name win over the weights' own
            arch = asked
    if request.width is not None and request.width != card.width:
        raise InputError(
            f"--width {request.width}: the weights have width {card.width}: leave it out, or --weights none"
        )
    channels = data.train.channels
    preprocess = _with_channels(card.preprocess, channels)
    resolution = card.resolution
    if request.resolution is not None and _pair(request.resolution) != card.resolution:
        resolution = _pair(request.resolution)
        before = card.preprocess
        resize = None if before.resize is None else round(before.resize * min(resolution) / min(card.resolution))
        preprocess = replace(preprocess, height=resolution[0], width=resolution[1], resize=resize)
    return Card(
        arch=arch,
        width=card.width,
        resolution=resolution,
        labels=data.labels,
        preprocess=preprocess,
        in_channels=channels,
        origin=card.origin,
        parent=source.sha256,
        batch_norm=card.batch_norm,
    )


def make_network(card: Card, source: Checkpoint | None, seed: int, say: Say) -> Network:
    """Build the card's network: from the source's weights, the rest drawn from the seed."""
    torch.manual_seed(seed)
    network = build(
        plan(
            card.arch,
            width=card.width,
            resolution=card.resolution,
            classes=len(card.labels),
            in_channels=card.in_channels,
        )
    )
    if source is not None:
        for note in adopt(network, source):
            say(note)
        if source.card.labels == card.labels:
            say("the classes are the weights' own: the classifier is kept")
    return network


def _network_of(card: Card) -> tuple[Arch, float, tuple[int, int] | None]:
    return card.arch, card.width, card.resolution


def _pair(resolution: int | tuple[int, int]) -> tuple[int, int]:
    return resolution if isinstance(resolution, tuple) else (resolution, resolution)


def _resize(resolution: tuple[int, int], sides: tuple[int, int]) -> int | None:
    """Return the short side before the centre crop: photographs lose their rims, small pictures nothing."""
    if min(resolution) >= PHOTO_SIDE:
        return round(min(resolution) / CROP)
    same_proportion = resolution[0] * sides[1] == resolution[1] * sides[0]
    return None if same_proportion else min(resolution)


def _with_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """Return the preprocessing for another number of channels, as `fold_stem` treats them."""
    if channels == preprocess.channels:
        return preprocess
    if channels == 1:
        mean, std = (statistics.fmean(preprocess.mean),), (statistics.fmean(preprocess.std),)
    else:
        mean, std = (
            tuple(values[index % preprocess.channels] for index in range(channels))
            for values in (preprocess.mean, preprocess.std)
        )
    return replace(preprocess, channels=channels, mean=mean, std=std)
