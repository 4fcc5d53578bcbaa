"""What a training is for: the loss of a step, and what is measured after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.recipe import Recipe
from mobilenets.train.evaluation import judge_all

Measured = Mapping[str, float | None]


class Goal(Protocol):
    """What the loop needs to know of a task."""

    @property
    def metric(self) -> str:
        """The number of an epoch by which the best one is chosen; more is better."""

    def loss(self, outputs: Any, wanted: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Return the loss per picture of what the network said, and how many pictures were right.

        `targets` are the batch's own, `wanted` what they became where pictures were mixed.
        """

    def judge(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        accelerator: Accelerator,
        to_input: Callable[[Tensor], Tensor],
        advance: Callable[[], None] | None = None,
    ) -> Measured:
        """Return what is measured of a network on the validation pictures, None where there are none."""


class Classification:
    """One class a picture: cross-entropy, and the share of pictures whose class is named."""

    metric = "val_top1"

    def loss(self, outputs: Any, wanted: Tensor, targets: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of logits (N, classes), and how many were right."""
        loss = functional.cross_entropy(outputs.float(), wanted, label_smoothing=recipe.label_smoothing)
        return loss, (outputs.detach().argmax(1) == targets).sum()

    def judge(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        accelerator: Accelerator,
        to_input: Callable[[Tensor], Tensor],
        advance: Callable[[], None] | None = None,
    ) -> Measured:
        """Return loss, top-1 and top-5."""
        judged = judge_all(network, batches, accelerator, to_input, advance)
        if not len(judged):
            return {"val_loss": None, "val_top1": None, "val_top5": None}
        return {
            "val_loss": float(judged.loss.mean()),
            "val_top1": float((judged.rank < 1).mean()),
            "val_top5": float((judged.rank < 5).mean()),
        }


def nothing_right(targets: Tensor) -> Tensor:
    """Return the count of right pictures of a task that has none."""
    return torch.zeros((), device=targets.device)
