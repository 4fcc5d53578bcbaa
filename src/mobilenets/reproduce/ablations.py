"""V2's section 6.3 on small data: linear bottlenecks, where shortcuts go, and the expansion, at equal budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from mobilenets.arch import arch_named, cost, plan
from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.errors import InputError
from mobilenets.machine import describe_machine
from mobilenets.reproduce.outcome import Reproduction, Row, Settings
from mobilenets.reproduce.training import Run
from mobilenets.reproduce.trainings import Budget, file_name, run_all
from mobilenets.text import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 to 9 degrees of freedom."""
BASE = "linear, shortcut between bottlenecks, t = 6"
RELU6 = "ReLU6 after the bottleneck"
EXPANSIONS, NONE = "shortcut between expansions", "no shortcut"
FACTORS = tuple(range(1, 11))
VARIANTS = {
    BASE: "",
    RELU6: "bottleneck_activation=relu6",
    EXPANSIONS: "shortcut=expansion",
    NONE: "shortcut=none",
    **{f"t = {factor}": f"expansion={factor}" for factor in FACTORS if factor != 6},
}
"""What is trained: the network's name, and the options of its architecture."""
MOST_SEEDS = len(STUDENT) + 1
DIGITS_SEEDS, OTHER_SEEDS = 5, 3
DIGITS_EPOCHS, OTHER_EPOCHS = 8, 8
OTHER_PICTURES = 5000
"""So many are trained on, and as many judged with, where there are more: a choice, so that it takes minutes."""
OTHER_SIDE = 24
"""Pixels: the smallest that the network's three strides take to its last map, 3x3. At 16 its stem would not stride."""


Runs = dict[str, list[Run]]
"""What every variant reached, seed by seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval (None for a single value)."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ± {self.half:.3f}")


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values, with Student's interval.

    >>> print(estimate([1.0, 2.0, 3.0]))
    2.000 ± 2.484
    """
    count = len(values)
    half = None if count < 2 else STUDENT[count - 2] * stdev(values) / sqrt(count)
    return Estimate(fmean(values), half)


def budget_for(settings: Settings) -> Budget:
    """Return what every training gets: small by default, the same for all."""
    digits = settings.data == "digits"
    seeds = settings.seeds or (DIGITS_SEEDS if digits else OTHER_SEEDS)
    if seeds > MOST_SEEDS:
        raise InputError(f"--seeds must be at most {MOST_SEEDS} here, not {seeds}")
    model = "mobilenet_v2_mnist"
    if digits:
        epochs = settings.epochs or DIGITS_EPOCHS
        return Budget("digits", None, model, 0.25, epochs, seeds, side=8, channels=1, pictures=settings.pictures)
    pictures, epochs = settings.pictures or OTHER_PICTURES, settings.epochs or OTHER_EPOCHS
    return Budget(settings.data, settings.root, model, 0.5, epochs, seeds, side=OTHER_SIDE, pictures=pictures)


