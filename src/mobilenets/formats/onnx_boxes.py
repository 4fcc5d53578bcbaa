"""Boxes instead of raw maps, as more outputs of a detector's ONNX file: decoding and suppression in the graph.

They are computed as `mobilenets.image.detection` says: anchors of the card's resolution, which therefore is fixed,
scores, the best candidates of each class, non-maximum suppression class by class, the best of each picture. Outputs,
for all pictures of the batch together, the surest first:

    detected_boxes     float32 (M, 4)   x1, y1, x2, y2 in pixels of the network's input
    detected_scores    float32 (M,)     0..1
    detected_classes   int64 (M,)       indices of labels
    detected_pictures  int64 (M,)       which picture of the batch
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mobilenets.arch import Plan
from mobilenets.arch.detector import COORDINATES, Detector
from mobilenets.formats.onnx_graph import GraphBuilder
from mobilenets.image.detection import LARGEST_GROWTH, anchors, detector_of

DETECTED = ("detected_boxes", "detected_scores", "detected_classes", "detected_pictures")


def add_detections(graph: GraphBuilder, layout: Plan) -> list[Any]:
    """Append what makes boxes of the plan's outputs, which are in the graph under their names; describe the results."""
    detector = detector_of(layout)
    boxes = _decoded(graph, layout, detector)
    scores = _scores(graph, layout, detector)
    limits = [
        graph.constant("detected.most", np.array(anchors_of(layout), np.int64)),
        graph.constant("detected.iou", np.array(detector.nms_iou, np.float32)),
        graph.constant("detected.threshold", np.array(detector.score_threshold, np.float32)),
    ]
    chosen = graph.node("NonMaxSuppression", [boxes, scores, *limits], "detected.chosen")  # (M, 3): picture, class, box
    values = graph.node("GatherND", [scores, chosen], "detected.values")
    order = _order(graph, values)
    ordered = graph.node("Gather", [chosen, order], "detected.ordered", {"axis": 0})
    kept = _best_of_each(graph, ordered, boxes, detector.detections)
    column = [graph.constant(f"detected.column_{index}", np.array(index, np.int64)) for index in range(3)]
    graph.node("Gather", [kept, column[0]], DETECTED[3], {"axis": 1})
    graph.node("Gather", [kept, column[1]], DETECTED[2], {"axis": 1})
    graph.node("GatherND", [scores, kept], DETECTED[1])
    place = graph.constant("detected.place", np.array([0, 2], np.int64))
    where = graph.node("Gather", [kept, place], "detected.where", {"axis": 1})
    found = graph.node("GatherND", [boxes, where], "detected.found")
    _clipped(graph, layout, found, DETECTED[0])
    return [
        graph.tensor(DETECTED[0], np.float32, ("M", COORDINATES)),
        graph.tensor(DETECTED[1], np.float32, ("M",)),
        graph.tensor(DETECTED[2], np.int64, ("M",)),
        graph.tensor(DETECTED[3], np.int64, ("M",)),
    ]


def anchors_of(layout: Plan) -> int:
    """Return how many anchors there are."""
    return len(anchors(layout))


def _joined(graph: GraphBuilder, layout: Plan, first: int, values: int, name: str) -> str:
    """Append what makes one value (N, A, values) of every second output; return its name."""
    levels = []
    for output in layout.outputs[first::2]:
        _, height, width = layout.op(output).out
        shape = graph.constant(f"{output}.planes.shape", np.array([0, -1, values, height * width], np.int64))
        planes = graph.node("Reshape", [output, shape], f"{output}.planes")
        last = graph.node("Transpose", [planes], f"{output}.last", {"perm": [0, 1, 3, 2]})
        flat = graph.constant(f"{output}.anchors.shape", np.array([0, -1, values], np.int64))
        levels.append(graph.node("Reshape", [last, flat], f"{output}.anchors"))
    return graph.node("Concat", levels, name, {"axis": 1})


