"""Which runtimes can be held to their contract here."""

from __future__ import annotations

import pytest

from mobilenets.errors import MissingExtraError
from mobilenets.runtime import choose


def installed(name: str) -> str:
    """Return the name of a runtime; the test is skipped where it is not installed, and says what to install."""
    try:
        return choose(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
