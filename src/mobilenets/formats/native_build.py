"""C made into libraries: for this machine, and for others where a compiler for them is installed.

What compiles is the first there is: the system's gcc for that machine, or clang in the form of `zig cc`, which comes
from the package index with headers and C libraries for every target.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from mobilenets.errors import InputError

PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of machine: its compilers, how `zig` calls it, and how its programs are run here.

    `machine` is what Python calls such a machine; there the plain `gcc` or `cc` compiles too, and programs just run.
    `proved_as` is the target whose compiler links the programs that prove the library: one of the same processor and
    calling convention, for a system whose own programs do not run here.
    """

    machine: str
    compilers: tuple[str, ...]
    zig: str
    runner: tuple[str, ...] = ()
    shared: bool = True
    flags: tuple[str, ...] = ()
    proved_as: str = ""


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "x86-64-linux": Target("x86_64", ("x86_64-linux-gnu-gcc",), "x86_64-linux-musl", ("qemu-x86_64",)),
        "arm-64-linux": Target("aarch64", ("aarch64-linux-gnu-gcc",), "aarch64-linux-musl", ("qemu-aarch64",)),
        "arm-64-android": Target(
            *("aarch64", (), "aarch64-linux-android", ("qemu-aarch64",)), shared=False, proved_as="arm-64-linux"
        ),
        "wasm-32": Target("wasm32", (), "wasm32-wasi", ("node",), shared=False, flags=("-msimd128",)),
    }
)

WASI = """\
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";
const [program, folder, ...files] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: ["example", ...files], preopens: { "/": folder } });
const { instance } = await WebAssembly.instantiate(await readFile(program), wasi.getImportObject());
process.exit(wasi.start(instance));
"""
"""Runs a program in Node that sees one folder as all files there are."""


def here() -> str:
    """Return the target that this machine is.

    Raises InputError for a machine that is none.
    """
    for name, target in TARGETS.items():
        if target.machine == platform.machine() and sys.platform == "linux":
            return name
    raise InputError(f"--target: {platform.system()} on {platform.machine()} is none: name one of {', '.join(TARGETS)}")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A command that compiles C for a target, the one that makes archives, and what to call them both."""

    command: tuple[str, ...]
    archiver: tuple[str, ...]
    name: str


def compiler(target: str) -> Compiler:
    """Return what compiles for a target.

    Raises InputError where nothing does.
    """
    kind = TARGETS[target]
    own = ("gcc", "cc") if sys.platform == "linux" and platform.machine() == kind.machine and not kind.proved_as else ()
    for name in (*own, *kind.compilers):
        if shutil.which(name) is not None:
            archiver = f"{name.removesuffix('gcc')}ar" if name.endswith("-gcc") else "ar"
            return Compiler((name,), (archiver,), _version((name,)))
    if find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        return Compiler((*zig, "cc", "-target", kind.zig), (*zig, "ar"), f"zig cc {_version((*zig, 'version'))}")
    wanted = " or ".join((*own, *kind.compilers)[:2]) or "a compiler"
    raise InputError(f"--target {target}: there is no {wanted}: install it, or pip install 'mobilenets[engine]'")


def flags(precision: str, target: str) -> tuple[str, ...]:
    """Return how the source is compiled: in int8, products and sums must be rounded one by one."""
    contract = f"-ffp-contract={'off' if precision == 'int8' else 'fast'}"
    return ("-std=c99", "-O3", contract, "-fPIC", *TARGETS[target].flags)


def build(folder: Path, name: str, target: str, precision: str) -> tuple[Path, ...]:
    """Compile `folder/NAME.c` into a static library and, where the target has those, a shared one.

    Returns their paths, in a folder called as the target. Raises InputError where the compiler objects.
    """
    by = compiler(target)
    place = folder / target
    place.mkdir(exist_ok=True)
    source, object_file = folder / f"{name}.c", place / f"{name}.o"
    static, shared = place / f"lib{name}.a", place / f"lib{name}.so"
    _run((*by.command, *flags(precision, target), "-c", str(source), "-o", str(object_file)), target)
    _run((*by.archiver, "rcs", str(static), str(object_file)), target)
    if not TARGETS[target].shared:
        object_file.unlink()
        return (static,)
    _run((*by.command, "-shared", str(object_file), "-o", str(shared), "-lm"), target)
    object_file.unlink()
    return static, shared


def example(folder: Path, name: str, target: str) -> Path:
    """Compile the example against the static library; return the program."""
    by, program = compiler(TARGETS[target].proved_as or target), folder / target / "example"
    linked = ("-static",) if target != "wasm-32" else ()
    library = folder / target / f"lib{name}.a"
    sources = (str(folder / "example.c"), str(library))
    _run((*by.command, "-std=c99", "-O2", *linked, *sources, "-I", str(folder), "-o", str(program), "-lm"), target)
    return program


def runner(target: str) -> tuple[str, ...] | None:
    """Return what a target's programs are run with here; None where they cannot be."""
    kind = TARGETS[target]
    if sys.platform == "linux" and platform.machine() == kind.machine:
        return ()
    return kind.runner if shutil.which(kind.runner[0]) is not None else None


def logits(program: Path, target: str, pictures: Sequence[Path], classes: int) -> list[list[float]]:
    """Run the example on files with pictures' bytes, all in one folder; return the logits of each.

    Raises InputError where it fails.
    """
    numbers = printed(program, target, pictures, "--logits")
    return [numbers[first : first + classes] for first in range(0, len(numbers), classes)]


def printed(program: Path, target: str, pictures: Sequence[Path], what: str) -> list[float]:
    """Run the example with a flag on files with pictures' bytes, all in one folder; return the numbers it prints.

    Raises InputError where it fails.
    """
    with_what = runner(target)
    assert with_what is not None
    if target == "wasm-32":
        script, folder = program.with_name("wasi.mjs"), pictures[0].parent
        script.write_text(WASI, encoding="utf-8")
        command = (*with_what, "--no-warnings", str(script), str(program), str(folder), what)
        names = [f"/{path.name}" for path in pictures]
    else:
        command, names = (*with_what, str(program), what), [str(path) for path in pictures]
    return [float(word) for word in _run((*command, *names), target).split()]


def _version(command: tuple[str, ...]) -> str:
    """Return a compiler's name and version, or just the version where that is all it says."""
    asked = command if command[-1] == "version" else (*command, "--version")
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - a compiler by its name
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else command[0]


def _run(command: Sequence[str], target: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - compilers and programs just compiled
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"--target {target}: {command[0]} needs more than {PATIENCE_S:.0f} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()[-1:]
        raise InputError(f"--target {target}: {Path(command[0]).name} fails: {said[0] if said else done.returncode}")
    return done.stdout
