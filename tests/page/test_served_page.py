"""The page and the service itself, together."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.predict import predict

pytest.importorskip("fastapi", reason="the service is not installed: pip install 'mobilenets[serve]'")
pytest.importorskip("uvicorn", reason="the service is not installed: pip install 'mobilenets[serve]'")


@pytest.fixture
def served(random_network: Callable[..., Checkpoint], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yield the address of a service, and its model."""
    model = str(save(random_network("mobilenet_v3_small"), tmp_path / "birds.safetensors"))
    command = [sys.executable, "-m", "mobilenets", "serve", model, "--port", "0", "--quiet", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listening on (http://\S+)", line)
        if found:
            break
    else:
        pytest.fail("the service did not start")
    try:
        yield found[1], model
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_picture_is_answered_and_explained(served: tuple[str, str], visit: Any, flags: list[Path]) -> None:
    address, model = served
    page = visit(address)
    page.ready()
    page.choose(flags[0])
    (expected,) = predict(model, str(flags[0]))
    assert page.answer() == [(each.label, pytest.approx(each.score, abs=1e-4)) for each in expected.predictions]
    assert "network" in page.page.locator(".steps").inner_text()
    page.page.locator("#heat").fill("60")
    page.page.locator(".bars [aria-pressed=true]").wait_for()
    page.page.locator(".about > summary").click()
    page.page.locator(".card", has_text="mobilenet_v3_small").wait_for()
    assert page.page.locator(".judged").is_hidden()


def test_what_the_service_refuses_is_shown(served: tuple[str, str], visit: Any, tmp_path: Path) -> None:
    page = visit(served[0])
    page.ready()
    bad = tmp_path / "notes.png"
    bad.write_text("these are notes", encoding="utf-8")
    page.choose(bad)
    page.page.locator(".view .unable", has_text="not a picture").wait_for()
    assert all("Failed to load resource" in text for text in page.complaints)
    page.complaints.clear()
