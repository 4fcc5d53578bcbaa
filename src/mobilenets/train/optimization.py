"""Optimizer, learning rate and the average of the weights, as a recipe says."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from mobilenets.nn.network import Network
from mobilenets.recipe import Recipe


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer for a network, or for its classifier alone.

    Weight decay is kept off BatchNorm and biases, which are vectors. A group's `rate` is what the learning rate is
    multiplied with: 1, but for what a whole network has instead of the weights it began with: the classifier, or the
    heads and extra stages of a detector.
    """
    new = {"classifier"}
    if isinstance(network, Network):
        new |= {op.name for op in network.plan.ops if op.row >= len(network.plan.arch.rows)}
    head = [id(p) for name, p in network.named_parameters() if name.partition(".")[0] in new]
    kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        kind = (
            recipe.weight_decay if parameter.ndim > 1 else 0.0,
            recipe.head_rate if id(parameter) in head else 1.0,
        )
        kinds.setdefault(kind, []).append(parameter)
    groups = [{"params": members, "weight_decay": decay, "rate": rate} for (decay, rate), members in kinds.items()]
    rate, betas = recipe.learning_rate, (recipe.momentum, recipe.square_decay)
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
        case "adam":
            return torch.optim.Adam(groups, rate, betas=betas, eps=recipe.epsilon, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, rate, betas=betas, eps=recipe.epsilon, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(
                groups, rate, alpha=recipe.square_decay, momentum=recipe.momentum, eps=recipe.epsilon, foreach=True
            )


def learning_rate_at(recipe: Recipe, step: int, steps_an_epoch: int) -> float:
    """Return the learning rate of step `step`, counted from 0 over all epochs.

    >>> from mobilenets.recipe import RECIPES
    >>> learning_rate_at(RECIPES["simple"], 1000, 100)
    0.001
    """
    epochs_done = step / steps_an_epoch
    if epochs_done < recipe.warmup_epochs:
        return recipe.learning_rate * (step + 1) / math.ceil(recipe.warmup_epochs * steps_an_epoch)
    match recipe.schedule:
        case "constant":
            return recipe.learning_rate
        case "cosine":
            progress = (epochs_done - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * share)
        case "exponential":
            return recipe.learning_rate * recipe.rate_decay ** math.floor(epochs_done)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


class Average:
    """The exponential moving average of a network's weights and BatchNorm statistics, itself a network.

    After update t the decay is at most (1 + t) / (10 + t), so that the first weights are soon forgotten.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Move the average towards the network's present weights."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])  # the counter of batches
