"""docs/engine.md says what was measured, and its picture shows it."""

from __future__ import annotations

import io
import json
import re
import runpy
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "engine.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROSE = " ".join(re.sub(r"<!--.*?<!-- end -->", "", TEXT, flags=re.DOTALL).split())
PEERS = ("onnx float32", "openvino float32")


def details(name: str) -> Any:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["details"]


CELLS: dict[str, Any] = details("scaling")["cells"]


def median_ms(cell: Any, what: str, threads: int = 1) -> float:
    return next(float(row["median_ms"]) for row in cell["rows"] if (row["what"], row["threads"]) == (what, threads))


def test_the_page_has_the_measured_figures() -> None:
    assert runpy.run_path(str(PAGE.with_suffix(".py")))["generated"](TEXT) == TEXT, "run: python docs/engine.py"
    assert "generated -->\n<!-- end" not in TEXT


def test_every_network_of_the_grid_was_timed_by_all() -> None:
    sizes = {(cell["width"], cell["resolution"]) for cell in CELLS.values()}
    assert len(sizes) == len(CELLS) == 20
    assert {(row["what"], row["threads"]) for cell in CELLS.values() for row in cell["rows"]} == {
        (what, threads) for what in ("engine float32", "engine int8", *PEERS) for threads in (1, 2)
    }


def test_the_text_about_scaling() -> None:
    quotients = {
        (key, kind): min(median_ms(cell, peer) for peer in PEERS) / median_ms(cell, f"engine {kind}")
        for key, cell in CELLS.items()
        for kind in ("float32", "int8")
    }
    mean = {
        kind: exp(sum(log(value) for (_, found), value in quotients.items() if found == kind) / len(CELLS))
        for kind in ("float32", "int8")
    }
    float32 = {key: value for (key, kind), value in quotients.items() if kind == "float32"}
    assert min(float32.values()) > 1, "the fastest in all twenty"
    assert f"takes {min(float32.values()):.2f} to {max(float32.values()):.2f} times as long" in PROSE
    assert f"{mean['float32']:.2f} times in the geometric mean, and {mean['int8']:.2f} times as long as int8" in PROSE
    assert min(float32, key=lambda key: float32[key]) == "1.4 at 96", "nearest to them"


def test_the_text_about_ceilings() -> None:
    found = details("engine_blocks")
    limits = found["ceilings"]
    said = f"{limits['float32']:.0f} G multiply-adds of float32 a second in registers, {limits['int8']:.0f} G of bytes"
    assert f"{said}, and reads {limits['read_gb_s']:.0f} GB a second" in PROSE
    for network in found["networks"]:
        if (network["precision"], network["tiles"]) == ("float32", "shipped"):
            count = sum(row["multiply_adds"] for row in network["kernels"])
            reached = count / network["median_ms"] / 1e6 / limits["float32"]
            assert f"reaches {100 * reached:.0f} % of the first ceiling in float32" in PROSE
            dense = [row for row in network["kernels"] if row["shape"].startswith("pointwise")]
            shares = [row["multiply_adds"] / row["median_us"] / 1e3 / limits["float32"] for row in dense]
            assert min(shares) > 0.8
            assert 2 * sum(share > 0.95 for share in shares) >= len(shares)


def test_the_picture_shows_the_figures() -> None:
    """A new drawing has the size and, nearly, the pixels of the one there: fonts may differ between versions."""
    pytest.importorskip("matplotlib", reason="the extra `train` is not installed")
    drawn = runpy.run_path(str(PAGE.with_suffix(".py")))["picture"]()
    with Image.open(io.BytesIO(drawn)) as one, Image.open(PAGE.with_name("engine_scaling.png")) as other:
        assert one.size == other.size
        both = zip(one.convert("L").tobytes(), other.convert("L").tobytes(), strict=True)
        assert sum(abs(a - b) > 64 for a, b in both) < one.width * one.height / 100


def test_the_text_about_c() -> None:
    quotients = [each["Halide"]["median_ms"] / each["C"]["median_ms"] for each in details("engine_c").values()]
    assert f"float32 in C is {min(quotients):.2f} to {max(quotients):.2f} times as fast as Halide's" in PROSE
    assert len(quotients) == 6, "six networks"
