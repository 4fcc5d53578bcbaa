"""Which processor kernels are made for; asking costs next to nothing."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass, replace
from functools import cache

from mobilenets.errors import MobileNetsError
from mobilenets.machine import vector_instructions


class EngineError(MobileNetsError):
    """A kernel that cannot be compiled or loaded on this machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a schedule has to know of a processor: the float32 in a vector, and the vectors there are registers for.

    `halide`: float32 kernels are Halide's even where C is faster.
    """

    lanes: int
    registers: int
    halide: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What kernels are compiled for: Halide's name of it, zig's name, and what schedules have to know."""

    name: str
    triple: str
    machine: Machine
    features: tuple[str, ...] = ()  # C's names of vector instructions

    @property
    def flags(self) -> tuple[str, ...]:
        """What tells a C compiler of the vector instructions."""
        if self.triple.startswith("aarch64"):
            return ("-mcpu=" + "+".join(("generic", *self.features)),)
        return tuple(f"-m{name}" for name in self.features)


_FEATURES = "no_runtime-user_context"
_UNCHECKED = "no_asserts-no_bounds_query"
_X86 = {
    "avx512": ("avx-avx2-f16c-fma-sse41-avx512-avx512_skylake", Machine(16, 32)),
    "avx2": ("avx-avx2-f16c-fma-sse41", Machine(8, 16)),
    "baseline": ("sse41", Machine(4, 16)),
}
_AVX2 = ("sse4.1", "avx", "avx2", "f16c", "fma")
_C_X86 = {"avx512": (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq"), "avx2": _AVX2, "baseline": ("sse4.1",)}
_C_MORE = {  # by what the system calls them
    "avx512": {"avx512_vnni": "avx512vnni", "avx512vbmi": "avx512vbmi", "avx512_vbmi2": "avx512vbmi2"},
    "avx2": {"avx_vnni": "avxvnni"},
    "baseline": {},
}
_C_ARM = {"asimddp": "dotprod", "i8mm": "i8mm"}


@cache
def host(*, checked: bool = False) -> Target:
    """Return this machine as a target, by the vector instructions that it says it has.

    Args:
        checked: float32 kernels are Halide's, check every access to a buffer, and fail with a message.

    Raises:
        EngineError: neither Linux nor a processor that there are schedules for.
    """
    if sys.platform != "linux":
        raise EngineError(f"the engine compiles kernels on Linux, not on {sys.platform}: choose another runtime")
    ending = _FEATURES if checked else f"{_FEATURES}-{_UNCHECKED}"
    found, kind = set(vector_instructions()), platform.machine().lower()
    if kind in ("x86_64", "amd64"):
        level = "baseline"
        if {"avx2", "fma", "f16c"} <= found:
            level = "avx512" if {"avx512f", "avx512bw", "avx512vl"} <= found else "avx2"
        features, machine = _X86[level]
        machine = replace(machine, halide=checked)
        more = tuple(name for flag, name in _C_MORE[level].items() if flag in found)
        return Target(f"x86-64-linux-{features}-{ending}", "x86_64-linux-gnu", machine, (*_C_X86[level], *more))
    if kind in ("aarch64", "arm64"):
        more = tuple(name for flag, name in _C_ARM.items() if flag in found)
        return Target(f"arm-64-linux-{ending}", "aarch64-linux-gnu", Machine(4, 32), more)
    raise EngineError(f"the engine has no schedules for {kind}: choose another runtime")
