from __future__ import annotations

import re
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from mobilenets.data import known, open_data
from mobilenets.errors import InputError


def test_digits_are_always_there() -> None:
    data = open_data("digits")
    assert len(data.everything) == 1797
    assert len(data.val) in range(355, 365)
    assert data.labels == tuple("0123456789")
    assert not data.mirrorable
    pixels = np.stack([data.everything.picture(index) for index in range(1797)])
    assert (pixels.min(), pixels.max(), pixels.shape) == (0, 255, (1797, 8, 8, 1))
    assert {data.train.name(index) for index in range(len(data.train))}.isdisjoint(
        data.val.name(index) for index in range(len(data.val))
    )


def write_idx(path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """MNIST's own format: two zeros, 8 for unsigned bytes, the number of dimensions, each as 4 bytes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(head + values.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_s_files_are_read(name: str, folder: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    targets = (np.arange(30) % 10).astype(np.uint8)
    for part, count in (("train", 30), ("t10k", 10)):
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", pixels[:count])
        write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", targets[:count])
    data = open_data(name, root=tmp_path)
    assert (len(data.train), len(data.val), data.own_val) == (30, 10, True)
    assert (data.train.picture(7)[:, :, 0] == pixels[7]).all()
    assert data.train.targets.tolist() == targets.tolist()
    assert data.labels[:2] == (("0", "1") if name == "mnist" else ("T-shirt/top", "Trouser"))
    assert data.mirrorable == (name == "fashion_mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_failed_download_names_root(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(InputError, match=f"^{name}: not in {re.escape(str(tmp_path))}, and its") as caught:
        open_data(name, root=tmp_path)
    assert str(caught.value).endswith("): give --root, a folder that holds it")
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            path = tmp_path / "MNIST" / "raw" / f"{part}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0\0\x08\x03 short")
    with pytest.raises(InputError, match=r"mnist: the files in .* are broken"):
        open_data("mnist", root=tmp_path)


def test_root_may_hold_arrays_or_class_folders(tmp_path: Path, write_picture: object) -> None:
    pixels = np.zeros((10, 28, 28), np.uint8)
    (tmp_path / "mnist").mkdir()
    for part in ("train", "test"):
        np.savez(tmp_path / "mnist" / f"{part}.npz", x=pixels, y=np.arange(10))
    for root in (tmp_path, tmp_path / "mnist"):
        data = open_data("mnist", root=root)
        assert (len(data.train), len(data.val), data.mirrorable) == (10, 10, False)
    assert callable(write_picture)
    for part in ("train", "test"):
        for label in ("airplane", "bird"):
            write_picture(f"cifar10/{part}/{label}/0.png", size=(32, 32))
    assert open_data("cifar10", root=tmp_path).labels == ("airplane", "bird")


def test_the_default_root_is_in_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert known.default_root() == tmp_path / "mobilenets" / "data"


def test_other_names_and_a_needless_root_are_refused(pets: Path) -> None:
    with pytest.raises(InputError, match=r"^minst: no such data set, file or folder: did you mean mnist\?$"):
        open_data("minst")
    with pytest.raises(InputError, match="give a path, or one of digits, mnist"):
        open_data("./nowhere")
    with pytest.raises(InputError, match="only for digits, mnist, fashion_mnist, cifar10: leave it out"):
        open_data(pets, root=pets)
    (pets / "notes.txt").touch()
    with pytest.raises(InputError, match=r"neither a folder nor a \.csv, \.npz or \.zip"):
        open_data(pets / "notes.txt")


@pytest.mark.slow
def test_cifar10_zips(shared_data: Path) -> None:
    data = open_data("cifar10", root=shared_data / "cifar10")
    assert (len(data.train), len(data.val), data.train.sides) == (50_000, 10_000, (32, 32))
    assert len(data.labels) == 10
    assert data.problems == ()
