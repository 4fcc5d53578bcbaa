"""The search: a supernet trained on the user's data, candidates tried with its weights, and the winner handed on.

Training follows the sandwich rule (arXiv:1903.05134): in every step the largest and the smallest network and two at
random. There, all but the largest learn from the largest one's answers; here, where a network was trained on these
classes before, all learn from its answers, which are good from the first step on. Candidates are proposed by Optuna's
NSGA-II for two aims, accuracy and latency; the winner has the largest reward accuracy x (latency / target)^w of MnasNet
(arXiv:1807.11626, equation 2).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn import functional

from mobilenets.arch.cost import cost
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.fit.outputs import Trace, write_progress
from mobilenets.fit.resources import Resources, worst
from mobilenets.fit.result import Choice
from mobilenets.fit.space import (
    EXPANSIONS,
    KERNELS,
    WIDTHS,
    Choices,
    Space,
    StageChoice,
    choices_from_json,
    choices_to_json,
    space_of,
)
from mobilenets.fit.supernet import Supernet
from mobilenets.fit.tuning import CLIP_NORM, Workbench
from mobilenets.nn.network import Network, from_checkpoint, to_tensors
from mobilenets.train import processes, start
from mobilenets.train.optimization import learning_rate_at, make_optimizer, set_learning_rate
from mobilenets.train.request import Request as TrainRequest

if TYPE_CHECKING:
    from mobilenets.fit.training import Sitting

EXPONENT = -0.07
"""Of MnasNet's reward: twice the latency is worth 5 % of the accuracy (arXiv:1807.11626, section 3.1)."""
STEPS_FOR_EACH_SHORT_ONE = 20
"""The supernet is trained for so many times the steps of a proposal's brief training."""
WINNER_STEPS = 5
"""The winner is trained for so many times those steps before it is adapted."""
NEAR = 1.25
"""The winner takes at most so many times the budget: the rest is what adapting is for, the last per cent."""
RANDOM_NETWORKS = 2
TRIALS = 96
STATISTICS_BATCHES = 8
SUPERNET = "supernet.safetensors"


@dataclass(frozen=True)
class AtHand:
    """The network that the space is around, for the classes of the data, and its weights where there are any."""

    card: Card
    checkpoint: Checkpoint | None
    trained: bool  # on these very classes


def winner(sitting: Sitting, at_hand: AtHand) -> Checkpoint:
    """Train a supernet, search it, and return the best candidate as a checkpoint."""
    card, source = at_hand.card, at_hand.checkpoint
    space = space_of(card.plan)
    workbench = Workbench(sitting.data, card, sitting.request.seed, sitting.request.workers, sitting.accelerator)
    torch.manual_seed(sitting.request.seed)
    supernet = Supernet(space)
    if source is not None:
        supernet.adopt(source, workbench.watch(source))
    supernet.to(sitting.accelerator.device)
    _train(sitting, supernet, workbench, from_checkpoint(source) if source is not None and at_hand.trained else None)
    from mobilenets.fit.training import resources_of

    resources = resources_of(sitting, card, number=0)
    images = [images for images, _ in workbench.shuffled(STATISTICS_BATCHES, 0, workbench.recipe)]
    rows = _search(sitting, sitting.trace, space, supernet, workbench, resources, images)
    best = winning(rows)
    sitting.say(f"winner of {len(rows)} candidates: top-1 {100 * best['top1']:.2f} %, reward {best['reward']:.4f}")
    made = supernet.checkpoint(choices_from_json(best["choices"]), card, images)
    tuned = workbench.tune(made, WINNER_STEPS * sitting.request.short_steps, turn=1)
    same: Checkpoint = processes.from_first(sitting.accelerator, tuned)  # another machine's last bits may differ
    return same


