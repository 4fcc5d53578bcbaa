"""From a plan to torch modules, and tensors in and out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.arch import Op, Plan
from mobilenets.arch.mobilenet import Activation
from mobilenets.arch.plan import padding
from mobilenets.checkpoint import Checkpoint, tensor_shapes
from mobilenets.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np


def activate(x: Tensor, activation: Activation | None) -> Tensor:
    """Apply an activation by its name; overwrites `x` where autograd allows it."""
    match activation:
        case None:
            return x
        case "relu6":
            return functional.relu6(x, inplace=True)
        case "relu":
            return functional.relu(x, inplace=True)
        case "hard_swish":
            return functional.hardswish(x, inplace=True)
        case "hard_sigmoid":
            return functional.hardsigmoid(x, inplace=True)
        case "sigmoid":
            return torch.sigmoid(x)


class Convolution(nn.Conv2d):
    """A convolution, its BatchNorm (child `norm`) and its activation: one operation of the plan."""

    def __init__(self, op: Op, rule: str, eps: float) -> None:
        channels, inputs = op.out[0], op.source_shape[0]
        symmetric = (op.kernel - 1) // 2 if rule == "symmetric" else 0
        super().__init__(inputs, channels, op.kernel, op.stride, padding=symmetric, groups=op.groups, bias=op.bias)
        self.pads = rule == "same" and op.kernel > 1
        self.activation = op.activation
        self.norm = nn.BatchNorm2d(channels, eps=eps) if op.batch_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        x = self.convolve(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return activate(x, self.activation)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve, padded as the table says, with a weight and a bias that need not be the module's own."""
        if self.pads:  # TensorFlow's padding depends on the size it meets, so that any size works
            top, bottom = padding(x.shape[2], self.kernel_size[0], self.stride[0], "same")
            left, right = padding(x.shape[3], self.kernel_size[1], self.stride[1], "same")
            x = functional.pad(x, (left, right, top, bottom))
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class Dense(nn.Linear):
    """A fully connected layer on a 1x1 map, its dropout before and its activation after."""

    def __init__(self, op: Op) -> None:
        super().__init__(op.source_shape[0], op.out[0], bias=op.bias)
        self.dropout, self.activation = op.dropout, op.activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, 1, 1) or (N, C_in) -> (N, C)."""
        x = x.flatten(1)
        if self.dropout:
            x = functional.dropout(x, self.dropout, self.training)
        return activate(super().forward(x), self.activation)


class Network(nn.Module):
    """A plan that runs: its operations in order. Children are called as the plan calls them."""

    def __init__(self, layout: Plan) -> None:
        super().__init__()
        self.plan = layout
        for op in layout.ops:
            if op.kind == "conv":
                self.add_module(op.name, Convolution(op, layout.arch.padding, layout.arch.bn_eps))
            elif op.kind == "linear":
                self.add_module(op.name, Dense(op))
        last_use = {source: index for index, op in enumerate(layout.ops) for source in op.sources}
        self._done = tuple(
            tuple(name for name, use in last_use.items() if use == index) for index in range(len(layout.ops))
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Pictures, float32 (N, C, H, W), normalized -> logits, float32 (N, classes).

        Of a detector: what `plan.outputs` names, float32 (N, C, H, W) each, in that order.
        """
        if self.plan.arch.detector is None:
            return self.run(x, 0, len(self.plan.ops))
        return self.maps(x)

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pictures, float32 (N, C, H, W), normalized -> the values of the plan's outputs, in their order."""
        live = {"input": x}
        for index, op in enumerate(self.plan.ops):
            live[op.name] = self.compute(op, *(live[source] for source in op.sources))
            for name in self._done[index]:
                live.pop(name, None)
        return tuple(live[name] for name in self.plan.outputs)

    def features(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) -> what the classifier reads, (N, channels)."""
        return self.run(x, 0, len(self.plan.ops) - 1).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        """What :meth:`features` returns (N, channels) -> logits (N, classes)."""
        return self.run(features, len(self.plan.ops) - 1, len(self.plan.ops))

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Run the operations from `first` up to, not including, `stop`; each map is dropped after its last reader."""
        live = {self.plan.ops[first].sources[0]: x}
        for index in range(first, stop):
            op = self.plan.ops[index]
            live[op.name] = self.compute(op, *(live[source] for source in op.sources))
            for name in self._done[index]:
                live.pop(name, None)
        return live[self.plan.ops[stop - 1].name]

    def compute(self, op: Op, *sources: Tensor) -> Tensor:
        """Return an operation's output for its sources in the plan's order."""
        match op.kind:
            case "add":
                return sources[0] + sources[1]
            case "scale":
                return activate(sources[0] * sources[1], op.activation)
            case "pool":
                return sources[0].mean((2, 3), keepdim=True)
            case "conv" | "linear":
                out: Tensor = self._modules[op.name](sources[0])  # type: ignore[misc]
                return out


def build(layout: Plan) -> Network:
    """Make the modules of a plan, freshly initialised.

    Convolutions as He et al. (arXiv:1502.01852) by fan-out, the classifier normal with deviation 0.01: as torchvision
    does. A detector's extra stages and heads are normal with deviation 0.03, as both its forms have it. Draws from
    torch's global random generator.
    """
    network = Network(layout)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)
    for op in layout.ops:
        if op.row >= len(layout.arch.rows):
            nn.init.normal_(network.get_parameter(f"{op.name}.weight"), 0.0, 0.03)
    return network


