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

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mobilenets"


def main() -> None:
    """Rewrite README.md in place."""
    path = ROOT / "README.md"
    path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")


def generated(text: str) -> str:
    """Return the text with everything between `<!-- NAME: generated -->` and `<!-- end -->` made anew."""
    parts = {"commands": commands, "results": results, "files": files}

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
