"""What `fit --method choose` does: the device's table, the grid, the choice, the picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mobilenets.arch import ARCHITECTURES, arch_named
from mobilenets.bench.configuration import computes, timed_runtimes
from mobilenets.errors import InputError
from mobilenets.fit.candidates import PRECISIONS, Grid
from mobilenets.fit.choose import choose
from mobilenets.fit.device import Device, device
from mobilenets.fit.latency import LatencyModel
from mobilenets.fit.request import Request
from mobilenets.fit.result import FitResult


def chosen(request: Request) -> FitResult:
    """Choose from everything that was published; see :func:`mobilenets.fit`."""
    from mobilenets.runtime import choose as runtime_named

    name, classes, channels = _named(request)
    runtime = runtime_named(request.runtime, precision=request.precision or "int8")
    precisions = tuple(each for each in PRECISIONS if request.precision in (None, each) and computes(runtime, each))
    if not precisions:
        raise InputError(f"--runtime {runtime} does not compute in {request.precision}: choose another")
    speed = _speed(request, runtime, precisions)
    latency: dict[str, LatencyModel] = {}
    for each in precisions if speed is not None else ():
        assert speed is not None
        model = speed.model(each)
        if model is not None:
            latency[each] = model
    if speed is not None and request.budget.latency_ms is not None:
        precisions = tuple(each for each in precisions if each in latency)
    grid = Grid(
        models=(name,) if request.only else (),
        sides=() if request.resolution is None else (request.resolution,),
        precisions=precisions,
        classes=classes,
        in_channels=channels,
        memory=request.memory,
        latency=latency,
    )
    result = choose(name, grid, request.budget, speed, measure=not request.unmeasured)
    return written(result, request.out)


def _named(request: Request) -> tuple[str, int, int]:
    """Return an architecture's name, and how many classes and input channels are wanted: those of the data, if any."""
    model = request.model
    if model.partition(":")[0] in ARCHITECTURES and not Path(model).is_file():
        arch = arch_named(model)
        name, classes, channels = model, arch.classes, arch.in_channels
    else:
        from mobilenets import runtime

        card = runtime.resolve(model).card
        name, classes, channels = card.arch.name, len(card.labels), card.in_channels
    if request.data is not None:
        from mobilenets.data import open_data

        opened = open_data(request.data, root=request.root, strict=request.strict)
        classes, channels = len(opened.labels), opened.train.channels
    return name, classes, channels


def _speed(request: Request, runtime: str, precisions: tuple[str, ...]) -> Device | None:
    """Return the device; its table is measured where a latency is asked for and none was measured yet."""
    found = device(runtime, request.threads, request.table, say, request.minutes)
    if request.budget.latency_ms is None:
        return found if any(found.table.of(found.configuration(each)) for each in precisions) else None
    for each in precisions:
        if found.own and found.model_is_missing(each):
            if request.runtime is None:
                timed_runtimes()  # raises where the reference alone is installed: nobody wants to wait for that
            found.fill(each)
    if not any(found.table.of(found.configuration(each)) for each in precisions):
        raise InputError(
            f"{found.path}: nothing is measured in {runtime} with {request.threads} threads: measure it on the device"
            f" with mobilenets bench --table FILE --runtimes {runtime}"
        )
    return found


def written(result: FitResult, out: Path) -> FitResult:
    """Write frontier.png, where Matplotlib is installed, and fit.json."""
    from mobilenets.files import write_atomically

    files = []
    if find_spec("matplotlib") is not None:
        from mobilenets.fit.drawing import draw_frontier

        files.append(write_atomically(out / "frontier.png", draw_frontier(result)))
    else:
        note = "no frontier.png: Matplotlib is not installed: pip install 'mobilenets[train]'"
        result = replace(result, notes=(*result.notes, note))
    result = replace(result, files=(*result.files, *files, out / "fit.json"))
    write_atomically(out / "fit.json", json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n")
    return result


def say(line: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
