"""The training loop: read it from top to bottom.

What makes a resumed run end with the same weights, bit for bit: the order of the pictures and how each is varied are
pure functions of (seed, epoch, picture), torch's generator is seeded anew for every step, and everything else that
changes is in :meth:`Training.state`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.data import draws
from mobilenets.data.augment import mix
from mobilenets.errors import InputError
from mobilenets.nn.network import Network
from mobilenets.recipe import Recipe
from mobilenets.train.goal import Classification, Goal, Measured
from mobilenets.train.interruption import Interruption
from mobilenets.train.optimization import Average, learning_rate_at, set_learning_rate
from mobilenets.train.progress import Progress
from mobilenets.train.quantized import enter_epoch
from mobilenets.train.speed import Speed

SAVE_SECONDS = 300
"""The state is saved this often within an epoch; after each epoch in any case."""

CHECK_STEPS = 50
"""The loss is looked at this often: on an accelerator, looking waits for the work to be done."""


class Batches(Protocol):
    """What the loop goes through: pictures, or features computed before."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of an epoch, from batch `start` on."""

    def close(self) -> None:
        """End what serves them."""


@dataclass(frozen=True)
class Job:
    """What stays the same while training."""

    recipe: Recipe
    seed: int
    classes: int
    accelerator: Accelerator
    train_batches: Batches
    val_batches: Batches
    to_input: Callable[[Tensor], Tensor]  # a batch of `train_batches` to what the network takes, on the device
    speed: Speed
    save: Save
    goal: Goal = field(default_factory=Classification)


class Save(Protocol):
    """Write the state, and where an epoch is done the checkpoints."""

    def __call__(self, training: Training, *, epoch_done: bool) -> None:
        """Raise InputError where the disk is full; what was there stays."""


@dataclass
class Training:
    """What changes while training."""

    network: Network
    trained: nn.Module  # inputs to logits: the network, or its classifier alone
    optimizer: torch.optim.Optimizer
    average: Average | None
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed of the epoch under way
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of that epoch: loss, right, pictures
    epoch_seconds: float = 0.0  # spent on that epoch
    started: float = field(default_factory=time.monotonic)  # less what earlier sittings took
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # the entry of the history whose weights are kept as the best
    done: bool = False

    @property
    def seconds(self) -> float:
        """What the run has taken so far, in all sittings."""
        return time.monotonic() - self.started

    @property
    def saved_network(self) -> Network:
        """The network whose weights are saved: the average where the recipe has one."""
        return self.network if self.average is None else self.average.network

    @property
    def judged(self) -> nn.Module:
        """What is validated: the same weights, taking what `trained` takes."""
        return self.trained if self.average is None else self.average.network

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
            "average_updates": 0 if self.average is None else self.average.updates,
            "epoch": self.epoch,
            "step": self.step,
            "sums": list(self.sums),
            "epoch_seconds": self.epoch_seconds,
            "seconds": self.seconds,
            "history": [dict(entry) for entry in self.history],
            "best": self.best,
            "done": self.done,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
            self.average.updates = state["average_updates"]
        self.epoch, self.step = state["epoch"], state["step"]
        self.sums, self.epoch_seconds = list(state["sums"]), state["epoch_seconds"]
        self.started = time.monotonic() - state["seconds"]
        self.history = list(state["history"])
        self.best, self.done = state["best"], state["done"]


