"""Write the generated parts of the pages: the commands, the measured results, the file tree.

    python docs/readme.py

The commands come from the verbs' docstrings, the results from benchmarks/results/*.json and the file tree from the
first line of each module, so none of them can say what is not so. A test compares them with the pages.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mobilenets"
LONGEST_LINE = 100

PAGES = tuple(
    ROOT / page for page in ("README.md", "benchmarks/README.md", "docs/bench.md", "docs/files.md", "docs/api.md")
)
PAGE_OF = {  # public name: the page about it, where there is one beside its docstring
    "ARCHITECTURES": "papers.md",
    "Arch": "papers.md",
    "BenchResult": "bench.md",
    "Detection": "detection.md",
    "DetectionReport": "detection.md",
    "Detections": "detection.md",
    "DiagnoseResult": "diagnose.md",
    "ExportResult": "export.md",
    "FitResult": "fit.md",
    "PruneResult": "diagnose.md",
    "QuantizeResult": "export.md",
    "ReproduceResult": "papers.md",
    "ServeResult": "serve.md",
    "ShowResult": "memory.md",
    "TuneResult": "engine.md",
    "WeightsError": "weights.md",
    "bench": "bench.md",
    "convert": "weights.md",
    "detect": "detection.md",
    "diagnose": "diagnose.md",
    "export": "export.md",
    "fit": "fit.md",
    "prune": "diagnose.md",
    "quantize": "export.md",
    "reproduce": "papers.md",
    "serve": "serve.md",
    "show": "memory.md",
    "train": "scaling.md",
    "tune": "engine.md",
}
HEADLINES = {  # results file: how the figures of it begin that the README shows
    "startup": ("`mobilenets --help`",),
    "training_photographs": ("ants and bees",),
    "training_cifar10_finetuned": ("CIFAR-10",),
    "training_blood_cells": ("BCCD",),
    "training_throughput": ("Training V2 1.0 at 224, batch 32: ours, against",),
    "quantization": ("MobileNetV2 1.0 on 400 photographs, int8 per channel",),
    "exports": ("V1 0.25, V2, V3-Large and -Small (random weights), EfficientNet-Lite0 exported to litert",),
    "detector": ("AP50 on the test part",),
    "serving": (
        "answers a second under 32 clients for 60 s, as a share of bench's images a second, batches of 1",
        "SIGTERM",
    ),
    "engine": ("mobilenet_v2 1 at 224, float32",),
    "scaling": ("mobilenet_v2, 20 networks, 1 thread: the faster peer in float32",),
    "engine_int8": tuple(
        f"mobilenet_v2 1 at 224, int8, threads: {threads}: the fastest peer (openvino), median" for threads in (1, 2)
    ),
    "engine_start": tuple(f"engine, V2 1.0 at 224, float32, {how}" for how in ("cold", "warm")),
    "native": ("mobilenet_v2 1 at 224, int8, 1 thread: streamed against the fastest in C",),
    "fit_latency_onnx_float32": ("latency predictions",),
    "fit_adapt": ("adapt", "search"),
    "fit_search": ("search: best", "random search"),
}


def main() -> None:
    """Rewrite the pages in place."""
    for page in PAGES:
        page.write_text(generated(page), encoding="utf-8")


def generated(page: Path) -> str:
    """Return a page with everything between `<!-- NAME: generated -->` and `<!-- end -->` made anew."""
    parts = {
        "commands": commands,
        "headlines": headlines,
        "results": results,
        "runtimes": runtimes,
        "files": files,
        "api": api,
    }

    def part(match: re.Match[str]) -> str:
        return f"<!-- {match[1]}: generated -->\n{parts[match[1]]()}\n<!-- end -->"

    text = page.read_text(encoding="utf-8")
    return re.sub(r"<!-- (\w+): generated -->\n.*?<!-- end -->", part, text, flags=re.DOTALL)


def commands() -> str:
    """Return a table with a row for each verb."""
    import mobilenets
    from mobilenets.cli import VERBS

    rows = [(f"`mobilenets {verb}`", _summary(getattr(mobilenets, verb).__doc__)) for verb in VERBS]
    return _table(("command", "what it does"), rows)


def headlines() -> str:
    """Return a table with the figures that say most, in the order of HEADLINES."""
    rows = []
    for name, beginnings in HEADLINES.items():
        document = _document(name)
        for beginning in beginnings:
            chosen = [figure for figure in document["figures"] if figure["what"].startswith(beginning)]
            assert chosen, f"{name}.json has no figure that begins with {beginning}"
            source = f"[{name}](benchmarks/results/{name}.json)"
            rows += [(figure["what"], _value(figure), figure["wanted"], source) for figure in chosen]
    return _table(("what", "measured", "wanted", "source"), rows)


def results() -> str:
    """Return a table with a row for each measured figure."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        document = _document(path.stem)
        where = document["environment"]
        machine = where["accelerator"] or f"{where['cores']} cores, {where['processor']}"
        source = f"[{document['name']}](results/{path.name})"
        rows += [
            (figure["what"], _value(figure), figure["wanted"], machine, where["date"][:10], source)
            for figure in document["figures"]
        ]
    return _table(("what", "measured", "wanted", "machine", "date", "source"), rows)


