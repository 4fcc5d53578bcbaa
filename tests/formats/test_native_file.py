"""C written for a network computes what streaming means, in the memory that was planned, on every kind of machine."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilenets.arch import CLASSIFIERS
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.memory import Mode, peak
from mobilenets.errors import InputError
from mobilenets.formats import native_build
from mobilenets.formats.native_file import identifier, spans, to_native
from mobilenets.image import normalize

Networks = Callable[..., Checkpoint]
Pictures = np.ndarray
GUARD = 4096


def written(checkpoint: Checkpoint, folder: Path) -> Path:
    for name, content in to_native(checkpoint, "net", version="1").items():
        (folder / name).write_bytes(content)
    return folder


def pictures(checkpoint: Checkpoint, count: int = 2) -> Pictures:
    height, width = checkpoint.card.resolution
    return np.random.default_rng(5).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def expected(checkpoint: Checkpoint, batch: Pictures) -> np.ndarray:
    return reference.run(checkpoint, normalize(batch, checkpoint.card.preprocess))


def compiles_for(target: str) -> str:
    try:
        native_build.compiler(target)
    except InputError as error:
        pytest.skip(str(error))
    if native_build.runner(target) is None:
        pytest.skip(f"{native_build.TARGETS[target].runner[0]} is not installed: {target} programs cannot be run here")
    return target


def here() -> str:
    try:
        return compiles_for(native_build.here())
    except InputError as error:
        pytest.skip(str(error))


def assert_same(checkpoint: Checkpoint, logits: np.ndarray, batch: Pictures) -> None:
    meant = expected(checkpoint, batch)
    # In another order of summing, torch's float32 is 1.2e-5 from float64 where random weights are deepest (Lite4).
    tolerance = 0.0 if checkpoint.card.precision == "int8" else 2e-5 * float(np.abs(meant).max())
    np.testing.assert_allclose(logits, meant, rtol=0, atol=tolerance)


def check_library(checkpoint: Checkpoint, folder: Path) -> None:
    """Call the shared library: between two guards, in an arena full of rubbish, with rows and with whole pictures."""
    _, shared = native_build.build(written(checkpoint, folder), "net", here(), checkpoint.card.precision)
    library = ctypes.CDLL(str(shared))
    library.net_arena_bytes.restype = ctypes.c_size_t
    library.net_version.restype = library.net_label.restype = ctypes.c_char_p
    precision = checkpoint.card.precision
    size = library.net_arena_bytes()
    assert size == peak(checkpoint.card.plan, precision, "streamed")  # type: ignore[arg-type]
    assert library.net_version() == b"1"
    assert [library.net_label(index).decode() for index in range(7)] == list(checkpoint.card.labels)
    assert library.net_label(7) is None
    arena = np.full(size + 2 * GUARD, 0xA5, np.uint8)
    batch = pictures(checkpoint)
    logits = np.zeros((len(batch), len(checkpoint.card.labels)), np.float32)
    asked: list[int] = []
    rows_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)

    def rows(_context: int, row: int) -> int:
        asked.append(row)
        return int(batch[0, row].ctypes.data)

    at = ctypes.c_void_p(arena.ctypes.data + GUARD)
    assert library.net_run(at, rows_type(rows), None, logits[0].ctypes.data_as(ctypes.c_void_p)) == 0
    assert asked == list(range(checkpoint.card.resolution[0]))
    whole, answer = (each[1].ctypes.data_as(ctypes.c_void_p) for each in (batch, logits))
    assert library.net_run(at, None, whole, answer) == 0
    assert_same(checkpoint, logits, batch)
    assert (arena[:GUARD] == 0xA5).all()
    assert (arena[-GUARD:] == 0xA5).all()
    nothing = rows_type(lambda _context, _row: None)
    assert library.net_run(at, nothing, None, answer) == 1
    assert library.net_run(ctypes.c_void_p(arena.ctypes.data + GUARD + 1), None, whole, answer) == 2


def test_int8_in_c_is_the_reference_to_the_bit(random_int8_network: Networks, tmp_path: Path) -> None:
    check_library(random_int8_network("mobilenet_v2"), tmp_path)


def test_squeeze_excite_and_tables_in_c(random_int8_network: Networks, tmp_path: Path) -> None:
    check_library(random_int8_network("mobilenet_v3_small", padding="same"), tmp_path)


def test_float32_in_c(random_network: Networks, tmp_path: Path) -> None:
    check_library(random_network("mobilenet_v3_small"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_network_in_c(
    name: str, precision: str, random_network: Networks, random_int8_network: Networks, tmp_path: Path
) -> None:
    check_library((random_int8_network if precision == "int8" else random_network)(name), tmp_path)


def run_example(checkpoint: Checkpoint, target: str, folder: Path) -> None:
    native_build.build(written(checkpoint, folder), "net", target, checkpoint.card.precision)
    program = native_build.example(folder, "net", target)
    batch, files = pictures(checkpoint), []
    (folder / "pictures").mkdir()
    for number, picture in enumerate(batch):
        files.append(folder / "pictures" / f"{number}.bin")
        files[-1].write_bytes(picture.tobytes())
    logits = native_build.logits(program, target, files, len(checkpoint.card.labels))
    assert_same(checkpoint, np.array(logits, np.float32), batch)


@pytest.mark.parametrize("target", ["arm-64-linux", "wasm-32"])
def test_other_machines_have_the_same_bits(target: str, random_int8_network: Networks, tmp_path: Path) -> None:
    run_example(random_int8_network("mobilenet_v2"), compiles_for(target), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", native_build.TARGETS)
def test_other_machines_in_float32(target: str, random_network: Networks, tmp_path: Path) -> None:
    run_example(random_network("mobilenet_v3_large"), compiles_for(target), tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        ("-DPLAIN_C",),
        pytest.param(("-DONE_LEVEL",), marks=pytest.mark.slow),
        ("-DONE_LEVEL", "-mavx2"),
        pytest.param(("-DONE_LEVEL", "-march=x86-64-v4", "-mavx512vnni"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_every_instruction_set_has_the_same_bits(
    flags: tuple[str, ...], random_int8_network: Networks, tmp_path: Path
) -> None:
    if here() != "x86-64-linux":
        pytest.skip("this machine has none of them")
    if "-mavx512vnni" in flags and "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX-512 with VNNI")
    checkpoint = random_int8_network("mnasnet_a1")
    assert_same(checkpoint, *answers(checkpoint, (native_build.compiler(here()).command, flags, ()), tmp_path))


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        pytest.param("arm-64-linux", ("-DONE_LEVEL",), marks=pytest.mark.slow),
        pytest.param("arm-64-linux", ("-DONE_LEVEL", "-march=armv8.2-a+dotprod"), marks=pytest.mark.slow),
        pytest.param("arm-64-linux", ("-DPLAIN_C",), marks=pytest.mark.slow),
    ],
)
def test_every_instruction_set_elsewhere(
    target: str, flags: tuple[str, ...], random_int8_network: Networks, tmp_path: Path
) -> None:
    checkpoint, by = random_int8_network("mobilenet_v2"), native_build.compiler(compiles_for(target))
    how = (by.command, (*flags, "-static"), native_build.runner(target) or ())
    assert_same(checkpoint, *answers(checkpoint, how, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fused", "layerwise"])
def test_with_more_memory_the_same_is_computed(mode: Mode, random_int8_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_int8_network("mobilenet_v3_small")
    how = (native_build.compiler(here()).command, (), ())
    assert_same(checkpoint, *answers(checkpoint, how, tmp_path, mode))


def answers(
    checkpoint: Checkpoint,
    how: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    folder: Path,
    mode: Mode = "streamed",
) -> tuple[np.ndarray, np.ndarray]:
    """Compile the example with (a command, flags) and run it by what is third; return logits and the picture."""
    command, flags, run_by = how
    for name, content in to_native(checkpoint, "net", version="1", mode=mode).items():
        (folder / name).write_bytes(content)
    batch = pictures(checkpoint, 1)
    (folder / "0.bin").write_bytes(batch[0].tobytes())
    line = (*command, "-std=c99", "-O2", "-ffp-contract=off", *flags, "net.c", "example.c", "-o", "example", "-lm")
    subprocess.run(line, cwd=folder, check=True)
    done = subprocess.run(
        (*run_by, "./example", "--logits", "0.bin"), cwd=folder, check=True, capture_output=True, text=True
    )
    return np.array([[float(each) for each in done.stdout.split()]], np.float32), batch


@pytest.mark.parametrize("name", [pytest.param("mobilenet_v2", marks=pytest.mark.slow), "mnasnet_a1"])
def test_nothing_is_read_or_written_out_of_bounds(name: str, random_int8_network: Networks, tmp_path: Path) -> None:
    """The compiler's own checks: addresses, alignment, overflow; every warning is an error."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc: the checks of addresses were not run")
    checkpoint = random_int8_network(name)
    folder = written(checkpoint, tmp_path)
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror", "-pedantic")
    command = ("gcc", "-std=c99", "-O1", "-ffp-contract=off", *checks, "net.c", "example.c", "-o", "example", "-lm")
    subprocess.run(command, cwd=folder, check=True)
    batch = pictures(checkpoint)
    (folder / "0.bin").write_bytes(batch[0].tobytes())
    done = subprocess.run(["./example", "--logits", "0.bin"], cwd=folder, check=True, capture_output=True, text=True)
    assert_same(checkpoint, np.array([[float(line) for line in done.stdout.split()]], np.float32), batch[:1])
    (folder / "short.bin").write_bytes(batch[0].tobytes()[:-1])
    done = subprocess.run(["./example", "short.bin"], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "too short" in done.stderr


def test_the_source_allocates_nothing_and_says_its_size(random_int8_network: Networks) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    made = to_native(checkpoint, "net", version='a "quoted" name?')
    source, header = made["net.c"].decode(), made["net.h"].decode()
    assert made == to_native(checkpoint, "net", version='a "quoted" name?')
    assert not re.search(r"\b(malloc|calloc|realloc|free|alloca)\b", source)
    assert f"#define NET_ARENA_BYTES {peak(checkpoint.card.plan, 'int8', 'streamed')}\n" in header
    assert len(re.findall(r"^[a-z].*\bnet_\w+\(.*\);$", header, re.MULTILINE)) == 4
    assert made["example.c"].count(b"\n") <= 40


def test_identifiers() -> None:
    assert identifier("best.int8") == "best_int8"
    assert identifier("1st") == "model_1st"
    assert identifier("été") == "_t_"


def test_weights_lie_in_spans_of_sixteen() -> None:
    rows = np.arange(17 * 5).reshape(17, 5)
    laid = spans(rows, 4)
    assert laid.shape == (2, 2, 16, 4)
    for output in range(17):
        for channel in range(5):
            assert laid[output // 16, channel // 4, output % 16, channel % 4] == rows[output, channel]
    assert laid.sum() == rows.sum()


def test_an_unknown_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(native_build, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"arm-64-linux.*aarch64-linux-gnu-gcc"):
        native_build.compiler("arm-64-linux")
