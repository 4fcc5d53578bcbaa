"""Kernels as machine code: compiled once on this machine, kept in the cache, loaded in milliseconds.

Halide writes an object file for every kernel, named by what it computes, for which processor, and by which version of
all that takes part; `zig cc` (of the package ziglang, or else a `cc` on the path) compiles the driver and links both to
a shared library, named by its kernels. Loading one that is there needs neither. Files appear whole, by renaming, so
that processes which want the same one do not disturb one another: at worst both make it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mobilenets.engine import c_kernels
from mobilenets.engine.int8_kernels import AnyKernel, Int8Dense, Int8Fused, Int8Simple, defined
from mobilenets.engine.kernels import symbol
from mobilenets.engine.prepared import engine_folder, opened
from mobilenets.engine.target import EngineError, Target, host
from mobilenets.errors import MissingExtraError
from mobilenets.files import write_atomically

DRIVER = Path(__file__).with_name("driver.c")
_SOURCES = (
    *("c_kernels.py", "dense.c", "float32.h", "fused.c"),
    *("driver.c", "forms.py", "generate.py", "generate_fused.py", "generate_plain.py", "kernels.py"),
    *("schedules.py", "scratch.py"),  # the machine's registers take part, and how many rows are kept
    *("int8.h", "int8_dense.c", "int8_fused.c", "int8_kernels.py", "int8_simple.c"),
)
_EXTRA = "engine"

__all__ = ["DRIVER", "EngineError", "Target", "build", "compile_all", "compiler", "host", "load", "names"]


INT8 = (Int8Dense, Int8Fused, Int8Simple)


@cache
def _versions() -> str:
    """Return what machine code depends on beside the kernel and the target."""
    from importlib.metadata import PackageNotFoundError, version

    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(DRIVER.with_name(name).read_bytes())
    for package in ("halide", "ziglang"):
        try:
            digest.update(f"{package} {version(package)} ".encode())
        except PackageNotFoundError:
            digest.update(f"{package} - ".encode())
    return digest.hexdigest()


def names(kernels: Iterable[AnyKernel], target: Target) -> dict[AnyKernel, str]:
    """Return the function of each kernel."""
    salt = f"{target.name} {target.machine} {' '.join(target.features)} {_versions()}"
    return {kernel: symbol(kernel, salt) for kernel in kernels}


def load(kernels: Sequence[AnyKernel], target: Target, *, folder: Path | None = None) -> ctypes.CDLL:
    """Return a library with the driver and these kernels, compiling what is not in the cache.

    Args:
        kernels: in any order, repetitions allowed.
        target: this machine.
        folder: where machine code is kept; None is `engine` in the cache.

    Raises:
        EngineError: compiling or linking fails.
        MissingExtraError: something is to be compiled, and Halide or a linker is not installed.
    """
    folder = engine_folder() if folder is None else folder
    symbols = names(kernels, target)
    path = folder / path_of(symbols.values(), target)
    if not path.is_file():
        build(symbols, target, folder, path)
    return opened(path)


def path_of(symbols: Iterable[str], target: Target) -> Path:
    """Return the name of the library that has these functions."""
    content = " ".join([*sorted(set(symbols)), target.name, _versions()])
    return Path(f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.so")


def build(symbols: dict[AnyKernel, str], target: Target, folder: Path, path: Path) -> None:
    """Compile what is missing and link it all to a shared library at `path`."""
    objects = compile_all(symbols, target, folder)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        library = Path(made) / "library.so"
        files = [str(each) for each in objects]
        _run([*compiler(target), "-shared", "-nostdlib", "-o", str(library), *files], folder)
        library.chmod(0o755)
        library.replace(path)


def compile_all(symbols: dict[AnyKernel, str], target: Target, folder: Path) -> list[Path]:
    """Return object files of the driver and of the kernels, compiling those that are not in the folder."""
    objects = {name: folder / "objects" / f"{name}.o" for name in symbols.values()}
    missing = {name: kernel for kernel, name in symbols.items() if not objects[name].is_file()}
    if (
        not all(isinstance(each, INT8) or c_kernels.in_c(each, target.machine) for each in missing.values())
        and find_spec("halide") is None
    ):
        raise MissingExtraError("halide", _EXTRA)
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    with _progress(len(missing) + 1) as advance:
        driver = _driver(target, folder)
        advance()
        for name, kernel in missing.items():
            _compile(kernel, name, target, objects[name])
            advance()
    return [driver, *_runtime(target, folder), *objects.values()]


def _compile(kernel: AnyKernel, name: str, target: Target, path: Path) -> None:
    if isinstance(kernel, INT8) or c_kernels.in_c(kernel, target.machine):
        exact = isinstance(kernel, INT8)
        file, sizes = defined(kernel) if isinstance(kernel, INT8) else c_kernels.defined(kernel)
        defines = [f"-DNAME={name}_argv", *(f"-D{key}={value}" for key, value in sizes.items())]
        _compile_c(file, [*defines, "-O3", f"-ffp-contract={'off' if exact else 'fast'}"], target, path)
        return
    import halide as hl

    from mobilenets.engine.generate import generate

    generated = generate(kernel, target.machine)
    with tempfile.TemporaryDirectory(dir=path.parent) as made:
        written = Path(made) / path.name
        outputs = {hl.OutputFileType.object: str(written)}
        try:
            generated.out.compile_to(outputs, generated.arguments, name, hl.Target(target.name))
        except (RuntimeError, hl.HalideError) as error:
            raise EngineError(f"Halide does not compile {kernel}: {str(error).strip().splitlines()[-1]}") from error
        written.replace(path)


def _driver(target: Target, folder: Path) -> Path:
    digest = hashlib.sha256(f"{target.triple} {_versions()}".encode()).hexdigest()[:20]
    path = folder / "objects" / f"driver_{digest}.o"
    if not path.is_file():
        _compile_c(DRIVER.name, ["-O2"], target, path)
    return path


def _runtime(target: Target, folder: Path) -> list[Path]:
    """Return Halide's own runtime, which words what a check finds, where kernels have checks; others need none of it.

    What the driver has of it goes before it.
    """
    if "no_asserts" in target.name.split("-"):
        return []
    import halide as hl

    digest = hashlib.sha256(f"{target.name} {_versions()}".encode()).hexdigest()[:20]
    path = folder / "objects" / f"runtime_{digest}.o"
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=path.parent) as made:
            written = Path(made) / path.name
            hl.compile_standalone_runtime(str(written), hl.Target(target.name.replace("-no_runtime", "")))
            written.replace(path)
    return [path]


def _compile_c(file: str, options: Sequence[str], target: Target, path: Path) -> None:
    """Compile a C file of this folder for a target; what is cached of it lies beside the objects."""
    with tempfile.TemporaryDirectory(dir=path.parent) as made:
        written = Path(made) / path.name
        source = str(DRIVER.with_name(file))
        command = [*compiler(target), "-std=c11", *options, *target.flags, "-fPIC", "-c", source, "-o", str(written)]
        _run(command, path.parents[1])
        write_atomically(path, written.read_bytes())


def compiler(target: Target) -> list[str]:
    """Return the command that compiles C and links for a target.

    Raises:
        MissingExtraError: ziglang is not installed, and there is no `cc` for this machine either.
    """
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", target.triple]
    own = shutil.which("cc")
    if own is None or not target.triple.startswith(platform.machine().lower()):
        raise MissingExtraError("ziglang", _EXTRA)
    return [own]


def _run(command: list[str], folder: Path) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "zig"), "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
    done = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, env={**os.environ, **caches}
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise EngineError(f"{command[0]} cannot make the engine's library: {lines[0].strip()}")


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], object]]:
    """Say on standard error what is going on, as a bar where that is a terminal; yields what to call at each step."""
    what = "compiling the engine for this processor"
    if count == 1 or not sys.stderr.isatty():
        if count > 1:
            sys.stderr.write(f"{what}: {count} parts, once\n")
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=count)
        yield lambda: progress.advance(task)