def _document(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _value(figure: dict[str, Any]) -> str:
    """Return a figure with no more digits than were measured."""
    value = figure["value"]
    text = f"{value:.3g}" if abs(value) < 10 and value != int(value) else f"{round(value, 2):g}"
    return f"{text} {figure['unit']}".strip()


def runtimes() -> str:
    """Return a table of the median times of `benchmarks.runtimes`: networks and runtimes by precisions and threads."""
    document = _document("runtimes")
    networks = document["details"]
    kinds = list(dict.fromkeys((row["threads"], row["precision"]) for one in networks for row in one["rows"]))
    kinds.sort(key=lambda kind: kind[0])
    rows = []
    for one in networks:
        fastest = {
            threads: min(row["median_ms"] for row in one["rows"] if row["threads"] == threads and row["median_ms"])
            for threads, _ in kinds
        }
        for runtime in dict.fromkeys(row["runtime"] for row in one["rows"]):
            found = {(row["threads"], row["precision"]): row for row in one["rows"] if row["runtime"] == runtime}
            cells = [_milliseconds(found.get(kind), fastest[kind[0]]) for kind in kinds]
            rows.append((f"{one['arch']} {one['width']:g}", runtime, *cells))
    header = [f"{precision}, {threads} thread{'' if threads == 1 else 's'}" for threads, precision in kinds]
    where = document["environment"]
    place = f"{where['cores']} cores, {where['processor']} ({where['instructions']})"
    source = f"{where['date'][:10]}, [runtimes](../benchmarks/results/runtimes.json)"
    said = "\n".join(f"- {one['arch']}: {sentence}" for one in networks for sentence in one["verdict"])
    table = _table(("network", "runtime", *header), rows)
    return f"{table}\n\nMedian milliseconds; the fastest of its threads in bold. {place}, {source}.\n\n{said}"


def _milliseconds(row: dict[str, Any] | None, fastest: float) -> str:
    if row is None:
        return ""
    if row["median_ms"] is None:
        return "error"
    text = f"{row['median_ms']:.2f}"
    return f"**{text}**" if row["median_ms"] == fastest else text


def files() -> str:
    """Return the tree of the package: one line a file, which is the first line of its docstring."""
    entries = [*_modules(PACKAGE)]
    width = max(len(name) for name, _ in entries)
    return "\n".join(["```text", "src/mobilenets/", *(f"{name:<{width}}  {line}" for name, line in entries), "```"])


def _modules(folder: Path, indent: str = "  ") -> list[tuple[str, str]]:
    package = folder / "__init__.py"
    files = sorted(path for path in folder.glob("*.py") if path != package)
    if folder == PACKAGE:
        files.insert(0, package)
    entries = [(indent + path.name, _first_line(path)) for path in files]
    for path in sorted(folder.glob("*/__init__.py")):
        entries.append((f"{indent}{path.parent.name}/", _first_line(path)))
        entries += _modules(path.parent, indent + "  ")
    return entries


def api() -> str:
    """Return an entry for each public name: the functions, of commands first, then types, errors and constants."""
    import mobilenets
    from mobilenets.cli import VERBS

    names = [*VERBS, *(name for name in mobilenets.__all__ if name not in VERBS)]
    kinds: dict[str, list[str]] = {"Commands": [], "Functions": [], "Types": [], "Errors": [], "Constants": []}
    for name in names:
        value = getattr(mobilenets, name)
        if inspect.isclass(value):
            kinds["Errors" if issubclass(value, Exception) else "Types"].append(name)
        elif inspect.isfunction(value):
            kinds["Commands" if name in VERBS else "Functions"].append(name)
        else:
            kinds["Constants"].append(name)
    sections = [f"## {kind}\n\n" + "\n\n".join(map(_entry, chosen)) for kind, chosen in kinds.items()]
    return "\n\n".join(sections)


def _entry(name: str) -> str:
    """Return what one public name is: signature, one line, methods, and where there is more."""
    import mobilenets

    value = getattr(mobilenets, name)
    module = import_module(mobilenets._HOME_OF[name])  # noqa: SLF001 - the table of public names
    home = sys.modules.get(getattr(value, "__module__", ""), module) if callable(value) else module
    source = Path(str(home.__file__))
    if callable(value):
        known, summary = _signature(name, value), _summary(inspect.getdoc(value))
    else:
        places = (source, *sorted(source.parent.glob("*.py")))
        source, known, summary = next((path, *said) for path in places if (said := _said(path, name)))
        summary += f" Names: {', '.join(f'`{each}`' for each in value)}."
    lines = [f"### `{name}`", "", "```text", known, "```", "", summary]
    methods = _methods(value) if inspect.isclass(value) and not issubclass(value, Exception) else []
    lines += ["", *methods] if methods else []
    page = [f"[{PAGE_OF[name]}]({PAGE_OF[name]})"] if name in PAGE_OF else []
    place = source.relative_to(ROOT).as_posix()
    return "\n".join([*lines, "", "More: " + ", ".join([*page, f"[{place}](../{place})"])])


class _Text(str):
    """An annotation as it is written: `inspect` prints other texts in quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, value: Callable[..., Any]) -> str:
    """Return the call as it is written in the source, one parameter a line where it is long."""
    if inspect.isclass(value) and (issubclass(value, Protocol) or value.__init__ is Exception.__init__):
        return name
    found = inspect.signature(value)
    kept = []
    for parameter in found.parameters.values():
        default = parameter.default
        if isinstance(default, Path):
            default = _Text(f"Path({str(default)!r})")
        elif repr(default) == "<factory>":
            default = _Text("...")
        kept.append(parameter.replace(annotation=_Text(parameter.annotation), default=default))
    result = "" if inspect.isclass(value) else f" -> {found.return_annotation}"
    line = f"{name}{inspect.Signature(kept)}{result}"
    if len(line) <= LONGEST_LINE:
        return line
    parts = [f"    {each}," for each in kept]
    named = [index for index, each in enumerate(kept) if each.kind is each.KEYWORD_ONLY]
    if named and not any(each.kind is each.VAR_POSITIONAL for each in kept):
        parts.insert(named[0], "    *,")
    return "\n".join([f"{name}(", *parts, f"){result}"])


def _methods(value: type) -> list[str]:
    """Return a line for each public method and property that says what it does; to_json and from_json apart."""
    lines = []
    for name, member in vars(value).items():
        summary = _summary(inspect.getdoc(member))
        if name.startswith("_") or name in {"to_json", "from_json"} or not summary:
            continue
        if isinstance(member, property | cached_property):
            lines.append(f"- `{name}`: {summary}")
        elif inspect.isfunction(member):
            lines.append(f"- `{name}({', '.join([*inspect.signature(member).parameters][1:])})`: {summary}")
    return lines


def _said(path: Path, name: str) -> tuple[str, str] | None:
    """Return the annotation of a constant, and the first line of the text below it; None where the file has neither."""
    for statement, below in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            assert isinstance(below, ast.Expr)
            assert isinstance(below.value, ast.Constant)
            return f"{name}: {ast.unparse(statement.annotation)}", _summary(str(below.value.value))
    return None


def _first_line(path: Path) -> str:
    return _summary(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def _summary(docstring: str | None) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", (docstring or "").partition("\n")[0])


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
