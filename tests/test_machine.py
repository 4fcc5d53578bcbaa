from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

from mobilenets.machine import VECTOR_INSTRUCTIONS, describe_machine


def test_a_machine_is_described_without_naming_its_owner() -> None:
    described = describe_machine()
    assert described["python"] == platform.python_version()
    assert int(described["cores"]) >= 1
    assert described["processor"]
    assert {"numpy", "system", "memory"} <= set(described)
    values = json.dumps(described).split()
    assert platform.node() not in values
    assert getpass.getuser() not in values


def test_describing_imports_no_package() -> None:
    code = "import sys, mobilenets.machine as machine; machine.describe_machine(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"torch", "numpy"}.isdisjoint(done.stdout.split())


def test_vector_instructions_are_named_where_the_system_knows_them() -> None:
    described = describe_machine()
    known = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    named = described.get("instructions", "").partition(";")[0].split()
    assert named == [name for name in VECTOR_INSTRUCTIONS if name in known]
