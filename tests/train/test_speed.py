from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mobilenets.train import speed as module
from mobilenets.train.request import Request
from mobilenets.train.speed import Speed, choose_speed

Times = Callable[[Speed], float]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Times], None]:
    """Return what makes steps take the given seconds, and compiling work."""

    def set_times(times: Times) -> None:
        def time_step(self: module._Candidate) -> float:
            self.times.append(times(self.speed) * len(self.batch))
            return self.times[-1]

        monkeypatch.setattr(module._Candidate, "time_step", time_step)
        monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)

    return set_times


def chosen(request: Request, steps: int = 1000) -> tuple[Speed, list[str]]:
    said: list[str] = []
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    speed = choose_speed(
        request, network, lambda net: torch.optim.SGD(net.parameters()), torch.rand(16, 1, 8, 8), 2, steps, said.append
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    del random_state
    return speed, said


def test_what_is_asked_for_is_not_measured(timed: Callable[[Times], None]) -> None:
    def fail(speed: Speed) -> float:
        raise AssertionError(speed)

    timed(fail)
    asked = Request("x", bf16="on", channels_last="off", compile="off")
    assert chosen(asked) == (Speed(bf16=True, channels_last=False), [])


def test_a_short_training_is_not_measured(timed: Callable[[Times], None]) -> None:
    timed(lambda _: 0.001)
    assert chosen(Request("x"), steps=100) == (Speed(), [])


@pytest.mark.parametrize("best", [Speed(bf16=b, channels_last=c) for b in (False, True) for c in (False, True)])
def test_the_fastest_is_taken_and_said(timed: Callable[[Times], None], best: Speed) -> None:
    timed(lambda speed: 0.02 if speed == best else 0.03)
    speed, said = chosen(Request("x", compile="off"))
    assert speed == best
    assert sum("images/s" in line for line in said) == 4
    assert str(best) in said[-1]


def test_a_hair_faster_is_noise(timed: Callable[[Times], None]) -> None:
    timed(lambda speed: 0.0295 if speed.bf16 else 0.03)
    assert chosen(Request("x", compile="off"))[0] == Speed()


def test_only_what_is_auto_varies(timed: Callable[[Times], None]) -> None:
    timed(lambda speed: 0.02 if speed.bf16 else 0.03)
    assert not chosen(Request("x", bf16="off", compile="off"))[0].bf16
    assert chosen(Request("x", channels_last="off", compile="off"))[0] == Speed(bf16=True, channels_last=False)


def test_compiling_is_tried_where_training_is_long(timed: Callable[[Times], None]) -> None:
    timed(lambda speed: 0.02 if speed.compile else 0.03)
    assert chosen(Request("x"), steps=10_000)[0] == Speed(compile=True)
    assert not chosen(Request("x"), steps=1000)[0].compile


class Uncompilable(nn.Linear):
    """A network that computes until somebody asks for it to be compiled."""

    broken = False

    def compile(self, *, dynamic: bool) -> None:
        self.broken = not dynamic

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("\nNo working C++ compiler found\nand more")
        return super().forward(x.flatten(1))


def test_without_a_compiler_training_goes_on() -> None:
    said: list[str] = []
    network = Uncompilable(64, 2)
    speed = choose_speed(
        Request("x", compile="on"),
        network,
        lambda net: torch.optim.SGD(net.parameters()),
        torch.rand(8, 1, 8, 8),
        2,
        5,
        said.append,
    )
    assert not speed.compile
    assert said == ["torch.compile does not work here (No working C++ compiler found): going on without it"]


def test_the_network_keeps_its_names_when_compiled() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    names = list(network.state_dict())
    Speed(compile=True).switch_on(network)
    assert list(network.state_dict()) == names
