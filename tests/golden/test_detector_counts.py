"""Detectors counted as the papers count them: weights, without BatchNorm, and multiply-adds, at 320x320.

V2's paper has COCO's 80 classes and counts no biases; V3's has the 90 that COCO numbers, and counts the heads' biases.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mobilenets.arch import DETECTORS, Arch, Op, cost, plan
from mobilenets.arch.cost import multiply_adds, parameters


def as_printed(value: float, printed: str) -> set[str]:
    """Return a value with as many digits, rounded and cut: papers do the one and the other."""
    digits = len(printed.partition(".")[2])
    return {f"{value:.{digits}f}", f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"}


def counted(ops: list[Op], *, biases: bool) -> tuple[float, float]:
    """Return millions of weights and billions of multiply-adds."""
    weights = 0
    for op in ops:
        weights += parameters(op) - (2 * op.out[0] if op.batch_norm else 0)
        weights -= op.out[0] if op.bias and not biases else 0
    return weights / 1e6, sum(multiply_adds(op) for op in ops) / 1e9


@pytest.mark.parametrize(
    ("name", "width", "classes", "biases", "millions", "billions"),
    [
        ("ssdlite_mobilenet_v1", 1.0, 80, False, "5.1", "1.3"),
        ("ssdlite_mobilenet_v2", 1.0, 80, False, "4.3", "0.8"),
        ("ssdlite_mobilenet_v3_large", 1.0, 90, True, "3.22", "0.51"),
        ("ssdlite_mobilenet_v3_small", 1.0, 90, True, "1.77", "0.16"),
        ("ssdlite_mobilenet_v3_small_full", 1.0, 90, True, "2.49", "0.21"),
        # Printed 0.62: that follows from 219 M multiply-adds of the backbone at 224, where 217 is the count.
        ("ssdlite_mobilenet_v3_large_full", 1.0, 90, True, "4.97", "0.61"),
        ("ssdlite_mobilenet_v2", 0.35, 90, True, "0.93", "0.16"),
        ("ssdlite_mobilenet_v2", 0.5, 90, True, "1.54", "0.27"),
    ],
)
def test_tables_6(name: str, width: float, classes: int, *, biases: bool, millions: str, billions: str) -> None:
    weights, adds = counted(list(plan(DETECTORS[name], width=width, classes=classes).ops), biases=biases)
    assert millions in as_printed(weights, millions)
    assert billions in as_printed(adds, billions)


def heads(arch: Arch) -> list[Op]:
    layout = plan(arch)
    return [op for op in layout.ops if op.row >= len(arch.rows)]


def test_table_5() -> None:
    """SSDLite's heads on V2: 2.1 M and 0.35 B where SSD's have 14.8 M and 1.25 B.

    0.35 counts multiplications and additions apart: with it, the whole detector would have 0.96 B and not 0.8.
    """
    arch = DETECTORS["ssdlite_mobilenet_v2"]
    assert arch.detector is not None
    lite = counted(heads(arch), biases=False)
    ssd = counted(heads(replace(arch, detector=replace(arch.detector, heads="ssd"))), biases=False)
    assert "2.1" in as_printed(lite[0], "2.1")
    assert "0.35" in as_printed(2 * lite[1], "0.35")
    assert "14.8" in as_printed(ssd[0], "14.8")
    assert "1.25" in as_printed(ssd[1], "1.25")


def test_torchvisions() -> None:
    total = cost(plan(DETECTORS["ssdlite320_mobilenet_v3_large"]))
    assert total.parameters == 3_440_060
    assert f"{total.multiply_adds / 1e9:.3f}" == "0.583"
