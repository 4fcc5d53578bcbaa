"""Networks whose authors publish no package: their keys and arithmetic, written down here again from the facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mobilenets.arch import ARCHITECTURES
from mobilenets.arch.mobilenet import Bneck, InvertedResidual
from mobilenets.arch.plan import round_channels
from mobilenets.errors import ConvertError

if TYPE_CHECKING:
    from tests.nn.convert.conftest import Convert

V2 = [row for row in ARCHITECTURES["mobilenet_v2"].rows if isinstance(row, InvertedResidual)]
V3 = {"large": ARCHITECTURES["mobilenet_v3_large"], "small": ARCHITECTURES["mobilenet_v3_small"]}


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Gate(nn.Module):
    """d-li14's squeeze-excite: two fully connected layers, `fc.0` and `fc.2`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = round_channels(channels // 4)
        self.fc = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.fc(x.mean((2, 3)))
        return x * gate[:, :, None, None]


class Residual(nn.Module):
    """A block under the name `conv`, added to its input where that can be."""

    def __init__(self, layers: list[nn.Module], *, adds: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class Sequence(nn.Module):
    """`features`, perhaps `conv`, the mean over all pixels, `classifier`."""

    def __init__(self, features: list[nn.Module], conv: nn.Module | None, classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        if conv is not None:
            self.conv = conv
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if hasattr(self, "conv"):
            x = self.conv(x)
        out: Tensor = self.classifier(x.mean((2, 3)))
        return out


def v2_features(width: float, divisor: int) -> tuple[list[nn.Module], int]:
    channels = round_channels(32 * width, divisor)
    features: list[nn.Module] = [nn.Sequential(*conv_norm(3, channels, 3, 2), nn.ReLU6())]
    for row in V2:
        for repeat in range(row.n):
            stride = row.s if repeat == 0 else 1
            out, inner = round_channels(row.c * width, divisor), int(channels * row.t)
            layers = [] if row.t == 1 else [*conv_norm(channels, inner, 1), nn.ReLU6()]
            layers += [*conv_norm(inner, inner, 3, stride, inner), nn.ReLU6(), *conv_norm(inner, out, 1)]
            features.append(Residual(layers, adds=stride == 1 and channels == out))
            channels = out
    return features, channels


def d_li14_v2(width: float) -> nn.Module:
    features, channels = v2_features(width, 4 if width == 0.1 else 8)
    return Sequence(features, nn.Sequential(*conv_norm(channels, 1280, 1), nn.ReLU6()), nn.Linear(1280, 11))


def tonylins(*, old: bool) -> nn.Module:
    features, channels = v2_features(1.0, 8)
    features.append(nn.Sequential(*conv_norm(channels, 1280, 1), nn.ReLU6()))
    classifier = nn.Linear(1280, 11)
    return Sequence(features, None, nn.Sequential(nn.Dropout(), classifier) if old else classifier)


def d_li14_v3(size: str, width: float) -> nn.Module:
    """Squeeze-excite sits between BatchNorm and activation, except in blocks that do not expand."""
    channels = round_channels(16 * width)
    features: list[nn.Module] = [nn.Sequential(*conv_norm(3, channels, 3, 2), nn.Hardswish())]
    before, inner = 16, channels
    for row in V3[size].rows:
        if not isinstance(row, Bneck):
            continue
        out, inner = round_channels(row.c * width), round_channels(channels * row.exp / before)
        act = nn.Hardswish if row.nl == "hard_swish" else nn.ReLU
        gate: list[nn.Module] = [Gate(inner) if row.se else nn.Identity()]
        spatial = conv_norm(inner, inner, row.kernel, row.s, inner)
        if inner == channels:
            layers = [*spatial, act(), *gate]
        else:
            layers = [*conv_norm(channels, inner, 1), act(), *spatial, *gate, act()]
        features.append(Residual([*layers, *conv_norm(inner, out, 1)], adds=row.s == 1 and channels == out))
        channels, before = out, row.c
    dense = 1280 if size == "large" else 1024
    classifier = nn.Sequential(nn.Linear(inner, dense), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(dense, 11))
    return Sequence(features, nn.Sequential(*conv_norm(channels, inner, 1), nn.Hardswish()), classifier)


class CifarBlock(nn.Module):
    """Expands always, and adds a 1x1 of its input where the channels differ."""

    def __init__(self, inputs: int, out: int, t: int, stride: int) -> None:
        super().__init__()
        inner = t * inputs
        self.conv1, self.bn1 = conv_norm(inputs, inner, 1)
        self.conv2, self.bn2 = conv_norm(inner, inner, 3, stride, inner)
        self.conv3, self.bn3 = conv_norm(inner, out, 1)
        self.stride = stride
        different = stride == 1 and inputs != out
        self.shortcut = nn.Sequential(*conv_norm(inputs, out, 1)) if different else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut: Tensor = self.shortcut(x)
        return out + shortcut if self.stride == 1 else out


class Cifar(nn.Module):
    """pytorch-cifar's MobileNetV2: ReLU, and strides 1 in the stem and the second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, 32, 3)
        blocks, channels = [], 32
        for index, row in enumerate(V2):
            for repeat in range(row.n):
                stride = row.s if repeat == 0 and index != 1 else 1
                blocks.append(CifarBlock(channels, row.c, int(row.t), stride))
                channels = row.c
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = conv_norm(320, 1280, 1)
        self.linear = nn.Linear(1280, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(self.layers(x))))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


class SameConv(nn.Conv2d):
    """TensorFlow's padding: the odd pixel at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for side, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x, pads))


def same_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs, eps=1e-3)


class LiteBlock(nn.Module):
    def __init__(self, inputs: int, out: int, t: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = t * inputs
        if t != 1:
            self._expand_conv, self._bn0 = same_norm(inputs, inner, 1)
        self._depthwise_conv, self._bn1 = same_norm(inner, inner, kernel, stride, inner)
        self._project_conv, self._bn2 = same_norm(inner, out, 1)
        self.expands, self.adds = t != 1, stride == 1 and inputs == out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        out = functional.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return x + out if self.adds else out


class Lite(nn.Module):
    """The port of TensorFlow's EfficientNet-Lite0 that the package of its weights is for."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = same_norm(3, 32, 3, 2)
        blocks, channels = [], 32
        for row in ARCHITECTURES["efficientnet_lite0"].rows:
            for repeat in range(row.n if isinstance(row, InvertedResidual) else 0):
                assert isinstance(row, InvertedResidual)
                blocks.append(LiteBlock(channels, row.c, int(row.t), row.kernel, row.s if repeat == 0 else 1))
                channels = row.c
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = same_norm(320, 1280, 1)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        out: Tensor = self._fc(x.mean((2, 3)))
        return out


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.35, 0.25, 0.1])
def test_d_li14_v2(converted: Convert, width: float) -> None:
    """All widths it publishes; 0.1 rounds to multiples of 4, which parameters prove: 1.356 M are published for it."""
    pair = converted(d_li14_v2(width))
    assert (pair.source.kind, pair.layout.arch.name, pair.layout.width) == ("d-li14 state dict", "mobilenet_v2", width)
    assert pair.error(training=False) < 1e-5
    assert pair.error(training=True) < 1e-5
    if width == 0.1:
        assert pair.layout.arch.divisor == 4
        parameters = sum(p.numel() for p in pair.ours.parameters()) + (1000 - 11) * 1281
        assert parameters // 1000 == 1356


@pytest.mark.parametrize("size", ["large", "small"])
@pytest.mark.parametrize("width", [1.0, 0.75])
def test_d_li14_v3(converted: Convert, size: str, width: float) -> None:
    pair = converted(d_li14_v3(size, width))
    arch = pair.layout.arch
    assert (pair.source.kind, arch.name, pair.layout.width) == ("d-li14 state dict", f"mobilenet_v3_{size}", width)
    assert arch.se.before_activation
    assert pair.error(training=False) < 1e-5
    assert pair.error(training=True) < 1e-5
    assert pair.gradient_error() < 1e-4


def test_where_the_gate_sits_does_make_the_difference(converted: Convert) -> None:
    pair = converted(d_li14_v3("small", 1.0))
    gates = [module for module in pair.theirs.modules() if isinstance(module, Residual) and len(module.conv) == 9]
    assert gates
    for block in gates:  # ..., BatchNorm, gate, activation, ... -> ..., BatchNorm, activation, gate, ...
        layers = list(block.conv)
        layers[5], layers[6] = layers[6], layers[5]
        block.conv = nn.Sequential(*layers)
    assert pair.error(training=False) > 1e-3


@pytest.mark.parametrize("old", [False, True])
def test_tonylins(converted: Convert, old: bool) -> None:
    pair = converted(tonylins(old=old))
    assert (pair.source.kind, pair.layout.arch.name) == ("tonylins state dict", "mobilenet_v2")
    assert pair.error(training=False) < 1e-5
    assert pair.error(training=True) < 1e-5


def test_pytorch_cifar(converted: Convert) -> None:
    pair = converted(Cifar())
    assert (pair.source.kind, pair.layout.arch.name) == ("pytorch-cifar state dict", "mobilenet_v2_cifar")
    assert sum(p.numel() for p in pair.ours.parameters()) == 2_296_922
    assert pair.error(training=False, size=(32, 32)) < 1e-5
    assert pair.error(training=True, size=(32, 40)) < 1e-5
    assert pair.gradient_error((32, 32)) < 1e-4
    assert pair.checkpoint.card.resolution == (32, 32)
    assert pair.checkpoint.card.preprocess.resize is None


@pytest.mark.parametrize("size", [(96, 80), (97, 75)], ids=str)
def test_efficientnet_lite_pytorch(converted: Convert, size: tuple[int, int]) -> None:
    pair = converted(Lite())
    assert (pair.source.kind, pair.layout.arch.name) == ("efficientnet-lite-pytorch state dict", "efficientnet_lite0")
    assert pair.error(training=False, size=size) < 1e-5
    assert pair.error(training=True, size=size) < 1e-5


def test_a_cut_down_network_is_refused_with_its_first_unmatched_layers(converted: Convert) -> None:
    model = tonylins(old=False)
    assert isinstance(model, Sequence)
    model.features[2] = Residual([*conv_norm(16, 90, 1), nn.ReLU6()], adds=False)
    with pytest.raises(ConvertError) as caught:
        converted(model)
    message = str(caught.value)
    assert "the nearest is mobilenet_v2 at width 1" in message
    assert "features.2.conv.0 (90, 16) where block_2_expand is (96, 16)" in message
    assert "\n" not in message


def test_weights_that_are_no_numbers_are_refused(converted: Convert) -> None:
    model = tonylins(old=False)
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] = torch.nan
    with pytest.raises(ConvertError, match=r"stem\.weight has values that are not finite"):
        converted(model)
