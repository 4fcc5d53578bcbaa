"""What a verb tells people beside its result: a line each, once, and never where a program reads the answer."""

from __future__ import annotations

_waiting: dict[str, None] = {}
_told: set[str] = set()


def notice(line: str) -> None:
    """Leave a line to be told; one that was told is not told again."""
    if line not in _told:
        _waiting[line] = None


def taken() -> tuple[str, ...]:
    """Return the lines that wait, which are told with that.

    >>> notice("it is late")
    >>> taken(), taken()
    (('it is late',), ())
    """
    lines = tuple(_waiting)
    _waiting.clear()
    _told.update(lines)
    return lines
