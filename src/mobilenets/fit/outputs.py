"""The trace of an adaptation or a search: kept on disk after every step, and a page to look at while it runs."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobilenets import checkpoint as files
from mobilenets.arch.cost import cost
from mobilenets.errors import InputError
from mobilenets.files import write_atomically
from mobilenets.fit.adapt import Step
from mobilenets.fit.request import Request
from mobilenets.fit.resources import Resources
from mobilenets.fit.result import Choice, FitResult

STATE = "fit-state.json"
FORMAT = 1
REFRESH_SECONDS = 10
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #8884}"
    "td:nth-child(2),th:nth-child(2){text-align:left}img{max-width:100%;background:#fff}"
)


@dataclass
class Trace:
    """What was found so far: a row and a choice for each step, and for each network that a search tried."""

    out: Path
    facts: Mapping[str, Any]
    rows: list[dict[str, Any]]
    choices: list[dict[str, Any]]

    @classmethod
    def opened(cls, out: Path, facts: Mapping[str, Any], *, resume: bool) -> Trace:
        """Open the trace in a folder, a new one where nothing is to be resumed.

        Raises:
            InputError: the folder holds another run, or this one and it is not to be resumed.
        """
        path = out / STATE
        if not path.exists():
            return cls(out, facts, [], [])
        if not resume:
            raise InputError(f"{out}: holds a fit: go on with it with --resume, or choose another --out")
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            rows, choices, theirs = list(stored["rows"]), list(stored["choices"]), dict(stored["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: damaged: start anew with another --out") from None
        different = [name for name, value in json.loads(json.dumps(facts)).items() if theirs.get(name) != value]
        if different:
            name = different[0]
            raise InputError(
                f"{out}: the fit there has {name.replace('_', '-')} {theirs.get(name)!r}, not {facts[name]!r}: "
                "give the same, or start anew with another --out"
            )
        return cls(out, facts, rows, choices)

    def last(self, first: Step, resources: Resources, way: str) -> Step:
        """Return the step of a way that was written last; `first` where there is none."""
        path = self._network(way)
        steps = [row for row in self.rows if "step" in row and row.get("way", "") == way]
        if not steps or not path.exists():
            return first
        row = steps[-1]
        checkpoint = files.load(path)
        loss = float("inf") if row["loss"] is None else float(row["loss"])
        shares = resources.shares(checkpoint.card.plan)
        return Step(row["step"], checkpoint, row["narrowed"], row["top1"], loss, shares, row["proposals"])

    def add(self, step: Step, resources: Resources, way: str, *, keep: bool) -> None:
        """Add a step of a way, and write the trace and its network where this process is to keep them."""
        self.rows.append(step.row(resources) | ({"way": way} if way else {}))
        self.choices.append(choice_of_step(step, resources).to_json())
        if keep:
            files.save(replace(step.checkpoint, sample=None), self._network(way))
            self.write()

    def _network(self, way: str) -> Path:
        return self.out / f"{'_'.join(['step', *way.split()])}.safetensors"

    def write(self) -> None:
        """Write the trace; the networks lie beside it."""
        stored = {"format": FORMAT, "facts": dict(self.facts), "rows": self.rows, "choices": self.choices}
        write_atomically(self.out / STATE, json.dumps(stored, indent=1) + "\n")

    @property
    def frontier(self) -> tuple[Choice, ...]:
        """What nothing found so far is better than at no greater cost, the cheapest first."""
        made = [Choice(**{**each, "resolution": tuple(each["resolution"])}) for each in self.choices]
        known = all(each.predicted_ms is not None for each in made)
        best: list[Choice] = []
        for each in sorted(made, key=lambda each: (each.predicted_ms if known else each.multiply_adds) or 0):
            if not best or (each.top1 or 0.0) > (best[-1].top1 or 0.0):
                best.append(each)
        return tuple(best)


def choice_of_step(step: Step, resources: Resources) -> Choice:
    """Return a step as what is printed."""
    card = step.checkpoint.card
    layout = card.plan
    return Choice(
        model=card.arch.name,
        width=card.width,
        resolution=card.resolution,
        precision=resources.precision,
        predicted_ms=resources.predicted_ms(layout),
        measured_ms=None,
        ram_bytes=resources.ram_bytes(layout),
        flash_bytes=resources.flash_bytes(layout),
        multiply_adds=cost(layout).multiply_adds,
        top1=step.top1,
        top1_source="pictures held back of the training part, before the long training",
    )


def write_progress(
    out: Path, trace: Trace, request: Request, *, done: bool, result: FitResult | None = None
) -> FitResult:
    """Write frontier.png and search.html of what was found so far and, where it is done, fit.json."""
    from mobilenets.fit.drawing import draw_frontier

    frontier = trace.frontier
    shown = result or FitResult(
        model=request.model,
        method=request.method,
        budget=request.budget,
        runtime="",
        threads=request.threads,
        chosen=frontier[0],
        frontier=frontier,
        why=(),
        seconds=0.0,
    )
    picture = draw_frontier(shown)
    pages = [
        write_atomically(out / "frontier.png", picture),
        write_atomically(out / "search.html", page(shown, trace, picture, done=done)),
    ]
    shown = replace(shown, files=(*pages, *shown.files))
    if done:
        write_atomically(out / "fit.json", json.dumps(shown.to_json(), indent=2, allow_nan=False) + "\n")
    return shown


def page(result: FitResult, trace: Trace, picture: bytes, *, done: bool) -> str:
    """Return a self-contained page; while the search runs, it loads itself anew."""
    refresh = "" if done else f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
    names = list(dict.fromkeys(name for row in trace.rows for name in row if name != "choices"))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in trace.rows
    )
    title = html.escape(f"{result.method} {result.model}: {result.budget}")
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in (*result.why, *result.notes))
    image = base64.b64encode(picture).decode()
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh}'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1>{lines}"
        f'<img alt="accuracy against cost of what was found so far" src="data:image/png;base64,{image}">'
        f"<h2>{'Every step' if done else 'So far'}</h2><table><tr>{head}</tr>\n{body}</table></body></html>\n"
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
