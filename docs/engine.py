"""Write the tables and the picture of docs/engine.md out of benchmarks/results.

    python docs/engine.py

The figures are measured by `python -m benchmarks.scaling` and `python -m benchmarks.engine_blocks`. A test compares the
page with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).with_name("engine_scaling.png")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARK = re.compile(r"<!-- (\w+): generated -->\n.*?<!-- end -->", re.DOTALL)

LINES = {  # what is timed: its name in the picture, and how its line is drawn
    "engine float32": ("the engine, float32", "RIGHT", "o-"),
    "engine int8": ("the engine, int8", "RIGHT", "s--"),
    "onnx float32": ("ONNX Runtime, float32", "WRONG", "^-"),
    "openvino float32": ("OpenVINO, float32", "FAINT", "v-"),
}
KINDS = ("float32", "int8")

Cell = Mapping[str, Any]


def main() -> None:
    """Rewrite the page and the picture in place."""
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_bytes(picture())


def generated(text: str) -> str:
    """Return the text with every table between its marks made anew from the measured figures."""
    tables = {"scaling": scaling, "threads": threads, "blocks": blocks}
    return MARK.sub(lambda found: f"<!-- {found[1]}: generated -->\n{tables[found[1]]()}\n<!-- end -->", text)


def cells() -> list[Cell]:
    """Return the networks of the scaling benchmark, smallest first."""
    found = _details("scaling")["cells"].values()
    return sorted(found, key=lambda cell: int(cell["multiply_adds"]))


def row(cell: Cell, what: str, count: int = 1) -> Cell | None:
    """Return the times of an entrant with so many threads; None where it was not timed."""
    found = (each for each in cell["rows"] if (each["what"], each["threads"]) == (what, count))
    return next(found, None)


def scaling() -> str:
    """Return a row for each network: the median milliseconds, and the shortest."""
    rows = []
    for cell in cells():
        times = [row(cell, what) for what in LINES]
        size = f"{cell['width']:g}", str(cell["resolution"]), f"{cell['multiply_adds'] / 1e6:.1f}"
        rows.append([*size, *(f"{each['median_ms']:.2f} ({each['min_ms']:.2f})" for each in times if each)])
    return _table(["width", "resolution", "M multiply-adds", *(name for name, _, _ in LINES.values())], rows)


def threads() -> str:
    """Return the share of two threads that each entrant makes use of."""
    rows = []
    for cell in cells():
        if row(cell, "engine float32", 2):
            found = [(row(cell, what), row(cell, what, 2)) for what in LINES]
            shares = [f"{50 * one['median_ms'] / two['median_ms']:.0f} %" for one, two in found if one and two]
            rows.append([f"{cell['width']:g} at {cell['resolution']}", *shares])
    return _table(["width, resolution", *(name for name, _, _ in LINES.values())], rows)


def blocks() -> str:
    """Return a row for each kernel with weights: what it takes, what it cannot go below, its share of the ceiling."""
    details = _details("engine_blocks")
    both = [_network(details, kind) for kind in KINDS]
    rows = []
    for name in dict.fromkeys(each["writes"] for network in both for each in network if each["multiply_adds"]):
        cells: list[str] = []
        for network, kind in zip(both, KINDS, strict=True):
            found = next((each for each in network if each["writes"] == name), None)
            cells += ["", "", ""] if found is None else _reached(found, details["ceilings"][kind])
        rows.append([name, *cells])
    header = [f"{kind}: {what}" for kind in KINDS for what in ("µs", "at least", "G/s")]
    return _table(["kernel that writes", *header], rows)


def _network(details: Cell, kind: str) -> list[Cell]:
    networks = details["networks"]
    found = next(each for each in networks if (each["precision"], each["tiles"]) == (kind, "shipped"))
    return list(found["kernels"])


def _reached(kernel: Cell, ceiling: float) -> list[str]:
    speed = kernel["multiply_adds"] / kernel["median_us"] / 1e3
    return [f"{kernel['median_us']:.0f}", f"{kernel['bound_us']:.0f}", f"{speed:.0f} ({100 * speed / ceiling:.0f} %)"]


def picture() -> bytes:
    """Draw milliseconds against multiply-adds, both as logarithms: a line for each entrant."""
    from mobilenets import draw

    colours = {"RIGHT": draw.RIGHT, "WRONG": draw.WRONG, "FAINT": draw.FAINT}
    with draw.figure_style() as figure_class:
        figure = figure_class(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for what, (name, colour, style) in LINES.items():
            points = [(cell["multiply_adds"] / 1e6, found) for cell in cells() if (found := row(cell, what))]
            places, times = [each for each, _ in points], [found["median_ms"] for _, found in points]
            axes.plot(places, times, style, color=colours[colour], markersize=4, linewidth=1, label=name)
        axes.set(xscale="log", yscale="log", xlabel="million multiply-adds", ylabel="median milliseconds, 1 thread")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(color=draw.LINE, linewidth=0.6)
        axes.legend(frameon=False)
        axes.set_title("MobileNetV2, widths 0.35 to 1.4, resolutions 96 to 224", loc="left")
        return draw.to_png(figure)


def _details(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["details"]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
