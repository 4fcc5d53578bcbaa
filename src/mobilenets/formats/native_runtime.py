"""The fixed part of what is written in C: kernels for kinds of processors, the choice between them, what drives them.

One source holds all of them. The compiler's own flags decide what the plainest is; beside it, x86-64 and 64-bit ARM
get kernels for what newer processors can do, and the library asks the processor when it runs.

`PLAIN_C`, defined, leaves nothing but C99; `ONE_LEVEL` leaves what the compiler's flags allow, and nothing is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Level:
    """A kind of processor: the macro that kernels see, what it must be able to do, and how it is asked."""

    macro: str
    blocks: str
    features: tuple[str, ...]
    asked: str

    @property
    def ending(self) -> str:
        """What the names of its functions end in."""
        return self.macro.removeprefix("LEVEL_").lower()


X86_64 = (
    Level(
        "LEVEL_AVX512",
        "vnni",
        ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "fma"),
        '__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && '
        '__builtin_cpu_supports("avx512vnni")',
    ),
    Level("LEVEL_AVX2", "pairs", ("avx2", "fma"), '__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")'),
)
ARM_64 = (Level("LEVEL_DOTPROD", "neon", ("dotprod",), "(getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0"),)

HEADERS = """\
#if !defined(PLAIN_C) && !defined(ONE_LEVEL)
#define SEVERAL_LEVELS
#endif
#if defined(PLAIN_C)
#elif defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#if defined(__linux__) && defined(WITHOUT_LIBRARY)
#define AT_HWCAP 16
#define HWCAP_ASIMDDP (1 << 20)
unsigned long getauxval(unsigned long type);
#elif defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif
"""


def runtime(*, int8: bool, detects: bool = False) -> str:
    """Return the fixed part of the source."""
    parts = [HEADERS, _text("common")]
    parts += ["#if defined(SEVERAL_LEVELS) && defined(__x86_64__) && defined(__GNUC__)"]
    parts += [_kernels(level, f'target("{",".join(level.features)}")', int8=int8) for level in X86_64]
    if int8:
        parts += ["#elif defined(SEVERAL_LEVELS) && defined(__aarch64__) && defined(__ARM_NEON) && defined(__linux__)"]
        parts += [_kernels(level, 'target("arch=armv8.2-a+dotprod")', int8=int8) for level in ARM_64]
    parts += ["#endif", _base(int8=int8), _text("kernels"), _chosen(int8=int8), _text("driver")]
    parts += [_text("boxes")] if detects else []
    return "\n".join(parts)


def _text(part: str) -> str:
    return (files("mobilenets.formats") / f"native_{part}.c").read_text(encoding="utf-8")


def _base(*, int8: bool) -> str:
    """Return the blocks for a processor of which only the compiler's flags are known."""
    if not int8:
        return ""
    return "\n".join(
        (
            "#if defined(PLAIN_C)",
            _text("blocks_plain"),
            "#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__GNUC__)",
            _text("blocks_vnni"),
            "#elif defined(__x86_64__) && defined(__GNUC__) || defined(__wasm_simd128__)",
            "#if defined(__AVX2__)\n#define LEVEL_AVX2\n#endif",
            _text("blocks_pairs"),
            "#elif defined(__aarch64__) && defined(__ARM_NEON)",
            "#if defined(__ARM_FEATURE_DOTPROD)\n#define LEVEL_DOTPROD\n#endif",
            _text("blocks_neon"),
            "#else",
            _text("blocks_plain"),
            "#endif",
        )
    )


def _kernels(level: Level, target: str, *, int8: bool) -> str:
    """Return the kernels for one level, every name of theirs with its own ending."""
    text = "\n".join(([_text(f"blocks_{level.blocks}")] if int8 else []) + [_text("kernels")])
    found = re.findall(r"^static .*?(\w+)(?:\(|\[)", text, re.MULTILINE)
    found += re.findall(r"^(?:typedef .* |\} )(\w+);", text, re.MULTILINE)
    for inside in re.findall(r"^enum \{ (.*) \};", text, re.MULTILINE):
        found += re.findall(r"(\w+) =", inside)
    names = sorted(set(found))
    return "\n".join(
        (
            f"#define {level.macro}",
            f"#if defined(__clang__)\n#pragma clang attribute push(__attribute__(({target})), apply_to = function)",
            f"#else\n#pragma GCC push_options\n#pragma GCC {target}\n#endif",
            *(f"#define {name} {name}_{level.ending}" for name in names),
            text,
            *(f"#undef {name}" for name in names),
            "#if defined(__clang__)\n#pragma clang attribute pop\n#else\n#pragma GCC pop_options\n#endif",
            f"#undef {level.macro}",
        )
    )


def _chosen(*, int8: bool) -> str:
    """Return what asks the processor."""
    lines = ["static compute_t chosen(void) {", "#if !defined(SEVERAL_LEVELS)"]
    lines += ["#elif defined(__x86_64__) && defined(__GNUC__)", *map(_ask, X86_64)]
    if int8:
        lines += ["#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__linux__)", *map(_ask, ARM_64)]
    return "\n".join([*lines, "#endif", "    return compute;\n}\n"])


def _ask(level: Level) -> str:
    return f"    if ({level.asked}) return compute_{level.ending};"
