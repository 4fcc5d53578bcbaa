"""A reproduction as files: a page in Markdown, its picture, and the rows as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobilenets.files import write_atomically
from mobilenets.reproduce.outcome import Reproduction, Row


def write(item: Reproduction, out: Path) -> list[Path]:
    """Write NAME.md, NAME.json and, where there is one, NAME.png to a folder; return their paths, the page first."""
    files = [
        write_atomically(out / f"{item.name}.md", page(item)),
        write_atomically(out / f"{item.name}.json", json.dumps(item.to_json(), indent=2, allow_nan=False) + "\n"),
    ]
    if item.picture is not None:
        files.insert(1, write_atomically(out / f"{item.name}.png", item.picture))
    return files


def page(item: Reproduction) -> str:
    """Return the page of a reproduction."""
    parts = [f"# {item.title}", item.says]
    if item.picture is not None:
        parts.append(f"![{item.caption}]({item.name}.png)")
        parts.append(f"*{item.caption}*")
    for section, rows in item.sections().items():
        parts += [f"## {section}"] if section else []
        parts.append(markdown(rows, item.columns))
    if item.notes:
        parts.append("## Notes")
        parts.append("\n".join(f"- {note}" for note in item.notes))
    if item.measured:
        parts.append("Measured on " + ", ".join(item.measured.values()) + ".")
    command = item.command or f"mobilenets reproduce {item.name} --out DIR"
    parts.append(f"Made by `{command}`.")
    return "\n\n".join(parts) + "\n"


def markdown(rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Return rows as a Markdown table; columns without a single entry are left out."""
    cells = [row.cells() for row in rows]
    used = [index for index in range(len(columns)) if index == 0 or any(line[index] for line in cells)]
    lines = [[columns[index] for index in used], ["---" for _ in used]]
    lines += [[line[index].replace("|", "\\|") for index in used] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
