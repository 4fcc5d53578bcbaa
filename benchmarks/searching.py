"""What a search finds beside as many networks drawn at random, judged alike.

    python -m benchmarks.searching around START DATA OUT
    python -m benchmarks.searching random START DATA OUT
    python -m benchmarks.searching curve START DATA OUT

OUT is the folder of `benchmarks.fitting`, in which `search` was run, or is being run. `around` measures the latency of
networks like the search's winner, which wants a quiet machine. `random` judges networks drawn at random from the same
space, with the same supernet's weights and the same pictures, as many as the search tried. `curve` writes the figures:
the best reward over the number of networks judged. For the random ones it is the expectation over all orders in which
they could have come, with the tenth and the ninetieth percentile.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks.environment import ROOT, Figure, write
from mobilenets import checkpoint as files
from mobilenets.data import open_data
from mobilenets.draw import FAINT, RIGHT, WRONG, figure_style, to_png
from mobilenets.files import write_atomically
from mobilenets.fit.budget import Budget
from mobilenets.fit.choosing import say
from mobilenets.fit.device import device
from mobilenets.fit.resources import Resources, worst
from mobilenets.fit.searching import STATISTICS_BATCHES, SUPERNET, reward, winning
from mobilenets.fit.space import choices_from_json, choices_to_json, space_of
from mobilenets.fit.supernet import Supernet
from mobilenets.fit.tuning import Workbench
from mobilenets.train import processes

PICTURE = ROOT / "docs" / "fit-search.png"
SEED = 7


def main() -> None:
    """Run the part that was asked for."""
    what, start, data, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    match what:
        case "around":
            around(start, out)
        case "random":
            at_random(start, data, out)
        case _:
            curve(out)


def searched(out: Path) -> list[dict[str, Any]]:
    """Return the networks that the search tried."""
    state = json.loads((out / "search" / "fit-state.json").read_text(encoding="utf-8"))
    return [row for row in state["rows"] if "choices" in row]


def around(start: Path, out: Path) -> None:
    """Measure networks like the winner, into the table that the search reads."""
    space = space_of(files.read_card(start).plan)
    layout = space.layout(choices_from_json(list(winning(searched(out))["choices"])))
    device("onnx", 1, out / "table.json", say).fill_around("float32", layout)


def at_random(start: Path, data: str, out: Path) -> None:
    """Judge as many networks as the search did, drawn at random."""
    card = files.read_card(start)
    space = space_of(card.plan)
    workbench = Workbench(open_data(data, labels=card.labels), card, 0, None, processes.accelerator())
    supernet = Supernet(space)
    supernet.load_state_dict(load_file(out / "search" / SUPERNET))
    own = device("onnx", 1, out / "table.json", say)
    bound = json.loads((out / "budget.json").read_text(encoding="utf-8"))["budget_ms"]
    resources = Resources(Budget(latency_ms=bound), card, "float32", own.model("float32"))
    images = [images for images, _ in workbench.shuffled(STATISTICS_BATCHES, 0, workbench.recipe)]
    draw = random.Random(SEED)  # noqa: S311 - a sample, no secret
    rows: list[dict[str, Any]] = []
    wanted = len(searched(out))
    while len(rows) < wanted:
        choices = space.draw(draw)
        judged = workbench.judge_network(supernet.candidate(choices, images))
        share = worst(resources.shares(space.layout(choices)))[1]
        row = {"top1": judged.top1, "reward": reward(judged.top1, share), "share of budget": share}
        rows.append(row | {"choices": choices_to_json(choices)})
        print(len(rows), row, flush=True)
    write_atomically(out / "random.json", json.dumps(rows, indent=1) + "\n")


def curve(out: Path) -> None:
    """Write the figures and the picture."""
    tried, drawn = searched(out), json.loads((out / "random.json").read_text(encoding="utf-8"))
    ours = np.maximum.accumulate([row["reward"] for row in tried])
    theirs = best_of([row["reward"] for row in drawn])
    write_atomically(PICTURE, picture(ours, theirs))
    best = winning(tried)
    others = winning(drawn)
    figures = [
        Figure(f"search: best reward of {len(ours)} networks", round(float(ours[-1]), 4), "", "above random's"),
        Figure(f"random search: best reward of {len(drawn)} networks", round(float(theirs["mean"][-1]), 4), "", ""),
    ]
    if ours[-1] >= theirs["mean"][-1]:
        reached = int(np.argmax(ours >= theirs["mean"][-1])) + 1
        what = "search: networks judged until random search's best is reached"
        figures.append(Figure(what, reached, "", f"fewer than {len(drawn)}"))
    details = {
        "winner": {name: best[name] for name in ("top1", "reward", "share of budget")},
        "random winner": {name: others[name] for name in ("top1", "reward", "share of budget")},
        "searched": [round(float(each), 5) for each in ours],
        "random": {name: [round(float(each), 5) for each in values] for name, values in theirs.items()},
    }
    print(write("fit_search", figures, details))


def best_of(values: Sequence[float]) -> Mapping[str, np.ndarray]:
    """Return of the best of n values drawn without replacement the mean and two percentiles, for every n.

    >>> best_of([1.0, 2.0, 3.0])["mean"].round(3).tolist()
    [2.0, 2.667, 3.0]
    """
    count = len(values)
    ordered = np.sort(values)
    at_most = np.zeros((count, count))  # [n - 1, k]: how likely the best of n is no larger than ordered[k]
    for n in range(1, count + 1):
        for k in range(n - 1, count):
            at_most[n - 1, k] = np.prod([(k + 1 - i) / (count - i) for i in range(n)])
    each = np.diff(at_most, axis=1, prepend=0.0)
    low, high = (ordered[np.argmax(at_most >= share - 1e-12, axis=1)] for share in (0.1, 0.9))
    return {"mean": each @ ordered, "10 %": low, "90 %": high}


def picture(ours: np.ndarray, theirs: Mapping[str, np.ndarray]) -> bytes:
    """Draw the best reward over the number of networks judged."""
    with figure_style() as figure_class:
        figure = figure_class(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        counts = np.arange(1, len(theirs["mean"]) + 1)
        axes.fill_between(counts, theirs["10 %"], theirs["90 %"], color=FAINT, alpha=0.4, linewidth=0)
        axes.plot(counts, theirs["mean"], color=WRONG, linewidth=1.2, label="drawn at random (10 to 90 % of orders)")
        axes.step(np.arange(1, len(ours) + 1), ours, color=RIGHT, linewidth=1.6, where="post", label="searched")
        axes.set_xlabel("networks judged")
        axes.set_ylabel("best reward")
        figure.suptitle("MnasNet's reward, best so far", x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes.legend(loc="lower right", fontsize=8)
        return to_png(figure)


if __name__ == "__main__":
    main()
