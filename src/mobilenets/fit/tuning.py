"""Brief training and judging of many similar networks: what tells a good proposal from a bad one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Data, Pictures, batches
from mobilenets.data.loader import normalize_on_device
from mobilenets.data.split import spread_sample, stratified
from mobilenets.errors import InputError
from mobilenets.fit.narrowing import Activity
from mobilenets.nn.batch_norm import restore_batch_norm
from mobilenets.nn.network import Network, from_checkpoint, to_tensors
from mobilenets.recipe import FINETUNE, Recipe, fitted
from mobilenets.train.optimization import make_optimizer, set_learning_rate

JUDGED = 1024
"""Pictures, at most, held back of the training part to judge proposals by."""
JUDGED_SHARE = 0.2
WATCHED = 256
"""Pictures on which channels are watched."""
AT_ONCE = 64
CLIP_NORM = 5.0


@dataclass(frozen=True)
class Judgement:
    """What a network made of the pictures that were held back: top-1, 0..1, and cross-entropy in nats."""

    top1: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Better networks have larger ones."""
        return self.top1, -self.loss


class Workbench:
    """Trains and judges networks on one data set, the same way for the same seed.

    The validation part is never looked at: what is chosen by it could not be judged by it. Proposals are judged by
    pictures of the training part that brief training does not see.
    """

    def __init__(self, data: Data, card: Card, seed: int, workers: int | None, accelerator: Accelerator) -> None:
        self.data, self.card, self.seed, self.accelerator = data, card, seed, accelerator
        self.device, self._workers = accelerator.device, workers
        names = [data.train.name(index) for index in range(len(data.train))]
        kept, held = stratified(data.train.targets, names, seed=seed, val_fraction=JUDGED_SHARE)
        if not len(held):
            raise InputError(f"{data.name}: too few pictures to judge by: give every class at least 2")
        held = held[spread_sample(data.train.targets[held], min(JUDGED, len(held)), seed)]
        self.train = data.train.take(kept)
        self.recipe = fitted(FINETUNE, images=len(self.train), side=min(card.resolution), mirrorable=data.mirrorable)
        self._trained, self._seconds = 0, 0.0
        self._judged = [(images.to(self.device), targets) for images, targets in self._plain(data.train.take(held))]

    @property
    def images_per_second(self) -> float:
        """How fast training went so far; 0 where there was none."""
        return self._trained / self._seconds if self._seconds else 0.0

    def restored(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint that can be trained: what a converted file had folded away is put back."""
        if checkpoint.card.batch_norm != "folded":
            return checkpoint
        network = from_checkpoint(checkpoint)
        some = self.train.take(spread_sample(self.train.targets, min(WATCHED, len(self.train)), self.seed))
        restore_batch_norm(network, [images for images, _ in self._plain(some)])
        card = replace(checkpoint.card, batch_norm="trained")
        return replace(checkpoint, card=card, tensors=to_tensors(network), sha256=None, sample=None)

    def watch(self, checkpoint: Checkpoint) -> dict[str, Activity]:
        """Return how large every channel of every output is on some training pictures."""
        network = from_checkpoint(checkpoint).to(self.device)
        sums: dict[str, list[Tensor]] = {}
        count = 0
        some = self.train.take(spread_sample(self.train.targets, min(WATCHED, len(self.train)), self.seed))
        with torch.inference_mode():
            for images, _ in self._plain(some):
                live = {"input": images.to(self.device)}
                for op in network.plan.ops:
                    value = network.compute(op, *(live[name] for name in op.sources))
                    live[op.name] = value
                    flat = value.reshape(len(value), value.shape[1], -1).double()
                    parts = [flat.mean(2).sum(0), flat.abs().mean(2).sum(0)]
                    known = sums.setdefault(op.name, [torch.zeros_like(each) for each in parts])
                    sums[op.name] = [before + now for before, now in zip(known, parts, strict=True)]
                count += len(images)
        return {name: Activity(*(each.cpu().numpy() / count for each in pair)) for name, pair in sums.items()}

    def tune(self, checkpoint: Checkpoint, steps: int, turn: int, recipe: Recipe | None = None) -> Checkpoint:
        """Return a checkpoint trained on for some steps; `turn` decides which pictures come."""
        if not steps:
            return checkpoint
        recipe = recipe or self.recipe
        network = from_checkpoint(checkpoint).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train()
        optimizer = make_optimizer(network, replace(recipe, head_rate=1.0))
        torch.manual_seed(self.seed + turn)
        begun = time.monotonic()
        for step, (images, targets) in enumerate(self.shuffled(steps, turn, recipe)):
            # Down to nothing: where a brief training ends, its noise should be gone.
            set_learning_rate(optimizer, recipe.learning_rate * (1 - step / steps))
            logits = network(images)
            loss = functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            optimizer.step()
            self._trained += len(images)
        self._seconds += time.monotonic() - begun
        return replace(checkpoint, tensors=to_tensors(network), sha256=None, sample=None)

    def shuffled(self, steps: int, turn: int, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield so many augmented training batches on the device."""
        served = batches(
            self.train,
            preprocess=self.card.preprocess,
            augmentation=recipe.augmentation,
            batch_size=min(recipe.batch_size, len(self.train)),
            shuffle=True,
            seed=self.seed,
            workers=0 if self._workers is None else self._workers,
        )
        epoch, done = turn, 0
        with served:
            while done < steps:
                for images, targets in served.epoch(epoch):
                    yield self._on_device(images), targets.to(self.device)
                    done += 1
                    if done == steps:
                        return
                epoch += 1

    @torch.inference_mode()
    def judge(self, checkpoint: Checkpoint) -> Judgement:
        """Return how good a checkpoint is on the pictures that were held back."""
        return self.judge_network(from_checkpoint(checkpoint).to(self.device))

    @torch.inference_mode()
    def judge_network(self, network: Network) -> Judgement:
        """Return how good a network, put in eval mode, is on the pictures that were held back."""
        network.eval()
        right = loss = count = 0.0
        for images, targets in self._judged:
            logits = network(images).float().cpu()
            right += float((logits.argmax(1) == targets).sum())
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            count += len(targets)
        return Judgement(right / count, loss / count if np.isfinite(loss) else float("inf"))

    def _plain(self, pictures: Pictures) -> list[tuple[Tensor, Tensor]]:
        """Return pictures as evaluation shows them, in batches."""
        with batches(pictures, preprocess=self.card.preprocess, batch_size=AT_ONCE, workers=0) as served:
            return [(self._normalized(images), targets) for images, targets in served]

    def _on_device(self, images: Tensor) -> Tensor:
        return self._normalized(images.to(self.device)).contiguous(memory_format=torch.channels_last)

    def _normalized(self, images: Tensor) -> Tensor:
        return normalize_on_device(images, self.card.preprocess) if images.dtype == torch.uint8 else images
