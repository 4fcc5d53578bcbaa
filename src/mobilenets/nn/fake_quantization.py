"""A network that computes in float32 what its int8 form will compute: every value rounded to one of 256 codes.

Quantization-aware training as in arXiv:1806.08342, section 3.2. Weights are rounded with the BatchNorm multiplied in,
since that is what the int8 network will hold; activations after each operation's activation, and before it too where
that is no mere clip. Rounding has no derivative, so the gradient passes as if it were not there (the straight-through
estimator), and not at all where a value was clipped. `engine.reference` says what the arithmetic is in int8.

One BatchNorm, two phases. First it normalizes by the batch: mean and deviation come from the unrounded weights, while
the weights are rounded as the *running* deviation scales them, so that they do not flutter with the batch; the
output is corrected by running / batch deviation. Then it is frozen: what is computed is what will be deployed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.arch import Op, Plan
from mobilenets.arch.mobilenet import Activation
from mobilenets.checkpoint import CLIPS
from mobilenets.nn.network import Convolution, Dense, Network, activate

Rounding = Literal["none", "channel", "tensor"]
"""Whether weights are rounded, and whether each output channel has a scale of its own or all share one."""

LARGEST_CODE = 255
LARGEST_WEIGHT = 127
FOLLOWING = 0.01
"""How far a range moves towards that of each batch: an average over about a hundred batches."""
_SMALLEST_RANGE = 1e-8
_SMALLEST_WEIGHT = 1e-10  # the largest weight of a channel, at least: where all are zero there is nothing to round

USEFUL: Mapping[Activation | None, tuple[float, float]] = {
    "hard_swish": (-3.0, torch.inf),
    "hard_sigmoid": (-3.0, 3.0),
    "sigmoid": (-6.3, 6.3),
}
"""Before an activation: outside this its output stays the same (of a sigmoid: by less than half of 1/255), so that no
code need stand for what lies there."""


class Range(nn.Module):
    """The range of one tensor's values over many batches, and their rounding to 256 codes within it.

    The range always holds 0, which padding needs; its zero point is 0 where nothing is below 0. While it is in training
    mode and `following`, it moves towards the smallest and largest value of each batch. With `rounding` off, values
    pass as they are.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, useful: tuple[float, float] = (-torch.inf, torch.inf)) -> None:
        super().__init__()
        self.useful = useful
        self.following = self.rounding = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # that it has seen

    def forward(self, x: Tensor) -> Tensor:
        """Return the values as 8 bits keep them, of the same shape; float32."""
        if self.training and self.following:
            self._follow(x)
        if not self.rounding:
            return x
        scale, zero_point = self.scale_and_zero_point()
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, 0, LARGEST_CODE)

    def scale_and_zero_point(self) -> tuple[Tensor, Tensor]:
        """Return the step between codes, float32 (), and the code of 0, int32 ()."""
        low, high = self.low.double(), self.high.double()
        scale = ((high - low).clamp(min=_SMALLEST_RANGE) / LARGEST_CODE).float()
        zero_point = (-low / scale.double()).round().clamp(0, LARGEST_CODE)
        return scale, zero_point.int()

    @torch.no_grad()
    def cover(self, low: float, high: float) -> None:
        """Set the range."""
        self.low.fill_(min(low, 0.0))
        self.high.fill_(max(high, 0.0))

    @torch.no_grad()
    def fix(self, scale: float, zero_point: int) -> None:
        """Set the range to that of the 256 codes with this step and this code of 0."""
        self.cover(-scale * zero_point, scale * (LARGEST_CODE - zero_point))

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        low, high = x.detach().float().aminmax()
        self.batches += 1
        share = (1 / self.batches).clamp(min=FOLLOWING)  # the first batches are averaged, each alike
        self.low.lerp_(low.clamp(self.useful[0], 0), share)
        self.high.lerp_(high.clamp(0, self.useful[1]), share)


