"""Channels that say nothing: they never change, or nobody listens. Without them the network computes the same.

What is proved holds for every picture: by the bounds of :mod:`mobilenets.compress.bounds`, a channel that is read keeps
one value. After ReLU that is mostly 0 (the channel never fires); a depthwise kernel whose weights are all zero leaves
the activation of its bias. That value times the reader's weights goes into the reader's bias. The value need not be the
same where nobody reads it: an expanded channel may fire and its depthwise kernel be dead.

A value other than 0 cannot be folded into a reader with padding, since at the border it would read 0 instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.compress.bounds import Bounds, bounds
from mobilenets.compress.narrow import Group, Removal, groups, narrow
from mobilenets.engine.folding import folded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Checkpoint

TOLERANCE = 1e-7
"""How far a removed channel may move any sum that it takes part in: float32's own rounding of a sum near 1."""


def without_dead(
    checkpoint: Checkpoint, values: Mapping[str, Bounds] | None = None, *, tolerance: float = TOLERANCE
) -> Checkpoint:
    """Return the network without the channels that say nothing, as a checkpoint with a table of its own.

    Args:
        checkpoint: float32; returned as it is where nothing can be taken out.
        values: the range of every output that some pictures were seen to have, by operation. Then what stays constant
            on those pictures goes as well, which is measured and not proved. None: only what is proved.
        tolerance: how far a removed channel may move any sum that it takes part in.

    Raises:
        CheckpointError: the checkpoint is not float32.
    """
    while True:  # without a reader's dead output, what it alone read is unread too
        removals = removable(checkpoint, bounds(checkpoint) if values is None else values, tolerance)
        made = narrow(checkpoint, removals)
        if made is checkpoint:
            return made
        if values is not None:
            values = _remaining(checkpoint.card.plan, made.card.plan, values, removals)
        checkpoint = made


def removable(checkpoint: Checkpoint, values: Mapping[str, Bounds], tolerance: float) -> dict[str, Removal]:
    """Return the channels that can go, by the first member of their group; at least one always stays."""
    layout = checkpoint.card.plan
    layers = folded(checkpoint)
    found: dict[str, Removal] = {}
    for group in groups(layout):
        gone = np.ones(group.channels, np.bool_)
        for reader, member in group.readers:
            gone &= _change(layout.op(reader), layers[reader].weight, values[member]) <= tolerance
        if gone.all():
            gone[0] = False
        channels = np.flatnonzero(gone).astype(np.int64)
        if len(channels):
            found[group.members[0]] = Removal(group, channels, _constants(group, layout, values, channels))
    return found


def _change(reader: Op, weight: NDArray[np.float32], values: Bounds) -> NDArray[np.float64]:
    """Return the most that each channel can move a sum of its reader away from what a constant gives, float64 (C,)."""
    most = np.abs(weight.astype(np.float64)).reshape(*weight.shape[:2], -1).sum(2).max(0)
    with np.errstate(invalid="ignore"):  # without a bound it is nan or inf: neither is within the tolerance
        if reader.kernel > 1:
            return np.asarray(most * np.maximum(np.abs(values.low), np.abs(values.high)), np.float64)
        change = most * (values.high - values.low) / 2
    return np.where(most == 0, 0.0, change)


def _constants(
    group: Group, layout: Plan, values: Mapping[str, Bounds], channels: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    constants = {}
    for reader, member in group.readers:
        low, high = values[member].low[channels], values[member].high[channels]
        with np.errstate(invalid="ignore"):
            middle = (low + high) / 2
        # What is not finite is unread, and any number does.
        usable = np.isfinite(middle) if layout.op(reader).kernel == 1 else np.zeros(len(channels), np.bool_)
        constants[member] = np.where(usable, middle, 0.0)
    return constants


def _remaining(
    before: Plan, after: Plan, values: Mapping[str, Bounds], removals: Mapping[str, Removal]
) -> dict[str, Bounds]:
    """Return the measured ranges of the channels that are left."""
    gone = {name: removal.channels for removal in removals.values() for name in removal.group.members}
    left = {}
    for old, new in zip(before.ops, after.ops, strict=True):
        removed = gone.get(old.name, np.empty(0, np.int64))[
            : old.out[0] - new.out[0]
        ]  # a coincidence may keep the last
        left[old.name] = values[old.name].take(np.delete(np.arange(old.out[0]), removed))
    return left
