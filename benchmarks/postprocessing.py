"""What follows a detector's network: softmax, decoding and suppression of 3,234 anchors and 90 classes, in one thread.

    python -m benchmarks.postprocessing

The maps are drawn: as a trained detector's would be, with 30 objects, each found by a few anchors around it and every
other place background; and, beside it, as of a network that has learned nothing, where everything is a candidate.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import Figure, write
from mobilenets.arch import DETECTORS, Plan, plan
from mobilenets.image.detection import Decoder, anchors

CLASSES, OBJECTS, ROUNDS, WARM_UP = 90, 30, 200, 20


def main() -> None:
    """Time both, in turns, and write the figures."""
    layout = plan(DETECTORS["ssdlite320_mobilenet_v3_large"], classes=CLASSES)
    random = np.random.default_rng(0)
    cases = {"trained": trained_maps(layout, random), "untrained": untrained_maps(layout, random)}
    decoders = {"trained": Decoder(layout), "untrained": Decoder(layout)}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    found = {}
    for turn in range(WARM_UP + ROUNDS):
        for name, maps in cases.items():
            began = time.perf_counter()
            (found[name],) = decoders[name](maps)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    places = len(anchors(layout))
    figures = [
        Figure(
            f"Decoding and suppression of {places:,} anchors x {CLASSES} classes, {name} network, one thread",
            round(1000 * statistics.median(times), 2),
            "ms",
            "under 5 ms" if name == "trained" else "beside it",
        )
        for name, times in seconds.items()
    ]
    details = {
        name: {
            "min_ms": round(1000 * min(times), 3),
            "candidates": candidates(cases[name], decoders[name]),
            "boxes": len(found[name]),
        }
        for name, times in seconds.items()
    }
    write("postprocessing", figures, details)
    for figure in figures:
        print(f"{figure.what}: {figure.value:g} {figure.unit}")


def trained_maps(layout: Plan, random: np.random.Generator) -> list[NDArray[np.float32]]:
    """Return maps whose scores are as a trained detector's: background nearly everywhere, objects here and there."""
    maps = untrained_maps(layout, random)
    values = layout.classes + 1
    for scores in maps[1::2]:
        scores[:, ::values] += 10.0
    for _ in range(OBJECTS):
        scores = maps[1::2][int(random.integers(2))]
        _, channels, height, width = scores.shape
        row, column = int(random.integers(height)), int(random.integers(width))
        around = np.s_[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        number = int(random.integers(1, values))
        for anchor in range(channels // values):
            scores[0, anchor * values + number][around] += random.uniform(6.0, 12.0)
    return maps


def candidates(maps: list[NDArray[np.float32]], decoder: Decoder) -> int:
    """Return how many scores of classes are above the threshold, and so enter the suppression."""
    values = CLASSES + 1
    logits = np.concatenate(
        [each.reshape(-1, values, each[0, 0].size).transpose(1, 0, 2).reshape(values, -1) for each in maps[1::2]],
        axis=1,
    )
    powers = np.exp(logits - logits.max(axis=0))
    return int((powers[1:] > decoder.score_threshold * powers.sum(axis=0)).sum())


def untrained_maps(layout: Plan, random: np.random.Generator) -> list[NDArray[np.float32]]:
    """Return maps of noise."""
    return [random.normal(size=(1, *layout.op(name).out)).astype(np.float32) for name in layout.outputs]


if __name__ == "__main__":
    main()
