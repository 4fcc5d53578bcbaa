"""What a training left beside its checkpoint: the report, its numbers, and the history of its epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPORTED = "best.safetensors"
"""The checkpoint that a training's report is about."""
MAX_BYTES = 64 << 20


class Reports:
    """Reads the files beside a checkpoint. They are found by fixed names, once, never by anything in a request."""

    def __init__(self, checkpoint: Path) -> None:
        folder = checkpoint.parent
        judged = checkpoint.is_file() and checkpoint.name == REPORTED
        self._page = folder / "report.html" if judged and (folder / "report.html").is_file() else None
        self._numbers = _document(folder / "report.json") if judged else None
        self._history = _document(folder / "history.json") if judged else None

    @property
    def there(self) -> bool:
        """Whether there is anything to report."""
        return self._page is not None or isinstance(self._numbers, dict)

    def numbers(self, page_address: str) -> dict[str, Any] | None:
        """Return the report as JSON, with the epochs' history and the page's address; None where there is none.

        Paths of the machine that trained are left out.
        """
        if not self.there:
            return None
        numbers = dict(self._numbers) if isinstance(self._numbers, dict) else {}
        numbers.pop("files", None)
        history = self._history if isinstance(self._history, list) else []
        return {**numbers, "history": history, "html": page_address if self._page else None}

    def page(self) -> bytes | None:
        """Return the report's page."""
        try:
            return None if self._page is None else self._page.read_bytes()
        except OSError:  # it was there when the service started
            return None


def _document(path: Path) -> Any:
    """Return a JSON file's content; None where it is missing, too large or damaged: a report is no condition."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
