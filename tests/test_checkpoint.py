from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as to_bytes

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Classifier, Conv, InvertedResidual, Pool
from mobilenets.checkpoint import (
    FORMAT,
    KEY,
    Card,
    Checkpoint,
    Metric,
    is_checkpoint,
    load,
    read_card,
    save,
    tensor_shapes,
)
from mobilenets.errors import CheckpointError
from mobilenets.image import Preprocess

TINY = replace(
    ARCHITECTURES["mobilenet_v2"],
    name="tiny",
    rows=(Conv(c=8, s=2), InvertedResidual(6, 8, 1, 1), Conv(c=16, kernel=1), Pool(), Classifier()),
)


def tiny_card(**changes: Any) -> Card:
    return replace(Card(TINY, 1.0, (32, 48), ("cat", "dog", "Kü\n"), Preprocess(32, 48)), **changes)


def tiny(seed: int = 0, **changes: Any) -> Checkpoint:
    random = np.random.default_rng(seed)
    card = tiny_card(**changes)
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensor_shapes(card.plan).items()}
    picture = random.integers(0, 256, (32, 48, card.in_channels), np.uint8)
    return Checkpoint(card, tensors, sample=(picture, random.normal(size=len(card.labels)).astype(np.float32)))


def same(a: Checkpoint, b: Checkpoint) -> bool:
    assert a.sample is not None
    assert b.sample is not None
    arrays = {**a.tensors, "input": a.sample[0], "output": a.sample[1]}
    others = {**b.tensors, "input": b.sample[0], "output": b.sample[1]}
    return (
        a.card == b.card
        and arrays.keys() == others.keys()
        and all(np.array_equal(arrays[name], others[name]) for name in arrays)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(tiny(), tmp_path_factory.mktemp("saved") / "m.safetensors").read_bytes()


def card_text(data: bytes) -> str:
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    text: str = header["__metadata__"][KEY]
    return text


def with_card(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return a file with another card, all else as it was."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"][KEY] = json.dumps(change(json.loads(header["__metadata__"][KEY])))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def refused(path: Path, data: bytes, pattern: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    made = tiny(
        metrics=(Metric("top1", 0.9375, "digits", 360),),
        recipe={"name": "finetune", "epochs": 3, "nested": {"a": [1, None, 2.5]}},
        origin="torchvision, MobileNet_V2_Weights",
        parent="ab" * 32,
        notes=("a note",),
    )
    path = save(made, tmp_path / "new folder" / "m.safetensors")
    back = load(path)
    assert same(made, back)
    assert all(array.dtype == np.float32 for array in back.tensors.values())
    assert read_card(path) == made.card
    assert is_checkpoint(path)


def test_its_checksum_names_it_as_a_parent(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "m.safetensors")
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    back = load(path)
    assert back.sha256 == done.stdout.split()[0]
    assert back.child() == replace(back.card, parent=back.sha256)


def test_saving_is_deterministic(tmp_path: Path) -> None:
    assert save(tiny(), tmp_path / "a").read_bytes() == save(tiny(), tmp_path / "b").read_bytes()


def test_cut_anywhere_it_is_refused(tmp_path: Path, saved: bytes) -> None:
    header = struct.unpack("<Q", saved[:8])[0]
    body = 8 + header
    cuts = {0, 1, 7, 8, 9, 10, header // 2, body - 1, body, body + 1, (body + len(saved)) // 2, len(saved) - 1}
    path = tmp_path / "m.safetensors"
    for cut in sorted(cuts):
        pattern = "not a checkpoint" if cut < 9 else "truncated inside its header" if cut < body else r"truncated \("
        refused(path, saved[:cut], pattern)


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_goes_unnoticed(data: st.DataObject, tmp_path: Path, saved: bytes) -> None:
    """Not in the weights, the card, or the header: what loads is what was saved, or nothing does."""
    at = data.draw(st.integers(0, len(saved) - 1) | st.integers(0, 8 + struct.unpack("<Q", saved[:8])[0] - 1))
    byte = data.draw(st.integers(0, 255))
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved[:at] + bytes([byte]) + saved[at + 1 :])
    try:
        back = load(path)
    except CheckpointError:
        return
    assert same(back, tiny())


def test_a_flipped_bit_in_a_weight_is_named_a_checksum_error(tmp_path: Path, saved: bytes) -> None:
    refused(tmp_path / "m", saved[:-1] + bytes([saved[-1] ^ 1]), r"checksum.*get a fresh copy")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card | {"labels": ["dog", "cat", "Kü\n"]},
        lambda card: card | {"preprocess": card["preprocess"] | {"mean": [0.5, 0.5, 0.5]}},
        lambda card: card | {"arch": card["arch"] | {"padding": "same"}},
        lambda card: card | {"metrics": [{"name": "top1", "value": 1.0, "dataset": "imagenet", "images": 50000}]},
        lambda card: {key: value for key, value in card.items() if key != "sha256"},
    ],
    ids=["labels", "preprocess", "padding", "metrics", "no checksum"],
)
def test_an_edited_card_is_refused(tmp_path: Path, saved: bytes, change: Callable[[Any], Any]) -> None:
    refused(tmp_path / "m", with_card(saved, change), "checksum")


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, saved: bytes) -> None:
    newer = with_card(saved, lambda _: {"format": FORMAT + 1, "quite": "different"})
    refused(tmp_path / "m", newer, r"newer mobilenets \(format 2, this one reads up to 1\): pip install -U mobilenets")
    with pytest.raises(CheckpointError, match="newer"):
        read_card(tmp_path / "m")
    assert is_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    "card", [None, [], "x", 3, {}, {"format": "1"}, {"format": 0}, {"format": -1}, {"format": math.inf}], ids=str
)
def test_a_card_without_a_format_is_damaged(tmp_path: Path, saved: bytes, card: object) -> None:
    refused(tmp_path / "m", with_card(saved, lambda _: card), "its card is damaged")


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        header(b"{" + b'"a":' * 5000 + b"1" + b"}" * 5000),
        header(b'{"a":' + b"[" * 100_000),
        header(b"{}" + b" " * 10),
        header(b'{"a": 3}'),
        header(b'{"a": {"data_offsets": [0]}}'),
        header(b'{"a": {"data_offsets": [0, [1]]}}'),
        header(b'{"a": {"data_offsets": [0, Infinity]}}'),
        header(b'{"__metadata__": null}'),
        header(b'{"__metadata__": {"mobilenets": 3}}'),
        header(b'{"__metadata__": {"mobilenets": "' + b"[" * 100_000 + b'"}}'),
        header(b'{"__metadata__": {"mobilenets": "{"}}'),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_999_999) + b"{}",
    ],
    ids=range(13),
)
def test_malicious_headers_are_refused(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "m", data, "damaged|not a|truncated")
    with pytest.raises(CheckpointError):
        read_card(tmp_path / "m")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00.", b"a text file\n" * 10],
    ids=["empty", "png", "zip", "pickle", "text"],
)
def test_other_files_are_pointed_to_convert(tmp_path: Path, data: bytes) -> None:
    refused(tmp_path / "m", data, "not a checkpoint .*`mobilenets convert`")
    assert not is_checkpoint(tmp_path / "m")


