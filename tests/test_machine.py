from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys

from mobilenets.machine import describe_machine


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
