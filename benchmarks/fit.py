"""How far latency predictions are off, and whether what `fit` chooses keeps its budget.

    python -m benchmarks.fit latency RUNTIME PRECISION TABLE [networks] [draw]
    python -m benchmarks.fit choose RUNTIME TABLE [budgets]
    python -m benchmarks.fit small DATA OUT [epochs]

`latency` fills TABLE with general networks (96) and then measures 20 that are not in it, half published architectures
at some width and resolution, half out of the search's space, and compares; another word for draw draws others. The
engine compiles every shape once, which takes longer than timing it: of 96 networks it is given those that share most.
`choose` draws random budgets (10), lets `fit` choose as it does by default, which runs what it chooses, and by
predictions alone, and times what was chosen.
`small` asks for a network for 96x96 pictures in at most 64 KiB of activations and 350 KB of flash in int8, trains it on
DATA, quantizes it, and looks whether it is within both bounds. Run on a quiet machine.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mobilenets
from benchmarks.environment import Figure, write
from mobilenets import checkpoint
from mobilenets.arch import Op, Plan, plan
from mobilenets.bench.configuration import Configuration
from mobilenets.bench.probes import SIDES, WIDTHS, probes, published_architectures, searched
from mobilenets.bench.table import Table, shape, table_for, write_table
from mobilenets.bench.tabulate import Effort, tabulate
from mobilenets.engine import memory
from mobilenets.engine.choices import choices
from mobilenets.engine.folding import Layer
from mobilenets.engine.library import host
from mobilenets.engine.lowering import lower
from mobilenets.errors import InputError
from mobilenets.fit.choosing import say
from mobilenets.fit.latency import latency_model
from mobilenets.fit.result import Choice

if TYPE_CHECKING:
    from mobilenets.engine.int8_kernels import AnyKernel

GENERAL = 96
UNSEEN = 20
BUDGETS = 10
ATTEMPTS = 6


def main() -> None:
    """Run what was asked for."""
    what, first, second, *others = sys.argv[1:]
    if what == "latency":
        path, networks, draw = [*others, *("", str(GENERAL), "judged")[len(others) :]]
        latency(first, second, Path(path), int(networks), draw)
    elif what == "choose":
        choose(first, Path(second), int(others[0]) if others else BUDGETS)
    else:
        small(first, Path(second), int(others[0]) if others else None)


def unseen(seed: str) -> list[Plan]:
    """Return networks that no table has by default: half published ones, half searched ones."""
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    known = {shape(layout) for layout in islice(probes(), 1000)}
    found: list[Plan] = []
    while len(found) < UNSEEN:
        side = draw.choice(SIDES)
        if len(found) % 2:
            layout = plan(searched(draw), resolution=side)
        else:
            layout = plan(draw.choice(published_architectures()), width=draw.choice(WIDTHS), resolution=side)
        if shape(layout) not in known:
            found.append(layout)
            known.add(shape(layout))
    return found


def sharing(layouts: Sequence[Plan], number: int) -> list[Plan]:
    """Return so many networks that together need few of the engine's kernels; of the probes' three kinds, in turns."""
    machine = host().machine
    kernels = []
    for layout in layouts:
        network = lower(layout, {op.name: _nothing(op) for op in layout.ops}, machine, choices(machine))
        kernels.append({call.kernel for call in network.calls})
    known: set[AnyKernel] = set()
    taken: list[int] = []
    while len(taken) < number:
        left = [each for each in range(len(taken) % 3, len(layouts), 3) if each not in taken]
        taken.append(min(left, key=lambda each: len(kernels[each] - known)))
        known |= kernels[taken[-1]]
    return [layouts[each] for each in taken]


def _nothing(op: Op) -> Layer:
    """Return weights of an operation: zeros, as shapes alone count."""
    sources = op.source_shape[0] // op.groups
    shape_of = (op.out[0], sources) if op.kind == "linear" else (op.out[0], sources, op.kernel, op.kernel)
    return Layer(np.zeros(shape_of, np.float32), np.zeros(op.out[0], np.float32))


def latency(runtime: str, precision: str, path: Path, networks: int, draw: str) -> None:
    """Measure, predict, compare."""
    configuration = Configuration(runtime, precision, 1)
    general = list(islice(probes(), max(networks, GENERAL)))
    general = sharing(general, networks) if runtime == "engine" else general[:networks]
    table = tabulate(table_for(path), configuration, general, path=path, say=say)
    model = latency_model(table.of(configuration))
    asked = unseen(draw)
    apart = path.with_suffix(f".{draw}.json")
    own = table_for(apart)
    for _ in range(ATTEMPTS):  # what was disturbed is measured again
        own = tabulate(own, configuration, asked, path=apart, effort=Effort(rounds=15), say=say)
    measured = own.of(configuration)
    rows: list[dict[str, Any]] = []
    for each in measured:
        predicted = model.predict(each.layout)
        layout = each.layout
        name = f"{layout.arch.name} {layout.width:g} at {layout.resolution[0]}"
        rows.append(
            {"network": name, "predicted_ms": predicted, "measured_ms": each.ms, "off": predicted / each.ms - 1}
        )
        print(f"{name:<45} {predicted:8.3f} {each.ms:8.3f} ms {100 * rows[-1]['off']:+6.1f} %")
    off = sorted(abs(row["off"]) for row in rows)
    what = f"latency predictions of {len(rows)} unseen networks, {runtime} {precision}, 1 thread"
    figures = [
        Figure(f"{what}: median error", round(100 * statistics.median(off), 1), "%", "at most 5 %"),
        Figure(f"{what}: worst error", round(100 * off[-1], 1), "%", "at most 15 %"),
    ]
    assert model.error is not None
    details = {"networks": rows, "table": len(table.of(configuration)), "left_out_median": model.error.median}
    print(write(f"fit_latency_{runtime}_{precision}", figures, details))


def choose(runtime: str, path: Path, budgets: int) -> None:
    """Let `fit` choose for random budgets, and time what it chose."""
    draw = random.Random("budgets")  # noqa: S311 - a sample, no secret
    rows: list[dict[str, Any]] = []
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        own = write_table(table_for(path), Path(folder) / "table.json")  # what is run is added to it
        while len(rows) < budgets:
            budget: dict[str, Any] = {
                "latency_ms": round(draw.uniform(0.8, 6.0), 2),
                "ram": f"{draw.choice((256, 512, 1024, 2048, 8192))}KiB",
                "flash": f"{draw.choice((1, 2, 4, 8, 16))}MB",
            }
            fixed: dict[str, Any] = {"runtime": runtime, "out": Path(folder), **budget}
            begun = time.perf_counter()
            try:
                predicted = mobilenets.fit("mobilenet_v2", table=path, unmeasured=True, **fixed)
            except InputError:
                continue
            seconds.append(time.perf_counter() - begun)
            run = mobilenets.fit("mobilenet_v2", table=own, **fixed)
            row: dict[str, Any] = {**budget}
            for name, result in (("predicted", predicted), ("run", run)):
                row[name] = {**result.chosen.to_json(), "measured_ms": measured_ms(runtime, result.chosen)}
                row[name]["inside"] = row[name]["measured_ms"] <= budget["latency_ms"]
                print(f"{budget} {name}: {row[name]['model']} {row[name]['measured_ms']:.2f} ms, {row[name]['inside']}")
            rows.append(row)
    kept = {name: sum(row[name]["inside"] for row in rows) for name in ("run", "predicted")}
    figures = [
        Figure(f"budgets kept by what fit chose, {runtime}", kept["run"], f"of {budgets}", "at least 9 of 10"),
        Figure(f"budgets kept by predictions alone, {runtime}", kept["predicted"], f"of {budgets}", "reported"),
        Figure("choosing from the whole grid", round(statistics.median(seconds), 2), "s", "under 2 s"),
    ]
    print(write(f"fit_choose_{runtime}", figures, {"budgets": rows, "seconds": seconds}))


def measured_ms(runtime: str, chosen: Choice) -> float:
    """Time a network by itself, in no table."""
    layout = plan(mobilenets.ARCHITECTURES[chosen.model], width=chosen.width, resolution=chosen.resolution)
    configuration = Configuration(runtime, chosen.precision, 1)
    timed = tabulate(Table(), configuration, [layout], effort=Effort(rounds=15)).networks[configuration]
    return timed[0].ms


def small(data: str, out: Path, epochs: int | None) -> None:
    """Fit, train, quantize, and weigh the result."""
    ram, flash = 64 * 1024, 350_000
    found = mobilenets.fit(
        "mobilenet_v2",
        data,
        resolution=96,
        ram=ram,
        flash=flash,
        precision="int8",
        runtime="reference",
        out=out / "fit",
    )
    print(found, flush=True)
    chosen = found.chosen
    trained = mobilenets.train(
        data, model=chosen.model, width=chosen.width, resolution=chosen.resolution, epochs=epochs, out=out / "train"
    )
    made = mobilenets.quantize(str(trained.checkpoint), data=data, out=out / "int8.safetensors", even_if_collapsed=True)
    layout = checkpoint.read_card(made.checkpoint).plan
    size, peak = made.checkpoint.stat().st_size, memory.peak(layout, "int8")
    what = f"{chosen.model} {chosen.width:g} at 96x96, int8, for 64 KiB of activations and 350 KB of flash"
    figures = [
        Figure(f"{what}: activations", round(peak / 1024, 1), "KiB", "at most 64"),
        Figure(f"{what}: its file", round(size / 1000, 1), "KB", "at most 350"),
        Figure(f"{what}: top-1 on {Path(data).name}", round(100 * (made.after.top1 or 0.0), 2), "%", "reported"),
    ]
    print(write("fit_small", figures, {"fit": found.to_json(), "int8": made.to_json()}))


if __name__ == "__main__":
    main()