def test_other_safetensors_are_pointed_to_convert(tmp_path: Path) -> None:
    data = to_bytes({"conv.weight": np.zeros((2, 2), np.float32)}, metadata={"format": "pt"})
    refused(tmp_path / "m", data, "safetensors, but not a mobilenets checkpoint: use `mobilenets convert`")
    assert not is_checkpoint(tmp_path / "m")


def test_the_card_alone_is_read_without_the_weights(tmp_path: Path, saved: bytes) -> None:
    body = 8 + struct.unpack("<Q", saved[:8])[0]
    (tmp_path / "m").write_bytes(saved[:body])
    assert read_card(tmp_path / "m") == tiny_card()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (load, read_card, is_checkpoint):
        for place, reason in ((tmp_path / "nowhere", "No such file or directory"), (tmp_path, "Is a directory")):
            with pytest.raises(CheckpointError, match=rf"{place.name}: cannot be read \({reason}\)"):
                read(place)


def without(made: Checkpoint, name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in made.tensors.items() if key != name}


def test_weights_that_do_not_fit_are_not_saved(tmp_path: Path) -> None:
    made, path = tiny(), tmp_path / "m"
    double = made.tensors["stem.weight"].astype(np.float64)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tensors": without(made, "stem.weight")}, "misses stem.weight"),
        ({"tensors": {**made.tensors, "extra": np.zeros(1, np.float32)}}, "unknown tensor extra"),
        ({"tensors": {**made.tensors, "stem.weight": double}}, "stem.weight is float64"),
        ({"tensors": {**made.tensors, "stem.norm.bias": np.zeros(9, np.float32)}}, r"stem.norm.bias is float32 \(9,\)"),
        ({"sample": (np.zeros((32, 32, 3), np.uint8), np.zeros(3, np.float32))}, "sample is uint8"),
        ({"sample": (np.zeros((32, 48, 3), np.uint8), np.zeros(4, np.float32))}, "sample is float32"),
        ({"sample": (np.zeros((32, 48, 3), np.float32), np.zeros(3, np.float32))}, "sample is float32"),
    ]
    for changes, pattern in cases:
        with pytest.raises(CheckpointError, match=pattern):
            save(replace(made, **changes), path)
    assert not path.exists()


def test_a_file_with_other_weights_than_its_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound as a file, wrong as a checkpoint: another writer made it."""
    made = tiny()
    monkeypatch.setattr("mobilenets.checkpoint._check_tensors", lambda *_: None)
    data = save(replace(made, tensors=without(made, "stem.norm.bias")), tmp_path / "m").read_bytes()
    monkeypatch.undo()
    refused(tmp_path / "m", data, "misses stem.norm.bias: its weights are not those of tiny")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tiny(), tmp_path / "m")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"m: cannot be written \(No space left on device\): free some space"):
        save(tiny(1), path)
    assert same(load(path), tiny())
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from mobilenets.checkpoint import load, save
from mobilenets.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoint = load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(checkpoint, sys.argv[2])
except CheckpointError as error:
    print(error)
assert "torch" not in sys.modules
"""


def test_a_limit_of_the_system_leaves_nothing_behind_and_torch_is_not_needed(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "m")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, tmp_path / "new"], capture_output=True, text=True, check=True
    )
    assert "new: cannot be written (File too large)" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = save(tiny(0), tmp_path / "m")
    wanted = [tiny(0), tiny(1)]
    stop = threading.Event()
    wrong: list[object] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set() or not reads:
            try:
                back = load(path)
                if not any(same(back, each) for each in wanted):
                    wrong.append(back)
            except CheckpointError as error:
                wrong.append(error)
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        save(wanted[turn % 2], path)
    stop.set()
    reader.join()
    assert wrong == []
