"""Channels taken out of a network: which belong together, the narrower table, and the weights that remain.

Some outputs must have the same channels: a depthwise convolution's are its source's, and a shortcut adds channel to
channel. Such outputs form a group; a channel goes from all of a group, and from what reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.arch import Arch, Op, Plan, plan
from mobilenets.arch.mobilenet import Bneck, Conv, Dense, InvertedResidual, Row, Separable
from mobilenets.checkpoint import Checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.int64]

NARROWED = "_narrowed"
"""Follows the name of a table whose channel counts are no paper's any more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Outputs with the same channels, and who reads them: (operation, which of the members it reads)."""

    members: tuple[str, ...]
    channels: int
    readers: tuple[tuple[str, str], ...]


def groups(layout: Plan) -> tuple[Group, ...]:
    """Return the groups of channels that may be taken out: all but the picture's and the result's."""
    root = {"input": "input"}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for op in layout.ops:
        root[op.name] = op.name
        for source in op.sources if _keeps_channels(op) else ():
            root[find(op.name)] = find(source)
    fixed = {find("input"), *(find(name) for name in layout.outputs)}
    members: dict[str, list[Op]] = {}
    for op in layout.ops:
        if find(op.name) not in fixed:
            members.setdefault(find(op.name), []).append(op)
    readers = [(op.name, op.sources[0]) for op in layout.ops if not _keeps_channels(op)]
    return tuple(
        Group(
            members=tuple(op.name for op in ops),
            channels=ops[0].out[0],
            readers=tuple(pair for pair in readers if find(pair[1]) == key),
        )
        for key, ops in members.items()
    )


def _keeps_channels(op: Op) -> bool:
    """Say whether channel i of an operation is made of channel i of its sources alone."""
    return op.depthwise or op.kind in ("add", "pool", "scale")


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """Channels to take out of a group, int64 ascending, and the constant value of each where a reader reads it.

    `constants` has a float64 array for every member that is read; a channel that nobody reads may have any value.
    """

    group: Group
    channels: Indices
    constants: Mapping[str, NDArray[np.float64]]


def narrow(checkpoint: Checkpoint, removals: Mapping[str, Removal]) -> Checkpoint:
    """Return the network without these channels, their constants added to what reads them.

    A BatchNorm behind a reader that was trained takes the constant out of its running mean, which is also what it
    would do in training; one that was folded into its convolution adds it to its shift. The card keeps everything but
    the table. Sample and checksum are of the old network, and dropped.

    Args:
        checkpoint: float32.
        removals: by the first member of their group; no more channels than leave one in each.
    """
    layout = checkpoint.card.plan
    arch, removals = narrowed(layout, removals)
    if not removals:
        return checkpoint
    gone: dict[str, Indices] = {}
    constants: dict[str, NDArray[np.float64]] = {}
    for removal in removals.values():
        gone |= dict.fromkeys(removal.group.members, removal.channels)
        constants |= removal.constants
    tensors: dict[str, NDArray[np.float32]] = {}
    for op in layout.ops:
        own = {name: array for name, array in checkpoint.tensors.items() if name.startswith(f"{op.name}.")}
        own = {name: array for name, array in own.items() if name in _names(op)}
        source = op.sources[0]
        if source in gone and not _keeps_channels(op) and own:
            own = _reading_less(checkpoint, op, own, gone[source], constants[source])
        out = np.delete(np.arange(op.out[0]), gone.get(op.name, []))
        tensors |= {name: np.ascontiguousarray(array[out]) for name, array in own.items()}
    card = replace(checkpoint.card, arch=arch, width=1.0)
    return Checkpoint(card, tensors)


def _names(op: Op) -> tuple[str, ...]:
    norm = ("weight", "bias", "running_mean", "running_var")
    return (f"{op.name}.weight", f"{op.name}.bias", *(f"{op.name}.norm.{name}" for name in norm))


