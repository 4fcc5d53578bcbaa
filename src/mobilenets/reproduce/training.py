"""One small training, told by plain values: the recipe `scratch` without what a long run needs around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from mobilenets.arch import arch_named, plan
from mobilenets.data import draws
from mobilenets.data.loader import batches
from mobilenets.data.memory import channel_statistics
from mobilenets.data.pictures import ArrayPictures
from mobilenets.errors import InputError
from mobilenets.image.preprocess import Preprocess
from mobilenets.nn.network import Network, build
from mobilenets.recipe import SCRATCH, Recipe, fitted
from mobilenets.reproduce.probes import threads_set
from mobilenets.train.optimization import Average, learning_rate_at, make_optimizer, set_learning_rate

JUDGED_AT_ONCE = 250
TIMED_STEPS = 3


@dataclass(frozen=True)
class Task:
    """What one training is told: values that go through JSON, so that another process can do it.

    `pictures` names an .npz: `train` and `val` uint8 (N, side, side, channels), `train_targets` and `val_targets`.
    """

    variant: str
    model: str
    width: float
    seed: int
    epochs: int
    classes: int
    mirrorable: bool
    pictures: str


@dataclass(frozen=True)
class Run:
    """A finished training: top-1 (a fraction) and loss of its last weights on the validation pictures."""

    variant: str
    seed: int
    top1: float
    loss: float
    seconds: float


def recipe_for(task: Task, images: int, side: int) -> Recipe:
    """Return the recipe `scratch`, fitted to so many pictures, for the task's epochs."""
    recipe = fitted(SCRATCH, images=images, side=side, mirrorable=task.mirrorable)
    # A short training cannot spend most of its time warming up.
    return replace(recipe, epochs=task.epochs, warmup_epochs=min(recipe.warmup_epochs, 0.2 * task.epochs))


def train_once(task: Task) -> Run:
    """Train from random weights in one thread, and judge the average of the weights once, at the end.

    The seed decides the first weights, the order of the pictures and how each is varied: the same on every machine, but
    for rounding.

    Raises:
        InputError: the loss is no longer a number.
    """
    begun = time.monotonic()
    with threads_set(1):
        train, val, preprocess = _read(Path(task.pictures), task.classes)
        recipe = recipe_for(task, len(train), preprocess.height)
        torch.manual_seed(task.seed)
        network = _network(task, preprocess)
        average = _fitted(network, recipe, train, preprocess, task.seed)
        top1, loss = _judged(average, val, preprocess)
    if not math.isfinite(loss):
        raise InputError(f"{task.variant}, seed {task.seed}: the loss is no longer a number, and no result")
    return Run(task.variant, task.seed, top1, loss, time.monotonic() - begun)


def expected_seconds(task: Task) -> float:
    """Return how long `train_once` will take on this machine, from a few steps."""
    train, val, preprocess = _read(Path(task.pictures), task.classes)
    recipe = recipe_for(task, len(train), preprocess.height)
    with threads_set(1):
        network = _network(task, preprocess)
        step = _stepper(network, recipe)
        images = torch.zeros(recipe.batch_size, *network.plan.input_shape)
        images = images.contiguous(memory_format=torch.channels_last)
        targets = torch.zeros(recipe.batch_size, dtype=torch.int64)
        step(images, targets, 0.0)
        begun = time.perf_counter()
        for _ in range(TIMED_STEPS):
            step(images, targets, 0.0)
        one = (time.perf_counter() - begun) / TIMED_STEPS
    steps = task.epochs * max(1, len(train) // recipe.batch_size)
    return one * (steps + len(val) / recipe.batch_size / 3)  # forward is a third of a step


def _read(path: Path, classes: int) -> tuple[ArrayPictures, ArrayPictures, Preprocess]:
    """Return pictures to train on and to judge with, and how both become network input."""
    labels = tuple(map(str, range(classes)))
    with np.load(path, allow_pickle=False) as arrays:
        train, val = (_pictures(labels, arrays[part], arrays[f"{part}_targets"]) for part in ("train", "val"))
    mean, std = channel_statistics(train)
    _, height, width, channels = train.pixels.shape
    preprocess = Preprocess(height, width, channels, mean=mean, std=std)
    return replace(train, fitted=preprocess), replace(val, fitted=preprocess), preprocess


def _pictures(labels: tuple[str, ...], pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> ArrayPictures:
    return ArrayPictures(labels, targets, tuple(map(str, range(len(targets)))), pixels)


def _network(task: Task, preprocess: Preprocess) -> Network:
    layout = plan(
        arch_named(task.model),
        width=task.width,
        resolution=(preprocess.height, preprocess.width),
        classes=task.classes,
        in_channels=preprocess.channels,
    )
    return build(layout).to(memory_format=torch.channels_last)


def _stepper(network: Network, recipe: Recipe) -> Callable[[torch.Tensor, torch.Tensor, float], None]:
    """Return what takes one step: images (N, C, H, W), targets (N,), learning rate."""
    optimizer = make_optimizer(network, recipe)
    network.train()

    def step(images: torch.Tensor, targets: torch.Tensor, rate: float) -> None:
        set_learning_rate(optimizer, rate)
        loss = functional.cross_entropy(network(images), targets, label_smoothing=recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _fitted(network: Network, recipe: Recipe, train: ArrayPictures, preprocess: Preprocess, seed: int) -> Network:
    """Train, and return the average of the weights."""
    average, step = Average(network, recipe.ema), _stepper(network, recipe)
    served = batches(
        train,
        preprocess=preprocess,
        augmentation=recipe.augmentation,
        batch_size=recipe.batch_size,
        shuffle=True,
        seed=seed,
        workers=0,
    )
    for epoch in range(recipe.epochs):
        for index, (images, targets) in enumerate(served.epoch(epoch)):
            torch.manual_seed(int(draws.bits(seed, epoch, index) >> 1))  # for dropout
            step(images, targets, learning_rate_at(recipe, epoch * len(served) + index, len(served)))
            average.update(network)
    return average.network


@torch.no_grad()
def _judged(network: Network, val: ArrayPictures, preprocess: Preprocess) -> tuple[float, float]:
    """Return top-1 (a fraction) and cross-entropy over the validation pictures."""
    right, loss = 0, 0.0
    for images, targets in _served(val, preprocess):
        logits = network(images)
        right += int((logits.argmax(1) == targets).sum())
        loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
    return right / len(val), loss / len(val)


def _served(val: ArrayPictures, preprocess: Preprocess) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return iter(batches(val, preprocess=preprocess, batch_size=JUDGED_AT_ONCE, workers=0))
