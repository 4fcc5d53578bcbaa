"""torchvision's and timm's own networks, with random weights and BatchNorms, against their conversions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from torch import nn

pytest.importorskip("torchvision")
from torchvision import models

if TYPE_CHECKING:
    from tests.nn.convert.conftest import Convert

TORCHVISION: list[tuple[str, Callable[[], nn.Module], str, float]] = [
    ("v2", models.mobilenet_v2, "mobilenet_v2", 1.0),
    ("v2 0.35", lambda: models.mobilenet_v2(width_mult=0.35), "mobilenet_v2", 0.35),
    ("v2, 7 classes", lambda: models.mobilenet_v2(num_classes=7), "mobilenet_v2", 1.0),
    ("v3 large", models.mobilenet_v3_large, "mobilenet_v3_large", 1.0),
    ("v3 small", models.mobilenet_v3_small, "mobilenet_v3_small", 1.0),
    # Not the published networks of these widths: torchvision scales expansions by themselves.
    ("v3 small 0.75", lambda: models.mobilenet_v3_small(width_mult=0.75), "mobilenet_v3_small_torchvision_0.75", 1.0),
    ("mnasnet 0.5", lambda: models.MNASNet(0.5), "mnasnet_b1", 0.5),
    ("mnasnet 0.75", lambda: models.MNASNet(0.75), "mnasnet_b1", 0.75),
    ("mnasnet 1.0", lambda: models.MNASNet(1.0), "mnasnet_b1", 1.0),
    ("mnasnet 1.3", lambda: models.MNASNet(1.3), "mnasnet_b1", 1.3),
]

TIMM: list[tuple[str, str, float]] = [
    ("mobilenetv1_100", "mobilenet_v1", 1.0),
    ("mobilenetv2_050", "mobilenet_v2", 0.5),
    ("mobilenetv2_100", "mobilenet_v2", 1.0),
    ("mobilenetv2_140", "mobilenet_v2", 1.4),
    ("mobilenetv3_large_100", "mobilenet_v3_large", 1.0),
    ("mobilenetv3_large_075", "mobilenet_v3_large", 0.75),
    ("mobilenetv3_small_075", "mobilenet_v3_small", 0.75),
    ("mobilenetv3_small_050", "mobilenet_v3_small", 0.5),
    ("mnasnet_100", "mnasnet_b1", 1.0),
    ("semnasnet_075", "mnasnet_a1", 0.75),
    ("semnasnet_100", "mnasnet_a1", 1.0),
    ("efficientnet_lite0", "efficientnet_lite0", 1.0),
    ("efficientnet_lite2", "efficientnet_lite2", 1.0),
]

TENSORFLOW: list[tuple[str, str, float]] = [
    ("tf_mobilenetv3_large_075", "mobilenet_v3_large", 0.75),
    ("tf_mobilenetv3_small_100", "mobilenet_v3_small", 1.0),
    ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large_minimalistic", 1.0),
    ("tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small_minimalistic", 1.0),
    ("tf_efficientnet_lite0", "efficientnet_lite0", 1.0),
]


@pytest.mark.parametrize(("make", "arch", "width"), [case[1:] for case in TORCHVISION], ids=[x[0] for x in TORCHVISION])
def test_torchvision(converted: Convert, make: Callable[[], nn.Module], arch: str, width: float) -> None:
    pair = converted(make())
    assert (pair.layout.arch.name, pair.layout.width) == (arch, width)
    assert pair.source.kind == "torchvision state dict"
    assert pair.error(training=False) < 1e-5
    assert pair.error(training=True) < 1e-5


@pytest.mark.parametrize(("name", "arch", "width"), TIMM, ids=[x[0] for x in TIMM])
def test_timm(converted: Convert, name: str, arch: str, width: float) -> None:
    timm = pytest.importorskip("timm")
    pair = converted(timm.create_model(name))
    assert (pair.layout.arch.name, pair.layout.width) == (arch, width)
    assert pair.source.kind == "timm state dict"
    assert pair.error(training=False) < 1e-5
    assert pair.error(training=True) < 1e-5


@pytest.mark.parametrize("size", [(96, 80), (97, 75)], ids=str)
@pytest.mark.parametrize(("name", "arch", "width"), TENSORFLOW, ids=[x[0] for x in TENSORFLOW])
def test_timm_with_tensorflows_padding(
    converted: Convert, name: str, arch: str, width: float, size: tuple[int, int]
) -> None:
    """At even sides TensorFlow pads right and bottom only, at odd ones on both sides."""
    timm = pytest.importorskip("timm")
    pair = converted(timm.create_model(name), layout="timm-tf")
    assert (pair.layout.arch.name, pair.layout.width) == (arch, width)
    assert (pair.layout.arch.padding, pair.layout.arch.bn_eps) == ("same", 1e-3)
    assert pair.error(training=False, size=size) < 1e-5
    assert pair.error(training=True, size=size) < 1e-5


def test_the_padding_does_make_the_difference(converted: Convert) -> None:
    """Were tf_ weights taken for timm's others, nothing would fit: the test above can fail."""
    timm = pytest.importorskip("timm")
    pair = converted(timm.create_model("tf_efficientnet_lite0"))
    assert pair.layout.arch.padding == "symmetric"
    assert pair.error(training=False, size=(96, 80)) > 1e-2
    assert "--layout timm-tf" in pair.source.notes[0]


@pytest.mark.parametrize(
    "name",
    [
        *("mobilenetv1_100", "mobilenetv2_050", "mobilenetv3_small_075", "semnasnet_075", "mnasnet_100"),
        *("efficientnet_lite0", "tf_mobilenetv3_large_minimal_100"),
    ],
)
def test_gradients_of_timm(converted: Convert, name: str) -> None:
    timm = pytest.importorskip("timm")
    pair = converted(timm.create_model(name, num_classes=10), layout="timm-tf" if name.startswith("tf_") else None)
    assert pair.gradient_error() < 1e-4


@pytest.mark.parametrize(
    "make",
    [models.mobilenet_v2, models.mobilenet_v3_large, models.mobilenet_v3_small, models.mnasnet1_0],
    ids=lambda make: make.__name__,
)
def test_gradients_of_torchvision(converted: Convert, make: Callable[..., nn.Module]) -> None:
    pair = converted(make(num_classes=10))
    assert pair.gradient_error() < 1e-4


def test_grey_and_many_channels(converted: Convert) -> None:
    timm = pytest.importorskip("timm")
    for channels, mean in ((1, (0.485 + 0.456 + 0.406) / 3), (5, 0.485)):
        pair = converted(timm.create_model("mobilenetv2_050", in_chans=channels, num_classes=3))
        assert pair.error(training=False) < 1e-5
        assert pair.checkpoint.card.in_channels == channels
        assert len(pair.checkpoint.card.preprocess.mean) == channels
        assert pair.checkpoint.card.preprocess.mean[0] == pytest.approx(mean)
