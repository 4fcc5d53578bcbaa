"""From what was asked and the data to a network ready to be trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mobilenets import checkpoint as files
from mobilenets.arch import ARCHITECTURES, arch_named
from mobilenets.arch.mobilenet import Classifier, Dense, Pool, Row
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Data
from mobilenets.errors import CheckpointError, InputError, MissingExtraError, WeightsError
from mobilenets.image import Preprocess
from mobilenets.nn.network import Network, adopt, build
from mobilenets.nn.weights import checkpoint_for
from mobilenets.recipe import PHOTO_SIDE, RECIPES, Recipe, fitted, recipe_named, with_batch_size
from mobilenets.train.request import Request

CROP = 0.875  # the centre that evaluation looks at: 224 of 256, as since AlexNet

Say = Callable[[str], None]


def choose_weights(request: Request, data: Data, say: Say) -> Checkpoint | None:
    """Return the checkpoint to start from, None for random weights.

    What was not asked for is the model's own file, or for photographs in colour the best published weights: on this
    machine, else downloaded. Where these cannot be had, one line says so.

    Raises:
        InputError: `--freeze` without weights.
        CheckpointError, WeightsError, MissingExtraError: what was asked for cannot be had.
    """
    source = _weights_asked_for(request)
    if source is None and request.weights is None:
        source = _published_weights(request, data, say)
    if source is None and request.freeze:
        raise InputError("--freeze keeps the features as they are, and there are no weights: name some with --weights")
    return source


def _weights_asked_for(request: Request) -> Checkpoint | None:
    if request.weights == "none":
        return None
    named = request.weights or (None if is_architecture(request.model) else request.model)
    if named is None:
        return None
    return files.load(named) if is_file(named) else checkpoint_for(named)


def _published_weights(request: Request, data: Data, say: Say) -> Checkpoint | None:
    """Return the best published weights for photographs in colour."""
    wanted = "" if request.width is None else f" of width {request.width:g}"
    if min(pair(request.resolution) or sides_of(data)) < PHOTO_SIDE or data.train.channels != 3:
        say(f"{request.model}{wanted}: from random weights, as published ones are of photographs in colour")
        return None
    try:
        source = checkpoint_for(request.model, width=request.width)
    except (WeightsError, MissingExtraError) as error:
        say(f"{request.model}{wanted}: FROM RANDOM WEIGHTS, which takes many more pictures and epochs: {error}")
        return None
    say(f"{request.model}{wanted}: from the weights of {source.card.origin}")
    return source


def sides_of(data: Data) -> tuple[int, int]:
    """Return height and width of the training pictures, or their medians."""
    sides = data.train.sides
    assert sides is not None  # there are pictures to train on
    return sides


def is_architecture(model: str) -> bool:
    """Say whether a MODEL names a table, with or without options."""
    return model.partition(":")[0] in ARCHITECTURES


def is_file(text: str) -> bool:
    """Say whether a MODEL or a weights argument means a checkpoint file rather than a name."""
    return not is_architecture(text) and (Path(text).suffix == ".safetensors" or Path(text).is_file())


def choose_recipe(request: Request, data: Data, card: Card, *, pretrained: bool) -> Recipe:
    """Return the recipe to train with: the named one adapted to the data, or exactly the one out of a file."""
    usual = "detect" if data.boxed else "finetune" if pretrained or request.freeze else "scratch"
    name = request.recipe or usual
    if name in RECIPES:
        recipe = fitted(
            recipe_named(name),
            images=len(data.train),
            side=min(card.resolution),
            mirrorable=data.mirrorable,
            freeze=request.freeze,
            boxed=data.boxed,
        )
    else:
        recipe = _recipe_from_file(name)
    if (recipe.augmentation.kind == "boxes") != data.boxed:
        has, wants = ("boxes", "other") if data.boxed else ("classes", "kind boxes")
        raise InputError(
            f"--recipe {name}: its augmentation is {wants}, and {request.data} has {has}: name another recipe"
        )
    if request.batch_size is not None:
        if request.batch_size < 1:
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
    return _quantizing(recipe, request, pretrained=pretrained) if recipe.quantizes or request.granularity else recipe


def _quantizing(recipe: Recipe, request: Request, *, pretrained: bool) -> Recipe:
    """Return the recipe of a quantization-aware training with the granularity that was asked for."""
    if not recipe.quantizes:
        raise InputError(f"--granularity is for --recipe qat: recipe {recipe.name} makes a float32 network")
    if not pretrained:
        raise InputError(f"--recipe {recipe.name} begins with a trained float32 network: name a checkpoint: --model")
    if request.freeze:
        raise InputError("--freeze trains the classifier alone, but all of a network is quantized: leave it out")
    if request.bf16 == "on":
        raise InputError("--bf16 on has too few digits for 8-bit codes times a scale: leave it out")
    return recipe if request.granularity is None else replace(recipe, granularity=request.granularity)


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

    Raises:
        InputError: `--model` or `--width` contradict the weights.
        CheckpointError: the weights are not float32.
    """
    if source is not None:
        return _card_from(source, request, data)
    if is_file(request.model):  # --weights none: the same network as that file's, not its weights
        of_file = files.read_card(request.model)
        arch, width, of_source = of_file.arch, of_file.width, of_file.resolution
    else:
        arch, width, of_source = arch_named(request.model), 1.0, None
    resolution = pair(request.resolution) or of_source
    sides = sides_of(data)
    if resolution is None:
        resolution = sides if max(sides) <= arch.resolution else (arch.resolution, arch.resolution)
    channels = data.train.channels
    middle = (0.5,) * channels
    return Card(
        arch=arch,
        width=width if request.width is None else request.width,
        resolution=resolution,
        labels=data.labels,
        preprocess=Preprocess(*resolution, channels, resize=_resize(resolution, sides), mean=middle, std=middle),
        in_channels=channels,
    )


