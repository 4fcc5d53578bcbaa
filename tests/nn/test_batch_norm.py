from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.nn.batch_norm import restore_batch_norm
from mobilenets.nn.network import Network, build

V2 = replace(ARCHITECTURES["mobilenet_v2"], bn_eps=1e-3)


def folded() -> Network:
    """Return a network as a deployed file has it: every BatchNorm only adds a bias."""
    torch.manual_seed(0)
    network = build(plan(V2, width=0.25, classes=3, resolution=65)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_var.fill_(1 - module.eps)
    network.requires_grad_(requires_grad=False)
    return network


def batches(count: int, size: int = 8) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [0.3 + torch.randn(size, 3, 65, 65, generator=random) for _ in range(count)]


def without_dropout(network: Network) -> Network:
    for module in network.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0  # type: ignore[assignment]
    return network


def test_eval_mode_computes_what_it_computed() -> None:
    network, x = folded(), batches(1)[0]
    before = network(x)
    assert restore_batch_norm(network, batches(3)) == 24
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)
    assert not network.training


def test_the_statistics_are_those_of_the_pictures() -> None:
    network, shown = folded(), batches(3)
    met: list[Tensor] = []
    norm = network.get_submodule("block_2_depthwise.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    restore_batch_norm(network, shown)
    hook = norm.register_forward_pre_hook(lambda _module, inputs: met.append(inputs[0]))
    for batch in shown:
        network(batch)
    hook.remove()
    x = torch.cat(met).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(norm.running_mean, x.mean(1).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, x.var(1, correction=0).float(), rtol=1e-4, atol=1e-5)


def test_weights_are_of_one_size_again() -> None:
    """Folding leaves a channel's weights at any size, and small ones would be thrown about by the first steps."""
    network = folded()
    stem = network.get_submodule("stem")
    assert isinstance(stem, nn.Conv2d)
    stem.weight[0] = 0
    stem.weight[1] *= 100
    stem.weight[2] /= 100
    x = batches(1)[0]
    before = network(x)
    restore_batch_norm(network, batches(2))
    lengths = stem.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([0.0, *[1.0] * 7]))
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)


def test_train_mode_agrees_with_it_afterwards_and_did_not_before() -> None:
    network, shown = without_dropout(folded()), batches(1, size=48)
    wanted = network(shown[0])
    untouched = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wrong = (network.train()(shown[0]) - wanted).abs().max() / wanted.abs().max()
    network.load_state_dict(untouched)
    restore_batch_norm(network, shown)
    assert network.training  # the mode it was in
    right = (network(shown[0]) - wanted).abs().max() / wanted.abs().max()
    assert right < 1e-3
    assert wrong > 0.1


def test_trained_statistics_may_be_replaced_too() -> None:
    network = folded()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 2)
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.3)
    x = batches(1)[0]
    before = network(x)
    restore_batch_norm(network, batches(2))
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)


def test_without_pictures_nothing_changes() -> None:
    network = folded()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert restore_batch_norm(network, []) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_an_error_among_the_pictures_leaves_no_hooks_and_the_mode() -> None:
    network = folded().train()
    with pytest.raises(RuntimeError):
        restore_batch_norm(network, [torch.randn(1, 4, 65, 65)])
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())
