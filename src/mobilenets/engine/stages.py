"""A plan cut into stages: operations that a fused engine computes as one, so that only their ends are whole maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mobilenets.arch import Op, Plan


@dataclass(frozen=True, slots=True)
class Stage:
    """Operations that run as one: a block with what belongs to it, or a single operation."""

    name: str
    ops: tuple[Op, ...]

    @property
    def out(self) -> Op:
        """The last operation; what it writes outlives the stage."""
        return self.ops[-1]

    @property
    def inside(self) -> frozenset[str]:
        """The names of the operations."""
        return frozenset(op.name for op in self.ops)

    @property
    def sources(self) -> tuple[str, ...]:
        """What the stage reads of others, each once; "input" is the picture."""
        read = dict.fromkeys(source for op in self.ops for source in op.sources)
        return tuple(name for name in read if name not in self.inside)


def readers(plan: Plan) -> Mapping[str, tuple[Op, ...]]:
    """Return for each operation, and for "input", the operations that read it."""
    found: dict[str, list[Op]] = defaultdict(list)
    for op in plan.ops:
        for source in op.sources:
            found[source].append(op)
    return {name: tuple(ops) for name, ops in found.items()}


def stages(plan: Plan) -> tuple[Stage, ...]:
    """Cut a plan into stages, in the order they run.

    A block is one. The first convolution goes with the first block where that begins with a depthwise convolution:
    otherwise its output, the largest map between two stages, would be kept. The last convolution goes with the pooling
    behind it.
    """
    groups: list[list[Op]] = []
    for op in plan.ops:
        last = groups[-1][-1] if groups else None
        joins = last is not None and (
            (op.block and op.block == last.block)
            or (op.kind == "pool" and not op.block and last.kind == "conv" and not last.block)
            or (op.depthwise and len(groups) == 1 and len(groups[0]) == 1 and last.kind == "conv")
        )
        if joins:
            groups[-1].append(op)
        else:
            groups.append([op])
    return tuple(Stage(ops[-1].block or ops[0].name, tuple(ops)) for ops in groups)
