"""Papers to shapes: tables, plans and costs. Standard library only."""

from __future__ import annotations

from mobilenets.arch.cost import Cost, Precision, cost
from mobilenets.arch.mobilenet import ARCHITECTURES, Arch
from mobilenets.arch.naming import arch_from_json, arch_named, arch_to_json
from mobilenets.arch.plan import Op, Plan, plan

__all__ = [
    "ARCHITECTURES",
    "Arch",
    "Cost",
    "Op",
    "Plan",
    "Precision",
    "arch_from_json",
    "arch_named",
    "arch_to_json",
    "cost",
    "plan",
]
