"""What a network costs of everything that is bounded, for a trained network of any table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mobilenets.arch import Arch, Plan, plan
from mobilenets.arch.cost import cost
from mobilenets.checkpoint import Card
from mobilenets.engine.memory import Mode
from mobilenets.fit.budget import Budget
from mobilenets.fit.candidates import ram_bytes
from mobilenets.fit.flash import flash_bytes
from mobilenets.fit.latency import LatencyModel


@dataclass(frozen=True)
class Resources:
    """Counts what of a budget the networks of one card take: as deployed at a precision."""

    budget: Budget
    card: Card
    precision: str
    latency: LatencyModel | None
    memory: Mode = "layerwise"

    def layout(self, arch: Arch) -> Plan:
        """Return the plan of a table for the card's pictures and classes."""
        card = self.card
        return plan(arch, resolution=card.resolution, classes=len(card.labels), in_channels=card.in_channels)

    def predicted_ms(self, layout: Plan) -> float | None:
        """Return the milliseconds, None where latency plays no part."""
        return None if self.latency is None else self.latency.predict(layout)

    def flash_bytes(self, layout: Plan) -> int:
        """Return the size of the checkpoint, as the card has it."""
        return flash_bytes(replace(self.card, arch=layout.arch, width=layout.width, precision=self.precision))

    def ram_bytes(self, layout: Plan) -> int:
        """Return the bytes of activations at the worst moment."""
        return ram_bytes(layout, self.precision, self.memory)

    def shares(self, layout: Plan) -> dict[str, float]:
        """Return by bound how many times the bound a network takes; 1 or less is within it."""
        bounds = self.budget.bounds()
        return {name: self.amount(layout, name) / bound for name, bound in bounds.items()}

    def amount(self, layout: Plan, bound: str) -> float:
        """Return what a network takes of one bounded thing."""
        match bound:
            case "latency_ms":
                ms = self.predicted_ms(layout)
                assert ms is not None
                return ms
            case "multiply_adds":
                return cost(layout).multiply_adds
            case "flash_bytes":
                return self.flash_bytes(layout)
            case _:
                return self.ram_bytes(layout)


def worst(shares: Mapping[str, float]) -> tuple[str, float]:
    """Return the bound that a network is farthest above, or nearest to.

    >>> worst({"latency_ms": 1.5, "ram_bytes": 0.9})
    ('latency_ms', 1.5)
    """
    return max(shares.items(), key=lambda pair: pair[1])
