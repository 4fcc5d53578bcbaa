"""Freed memory that stays: seen by the page faults of a second allocation."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from mobilenets.train.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(16 << 20, dtype=np.float32)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults()
print(sum(faults() for _ in range(4)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True)
        return int(done.stdout)

    # Huge pages make one fault of 512: what counts is that there are next to none.
    assert faults("kept") < 20 < faults("given back")
