"""What adapting and searching are worth, beside the plain width multiplier.

    python -m benchmarks.fitting table START OUT [share]
    python -m benchmarks.fitting adapt START DATA OUT EPOCHS SHORT_STEPS
    python -m benchmarks.fitting width START DATA OUT EPOCHS
    python -m benchmarks.fitting search START DATA OUT EPOCHS SHORT_STEPS
    python -m benchmarks.fitting compare START DATA OUT

START is a trained float32 checkpoint, OUT a folder that all of them share. `table` measures START and networks like it,
and sets the budget, a share (0.6) of START's time, ONNX Runtime, float32, 1 thread. `adapt` and `search` fit START to
it. `width` is the other way: the largest width multiplier that is within the budget when measured, its weights START's
(the channels go by the same criterion as in adapting, all at once), trained for EPOCHS: in fairness, those of `adapt`
and as many more as the brief trainings of the network that was kept took. `compare` times all of them in turns
and evaluates them. Every part goes on where it was interrupted. `table` and `compare` want a quiet machine.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets import checkpoint as files
from mobilenets.arch import Plan, plan
from mobilenets.bench.configuration import Configuration
from mobilenets.bench.table import Table, shape, table_for
from mobilenets.bench.tabulate import Effort, tabulate
from mobilenets.checkpoint import Checkpoint
from mobilenets.data import open_data
from mobilenets.fit.choosing import say
from mobilenets.fit.device import device
from mobilenets.fit.supernet import in_order, leading
from mobilenets.fit.tuning import Workbench
from mobilenets.nn.network import build
from mobilenets.train import processes

ONNX = Configuration("onnx", "float32", 1)
TRIED = 12
"""Widths below START's that are measured, in steps of a fortieth."""
THOROUGH = Effort(rounds=15)
FINAL = Effort(rounds=60)
ATTEMPTS = 4


def main() -> None:
    """Run the part that was asked for."""
    what, start, *others = sys.argv[1:]
    if what == "table":
        budget(Path(start), Path(others[0]), float(others[1]) if len(others) > 1 else 0.6)
        return
    data, out = others[0], Path(others[1])
    match what:
        case "adapt" | "search":
            fitted(what, start, data, out, int(others[2]), int(others[3]))
        case "width":
            width(Path(start), data, out, int(others[2]))
        case _:
            compare(Path(start), data, out)


def budget(start: Path, out: Path, share: float) -> None:
    """Fill the table around START, and write down the budget and the width that is within it."""
    path = out / "table.json"
    layout = files.read_card(start).plan
    widths = [_at(layout, layout.width - (index + 1) / 40) for index in range(TRIED)]
    tabulate(table_for(path), ONNX, [layout, *widths], path=path, effort=THOROUGH, say=say)
    own = device(ONNX.runtime, ONNX.threads, path, say)
    own.fill_around(ONNX.precision, layout)
    table = own.table
    times = {shape(each.layout): each.ms for each in table.of(ONNX)}
    if missing := table.missing(ONNX, [layout, *widths]):
        raise SystemExit(f"{len(missing)} networks were disturbed: once more")
    bound = round(share * times[shape(layout)], 4)
    inside = [each for each in widths if times[shape(each)] <= bound]
    best = max(inside, key=lambda each: times[shape(each)])
    found = {
        "start_ms": times[shape(layout)],
        "budget_ms": bound,
        "width": best.width,
        "width_ms": times[shape(best)],
        "widths_ms": {f"{each.width:g}": times[shape(each)] for each in widths},
    }
    (out / "budget.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


def _at(layout: Plan, multiplier: float) -> Plan:
    """Return START's table at another width."""
    channels = layout.in_channels
    return plan(
        layout.arch, width=multiplier, resolution=layout.resolution, classes=layout.classes, in_channels=channels
    )


def fitted(method: Any, start: str, data: str, out: Path, epochs: int, short_steps: int) -> None:
    """Adapt or search, to the budget."""
    found = json.loads((out / "budget.json").read_text(encoding="utf-8"))
    folder = out / method
    result = mobilenets.fit(
        start,
        data,
        method=method,
        latency_ms=found["budget_ms"],
        runtime=ONNX.runtime,
        table=out / "table.json",
        epochs=epochs,
        short_steps=short_steps,
        out=folder,
        resume=(folder / "fit-state.json").exists(),
        unmeasured=True,
    )
    print(result)


def width(start: Path, data: str, out: Path, epochs: int) -> None:
    """Narrow START to a width multiplier all at once, and train it."""
    found = json.loads((out / "budget.json").read_text(encoding="utf-8"))
    path, folder = out / "width.safetensors", out / "width"
    if not path.exists():
        checkpoint = files.load(start)
        opened = open_data(data, labels=checkpoint.card.labels)
        workbench = Workbench(opened, checkpoint.card, 0, None, processes.accelerator())
        files.save(_narrow(workbench, checkpoint, found["width"]), path)
    resume = (folder / "state.pt").exists()
    print(mobilenets.train(data, model=str(path), epochs=epochs, out=folder, compile="off", resume=resume))


def _narrow(workbench: Workbench, checkpoint: Checkpoint, multiplier: float) -> Checkpoint:
    """Return START at another width: of every output the channels that matter most."""
    target = _at(checkpoint.card.plan, multiplier)
    ordered = in_order(checkpoint, workbench.watch(checkpoint))
    tensors = {
        name: leading(torch.from_numpy(ordered[name]), tuple(value.shape)).contiguous().numpy()
        for name, value in build(target).state_dict().items()
        if name in ordered
    }
    return Checkpoint(replace(checkpoint.card, width=multiplier, metrics=()), tensors)


def compare(start: Path, data: str, out: Path) -> None:
    """Time everything there is in turns, evaluate it, and write the figures."""
    folders = {name: out / name for name in ("adapt", "search", "width")}
    paths = {"start": start}
    paths |= {name: next(folder.glob("**/best.safetensors")) for name, folder in folders.items() if (folder).exists()}
    layouts = {name: files.read_card(path).plan for name, path in paths.items()}
    own = Table()
    for _ in range(ATTEMPTS):
        own = tabulate(own, ONNX, layouts.values(), effort=FINAL, say=say)
    times = {shape(each.layout): each.ms for each in own.of(ONNX)}
    rows: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        report = mobilenets.evaluate(str(path), data)
        rows[name] = {"ms": times[shape(layouts[name])], "top1": report.top1}
        print(name, rows[name], flush=True)
    found = json.loads((out / "budget.json").read_text(encoding="utf-8"))
    print(write("fit_adapt", _figures(rows), {"budget": found, "networks": rows}))


def _figures(rows: dict[str, dict[str, Any]]) -> list[Figure]:
    begun = rows["start"]
    figures = []
    for name in [each for each in ("adapt", "search") if each in rows]:
        row = rows[name]
        share, points = 100 * row["ms"] / begun["ms"], 100 * (row["top1"] - begun["top1"])
        figures += [
            Figure(f"{name}: measured latency beside the start's", round(share, 1), "%", "at most 60 %"),
            Figure(f"{name}: top-1 beside the start's", round(points, 2), "points", "at least -1.0"),
        ]
        if "width" in rows:
            over = 100 * (row["top1"] - rows["width"]["top1"])
            figures.append(Figure(f"{name}: top-1 above the width's", round(over, 2), "points", "at least 0.5"))
    return figures


if __name__ == "__main__":
    main()
