"""Choosing: every network that fits, ranked by the accuracy expected of it; the best is measured before it is named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from mobilenets.errors import InputError
from mobilenets.fit.accuracy import prior_error
from mobilenets.fit.budget import Budget, quantity
from mobilenets.fit.candidates import Candidate, Grid, candidates, frontier
from mobilenets.fit.device import Device
from mobilenets.fit.result import Choice, FitResult, choice_of
from mobilenets.machine import describe_machine

ATTEMPTS = 4
"""So many networks are measured at most, the best first, until one is within the budget on the clock, too."""
DOUBT = 2
"""Medians of the predictions' error that what is not run has to stay below the budget."""
LOOKED_AT = 12
"""Better networks that are asked what keeps them out."""


def choose(model: str, grid: Grid, budget: Budget, device: Device | None, *, measure: bool = True) -> FitResult:
    """Rank the grid and return the best network that fits.

    Args:
        model: what the user named; its own best is mentioned.
        grid: what to choose from.
        budget: the bounds.
        device: what is known of the device's speed, None where latency plays no part.
        measure: run the chosen network before it is named, where the device is this machine.

    Raises:
        InputError: nothing fits; says which bound binds, and what would fit.
    """
    begun = time.perf_counter()
    everything = candidates(grid)
    order = sorted(everything, key=lambda each: (-each.expected.top1, each.predicted_ms or each.multiply_adds))
    run = measure and device is not None and device.own
    found = _measured(order, budget, device) if run and device is not None else _predicted(order, budget, grid)
    if found is None:
        raise InputError(impossible(everything, budget))
    best, measured, notes = found
    shown = frontier(everything, budget)
    why = [_what(best, measured), *_next_better(order, best, budget), *_own(model, order, best, budget)]
    why += _doubts(best, grid)
    return FitResult(
        model=model,
        method="choose",
        budget=budget,
        runtime="" if device is None else device.runtime,
        threads=1 if device is None else device.threads,
        chosen=choice_of(best, measured),
        frontier=tuple(_shown(each, best, measured) for each in shown),
        why=tuple(why),
        seconds=time.perf_counter() - begun,
        machine=describe_machine() if device is None else device.table.machine,
        notes=tuple(notes),
    )


def _measured(
    order: Sequence[Candidate], budget: Budget, device: Device
) -> tuple[Candidate, float | None, list[str]] | None:
    """Return the best network that is within the budget when it is run, and its milliseconds; None if nothing fits."""
    notes: list[str] = []
    tried: list[tuple[float, Candidate]] = []
    for each in order:
        # What was predicted to be slower than something that was too slow need not be tried.
        if any(each.predicted_ms >= slow.predicted_ms for _, slow in tried if each.predicted_ms and slow.predicted_ms):
            continue
        if not each.fits(budget):
            continue
        if budget.latency_ms is None:
            return each, None, notes
        ms = device.measure(each.layout, each.precision)
        if ms is None or ms <= budget.latency_ms:
            return each, ms, notes
        notes.append(f"{each.name} was predicted to take {each.predicted_ms:.2f} ms and took {ms:.2f} ms: passed over")
        tried.append((ms, each))
        if len(tried) == ATTEMPTS:
            break
    if not tried:
        return None
    ms, closest = min(tried, key=lambda pair: pair[0])
    notes.append(f"none of the {len(tried)} best was within {budget.latency_ms:g} ms when run: the closest is chosen")
    return closest, ms, notes


def _predicted(
    order: Sequence[Candidate], budget: Budget, grid: Grid
) -> tuple[Candidate, float | None, list[str]] | None:
    """Return the best network that is within the budget even if its prediction is twice as far off as in the middle.

    Of all networks the one is asked for that just fits: mostly one whose prediction is too low.
    """
    close: list[Candidate] = []
    notes: list[str] = []
    for each in order:
        if not each.fits(budget):
            continue
        model = grid.latency.get(each.precision)
        error = 0.0 if model is None or model.error is None else DOUBT * model.error.median
        if budget.latency_ms is None or (each.predicted_ms or 0.0) * (1 + error) <= budget.latency_ms:
            return each, None, notes
        close.append(each)
        doubt = "within the budget by less than predictions are off: passed over, as it was not run"
        notes = notes or [f"{each.name} is predicted to take {each.predicted_ms:.2f} ms, {doubt}"]
    return (close[0], None, []) if close else None


