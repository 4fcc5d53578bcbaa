from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mobilenets.errors import CheckpointError, InputError
from mobilenets.train.state import check_folder, read_state, write_state


def test_round_trip(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    write_state(tmp_path, {"weights": torch.arange(3.0), "epoch": 2, "best": None})
    state = read_state(tmp_path)
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.arange(3.0))


def test_a_truncated_state_is_named(tmp_path: Path) -> None:
    write_state(tmp_path, {"weights": torch.zeros(1000)})
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(CheckpointError, match=r"state.pt: damaged .*start anew with another --out"):
        read_state(tmp_path)


def test_a_newer_state_is_named(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"another version \(format 99\)"):
        read_state(tmp_path)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


def test_nothing_in_a_state_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "trap": _Trap()}, tmp_path / "state.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["state.pt", "best.safetensors", "last.safetensors"])
def test_a_folder_with_a_run_is_only_for_resuming(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="--resume, or choose another --out"):
        check_folder(tmp_path, resume=False)
    check_folder(tmp_path, resume=True)


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    left, other = tmp_path / ".state.pt.x3k_2a", tmp_path / ".gitignore"
    left.touch()
    other.touch()
    check_folder(tmp_path, resume=True)
    assert not left.exists()
    assert other.exists()


def test_a_folder_is_made_and_a_file_is_none(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", resume=False)
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        check_folder(tmp_path / "file", resume=False)
    with pytest.raises(InputError, match=r"cannot be written to \(Not a directory\): choose another --out"):
        check_folder(tmp_path / "file" / "sub", resume=False)
