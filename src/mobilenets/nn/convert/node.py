"""One operation of somebody's graph in neutral words, and the graph put in order: needed, sorted, activations named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Literal

from mobilenets.arch.mobilenet import Activation
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.layers import Array, Norm, Padding

Kind = Literal[
    "conv", "dense", "norm", "clip", "activation", "add", "multiply", "pool", "pad", "same", "softmax", "unknown"
]
Pixels = tuple[int, int, int, int]
"""Padding in pixels: top, bottom, left, right."""

UNPADDED: Pixels = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation: its kind, the values it reads that depend on the picture, the value it makes.

    "add" and "multiply" have two sources, or one and a `constant` (one number, or one per channel). "same" hands its
    source on: reshapes, dropout, transposes of a 1x1 map, (de)quantization.
    """

    kind: Kind
    name: str
    sources: tuple[str, ...]
    out: str
    weight: Array | None = None  # conv: (out, in / groups, k, k); dense: (out, in)
    bias: Array | None = None
    norm: Norm | None = None
    stride: int = 1
    pads: Padding | Pixels = UNPADDED
    activation: Activation | None = None
    constant: Array | None = None
    window: tuple[int, int] | None = None  # pool: what it averages over; None: all of the map
    limits: tuple[float, float] = (-inf, inf)  # clip: what is outside is set to them; same: what 8 bits can hold


def needed(nodes: Sequence[Node], source: str, output: str, name: str) -> list[Node]:
    """Drop the operations that the output does not depend on; order the others so that they can run.

    An order that works is kept.
    """
    maker = {node.out: index for index, node in enumerate(nodes)}
    wanted, open_ends = set[int](), [output]
    while open_ends:
        index = maker.get(open_ends.pop(), -1)
        if index >= 0 and index not in wanted:
            wanted.add(index)
            open_ends += nodes[index].sources
    missing = {index: {maker[s] for s in nodes[index].sources if s in maker and s != source} for index in wanted}
    readers: dict[int, list[int]] = {index: [] for index in wanted}
    for index, needs in missing.items():
        for need in needs:
            readers[need].append(index)
    ready = [index for index, needs in missing.items() if not needs]
    heapify(ready)
    ordered: list[Node] = []
    while ready:
        index = heappop(ready)
        ordered.append(nodes[index])
        for reader in readers[index]:
            missing[reader].discard(index)
            if not missing[reader]:
                heappush(ready, reader)
    if len(ordered) != len(wanted):
        raise ConvertError(f"{name}: its operations wait for one another in a circle: the file is damaged")
    return ordered


def named_activations(nodes: Sequence[Node]) -> list[Node]:
    """Replace activations written in small steps by their names.

    ReLU and ReLU6 as clips, h-sigmoid as relu6(x + 3) / 6, h-swish as x relu6(x + 3) / 6 or x h-sigmoid(x).
    """
    made: dict[str, Node] = {}
    for node in nodes:
        made[node.out] = _rectifier(node, made) or _hard_sigmoid(node, made) or _hard_swish(node, made) or node
    return list(made.values())


def _origin(name: str, made: Mapping[str, Node]) -> str:
    """Return the value that was handed on under this name."""
    while name in made and made[name].kind == "same":
        name = made[name].sources[0]
    return name


def _maker(name: str, made: Mapping[str, Node]) -> Node | None:
    return made.get(_origin(name, made))


def _rectifier(node: Node, made: Mapping[str, Node]) -> Node | None:
    """Find ReLU and ReLU6, in one clip or in two; half of one is not understood unless the other half follows."""
    if node.kind != "clip":
        return None
    low, high, source = *node.limits, node.sources[0]
    before = _maker(source, made)
    if before is not None and before.activation in ("relu", "relu6") and before.kind == "activation":
        low, high, source = max(low, 0.0), min(high, inf if before.activation == "relu" else 6.0), before.sources[0]
    elif before is not None and before.kind == "unknown" and before.limits != (-inf, inf):
        low, high, source = max(low, before.limits[0]), min(high, before.limits[1]), before.sources[0]
    if low == 0 and high in (6, inf):
        return Node("activation", node.name, (source,), node.out, activation="relu" if high == inf else "relu6")
    return Node("unknown", node.name, (source,), node.out, limits=(low, high))


def _scalar(node: Node | None, kind: Kind, value: float) -> bool:
    """Say whether a node adds, or multiplies by, this one number."""
    if node is None or node.kind != kind or node.constant is None:
        return False
    return node.constant.size == 1 and abs(float(node.constant.reshape(())) - value) < 1e-5


def _gate(name: str, made: Mapping[str, Node]) -> str | None:
    """Return x if the value is relu6(x + 3)."""
    node = _maker(name, made)
    if node is None or node.kind != "activation" or node.activation != "relu6":
        return None
    shifted = _maker(node.sources[0], made)
    return shifted.sources[0] if shifted is not None and _scalar(shifted, "add", 3.0) else None


def _hard_sigmoid(node: Node, made: Mapping[str, Node]) -> Node | None:
    if not _scalar(node, "multiply", 1 / 6):
        return None
    x = _gate(node.sources[0], made)
    return None if x is None else Node("activation", node.name, (x,), node.out, activation="hard_sigmoid")


def _hard_swish(node: Node, made: Mapping[str, Node]) -> Node | None:
    """Find x h-sigmoid(x), or (x relu6(x + 3)) / 6."""
    product = node
    if _scalar(node, "multiply", 1 / 6):
        inner = _maker(node.sources[0], made)
        if inner is None:
            return None
        product = inner
    if product.kind != "multiply" or len(product.sources) != 2:
        return None
    for x, gate in (product.sources, product.sources[::-1]):
        if product is node:
            opened = _maker(gate, made)
            inner_x = opened.sources[0] if opened is not None and opened.activation == "hard_sigmoid" else None
        else:
            inner_x = _gate(gate, made)
        if inner_x is not None and _origin(inner_x, made) == _origin(x, made):
            return Node("activation", node.name, (x,), node.out, activation="hard_swish")
    return None