def _shown(candidate: Candidate, best: Candidate, measured: float | None) -> Choice:
    return replace(choice_of(candidate), measured_ms=measured) if candidate is best else choice_of(candidate)


def _what(best: Candidate, measured: float | None) -> str:
    time_text = "" if best.predicted_ms is None else f", predicted {best.predicted_ms:.2f} ms"
    time_text += "" if measured is None else f", measured {measured:.2f} ms"
    return f"chosen: {best.name}{time_text}; top-1 on ImageNet {best.expected.top1:.1f} % ({best.expected.source})"


def _next_better(order: Sequence[Candidate], best: Candidate, budget: Budget) -> list[str]:
    """Say which network is nearest to fitting, of those that are a little better, and what it lacks."""
    better = [each for each in order if each.expected.top1 > best.expected.top1][-LOOKED_AT:]
    likely = [each for each in better if not each.fits(budget)]
    if not likely:
        return ["nothing better is known: the budget leaves room"]
    nearest = min(likely, key=lambda each: max(each.exceeded(budget).values()))
    over = ", ".join(
        f"{quantity(name, nearest.amount(name) or 0)}, {quantity(name, budget.bounds()[name])} at most"
        for name in nearest.exceeded(budget)
    )
    gain = nearest.expected.top1 - best.expected.top1
    return [f"next better: {nearest.name} (+{gain:.1f} points) does not fit: {over}"]


def _own(model: str, order: Sequence[Candidate], best: Candidate, budget: Budget) -> list[str]:
    """Say how far the architecture that was named gets, where another one won."""
    if model == best.model:
        return []
    own = next((each for each in order if each.model == model and each.fits(budget)), None)
    if own is None:
        return [f"{model}: nothing of it fits"]
    points = best.expected.top1 - own.expected.top1
    return [f"{model} at its best: {own.name}, {points:.1f} points less"]


def _doubts(best: Candidate, grid: Grid) -> list[str]:
    """Say how far off the numbers are on which this rests."""
    lines = []
    model = grid.latency.get(best.precision)
    if model is not None and model.error is not None:
        error = model.error
        lines.append(
            f"latency predictions in {best.precision} are off by {100 * error.median:.1f} % (median) and at most "
            f"{100 * error.worst:.1f} % on {error.networks} networks that were left out of the table"
        )
    if not best.expected.published:
        lines.append(
            f"that accuracy is a prior: on published networks it is off by {prior_error():.1f} points in the mean"
        )
    return lines


def impossible(everything: Sequence[Candidate], budget: Budget) -> str:
    """Say which bound binds, and what would fit."""
    bounds = budget.bounds()
    # What takes least by what is quickly told has the network that is nearest to fitting; the rest need not be planned.
    rough = {name: sorted(everything, key=lambda each: each.at_least(name) or 0.0) for name in bounds}
    within = {
        name: sum((amount := each.at_least(name)) is not None and amount <= bound for each in everything)
        for name, bound in bounds.items()
    }
    tightest = min(within, key=lambda name: within[name])
    likely = list({id(each): each for name in bounds for each in rough[name][:LOOKED_AT]}.values())
    closest = min(likely, key=lambda each: max(each.exceeded(budget).values(), default=0.0))
    least = min(
        (each for each in rough[tightest][:LOOKED_AT] if each.amount(tightest) is not None),
        key=lambda each: each.amount(tightest) or 0.0,
        default=closest,
    )
    least_text = quantity(tightest, least.amount(tightest) or 0.0)
    return (
        f"nothing fits {budget}: the bound that binds is {quantity(tightest, bounds[tightest])}, which "
        f"{within[tightest]} of {len(everything)} networks meet (the least is {least_text}, {least.name}); "
        f"closest is {closest.name}, which needs {closest.needs(budget)}"
    )
