"""Pictures a second that training takes in: ours beside a plain loop over torchvision's own model.

    python -m benchmarks.training_throughput [rounds]

Both sides train MobileNetV2 1.0 with batches of 32 pictures of 224x224 and 96x96, SGD with Nesterov momentum, on the
same number of threads. Each side is a process of its own, because the allocator's settings hold for a whole process;
they take turns, so that a disturbance meets them alike. Ours is `train_epoch`, the loop of the `train` verb, with the
default fine-tuning recipe (average of the weights, gradient clipping, label smoothing), eager and compiled; the plain
loop is what torchvision's documentation shows. Loading pictures is measured by `benchmarks.loading`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.environment import Figure, write

BATCH = 32
STEPS = 4  # taken at a turn
SIDES = ("plain torchvision", "ours", "ours, compiled")


def main() -> None:
    """Let the sides take turns at each resolution and write the ratios."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    figures: list[Figure] = []
    details: dict[str, object] = {"threads": torch.get_num_threads()}
    for resolution in (224, 96):
        rates = measure(resolution, rounds)
        plain = statistics.median(rates[SIDES[0]])
        for side, wanted in ((SIDES[1], "at least 1.0"), (SIDES[2], "1.3")):
            ratio = statistics.median(mine / other for mine, other in zip(rates[side], rates[SIDES[0]], strict=True))
            name = f"Training V2 1.0 at {resolution}, batch {BATCH}: {side}, against a plain torchvision loop"
            figures.append(Figure(name, round(ratio, 2), "x", wanted))
            print(f"{name}: {ratio:.2f}x ({statistics.median(rates[side]):.1f} against {plain:.1f} images/s)")
        details[f"images a second at {resolution}"] = {side: [round(r, 2) for r in rates[side]] for side in SIDES}
    print(write("training_throughput", figures, details))


def measure(resolution: int, rounds: int) -> dict[str, list[float]]:
    """Return the images a second of every turn of every side."""
    sides = {}
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.training_throughput", "--side", side, str(resolution)]
        sides[side] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        turn(sides[side])  # warm: memory, kernels, compilation
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, process in sides.items():
            rates[side].append(STEPS * BATCH / turn(process))
    for process in sides.values():
        process.communicate("", timeout=60)
    return rates


def turn(process: subprocess.Popen[str]) -> float:
    """Let a side take its steps; return the seconds they took."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def serve(side: str, resolution: int) -> None:
    """Be one side: take STEPS steps for every line read, and print the seconds."""
    steps = plain(resolution) if side == SIDES[0] else ours(resolution, compiled=side == SIDES[2])
    for _ in sys.stdin:
        begun = time.perf_counter()
        steps()
        print(time.perf_counter() - begun, flush=True)


def batch(resolution: int) -> tuple[Tensor, Tensor]:
    """Return the pictures and classes that both sides see."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, resolution, resolution, generator=generator)
    return images, torch.randint(0, 1000, (BATCH,), generator=generator)


def plain(resolution: int) -> Callable[[], None]:
    """Torchvision's model and the loop its users write."""
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(weights=None).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    images, targets = batch(resolution)

    def steps() -> None:
        for _ in range(STEPS):
            loss = criterion(network(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def ours(resolution: int, *, compiled: bool) -> Callable[[], None]:
    """The loop of the `train` verb."""
    from accelerate import Accelerator

    from mobilenets.arch import arch_named, plan
    from mobilenets.nn.network import build
    from mobilenets.recipe import FINETUNE
    from mobilenets.train.allocator import keep_freed_memory
    from mobilenets.train.interruption import Interruption
    from mobilenets.train.loop import Job, Training, train_epoch
    from mobilenets.train.optimization import Average, make_optimizer
    from mobilenets.train.progress import Progress
    from mobilenets.train.speed import Speed

    keep_freed_memory()
    speed = Speed(bf16=False, channels_last=True, compile=compiled)
    network = build(plan(arch_named("mobilenet_v2"), resolution=resolution)).to(memory_format=speed.memory_format)
    images, targets = batch(resolution)
    served = Same(images.contiguous(memory_format=speed.memory_format), targets)
    job = Job(FINETUNE, 0, 1000, Accelerator(cpu=True), served, served, lambda x: x, speed, nothing_saved)
    training = Training(network, network, make_optimizer(network, FINETUNE), Average(network, FINETUNE.ema))
    speed.switch_on(network)
    progress = Progress(silent=True)

    def steps() -> None:
        training.step, training.sums, training.epoch_seconds = 0, [0.0, 0.0, 0.0], 0.0
        train_epoch(job, training, network, progress, Interruption(catch=False))

    return steps


class Same:
    """The same batch again and again."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.batch = (images, targets)

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:  # noqa: ARG002 - the protocol's
        """Yield the batch STEPS times."""
        return iter([self.batch] * (STEPS - start))

    def close(self) -> None:
        """Nothing to end."""


def nothing_saved(training: object, *, epoch_done: bool) -> None:
    """Save nothing: writing checkpoints is not what is measured."""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
