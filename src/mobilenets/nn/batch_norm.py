"""BatchNorm put back where a deployed file had folded it away.

A TFLite or exported ONNX file holds convolutions with the BatchNorm multiplied in. Converted, its statistics are the
identity (mean 0, variance 1). Such a network computes the right function in eval mode and nonsense in train mode,
where BatchNorm normalizes by the batch: fine-tuning would destroy it in one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mobilenets.nn.network import Convolution, Network


@torch.no_grad()
def restore_batch_norm(network: Network, batches: Iterable[Tensor]) -> int:
    """Give every BatchNorm the statistics of its own input on `batches`, without changing what the network computes.

    In eval mode BatchNorm is y = a x + b. With measured mean m and variance v, the scale becomes a sqrt(v + eps) and
    the shift b + a m: the same function, and train mode now agrees with it.

    A folded convolution also has its BatchNorm's scale in its weights, and BatchNorm undoes any scale of what it is
    given. How fast such weights turn depends on their size alone: a step of gradient descent moves weights of a tenth
    of the size a hundred times as far (arXiv:1706.05350). So the weights of each channel are brought to length 1,
    about what trained networks have, and the statistics follow.

    Args:
        network: changed in place; ends in the mode it was in.
        batches: pictures, float32 (N, C, H, W), normalized; a few hundred pictures are enough.

    Returns:
        The number of pictures used.
    """
    convolutions = {m.norm: m for m in network.modules() if isinstance(m, Convolution) and m.norm is not None}
    norms = list(convolutions)
    count = dict.fromkeys(norms, 0)
    total = {norm: torch.zeros(norm.num_features, dtype=torch.float64) for norm in norms}
    square = {norm: torch.zeros(norm.num_features, dtype=torch.float64) for norm in norms}

    def measure(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x: Tensor = inputs[0].detach()
        count[norm] += x.numel() // x.shape[1]
        total[norm] += x.sum((0, 2, 3), dtype=torch.float64).cpu()
        square[norm] += x.double().square().sum((0, 2, 3)).cpu()

    was_training = network.training
    network.eval()
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    pictures = 0
    try:
        for batch in batches:
            network(batch)
            pictures += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    if pictures:
        for norm in norms:
            mean = total[norm] / count[norm]
            variance = (square[norm] / count[norm] - mean.square()).clamp(min=0)
            lengths = _normalize(convolutions[norm])
            _reparametrize(norm, mean, variance, lengths)
    return pictures


def _normalize(convolution: Convolution) -> Tensor:
    """Bring the weights of each channel to length 1; return their lengths before, 1 where they are all zero."""
    weight = convolution.weight.double()
    lengths: Tensor = weight.flatten(1).square().sum(1).sqrt()
    lengths[lengths == 0] = 1.0
    convolution.weight.copy_(weight / lengths.view(-1, 1, 1, 1))
    return lengths.cpu()


def _reparametrize(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, lengths: Tensor) -> None:
    """Set the statistics and adjust scale and shift in float64 so that eval mode computes what it computed.

    Mean and variance are of the convolution's output before its weights were divided by `lengths`.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    device = norm.weight.device
    old_mean, old_variance = norm.running_mean.double().cpu(), norm.running_var.double().cpu()
    a = norm.weight.double().cpu() / (old_variance + norm.eps).sqrt()
    b = norm.bias.double().cpu() - a * old_mean
    a, mean, variance = a * lengths, mean / lengths, variance / lengths.square()
    norm.weight.copy_((a * (variance + norm.eps).sqrt()).to(device))
    norm.bias.copy_((b + a * mean).to(device))
    norm.running_mean.copy_(mean.to(device))
    norm.running_var.copy_(variance.to(device))
