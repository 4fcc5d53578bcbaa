"""V1 against V2 on this machine: time per operator beside multiply-adds and bytes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mobilenets.arch import ARCHITECTURES, Op, cost, plan
from mobilenets.arch.cost import BYTES, multiply_adds, parameters
from mobilenets.draw import FAINT, INK, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.machine import describe_machine
from mobilenets.nn.network import build
from mobilenets.reproduce.outcome import Reproduction, Row, Settings
from mobilenets.reproduce.probes import Limits, measure_limits, threads_set
from mobilenets.runtime.torch_runtime import fold_batch_norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS = {"mobilenet_v1": "MobileNetV1", "mobilenet_v2": "MobileNetV2"}
WARM_UP, REPEATS = 5, 40
REST = "additions, pooling, Python"
KINDS = ("3x3 dense", "3x3 depthwise", "1x1", "classifier", REST)
PIXEL_MS = {"mobilenet_v1": "113", "mobilenet_v2": "75"}  # arXiv:1801.04381 Table 4


@dataclass(frozen=True)
class Timed:
    """One operation's median time, in milliseconds."""

    op: Op
    milliseconds: float

    @property
    def bytes_moved(self) -> int:
        """What must be read and written at least once, float32: the input, the weights, the output."""
        return BYTES["float32"] * (prod(self.op.source_shape) + parameters(self.op) + prod(self.op.out))

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte."""
        return multiply_adds(self.op) / self.bytes_moved

    @property
    def gigamadds(self) -> float:
        """Billion multiply-adds a second."""
        return multiply_adds(self.op) / self.milliseconds / 1e6


@dataclass(frozen=True)
class Profile:
    """A network's median time, the medians of its operations, and of everything else (milliseconds)."""

    median_ms: float
    ops: tuple[Timed, ...]
    rest_ms: float

    def of_kind(self, kind: str) -> list[Timed]:
        """Return the operations of one of KINDS."""
        return [timed for timed in self.ops if kind_of(timed.op) == kind]

    def spent_ms(self, kind: str) -> float:
        """Return the time of one of KINDS."""
        return self.rest_ms if kind == REST else sum(timed.milliseconds for timed in self.of_kind(kind))

    @property
    def sum_ms(self) -> float:
        """The sum of the medians: what a run takes in which nothing comes between."""
        return sum(self.spent_ms(kind) for kind in KINDS)


def kind_of(op: Op) -> str:
    """Say which of KINDS an operation with weights is."""
    if op.kind == "linear":
        return "classifier"
    if op.kernel == 1:
        return "1x1"
    return "3x3 depthwise" if op.depthwise else "3x3 dense"


def profile(name: str, threads: int, *, resolution: int = 224, repeats: int = REPEATS) -> Profile:
    """Time a network of random weights, BatchNorm folded, channels last, one picture, as a whole and op by op."""
    layout = plan(ARCHITECTURES[name], resolution=resolution)
    network = fold_batch_norm(build(layout).eval()).to(memory_format=torch.channels_last)
    modules = {op.name for op in layout.ops if op.kind in ("conv", "linear")}
    picture = torch.randn(1, *layout.input_shape).contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {}
    alone: list[float] = []
    rest: list[float] = []
    with threads_set(threads), torch.inference_mode():
        for _ in range(WARM_UP):
            network(picture)
        for _ in range(repeats):  # in turn, so that a disturbance meets both alike
            alone.append(_once(network, picture))
            hooks = [hook for op in layout.ops if op.name in modules for hook in _watch(network, op.name, seconds)]
            whole = _once(network, picture)
            rest.append(whole - sum(each[-1] for each in seconds.values()))
            for hook in hooks:
                hook.remove()
    ops = (Timed(op, 1000 * statistics.median(seconds[op.name])) for op in layout.ops if op.name in seconds)
    return Profile(
        median_ms=1000 * statistics.median(alone),
        ops=tuple(ops),
        rest_ms=max(0.0, 1000 * statistics.median(rest)),
    )


def _once(network: nn.Module, picture: torch.Tensor) -> float:
    begun = time.perf_counter()
    network(picture)
    return time.perf_counter() - begun


