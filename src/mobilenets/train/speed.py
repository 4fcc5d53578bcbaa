"""What makes a step faster on this machine, measured on this machine.

The usual advice does not hold everywhere: bfloat16 is twice as fast on one processor and slower on the next, channels
innermost may cost or gain a third. So a training that is long enough times a few steps each way, keeps the fastest,
says so, and stores the choice with the run, so that a resumed run computes the same.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.text import duration
from mobilenets.train.request import Request

WORTH_SECONDS = 120
"""A training expected to be shorter is not measured: what could be gained is less than the measuring takes."""
COMPILE_WORTH_SECONDS = 900
"""A training expected to be shorter is not compiled: compiling a MobileNet takes one to two minutes on two cores."""
BETTER_BY = 1.03
"""Something else than the default must be this much faster: less is noise."""
ROUNDS = 3
BUDGET = 0.04
"""The measuring takes no more of the training's time than this: if need be, with fewer pictures a step."""
FEWEST = 4
"""With fewer pictures a step than these, what is measured is mostly the overhead of a step."""


@dataclass(frozen=True)
class Speed:
    """How steps are computed: bfloat16 where autocast allows it, channels innermost in memory, compiled."""

    bf16: bool = False
    channels_last: bool = True
    compile: bool = False

    def switch_on(self, module: nn.Module) -> None:
        """Compile the module in place where wanted; the names of its tensors stay."""
        if self.compile:
            module.compile(dynamic=False)

    @property
    def memory_format(self) -> torch.memory_format:
        """Torch's name of the memory order."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"bf16": self.bf16, "channels_last": self.channels_last, "compile": self.compile}

    def __str__(self) -> str:
        names = ["bfloat16" if self.bf16 else "float32", "channels last" if self.channels_last else "channels first"]
        return ", ".join([*names, *(["compiled"] if self.compile else [])])


def choose_speed(
    request: Request,
    network: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: Tensor,
    classes: int,
    steps: int,
    say: Callable[[str], None],
) -> Speed:
    """Return the fastest way to take `steps` steps with batches like `batch` (N, C, H, W), within what was asked for.

    Works on copies: network, optimizer and torch's random state are as before. Says what was measured.
    """
    asked = Speed(
        bf16=request.bf16 == "on",
        channels_last=request.channels_last != "off",
        compile=request.compile == "on",
    )
    if asked.compile:
        asked = _compiled_or_not(asked, network, make_optimizer, batch, classes, say)
    choices = [
        replace(asked, bf16=bf16, channels_last=last)
        for bf16, last in itertools.product(
            (False, True) if request.bf16 == "auto" else (asked.bf16,),
            (True, False) if request.channels_last == "auto" else (asked.channels_last,),
        )
    ]
    if len(choices) == 1 and request.compile != "auto":
        return asked

    def candidate(speed: Speed, pictures: int) -> _Candidate:
        return _Candidate(speed, network, make_optimizer, batch[:pictures], classes)

    with _random_state_kept():
        probe = candidate(choices[0], min(len(batch), 2 * FEWEST))
        probe.time_step()  # the first step sets up memory and kernels
        per_picture = probe.time_step() / len(probe.batch)
        expected = per_picture * len(batch) * steps
        affordable = int(BUDGET * expected / (per_picture * len(choices) * (1 + ROUNDS)))
        if expected < WORTH_SECONDS or affordable < FEWEST:
            return choices[0]
        best = choices[0]
        if len(choices) > 1:
            best = _fastest([candidate(choice, min(len(batch), affordable)) for choice in choices], say)
        if request.compile == "auto" and expected > COMPILE_WORTH_SECONDS:
            compiled = candidate(replace(best, compile=True), len(batch))
            if _compiles(compiled, say):
                best = _fastest([candidate(best, len(batch)), compiled], say)
    say(f"fastest here: {best}; about {duration(expected)} of training, or less")
    return best


class _Candidate:
    """A copy of the network that takes steps one way, and how long they took."""

    def __init__(
        self,
        speed: Speed,
        network: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        batch: Tensor,
        classes: int,
    ) -> None:
        self.speed = speed
        self.network = copy.deepcopy(network).to(memory_format=speed.memory_format).train()
        speed.switch_on(self.network)
        self.optimizer = make_optimizer(self.network)
        self.batch = batch.contiguous(memory_format=speed.memory_format)
        self.targets = torch.arange(len(batch), device=batch.device) % classes
        self.times: list[float] = []

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def time_step(self) -> float:
        """Take a step as the loop does, but for the augmentation; return its seconds and remember them."""
        begun = time.perf_counter()
        with torch.autocast(self.batch.device.type, torch.bfloat16, enabled=self.speed.bf16):
            outputs = self.network(self.batch)
        if isinstance(outputs, tuple):  # a detector's maps: its own loss costs next to nothing beside them
            torch.autograd.backward([each.float().square().mean() for each in outputs])
        else:
            torch.autograd.backward(functional.cross_entropy(outputs.float(), self.targets))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.batch.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter() - begun)
        return self.times[-1]


def _fastest(candidates: list[_Candidate], say: Callable[[str], None]) -> Speed:
    """Time the candidates in turn, so that a disturbance meets them alike; of near equals the first is kept."""
    for candidate in candidates:
        candidate.time_step()
        candidate.times.clear()  # the first step sets up memory and kernels
    for _ in range(ROUNDS):
        for candidate in candidates:
            candidate.time_step()
    best = candidates[0]
    for candidate in candidates:
        say(f"{candidate.speed}: {len(candidate.batch) / candidate.median:,.1f} images/s")
        if candidate.median * BETTER_BY < best.median:
            best = candidate
    return best.speed


def _compiles(candidate: _Candidate, say: Callable[[str], None]) -> bool:
    """Compile by taking a step; say why where it cannot be done, for want of a C++ compiler for instance."""
    begun = time.perf_counter()
    try:
        candidate.time_step()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in a compiler, training goes on without it
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        say(f"torch.compile does not work here ({reason}): going on without it")
        return False
    say(f"compiled in {duration(time.perf_counter() - begun)}")
    return True


def _compiled_or_not(
    asked: Speed,
    network: nn.Module,
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: Tensor,
    classes: int,
    say: Callable[[str], None],
) -> Speed:
    with _random_state_kept():
        works = _compiles(_Candidate(asked, network, make_optimizer, batch, classes), say)
    return asked if works else replace(asked, compile=False)


class _random_state_kept:  # noqa: N801 - reads as a statement
    """Give torch's CPU generator back its state; dropout draws from it."""

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self.state)
