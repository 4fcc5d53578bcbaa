from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilenets.checkpoint import load
from mobilenets.data import batches, open_data
from mobilenets.image import normalize
from mobilenets.nn.network import Network, from_checkpoint
from mobilenets.train import loop, train
from mobilenets.train.frozen import FeatureBatches, Features
from mobilenets.train.optimization import set_learning_rate

Tiny = Callable[..., dict[str, Any]]
Same = Callable[[Path, Path], bool]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_same_pictures_in_the_same_batches(bar_data: str, world_size: int, shuffle: bool) -> None:
    pictures = open_data(bar_data).train
    count = len(pictures)
    features = Features(torch.arange(float(count))[None, :, None], torch.from_numpy(pictures.targets))
    preprocess = load_preprocess(bar_data)
    for rank in range(world_size):
        ranked: dict[str, Any] = {"shuffle": shuffle, "seed": 4, "rank": rank, "world_size": world_size}
        ours = FeatureBatches(features, batch_size=7, **ranked)
        theirs = batches(pictures, preprocess=preprocess, batch_size=7, **ranked)
        assert len(ours) == len(theirs)
        found = [values[:, 0].long().numpy() for values, _ in ours.epoch(3)]
        for mine, wanted in zip(found, theirs.batch_indices(3), strict=True):
            np.testing.assert_array_equal(mine, wanted)
        later = [values[:, 0].long().numpy() for values, _ in ours.epoch(3, start=2)]
        assert all(np.array_equal(a, b) for a, b in zip(later, found[2:], strict=True))


def load_preprocess(data: str) -> Any:
    from mobilenets.image import Preprocess

    channels = open_data(data).train.channels
    return Preprocess(9, 9, channels, mean=(0.5,) * channels, std=(0.5,) * channels)


def test_views_alternate_in_training_and_the_plain_one_is_validated() -> None:
    values = torch.stack([torch.zeros(50, 1), torch.ones(50, 1)])
    features = Features(values, torch.zeros(50, dtype=torch.long))
    ranked: dict[str, Any] = {"seed": 0, "rank": 0, "world_size": 1}
    trained = torch.cat([x for x, _ in FeatureBatches(features, batch_size=50, shuffle=True, **ranked).epoch(0)])
    assert 10 < trained.sum() < 40
    judged = torch.cat([x for x, _ in FeatureBatches(features, batch_size=8, shuffle=False, **ranked)])
    assert judged.sum() == 0


def test_only_the_classifier_changes(tiny: Tiny, tiny_model: str, tmp_path: Path) -> None:
    result = train(**tiny(out=tmp_path / "run", weights=None, freeze=True, epochs=10))
    before, after = load(tiny_model).tensors, load(result.checkpoint).tensors
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert result.metrics["top1"] > 0.5  # a third by chance


def test_features_are_computed_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 0
    original = Network.features

    def counted(self: Network, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += len(x)
        return original(self, x)

    monkeypatch.setattr(Network, "features", counted)
    train(**tiny(out=tmp_path / "run", weights=None, freeze=True, epochs=5))
    assert calls == 2 * 96 + 47  # every training picture and its mirror image, every validation picture
    train(**tiny(out=tmp_path / "run", freeze=False, weights=None, epochs=None, resume=True))
    assert calls == 2 * 96 + 47
    assert "computed before" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["values", "file"])
def test_damaged_features_are_computed_anew(tiny: Tiny, same_weights: Same, tmp_path: Path, damage: str) -> None:
    arguments = tiny(weights=None, freeze=True)
    train(**arguments, out=tmp_path / "a")
    kept = (tmp_path / "a" / "features.safetensors").read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "features.safetensors").write_bytes(kept[:-64] + bytes(64) if damage == "values" else b"nothing")
    train(**arguments, out=tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "features.safetensors").read_bytes() == kept


def test_the_saved_network_computes_what_the_classifier_did(tiny: Tiny, tmp_path: Path, bar_data: str) -> None:
    result = train(**tiny(out=tmp_path / "run", weights=None, freeze=True, epochs=4))
    checkpoint, pictures = load(result.checkpoint), open_data(bar_data).val
    planes = normalize(np.stack([pictures.picture(i) for i in range(len(pictures))]), checkpoint.card.preprocess)
    with torch.no_grad():
        logits = from_checkpoint(checkpoint)(torch.from_numpy(planes)).numpy()
    measured = {metric.name: metric.value for metric in checkpoint.card.metrics}
    assert (logits.argmax(1) == pictures.targets).mean() == pytest.approx(measured["top1"])


def test_a_frozen_training_is_resumed(
    tiny: Tiny, same_weights: Same, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = tiny(weights=None, freeze=True)
    train(**arguments, out=tmp_path / "whole")
    original, taken = set_learning_rate, 0

    def interrupted(optimizer: torch.optim.Optimizer, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == 8:
            raise KeyboardInterrupt
        original(optimizer, rate)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "set_learning_rate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(**arguments, out=tmp_path / "broken")
    train(**arguments, out=tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
