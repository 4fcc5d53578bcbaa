from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobilenets.arch import CLASSIFIERS, Arch, Op, Plan, cost, plan
from mobilenets.arch.mobilenet import Activation, InvertedResidual
from mobilenets.checkpoint import Card, Checkpoint, tensor_shapes
from mobilenets.errors import CheckpointError
from mobilenets.image import Preprocess
from mobilenets.nn.network import (
    Convolution,
    Network,
    activate,
    adopt,
    build,
    fold_stem,
    from_checkpoint,
    load_tensors,
    to_tensors,
)

V2 = CLASSIFIERS["mobilenet_v2"]
ABLATIONS = {
    "shortcut between expansions": replace(V2, shortcut="expansion"),
    "no shortcut": replace(V2, shortcut="none"),
    "not linear": replace(V2, bottleneck_activation="relu6"),
    "expansion 3": replace(V2, expansion=3.0),
    "projection shortcut": replace(V2, projection_shortcut=True),
    "expands always": replace(V2, expands_always=True),
    "gate before activation": replace(CLASSIFIERS["mobilenet_v3_small"], se=replace(V2.se, before_activation=True)),
    "same padding": replace(V2, padding="same"),
}
ALL = {**CLASSIFIERS, **ABLATIONS}


def light(arch: Arch, *, resolution: int | tuple[int, int], in_channels: int | None = None) -> Plan:
    """Plan a network that is quick to run."""
    return plan(arch, width=0.1, classes=3, resolution=resolution, in_channels=in_channels)


def shapes_met(network: Network, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Run a network and return the shape that every convolution and every fully connected layer gave."""
    met: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        return lambda _module, _inputs, out: met.__setitem__(name, tuple(out.shape[1:]))

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_children()]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return met


@pytest.mark.parametrize("arch", ALL.values(), ids=ALL)
def test_modules_are_the_plan(arch: Arch) -> None:
    """Names, shapes, parameters; and every map has the size that the plan says, at an odd, non-square picture."""
    layout = light(arch, resolution=(65, 97))
    network = build(layout).eval()
    state = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    counted = {name: shape for name, shape in state.items() if not name.endswith("num_batches_tracked")}
    assert counted == tensor_shapes(layout)
    assert sum(parameter.numel() for parameter in network.parameters()) == cost(layout).parameters
    met = shapes_met(network, torch.randn(1, layout.in_channels, 65, 97))
    for op in layout.ops:
        if op.kind == "conv":
            assert met[op.name] == op.out
        elif op.kind == "linear":
            assert met[op.name] == op.out[:1]
    assert [name for name, _ in network.named_children()] == list(met)


@given(height=st.integers(65, 129), width=st.integers(65, 129), name=st.sampled_from([*ALL]))
@settings(max_examples=30, deadline=None)
def test_a_network_runs_at_any_size(height: int, width: int, name: str) -> None:
    """It was planned for 224; what it does at another size is what a plan for that size says."""
    arch = ALL[name]
    network = build(light(arch, resolution=224)).eval()
    met = shapes_met(network, torch.randn(1, arch.in_channels, height, width))
    wanted = light(arch, resolution=(height, width))
    assert all(met[op.name] == op.out for op in wanted.ops if op.kind == "conv")


def by_hand(x: Tensor, op: Op, network: Network, eps: float) -> Tensor:
    """Convolve as TensorFlow does: output pixel i reads from stride * i - (total padding) // 2 on."""
    module = network.get_submodule(op.name)
    assert isinstance(module, Convolution)
    weight, norm = module.weight.detach().double(), module.norm
    assert norm is not None
    out_h, out_w = -(-x.shape[2] // op.stride), -(-x.shape[3] // op.stride)
    out = torch.zeros(x.shape[0], op.out[0], out_h, out_w, dtype=torch.float64)
    before = [
        max((out - 1) * op.stride + op.kernel - side, 0) // 2
        for out, side in ((out_h, x.shape[2]), (out_w, x.shape[3]))
    ]
    for row in range(out_h):
        for column in range(out_w):
            for i in range(op.kernel):
                for j in range(op.kernel):
                    y, z = op.stride * row - before[0] + i, op.stride * column - before[1] + j
                    if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                        out[:, :, row, column] += x[:, :, y, z].double() @ weight[:, :, i, j].T
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return (out * scale[:, None, None] + shift[:, None, None]).clamp(0, 6)


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (6, 9)], ids=str)
def test_same_padding_is_tensorflows(size: tuple[int, int]) -> None:
    layout = light(replace(V2, padding="same", bn_eps=0.1), resolution=96)
    network = build(layout).eval()
    stem = network.get_submodule("stem")
    assert isinstance(stem, Convolution)
    assert stem.norm is not None
    with torch.no_grad():
        for tensor in (stem.norm.weight, stem.norm.bias, stem.norm.running_mean, stem.norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(stem(x).double(), by_hand(x, layout.ops[0], network, 0.1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, [-4, -1.5, 0, 1.5, 4, 7]),
        ("relu", [0, 0, 0, 1.5, 4, 7]),
        ("relu6", [0, 0, 0, 1.5, 4, 6]),
        ("hard_sigmoid", [0, 0.25, 0.5, 0.75, 1, 1]),
        ("hard_swish", [0, -0.375, 0, 1.125, 4, 7]),
        ("sigmoid", [1 / (1 + np.exp(-x)) for x in (-4, -1.5, 0, 1.5, 4, 7)]),
    ],
)
def test_activations(name: Activation | None, expected: list[float]) -> None:
    """Values from the definitions: hard sigmoid is relu6(x + 3) / 6, hard swish x times that (V3 section 5.2)."""
    x = torch.tensor([-4, -1.5, 0, 1.5, 4, 7])
    torch.testing.assert_close(activate(x, name), torch.tensor(expected, dtype=torch.float32))