def from_checkpoint(checkpoint: Checkpoint) -> Network:
    """Make the network of a float32 checkpoint, in eval mode, with its weights.

    Raises:
        CheckpointError: the checkpoint is int8.
    """
    _check_precision(checkpoint)
    network = Network(checkpoint.card.plan)
    load_tensors(network, checkpoint.tensors)
    return network.eval()


def to_tensors(network: Network) -> dict[str, np.ndarray]:
    """Return the network's weights and BatchNorm statistics, float32, named as a checkpoint names them."""
    state = network.state_dict()
    return {name: state[name].detach().float().cpu().numpy().copy() for name in tensor_shapes(network.plan)}


def load_tensors(network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    """Fill a network of exactly these names and shapes.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    state = network.state_dict()
    for name, shape in tensor_shapes(network.plan).items():
        if name not in tensors or tensors[name].shape != shape:
            raise CheckpointError(f"{name} does not fit {network.plan.arch.name}: expected {shape}")
        state[name].copy_(torch.from_numpy(tensors[name].copy()))


def adopt(network: Network, checkpoint: Checkpoint) -> list[str]:
    """Start `network` from a checkpoint of the same table: whatever fits is copied, the classifier is replaced.

    A stem for another number of input channels is folded to fit (:func:`fold_stem`). A detector starts from another
    one, or from a classifier of the table it is built on: heads, and what lies behind the first map, may differ.

    Returns:
        One line for each tensor group that was changed or left as initialised.

    Raises:
        CheckpointError: something else than stem and classifier differs, or the checkpoint is int8.
    """
    _check_precision(checkpoint)
    stem = network.plan.ops[0].name
    state, shapes = network.state_dict(), tensor_shapes(network.plan)
    notes: list[str] = []
    source = dict(checkpoint.tensors)
    found = {name: array.shape for name, array in source.items()}
    renewed = _renewed(network.plan, found)
    if renewed:
        notes.append(_renewal(network.plan, checkpoint, renewed))
        shapes = {name: shape for name, shape in shapes.items() if name.partition(".")[0] not in renewed}
    inputs = shapes[f"{stem}.weight"][1]
    if f"{stem}.weight" in found and found[f"{stem}.weight"][1] != inputs:
        notes.append(f"stem folded: {found[f'{stem}.weight'][1]} -> {inputs} input channels")
        folded = fold_stem(torch.from_numpy(source[f"{stem}.weight"].copy()), inputs)
        source[f"{stem}.weight"] = folded.numpy()
    for name, shape in shapes.items():
        if name not in source or source[name].shape != shape:
            raise CheckpointError(
                f"these weights are of another network ({checkpoint.card.arch.name}, width {checkpoint.card.width}): "
                f"{name} is {found.get(name, 'missing')} where {network.plan.arch.name} width {network.plan.width} "
                f"needs {shape}"
            )
        state[name].copy_(torch.from_numpy(source[name].copy()))
    return notes


def _renewed(layout: Plan, found: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the operations that do not fit tensors of these shapes, and need not: they stay as initialised.

    Those are the outputs, and of a detector all that comes behind its first map.
    """
    wanted = tensor_shapes(layout)
    may = set(layout.outputs)
    if layout.arch.detector is not None:
        names = [op.name for op in layout.ops]
        may.update(names[names.index(layout.arch.detector.taps[0]) + 1 :])
    parts: dict[str, list[str]] = {}
    for name in wanted:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return tuple(op for op in parts if op in may and any(found.get(name) != wanted[name] for name in parts[op]))


def _renewal(layout: Plan, checkpoint: Checkpoint, renewed: tuple[str, ...]) -> str:
    """Say what is not taken from a checkpoint."""
    change = f"{len(checkpoint.card.labels)} -> {layout.classes} classes"
    if layout.arch.detector is None:
        return f"classifier replaced: {change}"
    if checkpoint.card.arch.detector is not None:
        return f"{len(renewed)} layers replaced, from {renewed[0]} on: {change}"
    behind = [name for name in renewed if layout.op(name).row < len(layout.arch.rows)]
    more = f", and {len(behind)} layers behind the first map, from {behind[0]} on" if behind else ""
    return f"made a detector of a classifier: its heads and extra stages are new{more}"


def _check_precision(checkpoint: Checkpoint) -> None:
    if checkpoint.card.precision != "float32":
        raise CheckpointError(
            f"these weights are {checkpoint.card.precision}, and only float32 ones are trained, quantized or pruned: "
            "name the checkpoint this one was made from"
        )


def fold_stem(weight: Tensor, channels: int) -> Tensor:
    """Fit a stem's weight (out, in, k, k) to another number of input channels.

    One channel: the sum, so that a grey picture gives what it gave as RGB with three equal channels. More: the
    channels repeated in turn, scaled by in / channels, so that the response keeps its size.
    """
    inputs = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [index % inputs for index in range(channels)]] * (inputs / channels)
