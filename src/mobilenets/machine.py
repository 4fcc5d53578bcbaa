"""What a measurement was made on: a number without its machine says little."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

VECTOR_INSTRUCTIONS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""x86 first, then ARM, as Linux calls them."""


def describe_machine() -> dict[str, str]:
    """Return the processor, its cores, memory, system and the versions of what computes, as text for people.

    Neither host nor user names are among them: a report can be handed on. Packages are named by their metadata; none is
    imported.
    """
    from importlib import metadata  # takes longer than all the rest, and vector_instructions does without

    described = {"processor": _processor(), "cores": str(cores())}
    more = {"processor_model": _model(), "instructions": _instructions(), "governor": _governor()}
    described |= {name: text for name, text in more.items() if text}
    memory = _memory_bytes()
    if memory:
        described["memory"] = f"{memory / 2**30:.1f} GiB"
    described["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    described["python"] = platform.python_version()
    for package in ("mobilenets", "numpy", "torch", "onnxruntime", "openvino", "ai-edge-litert"):
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return described


def cores() -> int:
    """Count the cores this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Return the processor's name; Linux knows it in /proc/cpuinfo alone."""
    return _cpuinfo("model name", "Model", "Hardware") or platform.processor() or platform.machine()


def _model() -> str:
    """Return what tells processors of one name apart, as virtual machines call them, in the numbers of their maker.

    Family, model and stepping of x86; implementer, part, variant and revision of ARM. Linux alone says them.
    """
    x86 = [_cpuinfo(name) for name in ("cpu family", "model", "stepping")]
    arm = [_cpuinfo(f"CPU {name}") for name in ("implementer", "part", "variant", "revision")]
    return next(("-".join(numbers) for numbers in (x86, arm) if all(numbers)), "")


def has_instructions(names: Iterable[str]) -> bool:
    """Say whether the processor has all of these extensions, in the system's words, known here or not."""
    return set(names) <= set(_cpuinfo("flags", "Features").split())


def vector_instructions() -> tuple[str, ...]:
    """Return those of the processor's extensions that kernels of networks are written for, in the system's words.

    Empty where the system does not tell, as on Windows and macOS.
    """
    known = _cpuinfo("flags", "Features").split()
    return tuple(name for name in VECTOR_INSTRUCTIONS if name in known)


def _instructions() -> str:
    virtual = "; a virtual machine" if "hypervisor" in _cpuinfo("flags", "Features").split() else ""
    return " ".join(vector_instructions()) + virtual


def _governor() -> str:
    """Return how the first core's clock is governed: `performance` or what saves power; Linux alone says it."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _cpuinfo(*names: str) -> str:
    """Return the value of the first line of /proc/cpuinfo with one of these names, and nothing where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in names), "")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
