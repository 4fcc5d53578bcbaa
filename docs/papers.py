"""Write docs/papers.md's tables out of docs/papers/*.json, after making those that are computed anew.

    python docs/papers.py

Pages of what is measured (ablations, v1-vs-v2, t-split) are left as they are: these are made on a quiet machine,
by `mobilenets reproduce NAME --out docs/papers`. A test compares the page, and the computed pages, with the code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
FOLDER = Path(__file__).with_suffix("")
MARK = re.compile(r"<!-- ([\w-]+) / ([^\n]*?)(?: \| ([^\n]*?))?: generated -->\n(?:.*?)<!-- end -->", re.DOTALL)


def main() -> None:
    """Rewrite the computed pages and the tour's tables in place."""
    from mobilenets.reproduce import COMPUTED, reproduce

    for name in COMPUTED:
        reproduce(name, out=FOLDER)
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def generated(text: str) -> str:
    """Return the text with every table between its marks made anew from the folder's JSON."""
    return MARK.sub(_table, text)


def _table(match: re.Match[str]) -> str:
    """Return what one section of a reproduction has of ours as a Markdown table, between the marks it was found in.

    Behind a bar the mark may say which rows: those whose first words match the whole of a regular expression.
    """
    from mobilenets.reproduce.outcome import HEADER, row_from_json
    from mobilenets.reproduce.pages import markdown

    name, section, chosen = match.groups()
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    rows = [row_from_json(row) for row in document["rows"] if row["section"] == section and row["ours"] is not None]
    rows = [row for row in rows if chosen is None or re.fullmatch(chosen, row.what)]
    if not rows:
        raise SystemExit(f"{PAGE}: {name} has no section {section!r} with such rows")
    mark = f"{name} / {section}" + (f" | {chosen}" if chosen else "")
    return f"<!-- {mark}: generated -->\n{markdown(rows, HEADER)}\n<!-- end -->"


if __name__ == "__main__":
    main()
