"""A whole process, told to end while it is busy."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving_clients import Service
from tests.serve.clients import picture

CLIENTS = 6


def test_every_request_is_answered(colours: Path) -> None:
    service = Service(str(colours), "--runtime", "reference", "--threads", "1")
    try:
        end = service.end_under_load(picture(), "image/png", CLIENTS, 5 * CLIENTS)
    finally:
        service.close()
    assert end.exit_code == 0
    assert (end.lost, end.refused) == (0, 0)
    assert end.answered >= 5 * CLIENTS
    assert end.counted == end.answered
