from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.clients import Live

# Bytes of the right type need not be a picture, and only the answer tells: 422. All other checks are as they come.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 404, 413, 415, 422]
"""


@pytest.mark.slow
def test_answers_are_as_described(live: Live, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]
    command += [f"http://127.0.0.1:{live.port}/openapi.json", "--checks", "all", "--max-examples", "100"]
    command.append("--generation-deterministic")
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout
