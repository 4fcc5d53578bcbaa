"""Proposals: for each group of channels that belong together, the widest narrower version that saves enough.

A group is what can only be narrowed as one (:mod:`mobilenets.compress.narrow`): a block's expansion with its depthwise
convolution, or all outputs that shortcuts add up. Counts are multiples of 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.compress.narrow import Group, Removal, groups, narrow, with_channels
from mobilenets.engine.folding import folded
from mobilenets.fit.resources import Resources

MULTIPLE = 8
"""Channel counts proposed are multiples of it, as the papers' are: what vectors of 8 and 16 numbers like."""
TRIM = 4
"""The share of a group's channels, one in so many, that is taken to see what the group is worth."""
EVERYTHING = "everything"
"""The proposal that narrows all groups alike: the only one that helps where several blocks need the most memory."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Of an operation's output on some pictures, by channel, float64 (C,): mean, and mean of absolute values."""

    mean: NDArray[np.float64]
    size: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Groups, by their first member, and how many channels each is to have."""

    name: str
    counts: Mapping[str, int]


def proposals(layout: Plan, resources: Resources, bound: str, target: float) -> list[Proposal]:
    """Return for each group, and for all together, the widest version that takes at most `target` of a bound.

    Groups that cannot save so much alone are left out.
    """
    found = []
    every = groups(layout)
    for group in every:
        count = _widest([group], layout, resources, bound, target)
        if count is not None:
            found.append(Proposal(group.members[0], {group.members[0]: count[group.members[0]]}))
    together = _widest(every, layout, resources, bound, target)
    if together is not None:
        found.append(Proposal(EVERYTHING, together))
    return found


def trims(layout: Plan) -> list[Proposal]:
    """Return for each group a version that is narrower by a quarter, at least by one step."""
    found = []
    for group in groups(layout):
        steps = -(-group.channels // MULTIPLE)
        left = (steps - max(1, steps // TRIM)) * MULTIPLE
        if left > 0:
            found.append(Proposal(group.members[0], {group.members[0]: left}))
    return found


def together(
    order: Sequence[Proposal], layout: Plan, resources: Resources, bound: str, target: float
) -> Proposal | None:
    """Return the first few proposals of an order as one, as many as it takes to meet a target; None if all do not."""
    members = {group.members[0]: group.members for group in groups(layout)}
    counts: dict[str, int] = {}
    for each in order:
        counts |= each.counts
        channels = {name: count for first, count in counts.items() for name in members[first]}
        if resources.amount(resources.layout(with_channels(layout, channels)), bound) <= target:
            return Proposal(" + ".join(counts), counts)
    return None


def _widest(
    which: Sequence[Group], layout: Plan, resources: Resources, bound: str, target: float
) -> dict[str, int] | None:
    """Return the largest channel counts, all reduced by one share, that meet a target; None if the smallest do not."""
    steps = max(-(-group.channels // MULTIPLE) for group in which) - 1
    low, high = 0, steps  # steps kept, of `steps + 1`: low meets the target, high + 1 does not
    if steps < 1 or not _meets(which, 0, steps, layout, resources, bound, target):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= steps - 1 and _meets(which, middle, steps, layout, resources, bound, target):
            low = middle
        else:
            high = middle - 1
    return _counts(which, low, steps)


def _meets(
    which: Sequence[Group], kept: int, steps: int, layout: Plan, resources: Resources, bound: str, target: float
) -> bool:
    counts = _counts(which, kept, steps)
    members = {name: counts[group.members[0]] for group in which for name in group.members}
    narrower = resources.layout(with_channels(layout, members))
    return resources.amount(narrower, bound) <= target


def _counts(which: Sequence[Group], kept: int, steps: int) -> dict[str, int]:
    """Return channel counts by group: of `steps` + 1 steps, `kept` + 1 are left, in multiples of `MULTIPLE`."""
    counts = {}
    for group in which:
        left = max(1, round(-(-group.channels // MULTIPLE) * (kept + 1) / (steps + 1))) * MULTIPLE
        counts[group.members[0]] = min(group.channels, left)
    return counts


def narrowed(checkpoint: Checkpoint, proposal: Proposal, activity: Mapping[str, Activity]) -> Checkpoint:
    """Return a checkpoint with the channels that matter least taken out.

    What matters of a channel is the size of what its readers make of it: its mean absolute value times its weights
    there. What is taken out is replaced by its mean, in the bias of what read it.
    """
    layout = checkpoint.card.plan
    layers = folded(checkpoint)
    weights = {name: layer.weight for name, layer in layers.items()}
    removals = {}
    for group in groups(layout):
        left = proposal.counts.get(group.members[0], group.channels)
        if left >= group.channels:
            continue
        order = np.argsort(importance(group, weights, activity), kind="stable")
        gone = np.sort(order[: group.channels - left]).astype(np.int64)
        constants = {
            member: np.where(layout.op(reader).kernel == 1, activity[member].mean[gone], 0.0)
            for reader, member in group.readers
        }
        removals[group.members[0]] = Removal(group, gone, constants)
    return narrow(checkpoint, removals)


def importance(
    group: Group, weights: Mapping[str, NDArray[np.float32]], activity: Mapping[str, Activity]
) -> NDArray[np.float64]:
    """Return how much each channel of a group adds to what is read of it, float64 (channels,)."""
    total = np.zeros(group.channels)
    for reader, member in _read(group.readers, weights):
        columns = weights[reader].astype(np.float64)
        strength = np.sqrt(np.square(columns).reshape(*columns.shape[:2], -1).sum((0, 2)))
        total += activity[member].size * strength
    return total


def _read(readers: Iterable[tuple[str, str]], weights: Mapping[str, NDArray[np.float32]]) -> list[tuple[str, str]]:
    return [pair for pair in readers if pair[0] in weights]