def _card_from(source: Checkpoint, request: Request, data: Data) -> Card:
    card = source.card
    if card.precision != "float32":
        raise CheckpointError(f"the weights are {card.precision}: train from the float32 checkpoint they were made of")
    arch = card.arch
    if is_architecture(request.model):
        asked = arch_named(request.model)
        if _strideless(asked.rows) != _strideless(arch.rows):
            raise InputError(
                f"--weights {request.weights}: these are of {card.arch.name}, not of {request.model}: "
                f"give --model {card.arch.name}, or --weights none"
            )
        if ":" in request.model:  # options that were asked for by name win over the weights' own
            arch = asked
        elif asked.rows != arch.rows:  # a form for other sizes of picture: strides have no weights
            arch = replace(arch, name=asked.name, paper=asked.paper, rows=asked.rows, resolution=asked.resolution)
    if request.width is not None and request.width != card.width:
        raise InputError(
            f"--width {request.width:g}: the weights have width {card.width:g}: leave it out, or --weights none"
        )
    preprocess = with_channels(card.preprocess, data.train.channels)
    resolution = pair(request.resolution) or card.resolution
    if resolution != card.resolution:
        resize = preprocess.resize and round(preprocess.resize * min(resolution) / min(card.resolution))
        preprocess = replace(preprocess, height=resolution[0], width=resolution[1], resize=resize)
    return Card(
        arch=arch,
        width=card.width,
        resolution=resolution,
        labels=data.labels,
        preprocess=preprocess,
        in_channels=data.train.channels,
        batch_norm=card.batch_norm,
        origin=card.origin,
        parent=source.sha256,
    )


def _strideless(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(row if isinstance(row, Pool | Dense | Classifier) else replace(row, s=1) for row in rows)


def make_network(card: Card, source: Checkpoint | None, seed: int, say: Say) -> Network:
    """Build the card's network: from the source's weights, and what these do not have drawn from the seed.

    The classifier, or a detector's heads, are kept where they are of the same classes.
    """
    torch.manual_seed(seed)
    network = build(card.plan)
    if source is not None:
        tensors = source.tensors
        if source.card.labels != card.labels:
            outputs = network.plan.outputs
            last = set(outputs if card.arch.detector is None else outputs[1::2])  # boxes are of no class
            tensors = {name: value for name, value in tensors.items() if name.partition(".")[0] not in last}
        for note in adopt(network, replace(source, tensors=tensors)):
            say(note)
    return network


def pair(resolution: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (height, width) of what was asked for."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def _resize(resolution: tuple[int, int], sides: tuple[int, int]) -> int | None:
    """Return the short side before the centre crop: photographs lose their rims, small pictures nothing."""
    if min(resolution) >= PHOTO_SIDE:
        return round(min(resolution) / CROP)
    same_proportion = resolution[0] * sides[1] == resolution[1] * sides[0]
    return None if same_proportion else min(resolution)


def with_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """Return the preprocessing for another number of channels, as `fold_stem` treats them."""
    if channels == preprocess.channels:
        return preprocess

    def fitting(values: tuple[float, ...]) -> tuple[float, ...]:
        if channels == 1:
            return (statistics.fmean(values),)
        return tuple(values[index % len(values)] for index in range(channels))

    return replace(preprocess, channels=channels, mean=fitting(preprocess.mean), std=fitting(preprocess.std))
