"""The library for Android: made without Google's kit, it asks for nothing that Android's C library has not."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.errors import InputError
from mobilenets.formats import native_build
from mobilenets.formats.native_file import to_native
from mobilenets.image import normalize

Networks = Callable[..., Checkpoint]
TARGET = "arm-64-android"
RELOCATABLE, AARCH64, SYMBOLS = 1, 183, 2  # e_type, e_machine, sh_type
IN_BIONIC = {"memcpy", "memset", "getauxval", "expf"}


def members(archive: Path) -> Iterator[bytes]:
    """Yield the object files of an archive of `ar`; its tables of symbols and of long names are none."""
    raw = archive.read_bytes()
    assert raw.startswith(b"!<arch>\n")
    at = 8
    while at < len(raw):
        size = int(raw[at + 48 : at + 58])
        if not raw[at : at + 16].startswith(b"/"):
            yield raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def symbols(elf: bytes) -> tuple[set[str], set[str]]:
    """Return the names that a 64-bit ELF file asks for, and those it gives to others."""
    asked: set[str] = set()
    given: set[str] = set()
    sections, (size, count) = struct.unpack_from("<Q", elf, 0x28)[0], struct.unpack_from("<HH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, sections + number * size) for number in range(count)]
    for _, kind, _, _, offset, length, link, _, _, each in headers:
        if kind != SYMBOLS:
            continue
        for place in range(offset + each, offset + length, each):  # the first one is nothing
            name, info, _, section = struct.unpack_from("<IBBH", elf, place)
            text = headers[link][4] + name
            if info >> 4:  # not local
                (given if section else asked).add(elf[text : elf.index(b"\0", text)].decode())
    return asked, given


def built(checkpoint: Checkpoint, folder: Path) -> Path:
    try:
        assert native_build.compiler(TARGET).name.startswith("zig cc")
    except InputError as error:
        pytest.skip(str(error))
    for name, content in to_native(checkpoint, "net", version="1").items():
        (folder / name).write_bytes(content)
    (library,) = native_build.build(folder, "net", TARGET, checkpoint.card.precision)
    return library


def run_on(checkpoint: Checkpoint, folder: Path, library: Path) -> None:
    """Link the library into a program for Linux on such a processor, and run that."""
    asked: set[str] = set()
    for elf in members(library):
        assert elf[:6] == b"\x7fELF\x02\x01"  # 64 bits, little-endian
        assert struct.unpack_from("<HH", elf, 16) == (RELOCATABLE, AARCH64)
        more, given = symbols(elf)
        asked |= more
        assert given == {f"net_{name}" for name in ("run", "arena_bytes", "version", "label")}
    assert asked >= {"memcpy"}
    assert asked <= IN_BIONIC
    if native_build.runner(TARGET) is None:
        pytest.skip("qemu-aarch64 is not installed: the library was looked at, and not run")
    height, width = checkpoint.card.resolution
    batch = np.random.default_rng(5).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    (folder / "0.bin").write_bytes(batch.tobytes())
    program = native_build.example(folder, "net", TARGET)
    logits = native_build.logits(program, TARGET, [folder / "0.bin"], len(checkpoint.card.labels))
    meant = reference.run(checkpoint, normalize(batch, checkpoint.card.preprocess))
    tolerance = 0.0 if checkpoint.card.precision == "int8" else 2e-5 * float(np.abs(meant).max())
    np.testing.assert_allclose(np.array(logits, np.float32), meant, rtol=0, atol=tolerance)


def test_android_asks_its_library_for_little_and_has_the_same_bits(
    random_int8_network: Networks, tmp_path: Path
) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    run_on(checkpoint, tmp_path, built(checkpoint, tmp_path))


@pytest.mark.slow
def test_android_in_float32_with_a_sigmoid(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mnasnet_a1")
    run_on(checkpoint, tmp_path, built(checkpoint, tmp_path))


def test_cmake_asks_for_pages_of_16_kib(random_int8_network: Networks, tmp_path: Path) -> None:
    """As in an app: the folder is a part of another project, whose library is shared."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake: the CMakeLists.txt was not tried")
    (tmp_path / "net").mkdir()
    for name, content in to_native(random_int8_network("mobilenet_v2_mnist"), "net", version="1").items():
        (tmp_path / "net" / name).write_bytes(content)
    (tmp_path / "app.c").write_text('#include "net.h"\nconst char *app(void) { return net_version(); }\n')
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\nset(ANDROID 1)\nadd_subdirectory(net)\n"
        "add_library(app SHARED app.c)\ntarget_link_libraries(app net)\n"
    )
    subprocess.run(("cmake", "-S", ".", "-B", "build"), cwd=tmp_path, check=True, capture_output=True)
    command = (tmp_path / "build" / "CMakeFiles" / "app.dir" / "link.txt").read_text()
    assert "-Wl,-z,max-page-size=16384" in command
    assert not (tmp_path / "build" / "net" / "CMakeFiles" / "example.dir").exists()
