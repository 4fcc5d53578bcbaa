from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobilenets.errors import InputError
from mobilenets.files import write_atomically


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.txt"
    assert write_atomically(path, "été") == path
    assert path.read_bytes() == "été".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.txt"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert write_atomically(tmp_path / "x", b"").stat().st_mode == ordinary.stat().st_mode


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    write_atomically(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"x\.txt: cannot be written \(No space left on device\)"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("name", ["/dev/full", "."])
def test_a_device_or_a_folder_is_not_replaced(name: str) -> None:
    before = Path(name).stat()
    with pytest.raises(InputError, match="choose the name of a file"):
        write_atomically(Path(name), "x")
    assert Path(name).stat().st_mode == before.st_mode
