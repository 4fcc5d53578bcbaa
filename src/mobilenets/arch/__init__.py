"""Papers to shapes: tables, plans and costs. Standard library only."""

from __future__ import annotations

from mobilenets.arch.cost import Cost, Precision, cost
from mobilenets.arch.detector import Anchors, Detector
from mobilenets.arch.mobilenet import CLASSIFIERS, Arch
from mobilenets.arch.naming import ARCHITECTURES, arch_from_json, arch_named, arch_to_json
from mobilenets.arch.plan import Op, Plan, plan
from mobilenets.arch.ssdlite import DETECTORS

__all__ = [
    "ARCHITECTURES",
    "CLASSIFIERS",
    "DETECTORS",
    "Anchors",
    "Arch",
    "Cost",
    "Detector",
    "Op",
    "Plan",
    "Precision",
    "arch_from_json",
    "arch_named",
    "arch_to_json",
    "cost",
    "plan",
]