def test_shortcuts_are_where_the_table_says() -> None:
    """With its last BatchNorm at zero a block with a shortcut hands its input on, one without gives zero."""
    for arch, expected in ((V2, True), (replace(V2, shortcut="none"), False)):
        layout = light(arch, resolution=96)
        network = build(layout).eval()
        first = next(i for i, op in enumerate(layout.ops) if op.name == "block_3_expand")
        stop = next(i for i, op in enumerate(layout.ops) if op.name == "block_4_expand")
        assert layout.ops[first].source_shape == layout.ops[stop - 1].out
        norm = network.get_submodule("block_3_project.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)
        x = torch.randn(1, *layout.ops[first].source_shape)
        with torch.no_grad():
            out = network.run(x.clone(), first, stop)
        assert torch.equal(out, x if expected else torch.zeros_like(x))


def test_features_then_classify_is_forward() -> None:
    network = build(light(CLASSIFIERS["mobilenet_v3_small"], resolution=65)).eval()
    x = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        features = network.features(x)
        assert features.shape == (2, network.plan.ops[-1].source_shape[0])
        torch.testing.assert_close(network.classify(features), network(x))


def test_the_input_is_left_alone_and_a_run_keeps_nothing() -> None:
    """Activations overwrite their input, but never the caller's, nor a map that a shortcut still reads."""
    network = build(light(replace(V2, shortcut="expansion"), resolution=65)).eval()
    x = torch.randn(1, 3, 65, 65)
    before = x.clone()
    with torch.no_grad():
        first = network(x)
        assert torch.equal(x, before)
        assert torch.equal(network(x), first)


def test_no_in_place_operation_spoils_a_gradient() -> None:
    for arch in (*ABLATIONS.values(), CLASSIFIERS["mnasnet_a1"]):
        network = build(light(arch, resolution=65)).double()
        x = torch.randn(2, 3, 65, 65, dtype=torch.float64, requires_grad=True)
        network(x).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_gradient_is_the_slope() -> None:
    torch.manual_seed(0)
    arch = replace(CLASSIFIERS["mobilenet_v3_small"], se=replace(V2.se, before_activation=True))
    network = build(light(arch, resolution=65)).double().eval()
    x = torch.randn(1, 3, 65, 65, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)
    out = network(x)[0, 0]
    (gradient,) = torch.autograd.grad(out, x)
    with torch.no_grad():
        step = 1e-6
        slope = (network(x + step * direction)[0, 0] - network(x - step * direction)[0, 0]) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_train_mode_drops_out_and_normalizes_by_the_batch() -> None:
    torch.manual_seed(0)
    network = build(light(V2, resolution=65))
    x = 3 + torch.randn(4, 3, 65, 65)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))  # dropout
        mean = network.get_buffer("stem.norm.running_mean").clone()
        network.eval()
        assert torch.equal(network(x), network(x))
        assert torch.equal(mean, network.get_buffer("stem.norm.running_mean"))
    assert float(mean.abs().max()) > 0


def test_initialisation_follows_the_seed() -> None:
    layout = light(V2, resolution=65)
    torch.manual_seed(3)
    first = to_tensors(build(layout))
    torch.manual_seed(3)
    assert all(np.array_equal(first[name], tensor) for name, tensor in to_tensors(build(layout)).items())
    # He et al.: deviation sqrt(2 / fan-out), of a 1x1 the number of output channels
    head = build(plan(V2, classes=3)).get_parameter("head.weight")
    assert float(head.detach().std()) == pytest.approx((2 / head.shape[0]) ** 0.5, rel=0.02)


