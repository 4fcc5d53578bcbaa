"""Where a network looked, as a second output of its ONNX file.

For each of the best classes, every place of the last feature map gets what it adds to that class's logit: class
activation mapping (Zhou et al. 2016, section 2). With two layers behind the pooling, as in V3, the second is multiplied
by the slope of the activation between them (Selvaraju et al. 2017, section 3.1: the gradient of a pooled feature map).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mobilenets.arch import Op, Plan
from mobilenets.formats.onnx_graph import GraphBuilder

HEAT = "heat"
"""What the output is called: float32 (N, K, h, w) for the K best classes, the best first; in no unit, of any sign."""

CLASSES = 5
"""For how many classes, where there are as many."""


@dataclass(frozen=True, slots=True)
class Head:
    """What follows a network's features: a pooling, perhaps a dense layer, and the classifier."""

    pool: Op
    dense: Op | None
    classifier: Op

    @property
    def features(self) -> str:
        """The operation whose value is pooled."""
        return self.pool.sources[0]


def head_of(layout: Plan) -> Head | None:
    """Return a plan's head; None where it is of another kind, so that no heat can be told.

    >>> from mobilenets.arch import ARCHITECTURES, plan
    >>> head = head_of(plan(ARCHITECTURES["mobilenet_v3_small"]))
    >>> head.features, head.dense.name, head.classifier.name
    ('head', 'dense', 'classifier')
    """
    classifier = layout.ops[-1]
    if classifier.kind != "linear" or classifier.activation is not None:
        return None
    before = layout.op(classifier.sources[0])
    dense = before if before.kind == "linear" else None
    if dense is not None:
        if dense.activation not in {"hard_swish", "relu"}:
            return None
        before = layout.op(dense.sources[0])
    if before.kind != "pool" or before.activation is not None:
        return None
    return Head(before, dense, classifier)


def add_heat(graph: GraphBuilder, head: Head, values: Mapping[str, str], logits: str) -> None:
    """Append the output `heat`.

    Args:
        graph: the network's, complete.
        head: its last layers.
        values: where in the graph to find, as float32: "features" (N, C, h, w), "classifier" and, with a dense layer,
            "dense", the weights (out, in), and "dense.before", that layer's value before its activation (N, out).
        logits: float32 (N, classes).
    """
    count = np.array([min(CLASSES, head.classifier.out[0])], np.int64)
    best = graph.pair("TopK", [logits, graph.constant("heat.count", count)], ("heat.scores", "heat.best"))
    rows = graph.node("Gather", [values["classifier"], best], "heat.rows", {"axis": 0})  # (N, K, in)
    if head.dense is not None:
        slope = _slope(graph, head.dense, values["dense.before"])
        slope = graph.node("Unsqueeze", [slope, graph.constant("heat.axis", np.array([1]))], "heat.slope.row")
        rows = graph.node("Mul", [rows, slope], "heat.rows.sloped")
        rows = graph.node("MatMul", [rows, values["dense"]], "heat.rows.through")
    features = values["features"]
    flat = graph.constant("heat.flat", np.array([0, 0, -1]))  # 0 keeps a side
    places = graph.node("Reshape", [features, flat], "heat.places")  # (N, C, h * w)
    heat = graph.node("MatMul", [rows, places], "heat.flat.sums")
    sides = graph.node("Shape", [features], "heat.sides", {"start": 2})
    kept = graph.constant("heat.kept", np.array([0, 0]))
    shape = graph.node("Concat", [kept, sides], "heat.shape", {"axis": 0})
    graph.node("Reshape", [heat, shape], HEAT)


def _slope(graph: GraphBuilder, dense: Op, before: str) -> str:
    """Append the derivative of a layer's activation at `before`, float32 (N, out)."""

    def constant(name: str, value: float) -> str:
        return graph.constant(f"heat.{name}", np.array(value, np.float32))

    zero, one = constant("zero", 0), constant("one", 1)
    positive = graph.node("Greater", [before, zero if dense.activation == "relu" else constant("low", -3)], "heat.on")
    if dense.activation == "relu":
        return graph.node("Where", [positive, one, zero], "heat.slope")
    # h-swish is x * relu6(x + 3) / 6: its slope is (2 x + 3) / 6 between -3 and 3 (Howard et al. 2019, section 5.2).
    line = graph.node("Mul", [before, constant("third", 1 / 3)], "heat.line.third")
    line = graph.node("Add", [line, constant("half", 0.5)], "heat.line")
    saturated = graph.node("Less", [before, constant("high", 3)], "heat.bent")
    upper = graph.node("Where", [saturated, line, one], "heat.upper")
    return graph.node("Where", [positive, upper, zero], "heat.slope")