def reproduce_ablations(settings: Settings) -> Reproduction:
    """Train every variant with every seed, or take up where that was interrupted, and compare."""
    budget = budget_for(settings)
    name = "ablations" if settings.data == "digits" else f"ablations-{file_name(Path(settings.data).name)}"
    runs = run_all(VARIANTS, budget, None if settings.out is None else settings.out / name)
    seconds = sum(run.seconds for each in runs.values() for run in each)
    machine = describe_machine()
    return Reproduction(
        name=name,
        title=f"Linear bottlenecks, shortcuts and expansion, on {Path(settings.data).name}",
        says=(
            "arXiv:1801.04381 section 6.3 and Figure 6, on ImageNet: a ReLU6 after the bottleneck costs accuracy, "
            "shortcuts between bottlenecks are better than between expansions, and these better than none. Section 4: "
            "expansions of 5 to 10 are nearly alike. The figure prints no numbers."
        ),
        rows=(*_levels(runs, budget), *_differences(runs), *_expansion(runs)),
        notes=_notes(runs, budget),
        picture=_draw(runs),
        caption="Validation top-1 after equal budgets: every seed (small), mean and 95 % interval",
        measured={
            "processor": machine["processor"],
            "time": f"{duration(seconds)} of trainings, each on one core",
            "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        },
        command=_command(settings),
    )


def _command(settings: Settings) -> str:
    """Return the command that does it again: data by their name, wherever they lie."""
    chosen = {"epochs": settings.epochs, "seeds": settings.seeds, "pictures": settings.pictures}
    data = "" if settings.data == "digits" else f" --data {Path(settings.data).name}"
    options = "".join(f" --{flag} {value}" for flag, value in chosen.items() if value is not None)
    return f"mobilenets reproduce ablations{data}{options} --out DIR"


def _notes(runs: Runs, budget: Budget) -> tuple[str, ...]:
    many = f", {budget.pictures:,} pictures to train on and as many to judge with" if budget.pictures else ""
    return (
        (
            f"{budget.model} (V2 up to its 64 channels) at width {budget.width:g} on {Path(budget.data).name} at "
            f"{budget.side}x{budget.side}: {budget.epochs} epochs{many}, {budget.seeds} seed(s), the recipe "
            "`scratch`, judged once, at the end. A seed fixes the pictures, their order and the first weights, so "
            "differences are taken seed by seed; ± is a 95 % interval (Student's) over the seeds."
        ),
        "Equal budgets are equal epochs: the networks with another t have other costs, which the table states.",
        (
            "What a budget this small can show: effects on how fast a network learns, if they are larger than "
            "the intervals. What it cannot: the few points that the paper found after hundreds of epochs of "
            "ImageNet, or that an order which does not come out here is wrong there. `same` is empty where the "
            "interval holds 0; of twenty such intervals one errs."
        ),
        _verdict(runs),
        (
            "On other data: `--data cifar10 --root FOLDER`, or `--data FOLDER` with pictures in it. What it will take "
            "is said before it begins; interrupted, the same command with the same `--out` goes on."
        ),
    )


def _levels(runs: Runs, budget: Budget) -> list[Row]:
    rows = []
    for name, options in VARIANTS.items():
        arch = arch_named(budget.model + (f":{options}" if options else ""))
        layout = plan(arch, width=budget.width, resolution=budget.side, in_channels=budget.channels)
        madds = cost(layout).multiply_adds / 1e6
        top1 = estimate([100 * run.top1 for run in runs[name]])
        loss = estimate([run.loss for run in runs[name]])
        note = f"{madds:.1f} M multiply-adds"
        rows.append(Row(name, f"{_points(top1)} %, loss {loss}", note=note, section="Top-1 and loss, each network"))
    return rows


def _points(value: Estimate) -> str:
    return f"{value.mean:.2f}" + ("" if value.half is None else f" ± {value.half:.2f}")


COMPARED = (
    ("linear - ReLU6", BASE, RELU6),
    ("between bottlenecks - between expansions", BASE, EXPANSIONS),
    ("between bottlenecks - none", BASE, NONE),
    ("between expansions - none", EXPANSIONS, NONE),
)


def _differences(runs: Runs) -> list[Row]:
    rows = []
    for what, better, worse in COMPARED:
        for measure, unit, difference in (
            ("top-1", "points", _paired(runs, better, worse, lambda run: 100 * run.top1)),
            ("loss", "nats, less is better", _paired(runs, worse, better, lambda run: run.loss)),
        ):
            shown = Estimate(difference.mean if measure == "top-1" else -difference.mean, difference.half)
            text = _points(shown) if measure == "top-1" else str(shown)
            section = "Differences, seed by seed"
            agrees = _decided(difference)
            rows.append(Row(f"{what}: {measure}", text, "first better", unit, agrees=agrees, section=section))
    return rows


def _paired(runs: Runs, first: str, second: str, measure: Callable[[Run], float]) -> Estimate:
    return estimate([measure(a) - measure(b) for a, b in zip(runs[first], runs[second], strict=True)])


def _decided(difference: Estimate) -> bool | None:
    """Say whether a difference is above 0; None where the interval leaves that open, or there is none."""
    if difference.half is None or abs(difference.mean) <= difference.half:
        return None
    return difference.mean > 0


def _factor(factor: int) -> str:
    return BASE if factor == 6 else f"t = {factor}"


def _expansion(runs: Runs) -> list[Row]:
    means = {factor: fmean(100 * run.top1 for run in runs[_factor(factor)]) for factor in FACTORS}
    wide = [means[factor] for factor in FACTORS if factor >= 5]
    section = "Expansion"
    best = max(means, key=lambda factor: means[factor])
    rows = [
        Row("t = 5 to 10: best mean - worst mean", max(wide) - min(wide), "nearly identical", "points", section=section)
    ]
    for narrow in (1, 2, 3, 4):
        gain = _paired(runs, BASE, _factor(narrow), lambda run: 100 * run.top1)
        rows.append(Row(f"t = 6 - t = {narrow}: top-1", _points(gain), None, "points", section=section))
    return [*rows, Row("best t", best, "5 to 10", section=section)]


def _verdict(runs: Runs) -> str:
    """Say in words whether the paper's order came out."""
    said = []
    for what, better, worse in COMPARED[:3]:
        top1 = _decided(_paired(runs, better, worse, lambda run: run.top1))
        loss = _decided(_paired(runs, worse, better, lambda run: run.loss))
        words = {True: "came out", False: "came out the other way round", None: "is not decided"}
        said.append(f"{what}: {words[top1]} in top-1, {words[loss]} in loss")
    return f"The paper's order here: {'; '.join(said)}."


def _draw(runs: Runs) -> bytes:
    with figure_style() as figure_class:
        figure = figure_class(figsize=(9.2, 3.6), layout="constrained")
        grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.5))
        left = figure.add_subplot(grid[0, 0])
        right = figure.add_subplot(grid[0, 1], sharey=left)
        names = {BASE: "V2", RELU6: "ReLU6\nbottleneck", EXPANSIONS: "shortcut\nexpansions", NONE: "no\nshortcut"}
        _dots(left, list(range(len(names))), [runs[name] for name in names])
        left.set_xticks(range(len(names)), list(names.values()), fontsize=8)
        left.set_ylabel("validation top-1, %")
        left.margins(x=0.15)
        left.set_title("linear, and where the shortcut goes", loc="left", fontsize=9, fontweight="bold")
        _dots(right, list(FACTORS), [runs[_factor(factor)] for factor in FACTORS])
        right.set_xticks(FACTORS)
        right.set_xlabel("expansion t")
        right.set_title("how far the block expands", loc="left", fontsize=9, fontweight="bold")
        left.set_ylim(top=min(101.0, left.get_ylim()[1]))  # of an interval, what lies above 100 % means nothing
        for axes in (left, right):
            axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(length=0)
        return to_png(figure)


def _dots(axes: Axes, places: list[int], groups: list[list[Run]]) -> None:
    for place, group in zip(places, groups, strict=True):
        values = [100 * run.top1 for run in group]
        found = estimate(values)
        axes.plot([place + 0.16] * len(values), values, ".", color=FAINT, markersize=4)
        axes.errorbar(
            place, found.mean, yerr=found.half or 0, fmt="o", color=RIGHT, ecolor=WRONG, markersize=5, capsize=3
        )