def _watch(network: nn.Module, name: str, seconds: dict[str, list[float]]) -> list[Any]:
    """Let a module write down how long each of its calls takes."""
    begun = 0.0

    def before(_module: nn.Module, _inputs: Any) -> None:
        nonlocal begun
        begun = time.perf_counter()

    def after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        seconds.setdefault(name, []).append(time.perf_counter() - begun)

    module = network.get_submodule(name)
    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def reproduce_v1_vs_v2(settings: Settings) -> Reproduction:
    """Measure V1 and V2 here, and say where the saving goes."""
    before = measure_limits(settings.threads)
    profiles = {name: profile(name, settings.threads) for name in MODELS}
    limits = before.best(measure_limits(settings.threads))  # a disturbance shall not lower the roof
    rows = [*_totals(profiles), *(row for name in MODELS for row in _kinds(name, profiles[name]))]
    section = f"What this machine can do at most, float32, {settings.threads} thread(s)"
    rows += [
        Row("matrix product", limits.gigamadds, unit="G multiply-adds/s", section=section),
        Row("copying through memory", limits.memory_gigabytes, unit="GB/s", section=section),
        Row("copying within the cache", limits.cache_gigabytes, unit="GB/s", section=section),
    ]
    rows += [row for name in MODELS for row in _operators(name, profiles[name])]
    machine = describe_machine()
    return Reproduction(
        name="v1-vs-v2",
        title="MobileNetV1 against V2: where the saving goes",
        says=(
            "arXiv:1801.04381 Table 4: V2 has 53 % of V1's multiply-adds and takes 66 % of its time on a phone. "
            "On many desktop processors and GPUs it is slower than V1 (11 ms for V1, 14 ms for V2 on a GTX 1050). "
            "Here both are timed on this machine, operator by operator."
        ),
        rows=tuple(rows),
        notes=(
            (
                f"Torch, float32, BatchNorm folded, channels last, one picture of 224x224, {REPEATS} runs; operators "
                "are medians. The whole is timed without anything watching, in turn with runs in which every "
                "operator is timed: where it is much "
                "more than their sum, something else ran on the machine."
            ),
            (
                "Bytes are the least that must move: input, weights and output once. A roofline is what a machine "
                "could reach, were it limited only by arithmetic (flat) or only by memory (slanted); a point far "
                "below both waits for something else: short rows, few channels, the start of a call."
            ),
            _where_it_goes(profiles),
        ),
        picture=_draw(profiles, limits),
        caption="Left: milliseconds by kind of operator. Right: every operator under this machine's roofline",
        measured={
            "processor": machine["processor"],
            "cores": f"{machine['cores']} core(s)",
            "threads": f"{settings.threads} thread(s)",
            "torch": f"torch {torch.__version__}",
            "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        },
    )


def _totals(profiles: dict[str, Profile]) -> list[Row]:
    section = "The whole network"
    rows = []
    for name, title in MODELS.items():
        total = cost(plan(ARCHITECTURES[name]))
        moved = sum(timed.bytes_moved for timed in profiles[name].ops)
        phone = "published: Pixel 1, another machine"
        rows += [
            Row(f"{title}: sum of its operators", profiles[name].sum_ms, PIXEL_MS[name], "ms", phone, section=section),
            Row(f"{title}: whole runs", profiles[name].median_ms, None, "ms", section=section),
            Row(f"{title}: multiply-adds", total.multiply_adds / 1e6, None, "M", section=section),
            Row(f"{title}: bytes", moved / 1e6, None, "MB", section=section),
            Row(f"{title}: convolutions", len(profiles[name].ops), None, section=section),
        ]
    ratio = profiles["mobilenet_v2"].sum_ms / profiles["mobilenet_v1"].sum_ms
    rows.append(Row("V2's sum, of V1's", ratio, f"{75 / 113:.2f}", note="on a phone", section=section))
    return rows


def _kinds(name: str, found: Profile) -> list[Row]:
    rows = []
    for kind in KINDS:
        chosen = found.of_kind(kind)
        spent = found.spent_ms(kind)
        madds, moved = sum(multiply_adds(timed.op) for timed in chosen), sum(timed.bytes_moved for timed in chosen)
        speed = f"; {madds / spent / 1e6:.1f} G multiply-adds/s, {moved / spent / 1e6:.1f} GB/s" if chosen else ""
        note = (
            f"{len(chosen)} of them, {madds / 1e6:.1f} M multiply-adds, {moved / 1e6:.1f} MB{speed}" if chosen else ""
        )
        share = 100 * spent / found.sum_ms
        text = f"{spent:.2f} ms ({share:.0f} %)"
        rows.append(Row(kind, text, note=note, section=f"{MODELS[name]}, by kind of operator"))
    return rows


def _operators(name: str, found: Profile) -> list[Row]:
    """Return a row for each operation: its time, multiply-adds and bytes."""
    return [
        Row(
            timed.op.name,
            timed.milliseconds,
            unit="ms",
            note=f"{multiply_adds(timed.op) / 1e6:.2f} M, {timed.bytes_moved / 1e6:.2f} MB",
            section=f"{MODELS[name]}, operator by operator: time, multiply-adds, bytes",
        )
        for timed in found.ops
    ]


def _where_it_goes(profiles: dict[str, Profile]) -> str:
    """Say in words which kinds of operators V2 saves time in, and which it pays with."""
    first, second = profiles["mobilenet_v1"], profiles["mobilenet_v2"]

    changes = [f"{kind} {second.spent_ms(kind) - first.spent_ms(kind):+.2f} ms" for kind in KINDS]
    verdict = "slower" if second.sum_ms > first.sum_ms else "faster"
    return f"On this machine V2 is {verdict} than V1. From V1 to V2: {', '.join(changes)}."


COLOURS = {"3x3 dense": INK, "3x3 depthwise": WRONG, "1x1": RIGHT, "classifier": "#5a9e6f", REST: FAINT}


def _draw(profiles: dict[str, Profile], limits: Limits) -> bytes:
    with figure_style() as figure_class:
        figure = figure_class(figsize=(10.5, 4.2), layout="constrained")
        grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.7))
        left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        _draw_times(left, profiles)
        _draw_roofline(right, profiles, limits)
        return to_png(figure)