def _reading_less(
    checkpoint: Checkpoint,
    op: Op,
    own: dict[str, NDArray[np.float32]],
    gone: Indices,
    constants: NDArray[np.float64],
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a reader without the weights for some channels of its source; all its outputs stay."""
    weight = own[f"{op.name}.weight"]
    added = weight[:, gone].reshape(op.out[0], len(gone), -1).astype(np.float64).sum(2) @ constants
    changed = own | {f"{op.name}.weight": np.delete(weight, gone, axis=1)}
    if op.bias:
        name, change = f"{op.name}.bias", added
    elif checkpoint.card.batch_norm == "folded":
        variance = own[f"{op.name}.norm.running_var"].astype(np.float64) + checkpoint.card.arch.bn_eps
        name, change = f"{op.name}.norm.bias", added * own[f"{op.name}.norm.weight"] / np.sqrt(variance)
    else:
        name, change = f"{op.name}.norm.running_mean", -added
    return changed | {name: (own[name] + change).astype(np.float32)}


def narrowed(layout: Plan, removals: Mapping[str, Removal]) -> tuple[Arch, dict[str, Removal]]:
    """Return the table of a network without these channels, and the removals it stands for.

    It is printed in absolute numbers, one row for each block, at width 1. Where a block's input and output would get
    the same number of channels by coincidence, the table would mean a shortcut that is not there: then one of the
    channels stays, and is not among the removals returned.
    """
    left = {first: removal for first, removal in removals.items() if len(removal.channels)}
    while True:
        counts = {op.name: op.out[0] for op in layout.ops}
        for removal in left.values():
            counts |= dict.fromkeys(removal.group.members, removal.group.channels - len(removal.channels))
        arch = _table(layout, counts)
        wrong = _first_difference(layout, arch, counts)
        if wrong is None:
            return (arch, left) if left else (layout.arch, {})
        own = [op for op in layout.ops if op.block == wrong]
        # What makes the coincidence is the block's output, or where that loses nothing what it reads.
        output = next(op.name for op in reversed(own) if op.kind != "add")
        whose = ({output}, {own[0].sources[0]}, {op.name for op in own})
        kept = next(filter(None, (_keeping_one(left, names) for names in whose)), {})
        assert kept, f"{layout.arch.name}: {wrong} cannot be written as a row of a table"
        left = {first: each for first, each in (left | kept).items() if len(each.channels)}


def _keeping_one(removals: Mapping[str, Removal], names: set[str]) -> dict[str, Removal]:
    """Return those removals that are of one of these outputs, with a channel less to remove."""
    return {first: _without_last(each) for first, each in removals.items() if names & set(each.group.members)}


def _without_last(removal: Removal) -> Removal:
    constants = {name: values[:-1] for name, values in removal.constants.items()}
    return replace(removal, channels=removal.channels[:-1], constants=constants)


def _first_difference(layout: Plan, arch: Arch, counts: Mapping[str, int]) -> str | None:
    """Return the block in which a table's plan is not the same operations at these channel counts; None if it is."""
    made = plan(arch, resolution=layout.resolution, classes=layout.classes, in_channels=layout.in_channels).ops
    for ours, theirs in zip(layout.ops, made, strict=False):
        same = (ours.name, ours.sources, ours.out[1:], ours.activation, counts[ours.name])
        if same != (theirs.name, theirs.sources, theirs.out[1:], theirs.activation, theirs.out[0]):
            new = theirs.kind == "add" and theirs.name != ours.name  # a shortcut, at the end of the block before
            return theirs.block if new else ours.block or theirs.block
    return None if len(made) == len(layout.ops) else layout.ops[-1].block


def with_channels(layout: Plan, counts: Mapping[str, int]) -> Arch:
    """Return the table of a network with these output channels, by operation; what is not named keeps its own.

    As :func:`narrowed`, but a coincidence of input and output may make a shortcut that was not there.
    """
    return _table(layout, {op.name: op.out[0] for op in layout.ops} | dict(counts))


def _table(layout: Plan, counts: Mapping[str, int]) -> Arch:
    rows: list[Row] = []
    for index, row in enumerate(layout.arch.rows):
        ops = [op for op in layout.ops if op.row == index]
        match row:
            case Conv():
                rows.append(replace(row, c=counts[ops[0].name], expands=False))
            case Dense():
                rows.append(replace(row, c=counts[ops[0].name]))
            case Separable() | InvertedResidual() | Bneck():
                blocks = list(dict.fromkeys(op.block for op in ops))
                rows += [_block(row, [op for op in ops if op.block == name], counts, blocks[0]) for name in blocks]
            case _:
                rows.append(row)
    arch = layout.arch
    name = arch.name.removesuffix(NARROWED) + NARROWED
    return replace(arch, name=name, rows=tuple(rows), base_width=1.0, divisor=1, expansion=None)


def _block(
    row: Separable | InvertedResidual | Bneck, ops: list[Op], counts: Mapping[str, int], first: str
) -> Separable | InvertedResidual | Bneck:
    """Return the row of one block; only the first of a row's blocks has its stride."""
    by_name = {op.name.removeprefix(f"{op.block}_"): op for op in ops}
    stride = row.s if ops[0].block == first else 1
    if isinstance(row, Separable):
        return replace(row, c=counts[by_name["pointwise"].name], n=1, s=stride)
    c = counts[by_name["project"].name]
    depthwise = by_name["depthwise"].name
    inner = counts[depthwise] if "expand" in by_name else None
    squeezed = counts[by_name["se_reduce"].name] if row.se else None
    if isinstance(row, Bneck):
        return replace(row, exp=counts[depthwise], c=c, s=stride, inner=inner, squeezed=squeezed)
    t = 1 if inner is None else row.t
    return replace(row, t=t, c=c, n=1, s=stride, inner=inner, squeezed=squeezed)
