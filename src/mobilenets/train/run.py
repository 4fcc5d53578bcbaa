"""One training run from beginning to end: open, begin or go on, train, prove, report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mobilenets import checkpoint as files
from mobilenets.checkpoint import Card, Metric
from mobilenets.data import Data, batches, open_data
from mobilenets.data.loader import Batches, normalize_on_device
from mobilenets.errors import InputError
from mobilenets.image import Preprocess
from mobilenets.metrics import Judged, measure
from mobilenets.nn.network import Network, from_checkpoint
from mobilenets.recipe import Recipe
from mobilenets.results import TrainResult
from mobilenets.train import outputs, start
from mobilenets.train.evaluation import judge_all
from mobilenets.train.loop import Job, Training, fit
from mobilenets.train.optimization import Average, make_optimizer
from mobilenets.train.progress import Progress
from mobilenets.train.request import Request, merged
from mobilenets.train.speed import Speed
from mobilenets.train.state import check_folder, read_state, write_state


@dataclass(frozen=True)
class Run:
    """What is decided before the first step, and stored with the state."""

    request: Request
    card: Card
    recipe: Recipe
    speed: Speed
    threads: int
    data_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "request": self.request.to_json(),
            "card": self.card.to_json(),
            "recipe": self.recipe.to_json(),
            "speed": self.speed.to_json(),
            "threads": self.threads,
            "data_sha256": self.data_sha256,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], request: Request) -> Run:
        """Read what :meth:`to_json` wrote, with a request that was merged into it."""
        return cls(
            request=request,
            card=Card.from_json(stored["card"]),
            recipe=Recipe.from_json(stored["recipe"]),
            speed=Speed(**stored["speed"]),
            threads=stored["threads"],
            data_sha256=stored["data_sha256"],
        )


def run(request: Request, *, out: Path, resume: bool) -> TrainResult:
    """Train as asked; see :func:`mobilenets.train`."""
    accelerator = Accelerator(cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()))
    if accelerator.is_main_process:
        check_folder(out, resume=resume)
    accelerator.wait_for_everyone()
    state = read_state(out) if resume else None
    if state is not None:
        request = merged(request, Request.from_json(state["run"]["request"]), out)
    progress = Progress(silent=not accelerator.is_main_process)
    if resume and state is None:
        progress.say(f"{out}: nothing was saved yet: from the beginning")
    torch.set_num_threads(request.threads or (state["run"]["threads"] if state else torch.get_num_threads()))
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
    run, network = _begun(request, data, progress) if state is None else _stored(state, request, data)
    return _trained(run, network, data, state, accelerator, progress, out)


def _begun(request: Request, data: Data, progress: Progress) -> tuple[Run, Network]:
    """Decide everything for a new run."""
    source = start.choose_weights(request, data, progress.say)
    card = start.make_card(request, data, source)
    recipe = start.choose_recipe(request, data, card, pretrained=source is not None)
    card = replace(card, recipe=recipe.to_json() | {"run": _run_facts(request, data)})
    network = start.make_network(card, source, request.seed, progress.say)
    speed = Speed(
        bf16=request.bf16 == "on", channels_last=request.channels_last != "off", compile=request.compile == "on"
    )
    return Run(request, card, recipe, speed, torch.get_num_threads(), _fingerprint(data)), network


def _stored(state: dict[str, Any], request: Request, data: Data) -> tuple[Run, Network]:
    """Return the run of a state, and its network with the weights still to be restored."""
    run = Run.from_json(state["run"], request)
    if run.data_sha256 != _fingerprint(data):
        raise InputError(
            f"{request.data}: other pictures, labels or split than when the run began: restore them, or start anew"
        )
    return run, Network(run.card.plan)


def _trained(
    run: Run,
    network: Network,
    data: Data,
    state: dict[str, Any] | None,
    accelerator: Accelerator,
    progress: Progress,
    out: Path,
) -> TrainResult:
    recipe, card, seed = run.recipe, run.card, run.request.seed
    progress.epochs = recipe.epochs
    world_size, rank = accelerator.num_processes, accelerator.process_index
    if recipe.batch_size < world_size:
        raise InputError(f"--batch-size {recipe.batch_size}: fewer pictures than the {world_size} processes")
    on_cpu = accelerator.device.type == "cpu"
    train_batches = batches(
        data.train,
        preprocess=card.preprocess,
        augmentation=recipe.augmentation,
        batch_size=recipe.batch_size // world_size,
        shuffle=True,
        seed=seed,
        rank=rank,
        world_size=world_size,
        normalized=on_cpu,
        workers=run.request.workers,
    )
    val_batches = batches(
        data.val,
        preprocess=card.preprocess,
        batch_size=max(64, recipe.batch_size // world_size),
        rank=rank,
        world_size=world_size,
        normalized=on_cpu,
        workers=run.request.workers,
    )
    network.to(accelerator.device, memory_format=torch.channels_last if run.speed.channels_last else None)
    training = Training(
        network,
        network,
        make_optimizer(network, recipe),
        Average(network, recipe.ema) if recipe.ema else None,
    )
    if state is not None:
        training.restore(state)
        if training.done:
            progress.say(f"{out}: that run is complete")
        elif training.epoch or training.step:
            progress.say(f"going on at epoch {training.epoch + 1}, step {training.step + 1}")
    save = _saver(run, data, accelerator, out)
    if state is None:
        save(training, False)
    job = Job(
        recipe=recipe,
        seed=seed,
        classes=len(card.labels),
        accelerator=accelerator,
        train_batches=train_batches,
        val_batches=val_batches,
        to_input=_to_input(accelerator, card.preprocess, channels_last=run.speed.channels_last),
        speed=run.speed,
        save=save,
    )
    try:
        fit(job, training, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: {run.request.command} --out {out} --resume") from None
    finally:
        progress.close()
        train_batches.close()
        val_batches.close()
    return _finished(run, data, training, val_batches, accelerator, progress, out)


def _saver(run: Run, data: Data, accelerator: Accelerator, out: Path) -> Callable[[Training, bool], None]:
    """Return what writes state and checkpoints.

    The state comes last: whoever is killed in between goes on from the state before and writes the same files again.
    """
    sample = outputs.sample_of(data, run.card)
    stored = run.to_json()

    def save(training: Training, epoch_done: bool) -> None:
        if not accelerator.is_main_process:
            return
        if epoch_done:
            entry = training.history[-1]
            metrics: tuple[Metric, ...] = outputs.metrics_of(entry, data)
            outputs.save_checkpoint(out / outputs.LAST, training.saved_network, run.card, sample, metrics)
            if training.best is entry:
                outputs.save_checkpoint(out / outputs.BEST, training.saved_network, run.card, sample, metrics)
            outputs.write_history(out, training.history)
        write_state(out, {"run": stored, **training.state()})

    return save


def _finished(
    run: Run,
    data: Data,
    training: Training,
    val_batches: Batches,
    accelerator: Accelerator,
    progress: Progress,
    out: Path,
) -> TrainResult:
    """Judge the best checkpoint anew, from the disk, and write what is there to be looked at."""
    accelerator.wait_for_everyone()
    path = out / outputs.BEST
    begun = time.monotonic()
    metrics: dict[str, float] = {}
    written: list[Path] = []
    if len(data.val):
        network = from_checkpoint(files.load(path)).to(accelerator.device)
        to_input = _to_input(accelerator, run.card.preprocess, channels_last=False)
        judged: Judged = judge_all(network, val_batches, accelerator, to_input)
        model = f"{run.card.arch.name} {run.card.width:g}"
        report = measure(judged, run.card.labels, model=model, data=data.name, problems=data.problems)
        metrics = {"top1": report.top1, "top5": report.top5, "loss": report.loss or 0.0}
    seconds = training.seconds + time.monotonic() - begun
    if accelerator.is_main_process:
        written.append(outputs.write_curves(out, training.history))
        if len(data.val):
            page = outputs.write_page(
                out,
                replace(report, seconds=seconds),
                judged,
                data,
                history=training.history,
                recipe=run.recipe.to_json(),
                command=f"{run.request.command} --out {out}",
            )
            written.insert(0, page)
    return TrainResult(
        checkpoint=path,
        metrics=metrics,
        seconds=seconds,
        model=f"{run.card.arch.name} {run.card.width:g} at {'x'.join(map(str, run.card.resolution))}",
        data=data.name,
        epochs=training.epoch,
        images=len(data.val),
        files=tuple(written),
        problems=data.problems,
    )


def _to_input(accelerator: Accelerator, preprocess: Preprocess, *, channels_last: bool) -> Callable[[Tensor], Tensor]:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def to_input(images: Tensor) -> Tensor:
        images = images.to(accelerator.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalize_on_device(images, preprocess)
        return images.contiguous(memory_format=memory_format)

    return to_input


def _run_facts(request: Request, data: Data) -> dict[str, Any]:
    """Return what the card keeps beside the recipe."""
    return {
        "command": request.command,
        "data": data.name,
        "images": len(data.train),
        "seed": request.seed,
        "val_fraction": None if data.own_val else request.val_fraction,
        "freeze": request.freeze,
    }


def _fingerprint(data: Data) -> str:
    """Return a digest of labels, split, names and targets: what must not change between sittings."""
    digest = hashlib.sha256(repr(data.labels).encode())
    for pictures in (data.train, data.val):
        digest.update(pictures.targets.tobytes())
        for index in range(len(pictures)):
            digest.update(pictures.name(index).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()
