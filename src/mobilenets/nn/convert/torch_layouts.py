"""Whose PyTorch state dict a file is: known layouts by their keys, and the conventions that keys do not tell.

Facts, each from the named project's published code. What differs between them and is in no state dict: BatchNorm's eps,
TensorFlow's padding, where squeeze-excite's gate sits, how pictures were normalized.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from mobilenets.arch import ARCHITECTURES, Arch
from mobilenets.arch.mobilenet import Bneck, Conv, Dense, Row
from mobilenets.arch.plan import round_channels

INCEPTION = (0.5, 0.5, 0.5)  # mean and deviation that bring pictures to [-1, 1], as TensorFlow's models want them
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)  # pytorch-cifar's main.py
CIFAR_STD = (0.2023, 0.1994, 0.2010)

ORDERS: tuple[tuple[str, ...], ...] = (
    # The children of a module in the order they run. Files sort them otherwise: safetensors by the alphabet.
    ("backbone", "head"),  # torchvision's detectors
    ("features", "extra"),
    ("regression_head", "classification_head"),
    ("features", "conv", "classifier"),
    ("layers", "classifier"),
    ("fc1", "fc2"),
    ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier"),
    ("conv_dw", "bn1", "se", "conv_pw", "bn2"),  # timm's block without expansion, before the one with: a part of it
    ("conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"),
    ("conv", "bn1"),
    ("conv_reduce", "conv_expand"),
    ("conv1", "bn1", "layers", "conv2", "bn2", "linear"),
    ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "shortcut"),
    ("_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1", "_fc"),
    ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
)


SSDLITE_BOXES, SSDLITE_SCORES = "head.regression_head.module_list", "head.classification_head.module_list"
"""Where torchvision's detectors have their heads, one a map: first all boxes, then all scores."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A project's way to write these networks down: the keys that give it away, and its conventions."""

    name: str  # the value of --layout
    keys: tuple[str, ...]  # weights that are all there
    absent: tuple[str, ...]  # weights that are not
    tables: tuple[Arch, ...]
    mean: tuple[float, ...] | None = None  # None: ImageNet's
    std: tuple[float, ...] | None = None
    crop_fraction: float | None = 0.875
    interpolation: str = "bilinear"
    resolution: tuple[int, int] | None = None


def _tables(*names: str) -> tuple[Arch, ...]:
    return tuple(ARCHITECTURES[name] for name in names)


def _with_eps(eps: float, tables: tuple[Arch, ...]) -> tuple[Arch, ...]:
    return tuple(replace(arch, bn_eps=eps) for arch in tables)


def _as_tensorflow(tables: tuple[Arch, ...]) -> tuple[Arch, ...]:
    return tuple(replace(arch, bn_eps=1e-3, padding="same") for arch in tables)


def absolute(arch: Arch, width: float) -> Arch:
    """Return V3 as torchvision widens it: every number of the table scaled by itself, written down as a table.

    Not the published networks of that width, whose expansions follow their input. Equal to them at 1.0 and 2.0.
    """
    rows: list[Row] = []
    last = 0
    for row in arch.rows:
        match row:
            case Conv(expands=True):
                rows.append(replace(row, c=6 * last, expands=False))
            case Bneck():
                last = round_channels(row.c * width)
                rows.append(replace(row, exp=round_channels(row.exp * width), c=last))
            case Conv() | Dense():
                rows.append(replace(row, c=round_channels(row.c * width)))
            case _:
                rows.append(row)
    return replace(arch, name=f"{arch.name}_torchvision_{width:g}", rows=tuple(rows))


V1 = _tables("mobilenet_v1")
V2 = _tables("mobilenet_v2")
V3 = _tables("mobilenet_v3_large", "mobilenet_v3_small")
MINIMALISTIC = _tables("mobilenet_v3_large_minimalistic", "mobilenet_v3_small_minimalistic")
MNASNET = _tables("mnasnet_b1", "mnasnet_a1")
LITE = _tables(*(f"efficientnet_lite{number}" for number in range(5)))
V3_TORCHVISION = tuple(
    absolute(arch, width) for width in (0.25, 0.35, 0.5, 0.6, 0.75, 0.8, 1.25, 1.4, 1.5) for arch in V3
)
V3_LATE = tuple(replace(arch, bn_eps=1e-5, se=replace(arch.se, before_activation=True)) for arch in V3)
CIFAR = replace(ARCHITECTURES["mobilenet_v2_cifar"], activation="relu", projection_shortcut=True, expands_always=True)

SSDLITE = _tables("ssdlite320_mobilenet_v3_large")
SSDLITE_FULL = tuple(  # what torchvision makes where the backbone starts from ImageNet's weights: no reduced tail
    replace(arch, name="ssdlite320_mobilenet_v3_large_full", detector=SSDLITE[0].detector)
    for arch in _tables("ssdlite_mobilenet_v3_large_full")
)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "torchvision-ssdlite",
        ("backbone.features.0.0.0.weight", "backbone.extra.0.0.0.weight", f"{SSDLITE_SCORES}.0.1.weight"),
        (),
        SSDLITE + SSDLITE_FULL,
        INCEPTION,
        INCEPTION,
        crop_fraction=None,
    ),
    Layout("torchvision", ("features.1.conv.0.0.weight", "classifier.1.weight"), (), V2),
    Layout("torchvision", ("features.1.block.0.0.weight", "classifier.3.weight"), (), V3 + V3_TORCHVISION),
    Layout("torchvision", ("layers.8.0.layers.0.weight", "classifier.1.weight"), (), MNASNET),
    Layout(
        "timm",  # only weights trained with [-1, 1] are published
        ("conv_stem.weight", "blocks.1.0.conv_dw.weight", "classifier.weight"),
        ("blocks.1.0.conv_pwl.weight", "conv_head.weight"),
        V1,
        INCEPTION,
        INCEPTION,
        interpolation="bicubic",
    ),
    Layout(
        "timm",
        ("conv_stem.weight", "blocks.1.0.conv_pwl.weight", "classifier.weight"),
        (),
        _with_eps(1e-5, V2 + V3 + MINIMALISTIC + MNASNET + LITE),
        interpolation="bicubic",
    ),
    Layout(
        "timm-tf",  # after "timm", from which its keys do not differ: see :data:`.originals.TIMM_TENSORFLOW`
        ("conv_stem.weight", "blocks.1.0.conv_pwl.weight", "classifier.weight"),
        (),
        _as_tensorflow(V3 + MINIMALISTIC + LITE + V2),
        INCEPTION,
        INCEPTION,
        interpolation="bicubic",
    ),
    Layout(
        "d-li14",
        ("features.1.conv.0.weight", "conv.0.weight"),
        (),
        (*V2, replace(V2[0], divisor=4), *V3_LATE),  # its V2 at width 0.1 rounds to multiples of 4
    ),
    Layout("tonylins", ("features.1.conv.0.weight", "features.18.0.weight"), (), V2),
    Layout(
        "pytorch-cifar",
        ("conv1.weight", "layers.0.conv1.weight", "linear.weight"),
        (),
        (CIFAR,),
        CIFAR_MEAN,
        CIFAR_STD,
        crop_fraction=None,
        resolution=(32, 32),
    ),
    Layout(
        "efficientnet-lite-pytorch",  # TensorFlow's own weights, ported
        ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_fc.weight"),
        (),
        _as_tensorflow(LITE),
        INCEPTION,
        INCEPTION,
        interpolation="bicubic",
    ),
)


def recognised(keys: Collection[str], name: str | None = None) -> Layout | None:
    """Return the first layout whose keys these are, None if there is none; of those called `name` if given."""
    for layout in LAYOUTS:
        fits = all(key in keys for key in layout.keys) and not any(key in keys for key in layout.absent)
        if fits and name in {None, layout.name}:
            return layout
    return None
