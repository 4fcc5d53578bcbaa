"""What `fit --method adapt` and `search` do: the way to the budget, its trace, the long training, the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from mobilenets import checkpoint as files
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Data, open_data
from mobilenets.errors import CheckpointError, InputError, MissingExtraError
from mobilenets.fit.adapt import Step, advance, begin
from mobilenets.fit.choosing import say
from mobilenets.fit.device import Device, device
from mobilenets.fit.narrowing import Proposal
from mobilenets.fit.outputs import Trace, choice_of_step, write_progress
from mobilenets.fit.request import Request
from mobilenets.fit.resources import Resources
from mobilenets.fit.result import Choice, FitResult
from mobilenets.fit.tuning import Workbench
from mobilenets.results import TrainResult
from mobilenets.train import processes
from mobilenets.train.request import Request as TrainRequest
from mobilenets.train.run import run as train_run
from mobilenets.train.state import NAME as TRAIN_STATE

ADAPTED = "adapted.safetensors"
SEARCHED, AT_HAND = "searched", "at hand"
COMPARED = "trained on, to be compared"
COMPARED_STEPS = 5
"""Networks that came different ways are trained for so many times the steps of a proposal before one is taken."""
SEARCH_SHARE = 0.6
"""Of --minutes, what may go by before the long training begins."""


@dataclass
class Sitting:
    """What one start of the program has."""

    request: Request
    accelerator: Accelerator
    data: Data
    device: Device
    trace: Trace
    begun: float
    notes: list[str]

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return bool(self.accelerator.is_main_process)

    @property
    def over(self) -> bool:
        """Whether the time for looking around is up, for all processes alike."""
        minutes = self.request.minutes
        up = minutes is not None and time.monotonic() - self.begun > SEARCH_SHARE * 60 * minutes
        return bool(processes.from_first(self.accelerator, up))

    def say(self, line: str) -> None:
        """Speak, in the first process."""
        if self.first:
            say(line)


def trained(request: Request) -> FitResult:
    """Adapt or search; see :func:`mobilenets.fit`."""
    begun = time.monotonic()
    accelerator = processes.accelerator()
    with ExitStack() as stack:
        stack.enter_context(processes.ending_together(accelerator))
        try:
            sitting = _sitting(request, accelerator, begun)
            return _adapted(sitting)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; what was found is in {request.out}: go on with the same command and --resume"
            ) from None


def _sitting(request: Request, accelerator: Accelerator, begun: float) -> Sitting:
    from mobilenets.runtime import choose

    runtime = choose(request.runtime, precision=request.precision or "float32")
    found = device(runtime, request.threads, request.table, say, None)
    labels = None
    if request.method == "adapt":
        labels = _checkpoint(request.model).card.labels
    data = open_data(
        request.data or "",
        root=request.root,
        seed=request.seed,
        val_fraction=request.val_fraction,
        strict=request.strict,
        labels=labels,
    )
    if not len(data.train):
        raise InputError(f"{request.data}: no pictures to train on: put some into its train part")
    trace = Trace.opened(request.out, request.facts(), resume=request.resume)
    accelerator.wait_for_everyone()  # the first writes there, so all look before
    return Sitting(request, accelerator, data, found, trace, begun, list(data.problems))


def _checkpoint(model: str) -> Checkpoint:
    """Return what is to be adapted.

    Raises:
        CheckpointError: it is not float32.
    """
    from mobilenets import runtime

    found = runtime.resolve(model)
    if found.card.precision != "float32":
        raise CheckpointError(
            f"{model}: {found.card.precision}: adapt the float32 checkpoint that it was made from, then quantize"
        )
    return found


def _starts(sitting: Sitting) -> list[tuple[str, Checkpoint]]:
    """Return the networks that adapting begins with, by the way they came.

    A search ends with its winner and, where there was one, with the network that was trained on these classes before:
    both are brought to the budget, so that searching never ends with less than adapting does.
    """
    if sitting.request.method == "adapt":
        return [("", _checkpoint(sitting.request.model))]
    if find_spec("optuna") is None:
        raise MissingExtraError("optuna", "search")
    from mobilenets.fit.searching import at_hand, winner

    known = at_hand(sitting)
    found = [(SEARCHED, winner(sitting, known))]
    if known.trained and known.checkpoint is not None:
        found.append((AT_HAND, known.checkpoint))
    return found


def resources_of(sitting: Sitting, card: Card, number: int | None = None) -> Resources:
    """Return what counts a budget, the latency table filled around the network first.

    Raises:
        InputError: a latency is asked for, and the table has too few networks to predict from.
    """
    request, found = sitting.request, sitting.device
    precision = request.precision or "float32"
    latency = None
    if request.budget.latency_ms is not None:
        if sitting.first:
            if number is None:
                found.fill_around(precision, card.plan)
            else:
                found.fill(precision)
        found.table = processes.from_first(sitting.accelerator, found.table)
        latency = found.model(precision)
        if latency is None:
            raise InputError(f"{found.path}: too few networks are measured in {found.configuration(precision)}")
    return Resources(request.budget, card, precision, latency, request.memory)


@dataclass(frozen=True)
class _End:
    """Where a way from a network to the budget ended."""

    way: str
    step: Step
    workbench: Workbench
    resources: Resources


def _adapted(sitting: Sitting) -> FitResult:
    ways = [_narrowed(sitting, way, start) for way, start in _starts(sitting)]
    ends = [end for end in ways if end.step.fits] or ways
    if len(ends) > 1:
        ends = [_compared(sitting, end) for end in ends]
    best = min(ends, key=lambda end: end.step.loss)
    if not best.step.fits and not sitting.over:
        raise InputError(
            f"{sitting.request.model}: cannot be narrowed to {sitting.request.budget}: every block is at its "
            "narrowest; begin with a network of another architecture or resolution"
        )
    if len(ends) > 1:
        sitting.say(f"goes on: {best.way}, top-1 {100 * best.step.top1:.2f} % of pictures held back, at the budget")
    return _finished(sitting, best)


def _narrowed(sitting: Sitting, way: str, start: Checkpoint) -> _End:
    """Narrow a network until it is within the budget, at its narrowest, or time is up."""
    request, trace = sitting.request, sitting.trace
    resources = resources_of(sitting, start.card)
    workbench = Workbench(sitting.data, start.card, request.seed, request.workers, sitting.accelerator)
    start = workbench.restored(start)
    first = begin(start, resources, workbench)
    step = trace.last(first, resources, way)
    if step is first:
        _note(sitting, step, resources, way)
    else:
        sitting.say(f"{request.out}: going on after step {step.number}")
    while not step.fits:
        if sitting.over:
            sitting.notes.append("time is up: the network is not within the budget yet")
            break
        following = advance(
            step,
            resources,
            workbench,
            short_steps=request.short_steps,
            first_shares=first.shares,
            spread=_spreader(sitting.accelerator),
        )
        if following is None:
            break
        step = following
        _note(sitting, step, resources, way)
    return _End(way, step, workbench, resources)


def _compared(sitting: Sitting, end: _End) -> _End:
    """Train a network at the budget a little more, like those that came another way."""
    step = end.step
    if step.taken == COMPARED or sitting.over:
        return end
    made = end.workbench.tune(step.checkpoint, COMPARED_STEPS * sitting.request.short_steps, turn=0)
    # Another machine's last bits may differ, and with them what is better: all go by the first one's.
    made, judged = processes.from_first(sitting.accelerator, (made, end.workbench.judge(made)))
    step = replace(step, number=step.number + 1, checkpoint=made, taken=COMPARED, top1=judged.top1, loss=judged.loss)
    _note(sitting, step, end.resources, end.way)
    return replace(end, step=step)


def _spreader(accelerator: Accelerator) -> Callable[[Sequence[Proposal], Callable[[int, Proposal], Any]], list[Any]]:
    """Return what shares proposals between the processes: every process takes its turn of them, and all get all."""

    def spread(what: Sequence[Proposal], do: Callable[[int, Proposal], Any]) -> list[Any]:
        rank, count = accelerator.process_index, accelerator.num_processes
        mine = [(index, do(index, each)) for index, each in enumerate(what) if index % count == rank]
        if count == 1:
            return [result for _, result in mine]
        everyone: list[tuple[int, Any]] = gather_object(mine)
        return [result for _, result in sorted(everyone, key=lambda pair: pair[0])]

    return spread


def _note(sitting: Sitting, step: Step, resources: Resources, way: str) -> None:
    """Write a step down, show the frontier so far, and say a line."""
    sitting.trace.add(step, resources, way, keep=sitting.first)
    if not sitting.first:
        return
    write_progress(sitting.request.out, sitting.trace, sitting.request, done=False)
    bounds = ", ".join(f"{name.removesuffix('_bytes')} {share:.2f}x" for name, share in step.shares.items())
    what = f"narrowed {step.taken} of {step.proposals} proposals" if step.taken else "as it is"
    what = COMPARED if step.taken == COMPARED else what
    top1 = f"top-1 {100 * step.top1:.2f} % of pictures held back"
    say(f"{way or 'step'} {step.number}: {what}: {top1}; of the budget: {bounds}")


def _finished(sitting: Sitting, end: _End) -> FitResult:
    """Train the adapted network at length, measure it, and write what there is to be looked at."""
    request, accelerator, trace = sitting.request, sitting.accelerator, sitting.trace
    step, resources = end.step, end.resources
    path = request.out / ADAPTED
    if sitting.first and not (request.resume and path.exists()):
        note = f"narrowed in {step.number} steps to {request.budget}"
        card = replace(step.checkpoint.card, metrics=(), notes=(*step.checkpoint.card.notes, note))
        files.save(replace(step.checkpoint, card=card), path)
    accelerator.wait_for_everyone()
    training = _long_training(sitting, path, _epochs(sitting, end.workbench))
    card = files.read_card(training.checkpoint)
    layout = card.plan
    measured = None
    if sitting.first and request.budget.latency_ms is not None and not request.unmeasured:
        measured = sitting.device.measure(layout, resources.precision)
    measured = processes.from_first(accelerator, measured)
    chosen = Choice(
        model=card.arch.name,
        width=card.width,
        resolution=card.resolution,
        precision=resources.precision,
        predicted_ms=resources.predicted_ms(layout),
        measured_ms=measured,
        ram_bytes=resources.ram_bytes(layout),
        flash_bytes=replace(resources, card=card).flash_bytes(layout),
        multiply_adds=choice_of_step(step, resources).multiply_adds,
        top1=training.metrics.get("top1"),
        top1_source=f"measured on {training.data}, {training.images} pictures for validation",
    )
    result = FitResult(
        model=request.model,
        method=request.method,
        budget=request.budget,
        runtime=sitting.device.runtime,
        threads=request.threads,
        chosen=chosen,
        frontier=trace.frontier,
        why=_why(end, chosen, trace),
        seconds=time.monotonic() - sitting.begun,
        checkpoint=training.checkpoint,
        trace=tuple(trace.rows),
        machine=sitting.device.table.machine,
        notes=(*sitting.notes, *training.notes),
        files=training.files,
    )
    return write_progress(request.out, trace, request, done=True, result=result) if sitting.first else result


def _epochs(sitting: Sitting, workbench: Workbench) -> int | None:
    """Return how many epochs fit the time that is left, None where the recipe decides."""
    request = sitting.request
    if request.epochs is not None or request.minutes is None:
        return request.epochs
    left = sitting.begun + 60 * request.minutes - time.monotonic()
    possible = int(left * workbench.images_per_second / max(1, len(sitting.data.train)))
    epochs = max(1, min(workbench.recipe.epochs, possible))
    return int(processes.from_first(sitting.accelerator, epochs))


def _long_training(sitting: Sitting, path: Path, epochs: int | None) -> TrainResult:
    request, out = sitting.request, sitting.request.out / "train"
    wanted = TrainRequest(
        data=request.data or "",
        model=str(path),
        epochs=epochs,
        seed=request.seed,
        root=None if request.root is None else str(request.root),
        val_fraction=request.val_fraction,
        strict=request.strict,
        workers=request.workers,
        bf16="off" if sitting.accelerator.device.type == "cpu" else "auto",
        compile="off",
    )
    sitting.say("training the result at length")
    return train_run(wanted, out=out, resume=request.resume and (out / TRAIN_STATE).exists())


def _why(end: _End, chosen: Choice, trace: Trace) -> tuple[str, ...]:
    step, resources = end.step, end.resources
    begun = next(row for row in trace.rows if "step" in row and row.get("way", "") == end.way)
    came = {AT_HAND: ("the network at hand, adapted, was better than what the search found",)}.get(end.way, ())
    lines = [
        *came,
        (
            f"narrowed in {step.number} steps; on pictures held back of the training part top-1 went from "
            f"{100 * begun['top1']:.2f} % to {100 * step.top1:.2f} % before the long training"
        ),
    ]
    if resources.latency is not None and resources.latency.error is not None:
        error = resources.latency.error
        lines.append(
            f"latency predictions are off by {100 * error.median:.1f} % (median) on networks left out of the table"
        )
    if chosen.measured_ms is not None and resources.budget.latency_ms is not None:
        inside = "within" if chosen.measured_ms <= resources.budget.latency_ms else "above"
        lines.append(
            f"measured: {chosen.measured_ms:.2f} ms, {inside} the budget of {resources.budget.latency_ms:g} ms"
        )
    return tuple(lines)