def winning(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the candidate with the largest reward of those that adapting can bring to the budget, else the nearest."""
    near = [row for row in rows if row["share of budget"] <= NEAR]
    if near:
        return max(near, key=lambda row: row["reward"])
    return min(rows, key=lambda row: row["share of budget"])


def at_hand(sitting: Sitting) -> AtHand:
    """Return the network that the space is to be around, with the best weights there are."""
    request = sitting.request
    wanted = TrainRequest(data=request.data or "", model=request.model, seed=request.seed)
    source = start.choose_weights(wanted, sitting.data, sitting.say)
    card = start.make_card(wanted, sitting.data, source)
    if source is None:
        return AtHand(card, None, trained=False)
    network = start.make_network(card, source, request.seed, sitting.say)
    return AtHand(card, Checkpoint(card, to_tensors(network)), trained=source.card.labels == card.labels)


def _train(sitting: Sitting, supernet: Supernet, workbench: Workbench, teacher: Network | None) -> None:
    """Train the shared weights, or read them where an interrupted search has."""
    request, accelerator, path = sitting.request, sitting.accelerator, sitting.request.out / SUPERNET
    if request.resume and path.exists():
        supernet.load_state_dict(load_file(path))
        sitting.say(f"{path}: the supernet is trained")
        return
    steps = STEPS_FOR_EACH_SHORT_ONE * request.short_steps
    recipe = replace(workbench.recipe, epochs=1, warmup_epochs=0.1, head_rate=1.0)
    optimizer = make_optimizer(supernet, recipe)
    draw = random.Random(request.seed)  # noqa: S311 - a sample, no secret
    turn = accelerator.process_index  # every process its own pictures
    supernet.train()
    if teacher is not None:
        teacher.to(accelerator.device).eval()
    for step, (images, targets) in enumerate(workbench.shuffled(steps, turn, recipe)):
        set_learning_rate(optimizer, learning_rate_at(recipe, step, steps))
        loss = sandwich(supernet, images, targets, draw, recipe.label_smoothing, teacher)
        _share_gradients(supernet, accelerator)
        torch.nn.utils.clip_grad_norm_(supernet.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step + 1 == steps:
            sitting.say(f"supernet: step {step + 1} of {steps}, loss of the largest {loss:.3f}")
        if sitting.over:
            sitting.say("supernet: time is up")
            break
    if sitting.first:
        write_atomically(path, to_bytes({name: value.cpu() for name, value in supernet.state_dict().items()}))


def sandwich(
    supernet: Supernet,
    images: Tensor,
    targets: Tensor,
    draw: random.Random,
    label_smoothing: float,
    teacher: Network | None = None,
) -> float:
    """Add up the gradients of one step; return the largest network's loss on the targets.

    Without a teacher the largest network learns from the targets, and the others from its answers.
    """
    space = supernet.space
    logits = supernet(images, space.largest)
    loss = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if teacher is None:
        taught = logits.detach().softmax(1)
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            taught = teacher(images).softmax(1)
        ((loss + functional.cross_entropy(logits, taught)) / 2).backward()  # type: ignore[no-untyped-call]
    others = [space.smallest, *(space.draw(draw) for _ in range(RANDOM_NETWORKS))]
    for choices in others:
        functional.cross_entropy(supernet(images, choices), taught).backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _share_gradients(supernet: Supernet, accelerator: Accelerator) -> None:
    """Take the mean of all processes' gradients."""
    if accelerator.num_processes == 1:
        return
    for parameter in supernet.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad = accelerator.reduce(parameter.grad, "mean")


def reward(top1: float, share: float) -> float:
    """Return MnasNet's reward of an accuracy and of what is taken of the target, 1 where it is met exactly.

    >>> round(reward(0.75, 2.0) / reward(0.75, 1.0), 2)
    0.95
    """
    return float(top1 * max(share, 1e-6) ** EXPONENT)


def _search(
    sitting: Sitting,
    trace: Trace,
    space: Space,
    supernet: Supernet,
    workbench: Workbench,
    resources: Resources,
    images: list[Tensor],
) -> list[dict[str, Any]]:
    """Try candidates until there are enough or time is up; return their rows."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [row for row in trace.rows if "choices" in row]
    # Every process asks the same study the same questions, and so gets the same answers.
    sampler = optuna.samplers.NSGAIISampler(population_size=16, seed=sitting.request.seed + len(rows))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for row in rows:
        study.add_trial(_stored(space, row))
    accelerator = sitting.accelerator
    while len(rows) < TRIALS and not (rows and sitting.over):
        asked = [study.ask() for _ in range(accelerator.num_processes)]
        proposed = [_suggested(space, trial) for trial in asked]
        mine = proposed[accelerator.process_index]
        judged = workbench.judge_network(supernet.candidate(mine, images))
        scores = [judged.top1] if accelerator.num_processes == 1 else gather_object([judged.top1])
        for trial, choices, top1 in zip(asked, proposed, scores, strict=True):
            layout = space.layout(choices)
            share = worst(resources.shares(layout))[1]
            study.tell(trial, [top1, share])
            row = {"candidate": len(rows) + 1, "top1": top1, "reward": reward(top1, share), "share of budget": share}
            rows.append(row | {"choices": choices_to_json(choices)})
            trace.rows.append(rows[-1])
            trace.choices.append(_choice(space, choices, top1, resources))
        if sitting.first:
            trace.write()
            if len(rows) % 8 == 0:
                write_progress(sitting.request.out, trace, sitting.request, done=False)
                best = max(rows, key=lambda row: row["reward"])
                sitting.say(f"{len(rows)} of {TRIALS} candidates: best reward {best['reward']:.4f}")
    if not rows:
        raise InputError("--minutes is too short for one candidate: give it more time")
    return rows


def _suggested(space: Space, trial: optuna.Trial) -> Choices:
    return tuple(
        StageChoice(
            kernel=trial.suggest_categorical(f"kernel_{index}", KERNELS),
            expansion=trial.suggest_categorical(f"expansion_{index}", EXPANSIONS),
            depth=trial.suggest_int(f"depth_{index}", 1, stage.depth),
            width=trial.suggest_categorical(f"width_{index}", WIDTHS),
            se=trial.suggest_categorical(f"se_{index}", (False, True)),
            activation=trial.suggest_categorical(f"activation_{index}", _activations(stage.activation)),
        )
        for index, stage in enumerate(space.stages)
    )


def _activations(own: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((own, "hard_swish")))


def _stored(space: Space, row: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
    """Return a candidate of an interrupted search as the study knows it."""
    parameters: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    for index, (stage, choice) in enumerate(zip(space.stages, choices_from_json(row["choices"]), strict=True)):
        known = {
            "kernel": optuna.distributions.CategoricalDistribution(KERNELS),
            "expansion": optuna.distributions.CategoricalDistribution(EXPANSIONS),
            "depth": optuna.distributions.IntDistribution(1, stage.depth),
            "width": optuna.distributions.CategoricalDistribution(WIDTHS),
            "se": optuna.distributions.CategoricalDistribution((False, True)),
            "activation": optuna.distributions.CategoricalDistribution(_activations(stage.activation)),
        }
        for name, distribution in known.items():
            parameters[f"{name}_{index}"] = getattr(choice, name)
            distributions[f"{name}_{index}"] = distribution
    values = [row["top1"], row["share of budget"]]
    return optuna.trial.create_trial(params=parameters, distributions=distributions, values=values)


def _choice(space: Space, choices: Choices, top1: float, resources: Resources) -> dict[str, Any]:
    layout = space.layout(choices)
    return Choice(
        model=layout.arch.name,
        width=1.0,
        resolution=layout.resolution,
        precision=resources.precision,
        predicted_ms=resources.predicted_ms(layout),
        measured_ms=None,
        ram_bytes=resources.ram_bytes(layout),
        flash_bytes=resources.flash_bytes(layout),
        multiply_adds=cost(layout).multiply_adds,
        top1=top1,
        top1_source="pictures held back of the training part, with the supernet's weights",
    ).to_json()