def _decoded(graph: GraphBuilder, layout: Plan, detector: Detector) -> str:
    """Append what makes boxes (N, A, 4) in pixels of the differences from their anchors."""
    corners = anchors(layout)
    sizes = corners[:, 2:] - corners[:, :2]
    steps = graph.node(
        "Div",
        [
            _joined(graph, layout, 0, COORDINATES, "differences"),
            graph.constant("differences.coder", np.array(detector.coder, np.float32)),
        ],
        "differences.steps",
    )
    halves = graph.constant("differences.halves", np.array([2, 2], np.int64))
    graph.split(steps, halves, ("differences.move", "differences.growth"), axis=2)
    moved = graph.node(
        "Mul", ["differences.move", graph.constant("anchors.sizes", sizes[np.newaxis])], "differences.moved"
    )
    centre = graph.constant("anchors.centres", (corners[:, :2] + sizes / 2)[np.newaxis])
    centres = graph.node("Add", [moved, centre], "boxes.centres")
    most = graph.constant("anchors.growth", np.array(LARGEST_GROWTH, np.float32))
    growth = graph.node("Exp", [graph.node("Min", ["differences.growth", most], "differences.least")], "boxes.growth")
    half = graph.node("Mul", [growth, graph.constant("anchors.half", sizes[np.newaxis] / 2)], "boxes.half")
    ends = [graph.node(kind, [centres, half], f"boxes.{kind.lower()}") for kind in ("Sub", "Add")]
    boxes = graph.node("Concat", ends, "boxes.corners", {"axis": 2})
    return _clipped(graph, layout, boxes, "boxes.clipped") if detector.anchors.form == "torchvision" else boxes


def _clipped(graph: GraphBuilder, layout: Plan, boxes: str, out: str) -> str:
    height, width = layout.resolution
    largest = graph.constant("picture.sides", np.array([width, height, width, height], np.float32))
    positive = graph.node("Max", [boxes, graph.constant("picture.zero", np.array(0, np.float32))], f"{out}.positive")
    return graph.node("Min", [positive, largest], out)


def _scores(graph: GraphBuilder, layout: Plan, detector: Detector) -> str:
    """Append what makes scores (N, classes, A), 0 for all but the best candidates of each class."""
    logits = _joined(graph, layout, 1, layout.classes + 1, "scores.logits")
    kind, attributes = ("Sigmoid", {}) if detector.scores == "sigmoid" else ("Softmax", {"axis": 2})
    every = graph.node(kind, [logits], "scores.every", attributes)
    bounds = [
        graph.constant(f"scores.{name}", np.array([value], np.int64))
        for name, value in (("first", 1), ("last", layout.classes + 1), ("axis", 2))
    ]
    objects = graph.node("Slice", [every, *bounds], "scores.objects")
    scores = graph.node("Transpose", [objects], "scores.classes", {"perm": [0, 2, 1]})
    count = min(detector.candidates, anchors_of(layout))
    wanted = graph.constant("scores.candidates", np.array([count], np.int64))
    graph.several("TopK", [scores, wanted], ("scores.best", "scores.places"), {"axis": 2})
    bounds = [
        graph.constant(f"scores.least.{name}", np.array([value], np.int64))
        for name, value in (("first", count - 1), ("last", count), ("axis", 2))
    ]
    least = graph.node("Slice", ["scores.best", *bounds], "scores.least")
    candidate = graph.node("GreaterOrEqual", [scores, least], "scores.candidate")
    nothing = graph.constant("scores.nothing", np.array(0, np.float32))
    return graph.node("Where", [candidate, scores, nothing], "scores.kept")


def _order(graph: GraphBuilder, values: str) -> str:
    """Append what sorts values (M,), the largest first; return the name of their places."""
    count = graph.node("Shape", [values], "detected.count")
    graph.several("TopK", [values, count], ("detected.sorted", "detected.order"), {"axis": 0})
    return "detected.order"


def _best_of_each(graph: GraphBuilder, ordered: str, boxes: str, most: int) -> str:
    """Append what keeps the first `most` rows (M, 3) of every picture."""
    zero = graph.constant("detected.column_0", np.array(0, np.int64))
    picture = graph.node("Gather", [ordered, zero], "detected.picture", {"axis": 1})
    sides = graph.node("Shape", [boxes], "detected.sides")
    pictures = graph.node("Gather", [sides, zero], "detected.batch", {"axis": 0})
    switch = graph.constant("detected.switch", np.array([0, 1], np.int64))
    own = graph.node("OneHot", [picture, pictures, switch], "detected.own")  # (M, N)
    counted = graph.node("Cast", [own], "detected.own.int32", {"to": 6})  # TensorProto.INT32, which CumSum takes
    seen = graph.node("CumSum", [counted, graph.constant("detected.along", np.array(0, np.int64))], "detected.seen")
    mine = graph.node("Mul", [seen, counted], "detected.mine")
    axes = graph.constant("detected.axes", np.array([1], np.int64))
    rank = graph.node("ReduceSum", [mine, axes], "detected.rank", {"keepdims": 0})
    limit = graph.constant("detected.limit", np.array(most, np.int32))
    keep = graph.node("LessOrEqual", [rank, limit], "detected.keep")
    return graph.node("Compress", [ordered, keep], "detected.kept", {"axis": 0})
