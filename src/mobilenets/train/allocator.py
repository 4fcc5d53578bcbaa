"""Freed memory kept for the next step, instead of being given back to the system and asked for again.

Activations of a training step are large. glibc takes each block of 32 MiB or more from the system and gives it back
when freed, so that every step faults in, and the kernel clears, gigabytes anew: a third of the time of a step of
MobileNetV2 at 224 (`benchmarks/training_throughput.py`).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)
_LARGEST_INT = 2**31 - 1
_STEP_BYTES = 64 << 20  # how much the heap grows at a time


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, for the rest of this process; say whether it listened.

    The process stays as large as it once was. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    wishes = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST_INT), (_TOP_PAD, _STEP_BYTES))
    heard = [mallopt(option, value) == 1 for option, value in wishes]
    return all(heard)
