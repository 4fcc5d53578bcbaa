"""A service that stays up for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenets.checkpoint import Checkpoint, save
from tests.serve.clients import Live, running


@pytest.fixture(scope="session")
def colours(colour_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint file whose answers are known."""
    return save(colour_checkpoint, tmp_path_factory.mktemp("serve") / "best.safetensors")


@pytest.fixture(scope="session")
def live(colours: Path) -> Iterator[Live]:
    """Return a service of two models, `colours` and `again`."""
    with running(colours.parent, f"colours={colours}", f"again={colours}") as service:
        yield service
