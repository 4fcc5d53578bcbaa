"""Write the table in docs/weights.md, of all published weights that are known by name.

    python docs/weights.py

It comes from `mobilenets.nn.published`; a test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")


def main() -> None:
    """Rewrite the page in place."""
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def generated(text: str) -> str:
    """Return the text with everything between `<!-- weights: generated -->` and `<!-- end -->` made anew."""
    from mobilenets.nn.published import markdown

    table = f"<!-- weights: generated -->\n{markdown()}\n<!-- end -->"
    return re.sub(r"<!-- weights: generated -->\n.*?<!-- end -->", lambda _: table, text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