def fit(job: Job, training: Training, progress: Progress) -> None:
    """Train until the recipe's last epoch, or until patience is at its end.

    Raises:
        InputError: the loss is no longer a number; the last good state stays on disk.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    model = job.accelerator.prepare_model(training.trained)
    job.speed.switch_on(training.trained)
    while training.epoch < job.recipe.epochs and not training.done:
        with Interruption(catch=job.accelerator.num_processes == 1) as interruption:
            train_epoch(job, training, model, progress, interruption)
            if interruption.asked:
                job.save(training, epoch_done=False)
                raise KeyboardInterrupt
        begun = time.monotonic()
        progress.counting("validating", len(job.val_batches))
        share_statistics(training.judged, job.accelerator)
        measured = job.goal.judge(training.judged, job.val_batches, job.accelerator, job.to_input, progress.advance)
        complete_epoch(job, training, measured, val_seconds=time.monotonic() - begun)
        job.save(training, epoch_done=True)
        progress.epoch_ended(training.history[-1], job.recipe.epochs, best=training.best is training.history[-1])


def train_epoch(job: Job, training: Training, model: nn.Module, progress: Progress, interruption: Interruption) -> None:
    """Go once through the training pictures, from step `training.step` on."""
    recipe, accelerator, epoch = job.recipe, job.accelerator, training.epoch
    steps, saved = len(job.train_batches), time.monotonic()
    begun = saved - training.epoch_seconds
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
    sums = torch.tensor(training.sums, dtype=precise, device=accelerator.device)
    model.train()
    enter_epoch(training.network, recipe, epoch)
    progress.epoch_started(epoch, steps, training.step)
    for step, (images, targets) in enumerate(job.train_batches.epoch(epoch, start=training.step), start=training.step):
        set_learning_rate(training.optimizer, learning_rate_at(recipe, epoch * steps + step, steps))
        turn = step * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(int(draws.bits(job.seed, epoch, turn) >> 1))  # for dropout
        images, targets = shrunk(job.to_input(images), recipe.scale_at(epoch)), targets.to(accelerator.device)
        wanted = targets
        if recipe.augmentation.mixes:
            images, wanted = mix(
                images, targets, recipe.augmentation, classes=job.classes, seed=job.seed, epoch=epoch, batch=turn
            )
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=job.speed.bf16):
            outputs = model(images)
        loss, right = job.goal.loss(outputs, wanted, targets, recipe)
        accelerator.backward(loss)
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
        if training.average is not None:
            training.average.update(training.network)

        sums[0] += loss.detach() * len(targets)
        sums[1] += right
        sums[2] += len(targets)
        training.step, training.epoch_seconds = step + 1, time.monotonic() - begun
        progress.stepped(len(targets) * accelerator.num_processes, sums)
        due = interruption.asked or time.monotonic() - saved > SAVE_SECONDS
        if due or training.step % CHECK_STEPS == 0 or training.step == steps:
            training.sums = sums.tolist()
            _check(training, recipe, parameters)
        if interruption.asked:
            return
        if training.step == steps:
            training.sums = accelerator.reduce(sums).tolist()  # over all processes
        if due:
            saved = time.monotonic()
            job.save(training, epoch_done=False)


def shrunk(images: Tensor, scale: float) -> Tensor:
    """Return pictures (N, C, H, W) with both sides multiplied by `scale` and rounded, themselves where it is 1."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return functional.interpolate(images, size, mode="bilinear", antialias=True)


@torch.no_grad()
def share_statistics(module: nn.Module, accelerator: Accelerator) -> None:
    """Give all processes the first one's BatchNorm statistics, which are what is saved; weights are equal already."""
    if accelerator.num_processes > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def complete_epoch(job: Job, training: Training, measured: Measured, *, val_seconds: float) -> None:
    """Write the epoch into the history, see whether it is the best, and whether patience is at its end."""
    recipe, steps = job.recipe, len(job.train_batches)
    loss, right, pictures = training.sums
    entry: dict[str, Any] = {
        "epoch": training.epoch + 1,
        "train_loss": loss / max(1, pictures),
        "train_top1": right / max(1, pictures) if "val_top1" in measured and not recipe.augmentation.mixes else None,
        **measured,
        "learning_rate": learning_rate_at(recipe, training.epoch * steps, steps),
        "seconds": training.seconds,
        "train_seconds": training.epoch_seconds,
        "val_seconds": val_seconds,
        "images_per_second": pictures / max(1e-9, training.epoch_seconds),
    }
    training.history.append(entry)
    training.epoch, training.step = training.epoch + 1, 0
    training.sums, training.epoch_seconds = [0.0, 0.0, 0.0], 0.0
    metric = job.goal.metric
    if training.best is None or _rank(entry, metric) > _rank(training.best, metric):
        training.best = entry
    waited = training.epoch - training.best["epoch"]
    training.done = training.epoch >= recipe.epochs or 0 < recipe.patience <= waited


def _rank(entry: dict[str, Any], metric: str) -> tuple[float, float]:
    """Order epochs: by a validation metric, then by loss; without validation pictures the last is the best."""
    if entry[metric] is None:
        return (float(entry["epoch"]), 0.0)
    loss = entry["val_loss"]
    return (entry[metric], -loss if math.isfinite(loss) else -math.inf)


def _check(training: Training, recipe: Recipe, parameters: list[Tensor]) -> None:
    """Raise InputError unless the losses so far and the weights after the last step are numbers."""
    norms = torch.stack([parameter.detach().norm() for parameter in parameters])
    if not math.isfinite(training.sums[0]) or not bool(norms.isfinite().all()):
        raise InputError(
            f"the loss is no longer a number in epoch {training.epoch + 1}, step {training.step}: "
            f"lower --learning-rate (it was {recipe.learning_rate:g}) and start anew with another --out"
        )
