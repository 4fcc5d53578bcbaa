from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import arch_named, plan
from mobilenets.nn.network import Network, build
from mobilenets.recipe import RECIPES, Recipe
from mobilenets.train.optimization import Average, learning_rate_at, make_optimizer, set_learning_rate

COSINE = Recipe("cosine", 10, 64, "sgd", 0.4, warmup_epochs=2, final_rate=0.1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build(plan(arch_named("mobilenet_v2_mnist"), width=0.1, resolution=8))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_weight_decay_spares_batch_norm_and_biases(network: Network, name: str) -> None:
    optimizer = make_optimizer(network, replace(RECIPES[name], weight_decay=0.25))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter_name, parameter in network.named_parameters():
        spared = ".norm." in parameter_name or parameter_name.endswith("bias")
        assert decays.pop(id(parameter)) == (0.0 if spared else 0.25), parameter_name
    assert not decays


def test_rmsprop_is_the_papers(network: Network) -> None:
    group = make_optimizer(network, RECIPES["v2-paper"]).param_groups[0]
    assert (group["alpha"], group["momentum"], group["weight_decay"]) == (0.9, 0.9, 4e-5)
    assert learning_rate_at(RECIPES["v2-paper"], 0, 100) == 0.045
    assert learning_rate_at(RECIPES["v2-paper"], 399, 100) == pytest.approx(0.045 * 0.98**3)


def test_warm_up_then_cosine() -> None:
    rates = [learning_rate_at(COSINE, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == pytest.approx(0.4)
    assert rates[10] == pytest.approx(0.4)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(COSINE, 50, 5) == pytest.approx(0.04)
    assert learning_rate_at(COSINE, 30, 5) == pytest.approx(0.22)  # halfway from 2 to 10 epochs


@given(step=st.integers(0, 10_000), steps=st.integers(1, 500))
def test_the_rate_never_exceeds_the_peak(step: int, steps: int) -> None:
    for recipe in (*RECIPES.values(), COSINE):
        assert 0 <= learning_rate_at(recipe, step, steps) <= recipe.learning_rate * (1 + 1e-9)


def test_the_rate_reaches_every_parameter(network: Network) -> None:
    optimizer = make_optimizer(network, COSINE)
    set_learning_rate(optimizer, 0.123)
    assert {group["lr"] for group in optimizer.param_groups} == {0.123}


def test_the_average_is_one(network: Network) -> None:
    """Follow one weight, one statistic and the decay by hand."""
    decay, average = 0.3, Average(network, 0.3)
    names = ("stem.weight", "stem.norm.running_mean")
    expected = {name: network.state_dict()[name].clone() for name in names}
    for update in range(1, 6):
        with torch.no_grad():
            for value in network.state_dict().values():
                value += 1
        average.update(network)
        kept = min(decay, (1 + update) / (10 + update))
        for name in names:
            expected[name] = kept * expected[name] + (1 - kept) * network.state_dict()[name]
            torch.testing.assert_close(average.network.state_dict()[name], expected[name])
    assert average.updates == 5
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert torch.equal(
        average.network.state_dict()["stem.norm.num_batches_tracked"],
        network.state_dict()["stem.norm.num_batches_tracked"],
    )
