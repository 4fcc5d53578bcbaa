"""Somebody's network against its conversion: the same outputs, the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobilenets.arch import Plan
from mobilenets.checkpoint import Checkpoint
from mobilenets.nn.convert import torch_files
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.identify import identify, weighted
from mobilenets.nn.convert.labels import classes_of
from mobilenets.nn.convert.layers import Array, Source
from mobilenets.nn.network import Network, from_checkpoint


def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics, scales and shifts of its own, and turn dropout off."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2, generator=random)
                module.running_var.uniform_(0.5, 2, generator=random)
                module.weight.uniform_(0.5, 1.5, generator=random)
                module.bias.normal_(0, 0.2, generator=random)
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "drop_rate", None), float):
                module.drop_rate = 0.0  # type: ignore[assignment]  # timm
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0  # type: ignore[assignment]  # ours
    return model


@dataclass
class Pair:
    """A network and its conversion."""

    theirs: nn.Module
    ours: Network
    source: Source
    layout: Plan
    checkpoint: Checkpoint

    def error(self, *, training: bool, size: tuple[int, int] = (97, 75)) -> float:
        """Return the largest difference of any logit, relative to the largest logit."""
        self.theirs.train(training)
        self.ours.train(training)
        torch.manual_seed(1)
        x = torch.randn(2, self.source.in_channels, *size)
        with torch.no_grad():
            theirs, ours = self.theirs(x), self.ours(x)
        assert theirs.shape == ours.shape
        return float((theirs - ours).abs().max() / theirs.abs().max())

    def gradient_error(self, size: tuple[int, int] = (97, 75)) -> float:
        """Return the largest relative difference of any gradient: of the pictures' and of every layer's weight."""
        torch.manual_seed(2)
        pictures = torch.randn(2, self.source.in_channels, *size)
        weights = torch.randn(2, self.source.classes)
        gradients: list[list[Tensor]] = []
        names = [layer.name for layer in self.source.layers]
        for model, layers in ((self.theirs, names), (self.ours, [op.name for op in weighted(self.layout)])):
            x = pictures.clone().requires_grad_()
            model.train()
            (model(x) * weights).sum().backward()
            found = [x.grad, *(model.get_parameter(f"{name}.weight").grad for name in layers)]
            gradients.append([grad for grad in found if grad is not None])
        theirs, ours = gradients
        assert len(theirs) == len(ours) == len(names) + 1
        return max(
            float((a.flatten() - b.flatten()).abs().max() / a.abs().max()) for a, b in zip(theirs, ours, strict=True)
        )


Convert = Callable[..., Pair]


@pytest.fixture
def shaken() -> Callable[..., nn.Module]:
    """Return the function that makes a network's BatchNorms non-trivial and turns dropout off."""
    return shake


@pytest.fixture
def lively() -> Callable[[Network, Array], Network]:
    """Return a function that draws weights with which pictures matter to the last layer.

    Every BatchNorm gets the statistics of its own input on a batch (N, C, H, W).
    """

    def draw(network: Network, batch: Array) -> Network:
        torch.manual_seed(0)
        shake(network)
        nn.init.normal_(network.get_submodule("classifier").weight, 0.0, 0.3)  # type: ignore[arg-type]
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network.train()(torch.from_numpy(batch))
        return network.eval()

    return draw


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Return a function: a network, through the file its state dict is saved in, to its conversion."""
    monkeypatch.setattr(torch_files, "original", lambda *_: None)  # tested by itself; building candidates takes long

    def convert(
        model: nn.Module,
        *,
        layout: str | None = None,
        save: Callable[[Mapping[str, Tensor], Path], Any] = torch.save,
    ) -> Pair:
        shake(model)
        path = tmp_path / "weights.pth"
        save(model.state_dict(), path)
        source = torch_files.read(path, layout=layout)
        found = identify(source, name=str(path))
        checkpoint = assemble(source, found, classes_of(source.classes, None), origin=source.kind)
        ours = from_checkpoint(checkpoint)
        shake(ours, 1)
        ours.load_state_dict(from_checkpoint(checkpoint).state_dict())  # dropout stays off
        return Pair(model, ours, source, found, checkpoint)

    return convert
