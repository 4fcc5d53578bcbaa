"""Numbers, times and tables as text for a terminal: readable without colours, safe whatever a file is called."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lay out text cells in columns two spaces apart, with a rule under the header.

    The first `left` columns are aligned to the left, the others to the right. Wide characters (CJK, emoji) count as the
    two terminal columns they take; what could confuse a terminal is escaped.

    >>> print(table(["class", "images"], [["ant", "70"], ["bee", "1,083"]]))
    class  images
    -----  ------
    ant        70
    bee     1,083
    """
    from rich.cells import cell_len

    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])

    def line(row: Sequence[str]) -> str:
        padded = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if column < left else space + cell)
        return "  ".join(padded).rstrip()

    return "\n".join(line(row) for row in cells)


def printable(text: str) -> str:
    """Escape control characters, so that a file name cannot move the cursor or start a new line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def percent(fraction: float) -> str:
    """Print a fraction of 1 as a percentage with two decimals.

    >>> percent(0.985)
    '98.50 %'
    """
    return f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    """Print a time for people.

    >>> duration(0.004), duration(0.25), duration(75), duration(7384)
    ('4 ms', '0.25 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
