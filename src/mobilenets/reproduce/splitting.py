"""V2's section 5.1: the inverted residual computed in t groups of its inner channels; its memory and its time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import prod
from types import TracebackType
from typing import Any, Self
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from mobilenets.arch import ARCHITECTURES, Op, plan
from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.machine import describe_machine
from mobilenets.nn.network import Convolution, Network, build
from mobilenets.reproduce.outcome import Reproduction, Row, Settings, compared
from mobilenets.reproduce.probes import threads_set
from mobilenets.runtime.torch_runtime import fold_batch_norm

BLOCKS = ("block_2", "block_3", "block_8")
"""V2's largest inside (112x112x96, stride 2), one at 56x56x144 and one at 14x14x384."""
SPLITS = tuple(range(1, 11))
SECONDS, LEAST_ROUNDS = 5, 5
"""Each block is measured this long, and every split at least this often."""
HELPFUL = (2, 5)
"""The splits that the paper finds the most helpful."""
LATE = "the output comes when the first inner tensor is gone"
ADDING = "a second output is alive while it is added"
CLOSE = 1e-4
"""The largest difference allowed, of the largest value: sums are taken in another order."""


@dataclass(frozen=True)
class Block:
    """One inverted residual with its weights, BatchNorm folded: 1x1, depthwise 3x3 with a stride, 1x1, all biased."""

    expand: Convolution
    depthwise: Convolution
    project: Convolution
    ops: tuple[Op, Op, Op]
    shortcut: bool

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what goes in."""
        return self.ops[0].source_shape

    def predicted_bytes(self, groups: int) -> int:
        """Return what section 5.1 promises, float32: input, output, and a group of both inner tensors."""
        inner = -(-self.ops[0].out[0] // groups)
        inside = inner * (prod(self.ops[0].out[1:]) + prod(self.ops[1].out[1:]))
        return 4 * (prod(self.picture_shape) + prod(self.ops[2].out) + inside)


def run(block: Block, x: Tensor, groups: int) -> Tensor:
    """Compute the block on x (1, C, H, W) in groups of inner channels, adding up their projections in one output."""
    count = block.ops[0].out[0]
    edges = [round(index * count / groups) for index in range(groups + 1)]
    total: Tensor | None = None
    for first, last in itertools.pairwise(edges):
        part = slice(first, last)
        inner = functional.conv2d(x, block.expand.weight[part], _of(block.expand, part))
        inner = functional.relu6(inner, inplace=True)
        inner = functional.conv2d(
            inner,
            block.depthwise.weight[part],
            _of(block.depthwise, part),
            stride=block.depthwise.stride,
            padding=block.depthwise.padding,
            groups=last - first,
        )
        inner = functional.relu6(inner, inplace=True)
        bias = block.project.bias if total is None else None
        projected = functional.conv2d(inner, block.project.weight[:, part], bias)
        total = projected if total is None else total.add_(projected)
        del inner, projected
    assert total is not None
    return total.add_(x) if block.shortcut else total


def _of(convolution: nn.Conv2d, part: slice) -> Tensor | None:
    return None if convolution.bias is None else convolution.bias[part]


class AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the tensors that come into being while this is active; `peak` is the most bytes alive at once.

    Counted are the buffers of tensors that Python or torch still holds, each once, those given to `also` included.
    What a convolution allocates for itself within one call is not seen.
    """

    def __init__(self, also: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._holders: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self.alive = self.peak = 0
        self._count(also)

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        result = function(*args, **(kwargs or {}))
        # Views of weights share the weights' buffers, which are no activations.
        if isinstance(result, Tensor):
            buffer = result.untyped_storage().data_ptr()
            if buffer not in known or buffer in self._sizes:
                self._count(result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        buffer = storage.data_ptr()
        if buffer not in self._sizes:
            self._sizes[buffer] = storage.nbytes()
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
        self._holders[buffer] = self._holders.get(buffer, 0) + 1
        finalize(tensor, self._released, buffer)

    def _released(self, buffer: int) -> None:
        self._holders[buffer] -= 1
        if not self._holders[buffer]:
            self.alive -= self._sizes.pop(buffer)


def peak_bytes(block: Block, groups: int) -> int:
    """Measure the most bytes of activations alive while the block runs, its input included."""
    x = torch.randn(1, *block.picture_shape)
    with torch.no_grad(), AliveBytes(x) as watched:
        run(block, x, groups)
    return watched.peak


def block_of_v2(name: str) -> Block:
    """Build one block of MobileNetV2 with random weights, BatchNorm folded."""
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    torch.manual_seed(0)
    network = fold_batch_norm(build(layout).eval())
    expand, depthwise, project = (layout.op(f"{name}_{part}") for part in ("expand", "depthwise", "project"))
    return Block(
        expand=_convolution(network, expand),
        depthwise=_convolution(network, depthwise),
        project=_convolution(network, project),
        ops=(expand, depthwise, project),
        shortcut=any(op.name == f"{name}_add" for op in layout.ops),
    )


def _convolution(network: Network, op: Op) -> Convolution:
    module = network.get_submodule(op.name)
    assert isinstance(module, Convolution)
    return module


def reproduce_t_split(settings: Settings) -> Reproduction:
    """Measure memory and time of three of V2's blocks over t."""
    rows: list[Row] = []
    curves: dict[str, list[tuple[int, float, int, int]]] = {}
    with threads_set(settings.threads), torch.no_grad():
        for name in BLOCKS:
            block = block_of_v2(name)
            curves[name] = _measured(block)
            rows += _rows(name, block, curves[name])
    rows += [_fastest(name, points) for name, points in curves.items()]
    machine = describe_machine()
    return Reproduction(
        name="t-split",
        title="The block in t groups: memory against time",
        says=(
            "arXiv:1801.04381 section 5.1: as everything inside the block works channel by channel, its inner tensor "
            "can be computed in t groups, whose projections add up: input, output and one group are all the memory it "
            "takes, at the same multiply-adds. The paper finds t from 2 to 5 the most helpful; larger splits lose time "
            "to cache misses."
        ),
        rows=tuple(rows),
        notes=(
            (
                "Plain torch, float32, one picture; of all runs the fastest, as a busy machine only adds. Memory is "
                "that of the tensors alive at once: what a convolution of the library takes for itself within a call "
                "is not seen, and the process's resident memory says nothing here, as freed memory is kept. Published "
                "is the formula's |input| + |output| + a group of both inner tensors."
            ),
            (
                f"Every split gave the same output as the whole block, within {CLOSE:g} of the largest value (the "
                "order of the sums differs)."
            ),
        ),
        picture=_draw(curves),
        caption="Measured memory and time over t, as shares of the whole block's; grey is the paper's 2 to 5",
        measured={
            "processor": machine["processor"],
            "threads": f"{settings.threads} thread(s)",
            "torch": f"torch {torch.__version__}",
            "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        },
    )


def _measured(block: Block) -> list[tuple[int, float, int, int]]:
    """Return (t, milliseconds, bytes, predicted bytes) for every split; they must agree with the whole block."""
    x = torch.randn(1, *block.picture_shape)
    whole = run(block, x, 1)
    for groups in SPLITS:
        difference = float((run(block, x, groups) - whole).abs().max() / whole.abs().max())
        assert difference < CLOSE, (groups, difference)
    seconds: dict[int, list[float]] = {groups: [] for groups in SPLITS}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds[1]) < LEAST_ROUNDS:
        for groups, times in seconds.items():  # in turn, so that a disturbance meets all alike
            begun = time.perf_counter()
            run(block, x, groups)
            times.append(time.perf_counter() - begun)
    return [
        (groups, 1000 * min(times), peak_bytes(block, groups), block.predicted_bytes(groups))
        for groups, times in seconds.items()
    ]


def _rows(name: str, block: Block, points: list[tuple[int, float, int, int]]) -> list[Row]:
    channels, height, width = block.picture_shape
    inner, _, out = (op.out[0] for op in block.ops)
    section = f"{name}: {height}x{width}, {channels} to {inner} to {out} channels, stride {block.ops[1].stride}"
    rows = []
    for groups, milliseconds, peak, promised in points:
        memory = compared(f"t = {groups}: memory", peak / 1000, f"{promised / 1000:.0f}", "kB", section=section)
        rows.append(memory if memory.agrees else replace(memory, note=LATE if groups == 1 else ADDING))
        rows.append(Row(f"t = {groups}: time", milliseconds, None, "ms", section=section))
    return rows


def _fastest(name: str, points: list[tuple[int, float, int, int]]) -> Row:
    """Return the t with the shortest time beside the paper's, and how much there was to split."""
    best = min(points, key=lambda point: point[1])[0]
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    inner = 4 * sum(prod(layout.op(f"{name}_{part}").out) for part in ("expand", "depthwise"))
    note = f"its two inner tensors are {inner / 1e6:.1f} MB"
    return Row(name, best, "2 to 5", note=note, agrees=HELPFUL[0] <= best <= HELPFUL[1], section="The fastest t")


def _shape(name: str) -> str:
    """Say which block a panel is of, and how large its first inner tensor is."""
    channels, height, width = plan(ARCHITECTURES["mobilenet_v2"]).op(f"{name}_expand").out
    return f"{name.replace('_', ' ')}: {height}x{width}x{channels} inside"


def _draw(curves: dict[str, list[tuple[int, float, int, int]]]) -> bytes:
    with figure_style() as figure_class:
        figure = figure_class(figsize=(9.6, 3.4), layout="constrained")
        for index, (name, points) in enumerate(curves.items()):
            axes = figure.add_subplot(1, len(curves), index + 1)
            _, time_whole, peak_whole, _ = points[0]
            groups = [point[0] for point in points]
            axes.axvspan(*HELPFUL, color=LINE, alpha=0.5, linewidth=0)
            axes.plot(
                groups, [point[2] / peak_whole for point in points], "o-", color=RIGHT, markersize=4, label="memory"
            )
            axes.plot(
                groups, [point[1] / time_whole for point in points], "s-", color=WRONG, markersize=4, label="time"
            )
            axes.set_title(_shape(name), loc="left", fontsize=9, fontweight="bold")
            axes.set_xticks(groups)
            axes.set_xlabel("t, groups of inner channels")
            axes.set_ylim(bottom=0)
            axes.axhline(1, color=FAINT, linewidth=0.7, linestyle=":")
            if index == 0:
                axes.set_ylabel("of the whole block's")
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return to_png(figure)
