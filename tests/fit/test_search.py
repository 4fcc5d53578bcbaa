"""Searching: one set of weights for many networks, and what comes of it."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mobilenets
from mobilenets import checkpoint as files
from mobilenets.arch import arch_from_json, arch_named, arch_to_json, plan
from mobilenets.arch.cost import cost
from mobilenets.bench.synthetic import random_checkpoint
from mobilenets.errors import InputError
from mobilenets.fit.narrowing import Activity
from mobilenets.fit.space import Space, choices_from_json, choices_to_json, space_of
from mobilenets.fit.supernet import Supernet
from mobilenets.nn.network import Dense, Network, from_checkpoint

LAYOUT = plan(arch_named("mobilenet_v2_mnist"), width=0.25, resolution=16)


@pytest.fixture(scope="module")
def space() -> Space:
    return space_of(LAYOUT)


def without_dropout(network: Network) -> None:
    for module in network.modules():
        if isinstance(module, Dense):
            module.dropout = 0.0


def test_the_space_is_around_the_network(space: Space) -> None:
    assert [(each.c, each.depth, each.stride, each.expands) for each in space.stages][:2] == [
        (8, 1, 1, False),
        (8, 2, 1, True),
    ]
    assert sum(each.depth for each in space.stages) == len({op.block for op in LAYOUT.ops if op.block})
    sizes = [cost(space.layout(each)).multiply_adds for each in (space.smallest, space.largest)]
    draw = random.Random(0)
    for _ in range(20):
        choices = space.draw(draw)
        assert choices_from_json(choices_to_json(choices)) == choices
        assert sizes[0] <= cost(space.layout(choices)).multiply_adds <= sizes[1]
        arch = space.arch(choices)
        assert arch_from_json(arch_to_json(arch)) == arch


def test_every_stage_has_what_was_chosen(space: Space) -> None:
    choices = space.largest
    choices = (choices[0], replace(choices[1], kernel=5, expansion=4, depth=1, se=False), *choices[2:])
    layout = space.layout(choices)
    block = list(dict.fromkeys(op.block for op in layout.ops if op.block))[1]
    assert layout.op(f"{block}_depthwise").kernel == 5
    assert layout.op(f"{block}_expand").out[0] == 4 * space.stages[0].c
    assert not any(op.kind == "scale" and op.block == block for op in layout.ops)


def test_a_network_that_cannot_be_searched_is_refused() -> None:
    with pytest.raises(InputError, match="blocks that expand and project"):
        space_of(plan(arch_named("mobilenet_v1"), resolution=96))


def test_a_candidate_computes_what_the_supernet_computes_for_it(space: Space) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space)
    images = torch.randn(8, 1, 16, 16)
    draw = random.Random(1)
    for choices in (space.smallest, space.draw(draw)):
        with torch.no_grad():
            network = supernet.candidate(choices, [images])
            network.train()  # BatchNorm by the batch, in both
            without_dropout(network)
            supernet.train()
            described, _ = supernet._network(choices)
            without_dropout(described)
            assert torch.allclose(network(images), supernet(images, choices), atol=1e-5)


def test_gradients_of_a_small_network_reach_the_shared_weights_and_no_others(space: Space) -> None:
    supernet = Supernet(space)
    supernet(torch.randn(4, 1, 16, 16), space.smallest).sum().backward()
    gradient = supernet.weights["stage_1_0_depthwise/weight"].grad
    assert gradient is not None
    used = 3 * 8
    assert gradient[:used, :, 2:5, 2:5].abs().sum() > 0
    assert gradient[used:].abs().sum() == 0
    assert gradient[:used, :, :2].abs().sum() == 0


def test_adopted_weights_compute_the_same_where_the_space_has_the_network(space: Space) -> None:
    """Without squeeze-excite, at its own activation and expansion, the network is in the space."""
    made = random_checkpoint(LAYOUT)
    activity = {op.name: Activity(np.zeros(op.out[0]), np.arange(op.out[0], dtype=float)) for op in LAYOUT.ops}
    supernet = Supernet(space)
    supernet.adopt(made, activity)
    choices = tuple(
        replace(each, se=False, kernel=3, activation=stage.activation)
        for each, stage in zip(space.largest, space.stages, strict=True)
    )
    images = torch.randn(16, 1, 16, 16)
    network, theirs = supernet.candidate(choices, [images]), from_checkpoint(made)
    network.train()
    theirs.train()
    for each in (network, theirs):
        without_dropout(each)
    with torch.no_grad():
        assert torch.allclose(network(images), theirs(images), atol=1e-3)


def test_with_a_teacher_all_networks_learn_from_its_answers_and_the_largest_from_the_targets_too(space: Space) -> None:
    from mobilenets.fit.searching import sandwich

    def gradients(teacher: Network | None, targets: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        supernet = Supernet(space)
        sandwich(supernet, images, targets, random.Random(0), 0.0, teacher)
        gradient = supernet.weights["stem/weight"].grad
        assert isinstance(gradient, torch.Tensor)
        return gradient

    torch.manual_seed(1)
    images, zeros = torch.randn(8, 1, 16, 16), torch.zeros(8, dtype=torch.long)
    teacher = from_checkpoint(random_checkpoint(LAYOUT)).eval()
    taught = gradients(teacher, zeros)
    assert not torch.allclose(taught, gradients(None, zeros))
    assert not torch.allclose(taught, gradients(teacher, zeros + 1))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_reward_is_mnasnets() -> None:
    from mobilenets.fit.searching import reward

    assert reward(0.8, 1.0) == 0.8
    assert reward(0.8, 2.0) < reward(0.8, 1.0) < reward(0.8, 0.5)


def test_a_search_ends_with_a_checkpoint_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilenets.fit import adapt, tuning

    __import__("mobilenets.fit.searching")
    searching = sys.modules["mobilenets.fit.searching"]
    monkeypatch.setattr(searching, "TRIALS", 5)
    monkeypatch.setattr(searching, "STEPS_FOR_EACH_SHORT_ONE", 2)
    monkeypatch.setattr(searching, "WINNER_STEPS", 1)
    monkeypatch.setattr(tuning, "JUDGED", 60)
    monkeypatch.setattr(adapt, "FINALISTS", 1)
    monkeypatch.setattr(adapt, "FIRST_STEP", 0.4)
    around = space_of(LAYOUT)
    bound = round(3 * cost(around.layout(around.smallest)).multiply_adds)
    options = {"method": "search", "multiply_adds": bound, "short_steps": 2, "epochs": 1, "workers": 0}
    base = random_checkpoint(LAYOUT)
    path = files.save(replace(base, card=replace(base.card, labels=tuple("0123456789"))), tmp_path / "base.safetensors")
    result = mobilenets.fit(str(path), "digits", runtime="reference", out=tmp_path / "fit", **options)  # type: ignore[arg-type]
    assert result.checkpoint is not None
    card = files.load(result.checkpoint).card
    assert cost(card.plan).multiply_adds <= bound
    assert sum("reward" in row for row in result.trace) == 5
    assert {row["way"] for row in result.trace if "step" in row} == {"searched", "at hand"}
    again = mobilenets.fit(  # what is complete is not done again
        str(path),
        "digits",
        runtime="reference",
        out=tmp_path / "fit",
        resume=True,
        **options,  # type: ignore[arg-type]
    )
    assert [row for row in again.trace if "reward" in row] == [row for row in result.trace if "reward" in row]
    assert again.chosen.multiply_adds == result.chosen.multiply_adds