class FakeQuantizedNetwork(Network):
    """A network whose values are rounded as in int8. Its tensors have a Network's names; the ranges are `ranges.*`.

    Args:
        layout: the plan.
        rounding: of the weights; "none" where they are rounded already.
    """

    def __init__(self, layout: Plan, rounding: Rounding) -> None:
        super().__init__(layout)
        self.rounding = rounding
        self.batch_norm_frozen = False
        self.ranges = nn.ModuleDict({name: Range(useful) for name, useful in ranges_of(layout).items()})

    def set_phase(self, *, following: bool, batch_norm_frozen: bool) -> None:
        """Say whether, in training mode, ranges follow the values, and BatchNorm keeps its running statistics."""
        self.batch_norm_frozen = batch_norm_frozen
        for each in self.ranges.values():
            assert isinstance(each, Range)
            each.following = following
        self.range("input").following = False  # known from the pictures' normalization

    def range(self, name: str) -> Range:
        """Return the range of "input", of an operation's output, or of `NAME:before` its activation."""
        found = self.ranges[name]
        assert isinstance(found, Range)
        return found

    def compute(self, op: Op, *sources: Tensor) -> Tensor:
        """Return an operation's output, rounded; a picture that it reads is rounded too."""
        sources = tuple(
            self.range(name)(value) if name == "input" else value
            for name, value in zip(op.sources, sources, strict=True)
        )
        match op.kind:
            case "conv":
                out = self._convolved(op, sources[0])
            case "linear":
                dense = self.get_submodule(op.name)
                assert isinstance(dense, Dense)
                x = sources[0].flatten(1)
                if op.dropout:
                    x = functional.dropout(x, op.dropout, self.training)
                out = functional.linear(x, *self._as_deployed(op))
            case "add":
                out = sources[0] + sources[1]
            case "scale":
                out = sources[0] * sources[1]
            case "pool":
                out = sources[0].mean((2, 3), keepdim=True)
        if op.activation not in CLIPS:
            out = self.range(f"{op.name}:before")(out)
        rounded: Tensor = self.range(op.name)(activate(out, op.activation))
        return rounded

    def folded(self, op: Op) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a convolution or fully connected layer as deployed, float32, not yet rounded.

        The weight has the running deviation of its BatchNorm multiplied in.
        """
        module = self.get_submodule(op.name)
        assert isinstance(module, Convolution | Dense)
        if isinstance(module, Convolution) and module.norm is not None:
            factor, deviation = _factor(module.norm), _running_deviation(module.norm)
            assert module.norm.running_mean is not None
            shift = module.norm.bias - module.norm.weight * module.norm.running_mean / deviation
            return module.weight * factor.view(-1, 1, 1, 1), shift
        bias = torch.zeros(op.out[0], device=module.weight.device) if module.bias is None else module.bias
        return module.weight, bias

    def _convolved(self, op: Op, x: Tensor) -> Tensor:
        """Return a convolution and its BatchNorm with rounded weights, before the activation."""
        module = self.get_submodule(op.name)
        assert isinstance(module, Convolution)
        norm = module.norm
        if norm is None or not self.training or self.batch_norm_frozen:
            return module.convolve(x, *self._as_deployed(op))
        before = _running_deviation(norm)
        weight, _ = self.folded(op)
        plain = module.convolve(x, module.weight, None)
        variance, mean = torch.var_mean(plain, (0, 2, 3), correction=0)
        deviation = (variance + norm.eps).sqrt()
        _update(norm, mean, variance, plain.numel() // len(mean))
        out = module.convolve(x, self._rounded(weight, self._weight_scale(weight)), None)
        return out * (before / deviation).view(-1, 1, 1) + (norm.bias - norm.weight * mean / deviation).view(-1, 1, 1)

    def _as_deployed(self, op: Op) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer, rounded: the bias to steps of source scale x weight scale."""
        weight, bias = self.folded(op)
        if self.rounding == "none":
            return weight, bias
        scale = self._weight_scale(weight)
        with torch.no_grad():
            step = self.range(op.sources[0]).scale_and_zero_point()[0].double() * scale
            rounded = (bias / step).round() * step
        return self._rounded(weight, scale), bias + (rounded - bias).detach().float()

    @torch.no_grad()
    def _weight_scale(self, weight: Tensor) -> Tensor:
        """Return the steps of a weight, float32 (C,) or (): the largest, of each channel or of all, is 127 from 0."""
        largest = weight.abs().flatten(1).amax(1) if self.rounding == "channel" else weight.abs().amax()
        return largest.clamp(min=_SMALLEST_WEIGHT) / LARGEST_WEIGHT

    def _rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return weights as int8 keeps them."""
        if self.rounding == "none":
            return weight
        zero = torch.zeros_like(scale, dtype=torch.int32)
        limits = (-LARGEST_WEIGHT, LARGEST_WEIGHT)
        if self.rounding == "channel":
            return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, *limits)
        return torch.fake_quantize_per_tensor_affine(weight, scale, zero, *limits)


def ranges_of(layout: Plan) -> dict[str, tuple[float, float]]:
    """Return the names of all ranges of a plan, and between which values each need not reach.

    They are "input", the operations, and `NAME:before` where the activation of NAME is no clip.
    """
    everywhere = (-torch.inf, torch.inf)
    names = {"input": everywhere}
    for op in layout.ops:
        if op.activation not in CLIPS:
            names[f"{op.name}:before"] = USEFUL.get(op.activation, everywhere)
        names[op.name] = everywhere
    return names


def fake_quantized(network: Network, rounding: Rounding) -> FakeQuantizedNetwork:
    """Return a network with the same weights and statistics that rounds; its ranges are yet to be found."""
    with torch.random.fork_rng(devices=[]):  # building a network draws random numbers
        made = FakeQuantizedNetwork(network.plan, rounding)
    made.load_state_dict(network.state_dict() | made.ranges.state_dict(prefix="ranges."))
    return made.train(network.training)


@torch.no_grad()
def calibrate(network: FakeQuantizedNetwork, batches: Iterable[Tensor], pictures: tuple[float, float]) -> int:
    """Find the ranges of all values on `batches`, computed in float32 by BatchNorm's running statistics.

    Args:
        network: changed in place; ends in the mode it was in.
        batches: pictures, float32 (N, C, H, W), normalized.
        pictures: the smallest and largest value that a normalized picture can have.

    Returns:
        The number of pictures used.
    """
    was_training, rounding = network.training, network.rounding
    ranges = [network.range(name) for name in network.ranges]
    network.eval()
    network.rounding = "none"
    for each in ranges:
        each.rounding, each.following = False, True
        each.batches.zero_()
        each.train()
    count = 0
    try:
        for batch in batches:
            network(batch)
            count += len(batch)
    finally:
        for each in ranges:
            each.rounding = True
        network.rounding = rounding
        network.train(was_training)
    network.range("input").cover(*pictures)
    return count


def _running_deviation(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return (norm.running_var + norm.eps).sqrt()


def _factor(norm: nn.BatchNorm2d) -> Tensor:
    """Return what BatchNorm, by its running statistics, multiplies each channel with."""
    return norm.weight / _running_deviation(norm)


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics towards a batch's, `count` values a channel, as torch's BatchNorm does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    share = 0.1 if norm.momentum is None else norm.momentum
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.detach(), share)
    norm.running_var.lerp_(variance.detach() * (count / max(1, count - 1)), share)
