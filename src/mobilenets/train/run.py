"""One training run from beginning to end: open, begin or go on, train, prove, report."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mobilenets import checkpoint as files
from mobilenets.average_precision import measure_boxes
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Batches, Data, batches, open_data
from mobilenets.data.boxed import BoxedPictures
from mobilenets.errors import InputError
from mobilenets.metrics import measure
from mobilenets.nn.batch_norm import restore_batch_norm
from mobilenets.nn.network import Network
from mobilenets.recipe import Recipe
from mobilenets.results import TrainResult
from mobilenets.train import box_outputs, outputs, processes, start, start_detector
from mobilenets.train.allocator import keep_freed_memory
from mobilenets.train.decisions import Decisions, fingerprint, run_facts
from mobilenets.train.detection import Detection
from mobilenets.train.evaluation import judge_all
from mobilenets.train.frozen import FeatureBatches, kept_features
from mobilenets.train.goal import Classification, Goal
from mobilenets.train.inputs import ToInput, input_batches
from mobilenets.train.loop import Job, Save, Training, fit
from mobilenets.train.optimization import Average, make_optimizer
from mobilenets.train.progress import Progress
from mobilenets.train.quantized import from_saved, network_for, prepared
from mobilenets.train.request import Request, merged
from mobilenets.train.speed import Speed, choose_speed
from mobilenets.train.state import check_folder, read_state, write_state

STATISTICS_PICTURES = 512
"""How many pictures are looked at before training: for BatchNorm's statistics where a converted file had none, and for
the ranges of activations."""


@dataclass(frozen=True)
class Sitting:
    """What one start of the program has: the processes, the data, the folder, and a voice."""

    accelerator: Accelerator
    data: Data
    out: Path
    progress: Progress
    begun: float  # time.monotonic()


def run(request: Request, *, out: Path, resume: bool) -> TrainResult:
    """Train as asked; see :func:`mobilenets.train`."""
    begun = time.monotonic()
    accelerator = processes.accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with processes.ending_together(accelerator):
        state = None
        if accelerator.is_main_process:
            check_folder(out, resume=resume)
            state = read_state(out) if resume else None
        state = processes.from_first(accelerator, state)
        progress = Progress(silent=not accelerator.is_main_process)
        if state is not None:
            request = merged(request, Request.from_json(state["decisions"]["request"]), out)
        elif resume:
            progress.say(f"{out}: nothing was saved yet: from the beginning")
        if request.threads is not None or state is not None:
            torch.set_num_threads(request.threads or state["decisions"]["threads"])
        sitting = Sitting(accelerator, _opened(request, progress), out, progress, begun)
        return _train(sitting, request, state)


def resume_command(request: Request, out: Path) -> str:
    """Return the command line that goes on with a run."""
    return f"{request.command} --out {shlex.quote(str(out))} --resume"


def _opened(request: Request, progress: Progress) -> Data:
    data = open_data(
        request.data,
        root=None if request.root is None else Path(request.root),
        seed=request.seed,
        val_fraction=request.val_fraction,
        strict=request.strict,
    )
    if not len(data.train):
        raise InputError(f"{request.data}: no pictures to train on: put some into its train part")
    for problem in data.problems:
        progress.say(f"{data.name}: {problem}")
    return data


def _train(sitting: Sitting, request: Request, state: dict[str, Any] | None) -> TrainResult:
    accelerator, data, progress = sitting.accelerator, sitting.data, sitting.progress
    if state is None:
        decisions, network = _begin(sitting, request)
    else:
        decisions = Decisions.from_json(state["decisions"], request, data)
        network = network_for(decisions.card, decisions.recipe)  # its weights are restored below
        if decisions.processes != accelerator.num_processes:
            progress.say(
                f"begun with {decisions.processes} processes, going on with {accelerator.num_processes}: "
                "as good, but not the same weights to the last bit"
            )
    progress.epochs = decisions.recipe.epochs
    network.to(accelerator.device, memory_format=decisions.speed.memory_format)  # type: ignore[call-overload]
    trained = network.get_submodule(network.plan.ops[-1].name) if request.freeze else network
    average = Average(network, decisions.recipe.ema) if decisions.recipe.ema and not request.freeze else None
    training = Training(network, trained, make_optimizer(trained, decisions.recipe), average)
    writer = outputs.Writer(sitting.out, decisions.card, sitting.data)
    save = _saver(sitting, decisions, writer)
    if state is None:
        training.started = sitting.begun
        save(training, epoch_done=False)
    else:
        training.restore(state)
        if not accelerator.is_main_process:
            training.sums = [0.0, 0.0, 0.0]  # the state has those of the first process
        progress.say(_where(training, sitting.out))
    job = _job(sitting, decisions, network, save)
    try:
        fit(job, training, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: {resume_command(request, sitting.out)}") from None
    finally:
        progress.close()
        job.train_batches.close()
        job.val_batches.close()
        writer.close()
    return _finished(sitting, decisions, training)


def _begin(sitting: Sitting, request: Request) -> tuple[Decisions, Network]:
    """Decide everything for a new run, and build its network."""
    data, say, world_size = sitting.data, sitting.progress.say, sitting.accelerator.num_processes
    asked = start_detector.as_detector(request, data, say)
    source = start.choose_weights(start_detector.for_backbone(asked), data, say)
    if data.boxed:
        card = start_detector.detector_card(asked, data, source, say)
    else:
        card = start.make_card(asked, data, source)
    recipe = start.choose_recipe(request, data, card, pretrained=source is not None)
    if recipe.batch_size < world_size:
        raise InputError(f"--batch-size {recipe.batch_size} for {world_size} processes: raise it, or start fewer")
    network = start.make_network(card, source, request.seed, say)
    if card.batch_norm == "folded" and not request.freeze:
        card = replace(card, batch_norm="trained")
        pictures = restore_batch_norm(network, _some_pictures(data, card, recipe, request.seed))
        say(f"these weights have BatchNorm folded away: put back, with the statistics of {pictures} pictures")
    network = prepared(network, recipe, card.preprocess, _some_pictures(data, card, recipe, request.seed))
    card = replace(card, recipe=recipe.to_json() | {"run": run_facts(request, data)})
    decisions = Decisions(
        request=request,
        card=card,
        recipe=recipe,
        speed=Speed() if request.freeze else _speed(sitting, request, network, recipe),
        threads=torch.get_num_threads(),
        processes=world_size,
        data_sha256=fingerprint(data),
    )
    return decisions, network


def _some_pictures(data: Data, card: Card, recipe: Recipe, seed: int) -> Iterator[Tensor]:
    """Yield batches of pictures as training will show them, to measure statistics on."""
    served = batches(
        data.train, preprocess=card.preprocess, augmentation=recipe.augmentation, shuffle=True, seed=seed, workers=0
    )
    for images, _ in itertools.islice(served.epoch(0), -(-STATISTICS_PICTURES // 32)):
        yield images


def _speed(sitting: Sitting, request: Request, network: Network, recipe: Recipe) -> Speed:
    """Return how to compute, as the first process finds it fastest."""
    accelerator, images = sitting.accelerator, len(sitting.data.train)
    speed = None
    if accelerator.is_main_process:
        of_process = recipe.batch_size // accelerator.num_processes
        with torch.random.fork_rng():
            batch = torch.randn(of_process, *network.plan.input_shape, device=accelerator.device)
            speed = choose_speed(
                replace(request, bf16="off") if recipe.quantizes else request,
                network.to(accelerator.device),
                lambda module: make_optimizer(module, recipe),
                batch,
                network.plan.classes,
                recipe.epochs * max(1, images // recipe.batch_size),
                sitting.progress.say,
            )
    chosen: Speed = processes.from_first(accelerator, speed)
    return chosen


def _job(sitting: Sitting, decisions: Decisions, network: Network, save: Save) -> Job:
    """Return what the loop goes through: pictures, or features where only the classifier is trained."""
    accelerator, data, recipe, request = sitting.accelerator, sitting.data, decisions.recipe, decisions.request
    of_process = recipe.batch_size // accelerator.num_processes
    train_batches: Batches | FeatureBatches
    val_batches: Batches | FeatureBatches
    to_input: ToInput
    if request.freeze:
        train, val = kept_features(
            network,
            decisions.card,
            data,
            decisions.data_sha256,
            mirrored=recipe.augmentation.flip,
            out=sitting.out,
            accelerator=accelerator,
            progress=sitting.progress,
            workers=request.workers,
        )
        ranked = {"rank": accelerator.process_index, "world_size": accelerator.num_processes, "seed": request.seed}
        train_batches = FeatureBatches(train, batch_size=of_process, shuffle=True, **ranked)
        val_batches = FeatureBatches(val, batch_size=1024, shuffle=False, **ranked)
        to_input = partial(torch.Tensor.to, device=accelerator.device)
    else:
        preprocess, memory_format = decisions.card.preprocess, decisions.speed.memory_format
        train_batches, to_input = input_batches(
            data.train,
            preprocess,
            accelerator,
            augmentation=recipe.augmentation,
            batch_size=of_process,
            shuffle=True,
            seed=request.seed,
            workers=request.workers,
            memory_format=memory_format,
        )
        val_batches, _ = input_batches(
            data.val, preprocess, accelerator, workers=request.workers, memory_format=memory_format
        )
    return Job(
        recipe=recipe,
        seed=request.seed,
        classes=len(decisions.card.labels),
        accelerator=accelerator,
        train_batches=train_batches,
        val_batches=val_batches,
        to_input=to_input,
        speed=decisions.speed,
        save=save,
        goal=_goal(data, decisions),
    )


def _goal(data: Data, decisions: Decisions) -> Goal:
    if isinstance(data.val, BoxedPictures):
        return Detection(decisions.card, data.val, decisions.recipe)
    return Classification()


def _saver(sitting: Sitting, decisions: Decisions, writer: outputs.Writer) -> Save:
    """Return what writes state and checkpoints, in the first process.

    The state comes last: whoever is killed in between goes on from the state before, and writes the same files again.
    """
    stored = decisions.to_json()

    def save(training: Training, *, epoch_done: bool) -> None:
        if not sitting.accelerator.is_main_process:
            return
        if epoch_done:
            writer.write_epoch(training.saved_network, training.history, best=training.best is training.history[-1])
        write_state(sitting.out, {"decisions": stored, **training.state()})

    return save


def _where(training: Training, out: Path) -> str:
    if training.done:
        return f"{out}: that run is complete"
    return f"{out}: going on with epoch {training.epoch + 1}, step {training.step + 1}"


def _finished(sitting: Sitting, decisions: Decisions, training: Training) -> TrainResult:
    """Judge the best checkpoint anew, read from the disk, and write what is there to be looked at."""
    accelerator, data, out, card = sitting.accelerator, sitting.data, sitting.out, decisions.card
    path = out / outputs.BEST
    metrics: dict[str, float] = {}
    written: list[Path] = []
    title = f"{card.arch.name} {card.width:g} at {card.resolution[0]}x{card.resolution[1]}"
    if len(data.val):
        best: Checkpoint = processes.from_first(accelerator, files.load(path) if accelerator.is_main_process else None)
        network = from_saved(best).to(accelerator.device)
        finish = _boxes_judged if data.boxed else _classes_judged
        metrics, written = finish(sitting, decisions, training, network, title)
    if accelerator.is_main_process:
        written.append(outputs.write_curves(out, training.history))
    accelerator.wait_for_everyone()
    return TrainResult(
        checkpoint=path,
        metrics=metrics,
        seconds=training.seconds,
        model=title,
        data=data.name,
        epochs=training.epoch,
        images=len(data.val),
        files=tuple(written),
        problems=data.problems,
        notes=_notes(training, decisions),
    )


def _classes_judged(
    sitting: Sitting, decisions: Decisions, training: Training, network: Network, title: str
) -> tuple[dict[str, float], list[Path]]:
    """Return the metrics of a classifier on the validation pictures, and the files that show them."""
    accelerator, data, card = sitting.accelerator, sitting.data, decisions.card
    val_batches, to_input = input_batches(data.val, card.preprocess, accelerator, workers=decisions.request.workers)
    with val_batches:
        judged = judge_all(network, val_batches, accelerator, to_input)
    report = measure(judged, card.labels, model=title, data=data.name, problems=data.problems)
    report = replace(report, seconds=training.seconds)
    metrics = {"top1": report.top1, "top5": report.top5, "loss": report.loss or 0.0}
    if not accelerator.is_main_process:
        return metrics, []
    return metrics, outputs.write_page(sitting.out, report, judged, data, training.history, decisions)


def _boxes_judged(
    sitting: Sitting, decisions: Decisions, training: Training, network: Network, title: str
) -> tuple[dict[str, float], list[Path]]:
    """Return the metrics of a detector on the validation pictures, and the files that show them."""
    accelerator, data, card = sitting.accelerator, sitting.data, decisions.card
    assert isinstance(data.val, BoxedPictures)
    val_batches, to_input = input_batches(data.val, card.preprocess, accelerator, workers=decisions.request.workers)
    with val_batches:
        found, loss = Detection(card, data.val, decisions.recipe).find(network, val_batches, accelerator, to_input)
    report = measure_boxes(data.val.truths, found, card.labels)
    report = replace(
        report, model=title, data=data.name, problems=data.problems, seconds=training.seconds, part="validation"
    )
    metrics = {name: value for name, value in report.metrics.items() if value is not None} | {"loss": loss}
    if not accelerator.is_main_process:
        return metrics, []
    return metrics, box_outputs.write_page(sitting.out, report, found, data.val, training.history, decisions)


def _notes(training: Training, decisions: Decisions) -> tuple[str, ...]:
    notes = []
    if training.epoch < decisions.recipe.epochs:
        notes.append(f"stopped early: no better validation result in {decisions.recipe.patience} epochs")
    if training.best is not None and training.best["val_loss"] is None:
        notes.append("there are no validation pictures, so nothing was measured: the last weights are saved")
    return tuple(notes)
