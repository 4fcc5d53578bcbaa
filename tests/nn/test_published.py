"""The table of published weights says what their publishers say, and what our own tables build."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mobilenets.arch import cost, plan
from mobilenets.nn.published import PUBLISHED, Published

if TYPE_CHECKING:
    from tests.nn.conftest import FileServer

ROOT = Path(__file__).parents[2]
ENTRIES = list(PUBLISHED.values())
TORCHVISION = [entry for entry in ENTRIES if entry.publisher == "torchvision"]
TIMM = [entry for entry in ENTRIES if entry.publisher == "timm"]


def names(entries: list[Published]) -> list[str]:
    return [entry.name for entry in entries]


def test_every_name_says_architecture_width_and_recipe() -> None:
    assert list(PUBLISHED) == names(ENTRIES)
    for entry in ENTRIES:
        width = "" if entry.width == 1 else f"_{100 * entry.width:03.0f}"
        assert re.fullmatch(re.escape(entry.architecture + width) + r"\.[a-z0-9_]+", entry.name)
        assert entry.group == entry.architecture + width
    assert len({entry.identifier for entry in ENTRIES}) == len(ENTRIES)


def test_the_best_comes_first() -> None:
    for group in {entry.group for entry in ENTRIES}:
        accuracies = [entry.top1 for entry in ENTRIES if entry.group == group]
        assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize("entry", ENTRIES, ids=names(ENTRIES))
def test_every_entry_can_be_fetched_and_checked(entry: Published) -> None:
    assert (entry.url is None) != (entry.package_file is None)
    assert entry.url is None or entry.url.startswith("https://")
    assert re.fullmatch(r"[0-9a-f]{8,64}|", entry.sha256)
    if entry.sha256:
        assert entry.sha256[:8] in entry.file
    else:
        assert entry.url == f"https://huggingface.co/timm/{entry.identifier}/resolve/main/model.safetensors"
    assert 50 < entry.top1 < (entry.top5 or 100) <= 100
    assert plan(entry.arch, width=entry.width, resolution=entry.resolution).arch.padding == entry.padding


def batch_norms(model: Any) -> set[float]:
    import torch

    return {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)}


@pytest.mark.parametrize("entry", TORCHVISION, ids=names(TORCHVISION))
def test_torchvision_says_the_same(entry: Published) -> None:
    pytest.importorskip("torchvision")
    import torch
    from torchvision import models

    weights: Any = models.get_weight(entry.identifier)
    transform = weights.transforms()
    assert entry.url == weights.url
    assert {"acc@1": entry.top1, "acc@5": entry.top5} == weights.meta["_metrics"]["ImageNet-1K"]
    assert entry.size_mib == weights.meta["_file_size"]
    assert cost(plan(entry.arch, width=entry.width)).parameters == weights.meta.get("num_params", 3_504_872)
    preprocess = entry.preprocess
    assert [preprocess.resize] == transform.resize_size
    assert [preprocess.height] == [preprocess.width] == transform.crop_size
    assert preprocess.interpolation == transform.interpolation.value
    assert (list(preprocess.mean), list(preprocess.std)) == (transform.mean, transform.std)
    with torch.device("meta"):
        model = models.get_model(entry.identifier.partition("_Weights")[0].lower())
    assert batch_norms(model) == {entry.bn_eps}
    assert entry.padding == "symmetric"


@pytest.mark.parametrize("entry", TIMM, ids=names(TIMM))
def test_timm_says_the_same(entry: Published) -> None:
    timm = pytest.importorskip("timm")
    import torch

    stated = timm.get_pretrained_cfg(entry.identifier)
    if stated.url:
        assert entry.url == stated.url.replace("http://", "https://")
    else:
        assert entry.url == f"https://huggingface.co/{stated.hf_hub_id}/resolve/main/model.safetensors"
    preprocess = entry.preprocess
    assert stated.input_size == (3, preprocess.height, preprocess.width)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=stated.to_dict()))
    resize = next(step for step in transform.transforms if type(step).__name__ == "Resize")
    assert preprocess.resize == resize.size
    assert preprocess.interpolation == resize.interpolation.value
    assert (preprocess.mean, preprocess.std) == (stated.mean, stated.std)
    assert (entry.licence or "").lower() == stated.license
    with torch.device("meta"):
        model = timm.create_model(entry.identifier.partition(".")[0])
    assert batch_norms(model) == {entry.bn_eps}
    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, torch.nn.Conv2d)}
    assert ("Conv2dSame" in kinds) == (entry.padding == "same")
    assert sum(p.numel() for p in model.parameters()) == cost(plan(entry.arch, width=entry.width)).parameters


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1.ra4_e3600_r224_in1k",
        "mobilenet_v3_small_075.tf_in1k",
        "mnasnet_a1_075.rmsp_in1k",
        "efficientnet_lite0.ra_in1k",
    ],
)
def test_an_entry_becomes_the_network_that_timm_runs(name: str, server: FileServer, tmp_path: Path) -> None:
    """Random weights and statistics of timm's model, served, fetched, converted: the same logits."""
    timm = pytest.importorskip("timm")
    import io

    import torch
    from safetensors.torch import save as to_safetensors

    from mobilenets.nn.network import from_checkpoint
    from mobilenets.nn.weights import checkpoint_for

    entry = PUBLISHED[name]
    torch.manual_seed(0)
    model = timm.create_model(entry.identifier.partition(".")[0], num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
            torch.nn.init.uniform_(module.running_var, 1e-3, 2.0)  # small enough that eps matters
    state = model.state_dict()
    if entry.file.endswith(".safetensors"):
        server.body = to_safetensors(state)
    else:
        file = io.BytesIO()
        torch.save(state, file)
        server.body = file.getvalue()
    served = replace(entry, url=f"{server.url}/{entry.file}", sha256=server.sha256[:8] if entry.sha256 else "")
    checkpoint = checkpoint_for(name, table={name: served}, folder=tmp_path)
    batch = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 96), dtype=np.float32))
    with torch.inference_mode():
        expected, found = model(batch), from_checkpoint(checkpoint)(batch)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float(expected.std(1).min()) > 0


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    generated = runpy.run_path(str(ROOT / "docs" / "weights.py"))["generated"]
    assert generated(page) == page, "run: .venv/bin/python docs/weights.py"
    for name in PUBLISHED:
        assert f"| `{name}` |" in page
