"""What is kept of a network: the same answers from the cache, in another process too, and nothing that is not whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.engine import prepared
from mobilenets.engine.prepared import compiled, memory_bytes, read, weights_file
from mobilenets.engine.target import host
from mobilenets.runtime import engine_runtime

pytest.importorskip("halide", reason="the extra `engine` is not installed")
Networks = Callable[..., Checkpoint]
SIDES = (48, 48)
WITHOUT_COMPILERS = """
import json, sys
import numpy as np
from mobilenets import checkpoint
from mobilenets.runtime import engine_runtime
predictor = engine_runtime.open_predictor(checkpoint.load(sys.argv[1]), 1)
(logits,) = predictor.run(np.load(sys.argv[2]))
names = ("lowering", "int8_lowering", "library", "preparing", "folding", "kernels")
there = [name for name in ("halide", "ziglang", "torch") if name in sys.modules]
there += [name for name in names if f"mobilenets.engine.{name}" in sys.modules]
print(json.dumps([logits.tolist(), there]))
"""


@pytest.fixture(params=["float32", "int8"])
def kept(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_network: Networks,
    random_int8_network: Networks,
) -> Checkpoint:
    """Return a checkpoint of a file, with a cache that has all of the engine's machine code and nothing else."""
    usual = prepared.engine_folder()
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    prepared.engine_folder().mkdir(parents=True)
    usual.mkdir(parents=True, exist_ok=True)
    (usual / "objects").mkdir(exist_ok=True)
    (prepared.engine_folder() / "objects").symlink_to(usual / "objects")
    make = random_int8_network if request.param == "int8" else random_network
    return load(save(make("mobilenet_v2"), tmp_path / "model.safetensors"))


def batch() -> np.ndarray:
    made: np.ndarray = np.random.default_rng(0).normal(size=(3, 3, *SIDES)).astype(np.float32)
    return made


def answers(checkpoint: Checkpoint) -> np.ndarray:
    with closing(engine_runtime.open_predictor(checkpoint, 2)) as predictor:
        return predictor.run(batch())[0]


def test_the_second_start_reads_and_answers_the_same(kept: Checkpoint, tmp_path: Path) -> None:
    target = host()
    path = weights_file(kept, SIDES, target)
    assert path is not None
    assert not compiled(kept.card, target)
    assert read(path) is None
    expected = answers(kept)
    assert compiled(kept.card, target)
    found = read(path)
    assert found is not None
    assert found.weights.ctypes.data % prepared.ALIGN == 0
    written = path.stat().st_size
    np.testing.assert_array_equal(answers(kept), expected)
    assert path.stat().st_size == written

    np.save(tmp_path / "batch.npy", batch())
    command = [
        sys.executable,
        "-c",
        WITHOUT_COMPILERS,
        str(tmp_path / "model.safetensors"),
        str(tmp_path / "batch.npy"),
    ]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, check=True, text=True)
    logits, imported = json.loads(done.stdout)
    assert imported == []
    np.testing.assert_array_equal(np.array(logits, np.float32), expected)


def test_a_checkpoint_without_a_file_leaves_its_library_alone(kept: Checkpoint) -> None:
    expected = answers(replace(kept, sha256=None))
    assert compiled(kept.card, host())
    assert list((prepared.engine_folder() / "prepared").glob("*.bin")) == []
    np.testing.assert_array_equal(answers(kept), expected)


def test_what_is_not_whole_is_made_again(kept: Checkpoint) -> None:
    expected = answers(kept)
    path = weights_file(kept, SIDES, host())
    assert path is not None
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"\0", whole[:100], b"x" + whole, whole.replace(b'"steps"', b'"stops"')):
        path.write_bytes(damaged)
        assert read(path) is None
        np.testing.assert_array_equal(answers(kept), expected)
        assert path.read_bytes() == whole


def test_a_library_that_is_gone_is_made_again(kept: Checkpoint) -> None:
    expected = answers(kept)
    for library in prepared.engine_folder().glob("*.so"):
        library.unlink()
    assert not compiled(kept.card, host())
    np.testing.assert_array_equal(answers(kept), expected)
    assert compiled(kept.card, host())


def test_other_weights_and_other_tiles_are_others(kept: Checkpoint) -> None:
    path = weights_file(kept, SIDES, host())
    assert weights_file(replace(kept, sha256="0" * 64), SIDES, host()) != path
    assert weights_file(kept, (64, 48), host()) != path
    changed = {name: value + 1 for name, value in kept.tensors.items()}
    assert weights_file(replace(kept, tensors=changed), SIDES, host()) != path
    assert weights_file(replace(kept, sha256=None), SIDES, host()) is None
    (prepared.engine_folder() / "tiles-of-this-machine.json").write_text("{}", encoding="ascii")
    assert weights_file(kept, SIDES, host()) != path


def test_the_cache_does_not_grow_for_ever(kept: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(kept)
    folder = prepared.engine_folder() / "prepared"
    (first,) = folder.glob("*.bin")
    os.utime(first, (1, 1))
    monkeypatch.setattr(prepared, "MOST_BYTES", first.stat().st_size + 10)
    answers(replace(kept, sha256="1" * 64))
    (left,) = folder.glob("*.bin")
    assert left != first
    assert compiled(kept.card, host())


def test_a_cache_that_cannot_be_written_to_is_done_without(kept: Checkpoint) -> None:
    expected = answers(kept)
    (prepared.engine_folder() / "prepared").rename(prepared.engine_folder() / "other")
    (prepared.engine_folder() / "prepared").touch()
    np.testing.assert_array_equal(answers(kept), expected)


def test_memory_is_the_arena_and_scratch_for_each_thread() -> None:
    assert memory_bytes(1000, 200, 3) == 1024 + 3 * 256
    assert memory_bytes(1000, 0, 3) == 1024 + 128  # a vector may be read to its end
