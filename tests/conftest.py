"""What all tests share: real pictures and weights, where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real pictures and weights; tests that ask for it are skipped, saying so, without it."""
    folder = Path(os.environ.get("MOBILENETS_TEST_DATA", _ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real pictures and weights in {folder}: set MOBILENETS_TEST_DATA to a folder that has them")
    return folder
