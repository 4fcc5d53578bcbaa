"""One set of weights for every network of a space: each takes the leading channels and the middle of the kernels.

The forward pass is that of the ordinary network of a plan; its tensors are views of the shared ones, so that gradients
reach what is shared. Statistics of BatchNorm cannot be shared: in training they are the batch's, and of a candidate
they are estimated anew (as Yu and Huang found for slimmable networks, arXiv:1903.05134).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mobilenets.arch import Op, Plan
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.compress.narrow import groups
from mobilenets.engine.folding import folded
from mobilenets.fit.narrowing import Activity, importance
from mobilenets.fit.space import Choices, Space
from mobilenets.nn.network import Network, build, to_tensors

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Supernet(nn.Module):
    """The shared weights; `forward` computes the network of a choice."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self._networks: dict[Choices, tuple[Network, dict[str, str]]] = {}
        largest = build(space.layout(space.largest))
        keys = self._keys(space.largest, largest.plan)
        self.weights = nn.ParameterDict(
            {keys[name].replace(".", "/"): nn.Parameter(value.detach()) for name, value in largest.named_parameters()}
        )

    def forward(self, images: Tensor, choices: Choices) -> Tensor:
        """Pictures, float32 (N, C, H, W) -> logits (N, classes); BatchNorm by the batch in training."""
        network, keys = self._network(choices)
        network.train(self.training)
        buffers = {
            name: torch.zeros(value.shape, dtype=value.dtype, device=images.device)
            if name.endswith(STATISTICS[0])
            else torch.ones(value.shape, dtype=value.dtype, device=images.device)
            for name, value in network.named_buffers()
        }
        logits: Tensor = torch.func.functional_call(network, {**self._views(network, keys), **buffers}, (images,))
        return logits

    @torch.no_grad()
    def candidate(self, choices: Choices, batches: Iterable[Tensor]) -> Network:
        """Return a network of its own with a choice's weights, and statistics of these pictures; in eval mode."""
        described, keys = self._network(choices)
        made = Network(described.plan)
        views = self._views(described, keys)
        state = made.state_dict()
        for name, value in views.items():
            state[name].copy_(value)
        made.to(next(iter(views.values())).device)
        estimate_statistics(made, batches)
        return made.eval()

    def checkpoint(self, choices: Choices, card: Card, batches: Iterable[Tensor]) -> Checkpoint:
        """Return a choice as a checkpoint: `card` says all but the table."""
        network = self.candidate(choices, batches)
        card = replace(card, arch=network.plan.arch, width=1.0, batch_norm="trained", metrics=())
        return Checkpoint(card, to_tensors(network))

    @torch.no_grad()
    def adopt(self, checkpoint: Checkpoint, activity: Mapping[str, Activity]) -> None:
        """Take over the weights of the network that the space is around, the channels that matter most in front.

        Smaller kernels lie in the middle of larger ones, whose rims begin with zeros. Scales of BatchNorm come as they
        are; what the network has not, such as squeeze-excite, stays as it was drawn.
        """
        layout = checkpoint.card.plan
        tensors = in_order(checkpoint, activity)
        largest = self.space.layout(self.space.largest)
        keys = self._keys(self.space.largest, largest)
        blocks = dict(zip(_blocks(layout), _blocks(largest), strict=True))
        for op in layout.ops:
            twin = f"{blocks[op.block]}_{op.name.removeprefix(f'{op.block}_')}" if op.block else op.name
            for name in [each for each in tensors if each.startswith(f"{op.name}.") and not each.endswith(STATISTICS)]:
                key = keys.get(twin + name.removeprefix(op.name))
                if key is not None:
                    _place(self.weights[key.replace(".", "/")], torch.from_numpy(tensors[name].copy()))

    def _network(self, choices: Choices) -> tuple[Network, dict[str, str]]:
        """Return a choice's network without weights of its own, and where its weights are."""
        if choices not in self._networks:
            if len(self._networks) > 64:
                self._networks.clear()
            layout = self.space.layout(choices)
            with torch.device("meta"):
                network = Network(layout)
            self._networks[choices] = network, self._keys(choices, layout)
        return self._networks[choices]

    def _keys(self, choices: Choices, layout: Plan) -> dict[str, str]:
        """Return where each parameter is kept: blocks by stage and repeat, all else by its name."""
        places = dict(zip(_blocks(layout), self.space.blocks(choices), strict=True))
        keys = {}
        for op in layout.ops:
            own = op.name
            if op.block:
                stage, repeat = places[op.block]
                own = f"stage_{stage}_{repeat}_{op.name.removeprefix(f'{op.block}_')}"
            for name in ("weight", "bias", "norm.weight", "norm.bias"):
                keys[f"{op.name}.{name}"] = f"{own}.{name}"
        return keys

    def _views(self, network: Network, keys: Mapping[str, str]) -> dict[str, Tensor]:
        return {
            name: leading(self.weights[keys[name].replace(".", "/")], tuple(value.shape))
            for name, value in network.named_parameters()
        }


@torch.no_grad()
def estimate_statistics(network: Network, batches: Iterable[Tensor]) -> None:
    """Give every BatchNorm the mean of its statistics over some batches; the network ends in training mode."""
    network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _blocks(layout: Plan) -> list[str]:
    return list(dict.fromkeys(op.block for op in layout.ops if op.block))


def leading(whole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the leading channels, and of kernels the middle."""
    for axis, size in enumerate(shape):
        start = (whole.shape[axis] - size) // 2 if axis >= 2 else 0
        whole = whole.narrow(axis, start, size)
    return whole


def _place(whole: Tensor, part: Tensor) -> None:
    """Write a tensor into the leading channels and the middle of the kernels; rims of kernels become zero."""
    sizes = tuple(min(*each) for each in zip(whole.shape, part.shape, strict=True))
    if part.ndim == 4 and whole.shape[2] > part.shape[2]:
        whole[: sizes[0], : sizes[1]] = 0
    leading(whole, sizes).copy_(leading(part, sizes))


def in_order(checkpoint: Checkpoint, activity: Mapping[str, Activity]) -> dict[str, np.ndarray]:
    """Return the weights with the channels of every group in the order of their importance."""
    layout = checkpoint.card.plan
    weights = {name: layer.weight for name, layer in folded(checkpoint).items()}
    orders: dict[str, np.ndarray] = {}
    for group in groups(layout):
        order = np.argsort(-importance(group, weights, activity), kind="stable")
        orders |= dict.fromkeys(group.members, order)
    tensors = {}
    for op in layout.ops:
        for name in [each for each in checkpoint.tensors if each.rpartition(".")[0] in {op.name, f"{op.name}.norm"}]:
            tensors[name] = _ordered(checkpoint.tensors[name], op, orders)
    return tensors


def _ordered(tensor: np.ndarray, op: Op, orders: Mapping[str, np.ndarray]) -> np.ndarray:
    if op.name in orders:
        tensor = tensor[orders[op.name]]
    reads = orders.get(op.sources[0])
    if reads is not None and tensor.ndim > 1 and not op.depthwise:
        tensor = tensor[:, reads]
    return tensor
