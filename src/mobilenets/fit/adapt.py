"""NetAdapt (arXiv:1804.03230): narrow a trained network step by step, each time where it costs least accuracy.

In every step each group of channels is proposed in the widest version that saves a share of the budgeted resource. All
proposals are judged as they are, a few of the best after brief training, and the one that loses least accuracy for what
it saves is taken. V3 was made so, after its search (arXiv:1905.02244, section 4.2).

Differences from the paper: where a network has many small blocks, few of them can save a step alone; so each is trimmed
a little, too, to see what that costs, and the cheapest trims that save a step together are one more proposal. The
filters that go are those whose readers make least of them, and their mean stays, in the bias of what read them; only
the likeliest proposals are trained. Several bounds may be given: the one that the network is farthest above is what a
step has to save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mobilenets.checkpoint import Checkpoint
from mobilenets.fit.narrowing import Activity, Proposal, narrowed, proposals, together, trims
from mobilenets.fit.resources import Resources, worst

FIRST_STEP, DECAY = 0.06, 0.97
"""Of what the network takes in the beginning, the share that the first step saves; later steps save less and less."""
LEAST_STEP = 0.01
FINALISTS = 3
"""Proposals that are briefly trained."""


class Bench(Protocol):
    """What trains and judges: :class:`mobilenets.fit.tuning.Workbench`."""

    def watch(self, checkpoint: Checkpoint) -> dict[str, Activity]:
        """Return how large channels are."""

    def tune(self, checkpoint: Checkpoint, steps: int, turn: int) -> Checkpoint:
        """Train briefly."""

    def judge(self, checkpoint: Checkpoint) -> Any:
        """Return `top1`, `loss` and `rank`."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A network on the way, and how it came from the one before."""

    number: int
    checkpoint: Checkpoint
    taken: str  # the group that was narrowed, or "" in the beginning
    top1: float
    loss: float
    shares: Mapping[str, float]  # of every bound; 1 is the bound
    proposals: int

    @property
    def fits(self) -> bool:
        """Whether it is within all bounds."""
        return worst(self.shares)[1] <= 1

    def row(self, resources: Resources) -> dict[str, Any]:
        """Return a line of the trace, as plain values."""
        layout = self.checkpoint.card.plan
        amounts = {name: resources.amount(layout, name) for name in self.shares}
        return {
            "step": self.number,
            "narrowed": self.taken,
            "top1": self.top1,
            "loss": self.loss if self.loss < float("inf") else None,
            "proposals": self.proposals,
            **amounts,
        }


Spread = Callable[[Sequence[Proposal], Callable[[int, Proposal], Any]], list[Any]]
"""Does something with every proposal, in several processes where there are several; results in their order."""


def one_by_one(what: Sequence[Proposal], do: Callable[[int, Proposal], Any]) -> list[Any]:
    """Do it here, one after the other."""
    return [do(index, each) for index, each in enumerate(what)]


def begin(checkpoint: Checkpoint, resources: Resources, bench: Bench) -> Step:
    """Return the network as it is, judged."""
    judged = bench.judge(checkpoint)
    shares = resources.shares(checkpoint.card.plan)
    return Step(0, checkpoint, "", judged.top1, judged.loss, shares, 0)


def advance(
    step: Step,
    resources: Resources,
    bench: Bench,
    *,
    short_steps: int,
    first_shares: Mapping[str, float],
    spread: Spread = one_by_one,
) -> Step | None:
    """Return the next network, a step nearer to the budget; None where no proposal can save enough.

    Args:
        step: where the way has come to; not within the budget.
        resources: what counts.
        bench: what trains and judges.
        short_steps: steps that finalists are trained for.
        first_shares: of the bounds, what the first network took.
        spread: how proposals are shared between processes.
    """
    bound, share = worst(step.shares)
    offered, target = _offered(step, resources, bound, first_shares[bound])
    if not offered:
        return None
    activity = bench.watch(step.checkpoint)
    finalists = _finalists(step, resources, bench, activity, offered, (bound, target), spread)
    if not finalists:
        return None

    def trained(index: int, proposal: Proposal) -> tuple[Checkpoint, Any]:
        made = bench.tune(narrowed(step.checkpoint, proposal, activity), short_steps, 100 * step.number + index)
        return made, bench.judge(made)

    results = spread(finalists, trained)
    # The cross-entropy of some hundred pictures tells more than how many of them are right. Where training made a
    # proposal better than what it came from, the best is taken: a gain divided by what is saved would favour savings
    # that are small.
    before = min(step.loss, *(verdict.loss for _, verdict in results))

    def worth(index: int) -> float:
        made, verdict = results[index]
        return _worth(-verdict.loss, -before, worst(resources.shares(made.card.plan))[1], share)

    best = max(range(len(finalists)), key=worth)
    made, verdict = results[best]
    shares = resources.shares(made.card.plan)
    return Step(step.number + 1, made, finalists[best].name, verdict.top1, verdict.loss, shares, len(offered))


def _offered(step: Step, resources: Resources, bound: str, first: float) -> tuple[list[Proposal], float]:
    """Return the proposals that save a step, or as much of one as anything can, and what they are to reach."""
    size = max(LEAST_STEP, FIRST_STEP * DECAY**step.number) * first
    share = step.shares[bound]
    for part in (1.0, 0.5, 0.25, 0.1):
        # The last step goes to the budget and no farther.
        target = max(1.0, share - part * size) * resources.budget.bounds()[bound]
        offered = proposals(step.checkpoint.card.plan, resources, bound, target)
        if offered:
            return offered, target
    return [], 0.0


def _finalists(
    step: Step,
    resources: Resources,
    bench: Bench,
    activity: Mapping[str, Activity],
    offered: Sequence[Proposal],
    aim: tuple[str, float],
    spread: Spread,
) -> list[Proposal]:
    """Return the proposals that lose least for what they save, as they are; with trims of several groups as one."""
    layout = step.checkpoint.card.plan
    share = worst(step.shares)[1]

    def lost(_: int, proposal: Proposal) -> tuple[float, float]:
        made = narrowed(step.checkpoint, proposal, activity)
        return bench.judge(made).loss, worst(resources.shares(made.card.plan))[1]

    def ordered(what: Sequence[Proposal]) -> list[Proposal]:
        judged = spread(what, lost)
        worth = [_worth(-loss, -step.loss, left, share) for loss, left in judged]
        saving = [index for index, (_, left) in enumerate(judged) if left < share]
        return [what[index] for index in sorted(saving, key=lambda index: -worth[index])]

    several = together(ordered(trims(layout)), layout, resources, *aim)
    singles = ordered(offered)
    return ([] if several is None else [several]) + singles[: FINALISTS - 1]


def _worth(accuracy: float, before: float, left: float, share: float) -> float:
    """Return the accuracy gained (mostly: lost) for each share of the bound that is saved; larger is better."""
    return (accuracy - before) / max(1e-9, share - left)
