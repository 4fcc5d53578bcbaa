from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.arch.mobilenet import Bneck, Classifier, Conv, Pool
from mobilenets.engine.quantized import dequantize, quantization, quantize
from mobilenets.nn.fake_quantization import USEFUL, FakeQuantizedNetwork, Range, calibrate, fake_quantized
from mobilenets.nn.network import Network, activate, build

V3 = replace(
    ARCHITECTURES["mobilenet_v3_small"],
    name="small_v3",
    rows=(
        Conv(c=8, s=2, activation="hard_swish"),
        Bneck(3, 8, 8, se=True, nl="relu", s=1),
        Bneck(3, 24, 8, se=True, nl="hard_swish", s=1),
        Pool(),
        Classifier(dropout=0.0),
    ),
)
FINITE = st.floats(-100, 100, width=32)


def network() -> Network:
    """Return a small V3 whose BatchNorms have something to do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = build(plan(V3, resolution=12, classes=4))
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 2)
                torch.nn.init.normal_(module.bias)
        made.train()
        for seed in range(30):
            made(pictures(16, seed))
    return made.eval()


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def float_only(made: FakeQuantizedNetwork) -> FakeQuantizedNetwork:
    made.rounding = "none"
    for name in made.ranges:
        made.range(name).rounding = False
    return made


@settings(deadline=None)
@given(low=FINITE, high=FINITE, values=st.lists(FINITE, min_size=1, max_size=20))
def test_a_range_rounds_as_the_engine_does(low: float, high: float, values: list[float]) -> None:
    low, high = min(low, high), max(low, high)
    each = Range().eval()
    each.cover(low, high)
    codes = quantization(min(low, 0), max(high, 0))
    scale, zero_point = each.scale_and_zero_point()
    assert (float(scale), int(zero_point)) == (codes.scale, codes.zero_point)
    rounded = each(torch.tensor(values)).numpy()
    expected = dequantize(quantize(np.array(values, np.float32), codes), codes)
    halves = np.abs(np.array(values) / codes.scale % 1 - 0.5) < 1e-3  # may become either neighbour
    np.testing.assert_allclose(rounded[~halves], expected[~halves], rtol=1e-5, atol=1e-6 * codes.scale)
    np.testing.assert_allclose(rounded, expected, atol=1.001 * codes.scale)


def test_nothing_below_zero_means_zero_point_zero() -> None:
    each = Range()
    each(torch.tensor([0.0, 0.5, 6.0]))
    assert each.scale_and_zero_point()[1] == 0
    assert float(each.low) == 0


def test_a_range_averages_and_then_follows_slowly_in_training_only() -> None:
    each = Range()
    for high in (1.0, 2.0, 6.0):
        each(torch.tensor([-high, high]))
    assert float(each.high) == pytest.approx(3)
    assert float(each.low) == pytest.approx(-3)
    each.batches.fill_(1000)
    each(torch.tensor([5.0]))
    assert float(each.high) == pytest.approx(3 + 0.01 * 2)
    assert float(each.low) == pytest.approx(-3 + 0.01 * 3)
    before = each.state_dict()["high"].clone()
    each.eval()(torch.tensor([9.0]))
    each.train().following = False
    each(torch.tensor([9.0]))
    assert torch.equal(each.high, before)


@pytest.mark.parametrize("activation", USEFUL)
def test_codes_are_not_spent_where_an_activation_is_flat(activation: str) -> None:
    low, high = USEFUL[activation]  # type: ignore[index]
    edges = torch.tensor([max(low, -1e3), min(high, 1e3)])
    beyond = torch.tensor([-1e3, 1e3])
    step = float(activate(edges.clone(), activation)[1]) / 255  # type: ignore[arg-type]
    torch.testing.assert_close(
        activate(edges.clone(), activation),  # type: ignore[arg-type]
        activate(beyond, activation),  # type: ignore[arg-type]
        rtol=0,
        atol=step / 2,
    )


def test_the_gradient_passes_rounding_and_stops_where_values_are_clipped() -> None:
    each = Range().eval()
    each.cover(-1, 1)
    x = torch.tensor([-2.0, -0.501, 0.0, 0.99, 1.5], requires_grad=True)
    each(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_without_rounding_it_is_the_network_in_both_phases_gradients_and_all() -> None:
    for training, frozen in ((True, False), (True, True), (False, False)):
        plain = network().train(training and not frozen)
        made = float_only(fake_quantized(plain, "channel")).train(training)
        made.set_phase(following=True, batch_norm_frozen=frozen)
        expected, found = plain(pictures(8, 1)), made(pictures(8, 1))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for out in (expected, found):
            out.square().sum().backward()
        gradients = dict(made.named_parameters())
        for name, parameter in plain.named_parameters():
            assert parameter.grad is not None
            size = float(parameter.grad.abs().max()) + 1e-3
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-3, atol=1e-3 * size, msg=name)
        statistics = made.state_dict()
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(statistics[name], value, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rounding", ["channel", "tensor"])
def test_weights_become_255_steps_of_a_channel_or_of_all(rounding: str) -> None:
    made = fake_quantized(network(), rounding)  # type: ignore[arg-type]
    calibrate(made, [pictures(16, 2)], (-3, 3))
    for op in made.plan.ops:
        if op.kind not in ("conv", "linear"):
            continue
        whole, (rounded, _) = made.folded(op)[0].flatten(1), made._as_deployed(op)
        rounded = rounded.flatten(1)
        largest = whole.abs().amax(1, keepdim=True) if rounding == "channel" else whole.abs().amax()
        steps = rounded / largest * 127
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert float((rounded - whole).abs().max()) <= float(largest.max()) / 254 * 1.001


def test_calibration_finds_ranges_and_changes_nothing_else() -> None:
    made = fake_quantized(network(), "tensor").train()
    before = {name: value.clone() for name, value in made.state_dict().items() if not name.startswith("ranges.")}
    assert calibrate(made, [pictures(16, 2), pictures(8, 3)], (-2.5, 3.5)) == 24
    assert made.training
    assert made.rounding == "tensor"
    after = made.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert float(made.range("input").low) == -2.5
    for name in made.ranges:
        each = made.range(name)
        assert each.rounding
        assert float(each.high - each.low) > 0, name
        assert name == "input" or int(each.batches) == 2
    assert float(made.range("block_2_expand:before").low) >= -3
    assert float(made.range("block_1_depthwise").low) == 0


@torch.no_grad()
def test_it_stays_close_to_the_float_network() -> None:
    plain = network()
    made = fake_quantized(plain, "channel")
    calibrate(made, [pictures(64, 2)], (-5, 5))
    expected, found = plain(pictures(32, 9)), made(pictures(32, 9))
    noise = float((found - expected).square().mean() / expected.square().mean())
    assert noise < 0.02


def test_building_one_draws_no_random_numbers() -> None:
    plain = network()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fake_quantized(plain, "channel")
    assert torch.equal(torch.rand(3), expected)
