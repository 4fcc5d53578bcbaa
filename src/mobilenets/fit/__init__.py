"""The `fit` verb: name the device's budget, get the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobilenets.errors import InputError, needing
from mobilenets.files import need_folder
from mobilenets.fit.result import Choice, FitResult

if TYPE_CHECKING:
    from mobilenets.fit.request import Request

__all__ = ["Choice", "FitResult", "fit"]

Method = Literal["choose", "adapt", "search"]
Memory = Literal["layerwise", "fused", "streamed"]


def fit(
    model: str,
    data: str | None = None,
    *,
    latency_ms: float | None = None,
    ram: str | int | None = None,
    flash: str | int | None = None,
    multiply_adds: str | int | None = None,
    memory: Memory = "layerwise",
    runtime: str | None = None,
    precision: Literal["float32", "int8"] | None = None,
    threads: int = 1,
    method: Method = "choose",
    minutes: float | None = None,
    table: Path | None = None,
    resolution: int | None = None,
    only: bool = False,
    unmeasured: bool = False,
    epochs: int | None = None,
    short_steps: int = 40,
    seed: int = 0,
    out: Path = Path("runs/fit"),
    resume: bool = False,
    root: Path | None = None,
    val_fraction: float = 0.2,
    strict: bool = False,
    workers: int | None = None,
) -> FitResult:
    """Find the network that is best within a device's budget.

    choose ranks every published architecture, width, resolution and precision by the accuracy expected on ImageNet;
    seconds, and nothing is trained. adapt narrows a trained checkpoint block by block until it is within the budget
    (NetAdapt, arXiv:1804.03230). search trains many networks as one, that share their weights, tries them, and adapts
    the best. Latencies are predicted from a table that is measured on this machine once, or with
    mobilenets bench --table on another.

    Args:
        model: choose: an architecture, or a checkpoint for its number of classes. adapt: a float32 checkpoint. search:
            an architecture or a checkpoint, whose resolution and weights are taken.
        data: What to train on, for adapt and search: a folder, a CSV, an .npz, or a known name. choose only counts its
            classes.
        latency_ms: The most milliseconds for one picture.
        ram: The most bytes of activations at a time, such as 256KiB.
        flash: The most bytes of the checkpoint, such as 1MB.
        multiply_adds: The most multiply-adds for one picture, such as 100M.
        memory: How activations lie in RAM: layerwise, fused or streamed; streamed is what export --to native takes.
        runtime: What runs it: openvino, onnx, litert, ...; the first that is installed by default.
        precision: float32 or int8; choose takes either. What adapt and search train is float32, and meant to be
            quantized where int8 is asked for: latency, RAM and flash are then those of int8.
        threads: How many it may use.
        method: choose, adapt or search.
        minutes: Stop after this long, with the best found so far.
        table: A latency table of the device, made there by mobilenets bench --table; without it, this machine's own.
        resolution: choose: pictures of this side alone.
        only: choose: the named architecture alone.
        unmeasured: Do not run the result to see whether the prediction holds.
        epochs: adapt, search: how long the result is trained at the end; the recipe says if you do not.
        short_steps: adapt: training steps for each proposal.
        seed: Every random number follows from it.
        out: A folder for frontier.png and, of adapt and search, the checkpoint, the trace and search.html.
        resume: Go on with what was interrupted in OUT.
        root: Where mnist, fashion_mnist or cifar10 are.
        val_fraction: Share held back for validation where the data has no such part.
        strict: Stop at the first picture that cannot be used.
        workers: Processes that prepare pictures.

    Raises:
        InputError: nothing fits: says which bound binds and what would fit; or a flag that makes no sense.
        MobileNetsError: one line that names the file or the flag, and the remedy.
    """
    from mobilenets.fit.budget import Budget, read_bytes, read_count
    from mobilenets.fit.request import Request

    budget = Budget(
        latency_ms, read_bytes(ram, "--ram"), read_bytes(flash, "--flash"), read_count(multiply_adds, "--multiply-adds")
    )
    request = Request(
        model=model,
        data=data,
        budget=budget,
        memory=memory,
        method=method,
        runtime=runtime,
        precision=precision,
        threads=threads,
        minutes=minutes,
        table=table,
        resolution=resolution,
        only=only,
        unmeasured=unmeasured,
        epochs=epochs,
        short_steps=short_steps,
        seed=seed,
        out=Path(out),
        resume=resume,
        root=root,
        val_fraction=val_fraction,
        strict=strict,
        workers=workers,
    )
    return _run(request)


def _run(request: Request) -> FitResult:
    """Choose, or train; see :func:`fit`."""
    if request.method == "choose":
        from mobilenets.fit.choosing import chosen

        return chosen(request)
    if request.data is None:
        raise InputError(f"--method {request.method} trains: name the data, as in mobilenets fit {request.model} DATA")
    with needing("train"):
        from mobilenets.fit.training import trained
    need_folder(request.out)
    return trained(request)