def checkpoint_of(network: Network) -> Checkpoint:
    layout = network.plan
    height, width = layout.resolution
    fed = Preprocess(
        height, width, channels=layout.in_channels, mean=(0.5,) * layout.in_channels, std=(0.5,) * layout.in_channels
    )
    labels = tuple(f"class {index}" for index in range(layout.classes))
    card = Card(layout.arch, layout.width, (height, width), labels, fed, in_channels=layout.in_channels)
    return Checkpoint(card, to_tensors(network))


def test_tensors_out_and_in_again() -> None:
    network = build(light(V2, resolution=65)).eval()
    back = from_checkpoint(checkpoint_of(network))
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(network(x), back(x))
    assert not back.training
    tensors = to_tensors(network)
    tensors["stem.weight"][:] = 0  # a copy
    assert network.get_parameter("stem.weight").any()
    del tensors["head.weight"]
    with pytest.raises(CheckpointError, match=r"head\.weight does not fit mobilenet_v2"):
        load_tensors(network, tensors)


def test_adopting_weights_replaces_only_the_classifier() -> None:
    source = build(light(V2, resolution=65))
    target = build(plan(V2, resolution=96, width=0.1, classes=7))
    fresh = target.get_parameter("classifier.weight").clone()
    notes = adopt(target, checkpoint_of(source))
    assert notes == ["classifier replaced: 3 -> 7 classes"]
    for name, tensor in to_tensors(target).items():
        if not name.startswith("classifier."):
            assert np.array_equal(tensor, to_tensors(source)[name])
    assert torch.equal(target.get_parameter("classifier.weight"), fresh)
    same = build(light(V2, resolution=65))
    assert adopt(same, checkpoint_of(source)) == []
    assert np.array_equal(to_tensors(same)["classifier.bias"], to_tensors(source)["classifier.bias"])


def test_weights_of_another_network_are_not_adopted() -> None:
    source = checkpoint_of(build(light(V2, resolution=65)))
    for target in (plan(V2, width=0.35, classes=3), plan(CLASSIFIERS["mobilenet_v1"], classes=3)):
        with pytest.raises(CheckpointError, match=r"another network \(mobilenet_v2, width 0\.1\): .* needs \("):
            adopt(build(target), source)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_stem_is_folded_so_that_equal_channels_give_what_they_gave(channels: int) -> None:
    source = build(light(V2, resolution=65)).eval()
    target = build(light(V2, resolution=65, in_channels=channels)).eval()
    assert f"stem folded: 3 -> {channels} input channels" in adopt(target, checkpoint_of(source))
    grey = torch.randn(2, 1, 65, 65)
    with torch.no_grad():
        theirs, ours = source(grey.expand(-1, 3, -1, -1)), target(grey.expand(-1, channels, -1, -1))
    if channels in {1, 6}:  # four repeat the first channel unevenly: only the size of the response is kept
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    weight = torch.ones(8, 3, 3, 3)
    assert torch.equal(fold_stem(weight, channels).sum(1), weight.sum(1))


def test_small_image_strides_can_be_switched_off() -> None:
    small = light(V2, resolution=32)
    fixed = light(replace(V2, small_image_strides=False), resolution=32)
    sizes = [shapes_met(build(layout).eval(), torch.randn(1, 3, 32, 32))["head"][1:] for layout in (small, fixed)]
    assert sizes == [(4, 4), (1, 1)]
    assert fixed.notes == ()


def test_expanding_always_adds_one_convolution() -> None:
    usual, always = (plan(arch, classes=10) for arch in (V2, replace(V2, expands_always=True)))
    assert {op.name for op in always.ops} - {op.name for op in usual.ops} == {"block_1_expand"}
    assert always.op("block_1_expand").out[0] == 32
    assert sum(isinstance(row, InvertedResidual) and row.t == 1 for row in V2.rows) == 1


def test_int8_weights_make_no_network(random_int8_network: Callable[..., Checkpoint]) -> None:
    with pytest.raises(CheckpointError, match=r"these weights are int8.*the checkpoint this one was made from"):
        from_checkpoint(random_int8_network("mobilenet_v2"))
    with pytest.raises(CheckpointError, match="these weights are int8"):
        adopt(build(plan(V2, width=0.25, resolution=48)), random_int8_network("mobilenet_v2"))