def _draw_times(axes: Axes, profiles: dict[str, Profile]) -> None:
    """Draw a column for each network: its milliseconds, kind by kind, every large part with its number."""
    bottoms = dict.fromkeys(profiles, 0.0)
    most = max(found.sum_ms for found in profiles.values())
    for kind in KINDS:
        spent = [found.spent_ms(kind) for found in profiles.values()]
        bars = axes.bar(
            range(len(profiles)), spent, 0.6, bottom=list(bottoms.values()), color=COLOURS[kind], label=kind
        )
        named = [f"{value:.1f}" if value > most / 25 else "" for value in spent]
        axes.bar_label(bars, named, label_type="center", color="white", fontsize=8)
        bottoms = {name: bottoms[name] + value for name, value in zip(bottoms, spent, strict=True)}
    for place, (name, top) in enumerate(bottoms.items()):
        madds = cost(plan(ARCHITECTURES[name])).multiply_adds / 1e6
        axes.text(place, top, f"{top:.1f} ms\n{madds:.0f} M multiply-adds", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(profiles)), list(MODELS.values()))
    axes.set_ylabel("ms a picture")
    axes.set_ylim(0, 1.5 * most)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=7.5, loc="upper left", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_roofline(axes: Axes, profiles: dict[str, Profile], limits: Limits) -> None:
    """Draw every operator as a mark, V1's round and hollow, V2's triangles, in the colour of its kind."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for (name, found), marker in zip(profiles.items(), ("o", "^"), strict=True):
        for kind in KINDS[:-1]:
            chosen = found.of_kind(kind)
            axes.scatter(
                [timed.intensity for timed in chosen],
                [timed.gigamadds for timed in chosen],
                marker=marker,
                s=[14 + 60 * timed.milliseconds for timed in chosen],
                color=COLOURS[kind] if marker == "^" else "none",
                edgecolors=COLOURS[kind],
                alpha=0.75,
                linewidths=0 if marker == "^" else 1.1,
                label=f"{MODELS[name][-2:]} {kind}",
            )
    intensities = [2.0 ** (step / 4) for step in range(-12, 33)]
    for speed, style, label in (
        (limits.memory_gigabytes, "-", f"memory {limits.memory_gigabytes:.0f} GB/s"),
        (limits.cache_gigabytes, "--", f"cache {limits.cache_gigabytes:.0f} GB/s"),
    ):
        heights = [min(limits.gigamadds, intensity * speed) for intensity in intensities]
        axes.plot(intensities, heights, color=FAINT, linewidth=1, linestyle=style, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    low = min(timed.gigamadds for found in profiles.values() for timed in found.ops)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if tick > low / 2]
    axes.set_ylim(low / 1.6, 1.6 * limits.gigamadds)
    axes.set_yticks([tick for tick in ticks if tick < 1.6 * limits.gigamadds])
    axes.set_xlabel("multiply-adds a byte")
    axes.set_ylabel("billion multiply-adds a second")
    axes.set_title(
        f"peak {limits.gigamadds:.0f} G multiply-adds/s; larger marks take longer",
        loc="right",
        fontsize=8,
        color=FAINT,
    )
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(handles, labels, frameon=False, fontsize=7, loc="lower right")
    for handle in legend.legend_handles[: 2 * len(KINDS[:-1])]:
        handle.set_sizes([22])  # type: ignore[union-attr]
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
