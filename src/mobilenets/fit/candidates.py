"""What can be chosen from: every architecture at every width, resolution and precision that it is used at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mobilenets.arch import ARCHITECTURES, Plan, plan
from mobilenets.arch.cost import cost
from mobilenets.arch.mobilenet import Classifier
from mobilenets.bench.probes import SIDES, WIDTHS
from mobilenets.checkpoint import Card
from mobilenets.engine import memory
from mobilenets.engine.memory import Mode
from mobilenets.fit.accuracy import Expected, expected
from mobilenets.fit.budget import Budget, quantity
from mobilenets.fit.costs import encode
from mobilenets.fit.flash import flash_bytes
from mobilenets.fit.latency import LatencyModel
from mobilenets.image import Preprocess

PRECISIONS = ("float32", "int8")
CHEAPEST_FIRST = ("latency_ms", "multiply_adds", "flash_bytes", "ram_bytes")
"""Bounds in the order of what it costs to look at them."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network that may fit, and what is known of it without training it."""

    model: str
    layout: Plan
    precision: str
    expected: Expected
    predicted_ms: float | None = None
    memory: Mode = "layerwise"

    @cached_property
    def multiply_adds(self) -> int:
        """For one picture."""
        return cost(self.layout).multiply_adds

    @cached_property
    def ram_bytes(self) -> int:
        """Of activations, as planned; the picture apart."""
        return ram_bytes(self.layout, self.precision, self.memory)

    @cached_property
    def _least_ram(self) -> int:
        """What no arrangement of the activations is below: told much faster than the best arrangement."""
        return memory.least(self.layout, "int8" if self.precision == "int8" else "float32")

    @cached_property
    def flash_bytes(self) -> int:
        """Of the checkpoint, its labels numbers."""
        return flash_bytes(plain_card(self.layout, self.precision))

    @property
    def name(self) -> str:
        """What it is, for people."""
        height, side = self.layout.resolution
        return f"{self.model} {self.layout.width:g} at {height}x{side} {self.precision}"

    def amount(self, bound: str) -> float | None:
        """Return what it needs of something that a budget bounds; None where that is unknown."""
        match bound:
            case "latency_ms":
                return self.predicted_ms
            case "multiply_adds":
                return self.multiply_adds
            case "flash_bytes":
                return self.flash_bytes
            case _:
                return self.ram_bytes

    def at_least(self, bound: str) -> float | None:
        """Return what is quickly told of :meth:`amount`: of RAM what no arrangement layer by layer is below.

        Where rows or pixels are kept instead of maps, it is a number by which networks can be compared, no bound.
        """
        return self._least_ram if bound == "ram_bytes" else self.amount(bound)

    def exceeded(self, budget: Budget) -> dict[str, float]:
        """Return how many times a bound each amount is, of those that are above their bounds."""
        bounds = budget.bounds()
        over = {}
        for name in CHEAPEST_FIRST:
            amount = self.amount(name) if name in bounds else None
            if amount is not None and amount > bounds[name]:
                over[name] = amount / bounds[name]
        return over

    def fits(self, budget: Budget) -> bool:
        """Say whether it is within all bounds; the dear ones are looked at only where the cheap ones hold."""
        bounds = budget.bounds()
        if "ram_bytes" in bounds and self.memory == "layerwise" and self._least_ram > bounds["ram_bytes"]:
            return False
        return all(
            (amount := self.amount(name)) is None or amount <= bounds[name] for name in CHEAPEST_FIRST if name in bounds
        )

    def needs(self, budget: Budget) -> str:
        """Print what it needs of everything that is bounded."""
        amounts = {name: self.amount(name) for name in budget.bounds()}
        return ", ".join(quantity(name, amount) for name, amount in amounts.items() if amount is not None)


@dataclass(frozen=True)
class Grid:
    """What to choose from. Empty means: all that were published."""

    models: tuple[str, ...] = ()
    widths: tuple[float, ...] = ()
    sides: tuple[int, ...] = ()
    precisions: tuple[str, ...] = PRECISIONS
    classes: int = 1000
    in_channels: int = 3
    memory: Mode = "layerwise"
    latency: Mapping[str, LatencyModel] = field(default_factory=dict)
    """By precision; where there is none, nothing is predicted."""


def candidates(grid: Grid) -> list[Candidate]:
    """Return every network of the grid that an accuracy can be expected of."""
    names = grid.models or tuple(name for name, arch in ARCHITECTURES.items() if isinstance(arch.rows[-1], Classifier))
    found: list[tuple[str, Plan, str, Expected]] = []
    for name in names:
        arch = ARCHITECTURES[name]
        compound = arch.base_width != 1 or arch.resolution not in SIDES  # EfficientNet-Lite1 to 4: scaled as one
        for width in (1.0,) if compound else grid.widths or WIDTHS:
            for side in grid.sides or ((arch.resolution,) if compound else SIDES):
                kinds = [(kind, expected(name, width, side, kind)) for kind in grid.precisions]
                if all(each is None for _, each in kinds):
                    continue
                layout = plan(arch, width=width, resolution=side, classes=grid.classes, in_channels=grid.in_channels)
                found += [(name, layout, kind, each) for kind, each in kinds if each is not None]
    return _predicted(found, grid)


def _predicted(found: Sequence[tuple[str, Plan, str, Expected]], grid: Grid) -> list[Candidate]:
    """Return the candidates with their latencies, all of a precision at once."""
    made: list[Candidate] = []
    layouts = {id(layout): layout for _, layout, _, _ in found}
    places = {identity: place for place, identity in enumerate(layouts)}
    operations = encode(list(layouts.values())) if grid.latency and layouts else None
    for precision in grid.precisions:
        these = [each for each in found if each[2] == precision]
        model = grid.latency.get(precision)
        ms: list[float | None] = [None] * len(these)
        if model is not None and operations is not None:
            predicted = model.predict_all(operations)
            ms = [float(predicted[places[id(layout)]]) for _, layout, _, _ in these]
        made += [
            Candidate(*each, predicted_ms=value, memory=grid.memory) for each, value in zip(these, ms, strict=True)
        ]
    return made


def frontier(everything: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Return those within the budget that nothing is better than at no greater cost, the cheapest first.

    The cost is latency where it is known of all, else multiply-adds. Whether the dear bounds hold is only asked of
    networks that would be on the frontier.
    """
    known = all(each.predicted_ms is not None for each in everything)

    def spent(each: Candidate) -> float:
        return each.predicted_ms if known and each.predicted_ms is not None else each.multiply_adds

    best: list[Candidate] = []
    for each in sorted(everything, key=lambda each: (spent(each), -each.expected.top1)):
        if (not best or each.expected.top1 > best[-1].expected.top1) and each.fits(budget):
            best.append(each)
    return best


def ram_bytes(layout: Plan, precision: str, mode: Mode = "layerwise") -> int:
    """Return the bytes of activations at the worst moment, planned to the byte; the picture is the caller's."""
    return memory.peak(layout, "int8" if precision == "int8" else "float32", mode)


def plain_card(layout: Plan, precision: str) -> Card:
    """Return the card of a network that nothing has been done with, its classes numbered."""
    height, side = layout.resolution
    middle = (0.5,) * layout.in_channels
    return Card(
        arch=layout.arch,
        width=layout.width,
        resolution=layout.resolution,
        labels=tuple(map(str, range(layout.classes))),
        preprocess=Preprocess(height, side, layout.in_channels, mean=middle, std=middle),
        in_channels=layout.in_channels,
        task="classification" if layout.arch.detector is None else "detection",
        precision=precision,
    )
