"""Write the generated parts of README.md: the commands, the measured results, the file tree.

    python docs/readme.py

The commands come from the verbs' docstrings, the results from benchmarks/results/*.json and the file tree from the
first line of each module, so none of them can say what is not so. A test compares them with the README.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mobilenets"


def main() -> None:
    """Rewrite README.md in place."""
    path = ROOT / "README.md"
    path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")


def generated(text: str) -> str:
    """Return the text with everything between `<!-- NAME: generated -->` and `<!-- end -->` made anew."""
    parts = {"commands": commands, "results": results, "runtimes": runtimes, "files": files}

    def part(match: re.Match[str]) -> str:
        return f"<!-- {match[1]}: generated -->\n{parts[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+): generated -->\n.*?<!-- end -->", part, text, flags=re.DOTALL)


def commands() -> str:
    """Return a table with a row for each verb."""
    import mobilenets
    from mobilenets.cli import VERBS

    rows = [(f"`mobilenets {verb}`", _summary(getattr(mobilenets, verb).__doc__)) for verb in VERBS]
    return _table(("command", "what it does"), rows)


def results() -> str:
    """Return a table with a row for each measured figure; says so where nothing has been measured yet."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        where = document["environment"]
        machine = where["accelerator"] or f"{where['cores']} cores, {where['processor']}"
        source = f"[{document['name']}](benchmarks/results/{path.name})"
        for figure in document["figures"]:
            measured = f"{figure['value']:g} {figure['unit']}"
            rows.append((figure["what"], measured, figure["wanted"], machine, where["date"][:10], source))
    header = ("what", "measured", "wanted", "machine", "date", "source")
    return _table(header, rows) if rows else "Nothing measured yet."


def runtimes() -> str:
    """Return a table of the median times of `benchmarks.runtimes`: networks and runtimes by precisions and threads."""
    path = ROOT / "benchmarks" / "results" / "runtimes.json"
    if not path.exists():
        return "Nothing measured yet."
    document = json.loads(path.read_text(encoding="utf-8"))
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
    source = f"{where['date'][:10]}, [runtimes](benchmarks/results/runtimes.json)"
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


def _first_line(path: Path) -> str:
    return _summary(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def _summary(docstring: str | None) -> str:
    return (docstring or "").partition("\n")[0]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
