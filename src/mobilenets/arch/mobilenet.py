"""The MobileNet family as the papers print it: one table per network, absolute channel numbers, nothing computed.

Read it beside the papers:

- MobileNetV1, arXiv:1704.04861, Table 1
- MobileNetV2, arXiv:1801.04381, Table 2: rows of (t, c, n, s)
- MobileNetV3, arXiv:1905.02244, Tables 1 and 2: rows of (kernel, exp size, #out, SE, NL, s)
- MnasNet, arXiv:1807.11626, Figure 7
- EfficientNet-Lite: EfficientNet's table (arXiv:1905.11946, Table 1) without squeeze-excite, with ReLU6

What a width multiplier does to these numbers, how strides become paddings and what a small picture changes is the
business of :mod:`mobilenets.arch.plan`, and only of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mobilenets.arch.detector import Detector

Activation = Literal["relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid"]
Widening = Literal["scale", "grow", "fixed"]
"""How a channel count follows the width multiplier: always; only when it grows (never below the table); never."""


@dataclass(frozen=True, slots=True)
class Conv:
    """A plain convolution with BatchNorm: the stem, or the last 1x1."""

    c: int
    s: int = 1
    kernel: int = 3
    activation: Activation | None = None  # None: the network's own
    widening: Widening = "scale"
    expands: bool = False  # V3's last 1x1 is an expansion: it follows its input by the ratio rule


@dataclass(frozen=True, slots=True)
class Separable:
    """V1's block: 3x3 depthwise, then 1x1 pointwise, BatchNorm and activation after both; `n` of them."""

    c: int
    n: int = 1
    s: int = 1
    kernel: int = 3


@dataclass(frozen=True, slots=True)
class InvertedResidual:
    """A line of V2's Table 2: expansion t, output channels c, repeats n, stride s of the first repeat.

    A narrowed network also says how many channels are left: `inner` between expansion and projection, in place of t,
    and `squeezed` inside its squeeze-excite. A block with `inner` expands, whatever the number.
    """

    t: float
    c: int
    n: int
    s: int
    kernel: int = 3
    se: bool = False
    inner: int | None = None
    squeezed: int | None = None


@dataclass(frozen=True, slots=True)
class Bneck:
    """A line of V3's Tables 1 and 2: kernel, expansion size in channels, output channels, SE, non-linearity, stride.

    `inner` and `squeezed` are as in :class:`InvertedResidual`; `inner` takes the place of exp.
    """

    kernel: int
    exp: int
    c: int
    se: bool
    nl: Activation
    s: int
    inner: int | None = None
    squeezed: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Global average pooling to 1x1."""


@dataclass(frozen=True, slots=True)
class Dense:
    """V3's 1x1 convolution after the pooling: bias, no BatchNorm."""

    c: int
    activation: Activation
    widening: Widening = "grow"


@dataclass(frozen=True, slots=True)
class Classifier:
    """Dropout, then the last fully connected layer to the classes."""

    dropout: float = 0.2


Row = Conv | Separable | InvertedResidual | Bneck | Pool | Dense | Classifier


@dataclass(frozen=True, slots=True)
class SqueezeExcite:
    """How a network squeezes: inner channels = ratio x (expansion or block input), and which gate opens it."""

    ratio: float = 0.25
    of: Literal["expansion", "input"] = "expansion"
    divisor: int = 8  # inner channels are rounded to a multiple of this
    gate: Activation = "hard_sigmoid"
    before_activation: bool = False  # in blocks that expand, between BatchNorm and activation (d-li14's V3 weights)


@dataclass(frozen=True, slots=True)
class Arch:
    """A network as its paper prints it. Immutable; vary it with :func:`dataclasses.replace`.

    The second half of the fields is what published weights, or the V2 paper's ablations, differ in.
    """

    name: str
    paper: str
    rows: tuple[Row, ...]
    resolution: int = 224  # input side in pixels the table is printed for
    classes: int = 1000
    in_channels: int = 3
    base_width: float = 1.0  # EfficientNet-Lite's compound scaling; multiplied with the width asked for
    divisor: int = 8  # channel counts are rounded to multiples of it (4 in one published V2 at width 0.1)
    activation: Activation = "relu6"
    se: SqueezeExcite = SqueezeExcite()
    padding: Literal["symmetric", "same"] = "symmetric"  # "same" is TensorFlow's: right and bottom first at stride 2
    bn_eps: float = 1e-5
    bottleneck_activation: Activation | None = None  # None is the linear bottleneck (V2 section 3.2)
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck"  # V2 section 6.3, Figure 6b
    projection_shortcut: bool = False  # 1x1 + BatchNorm shortcut at stride 1 where channels differ (CIFAR form)
    expansion: float | None = None  # replaces every t except t = 1
    expands_always: bool = False  # a 1x1 in front of the depthwise convolution where t = 1, too (CIFAR form)
    small_image_strides: bool = True  # False: the table's strides at any size, as some files of weights have them
    detector: Detector | None = None  # heads behind the rows, which then have no pooling and no classifier


MOBILENET_V1 = Arch(
    name="mobilenet_v1",
    paper="arXiv:1704.04861 Table 1",
    rows=(
        Conv(c=32, s=2),
        Separable(c=64, n=1, s=1),
        Separable(c=128, n=1, s=2),
        Separable(c=128, n=1, s=1),
        Separable(c=256, n=1, s=2),
        Separable(c=256, n=1, s=1),
        Separable(c=512, n=1, s=2),
        Separable(c=512, n=5, s=1),
        Separable(c=1024, n=1, s=2),
        Separable(c=1024, n=1, s=1),  # printed "s2" in the paper, which its own 7x7 input and output contradict
        Pool(),
        Classifier(dropout=0.2),
    ),
)

MOBILENET_V2 = Arch(
    name="mobilenet_v2",
    paper="arXiv:1801.04381 Table 2",
    rows=(
        Conv(c=32, s=2),
        #                t  c    n  s
        InvertedResidual(1, 16, 1, 1),
        InvertedResidual(6, 24, 2, 2),
        InvertedResidual(6, 32, 3, 2),
        InvertedResidual(6, 64, 4, 2),  # printed with a 28x28 input and s 2: so the next row's input is 14x14
        InvertedResidual(6, 96, 3, 1),
        InvertedResidual(6, 160, 3, 2),
        InvertedResidual(6, 320, 1, 1),
        Conv(c=1280, kernel=1, widening="grow"),  # section 4: below 1.0 the last convolution keeps its width
        Pool(),
        Classifier(dropout=0.2),
    ),
)

MOBILENET_V2_CIFAR = replace(
    MOBILENET_V2,
    name="mobilenet_v2_cifar",
    paper="arXiv:1801.04381 Table 2, stem and second stage at stride 1 for 32x32",
    rows=(Conv(c=32, s=1), InvertedResidual(1, 16, 1, 1), InvertedResidual(6, 24, 2, 1), *MOBILENET_V2.rows[3:]),
    resolution=32,
    classes=10,
)

MOBILENET_V2_MNIST = replace(
    MOBILENET_V2,
    name="mobilenet_v2_mnist",
    paper="arXiv:1801.04381 Table 2, cut after (6, 64, 4, 2), for 28x28 grey",
    rows=(*MOBILENET_V2.rows[:5], Conv(c=64, kernel=1, widening="grow"), *MOBILENET_V2.rows[9:]),
    resolution=28,
    classes=10,
    in_channels=1,
)

MOBILENET_V3_LARGE = Arch(
    name="mobilenet_v3_large",
    paper="arXiv:1905.02244 Table 1",
    rows=(
        Conv(c=16, s=2, activation="hard_swish", widening="grow"),
        #     k  exp  #out SE     NL            s
        Bneck(3, 16, 16, False, "relu", 1),
        Bneck(3, 64, 24, False, "relu", 2),
        Bneck(3, 72, 24, False, "relu", 1),
        Bneck(5, 72, 40, True, "relu", 2),
        Bneck(5, 120, 40, True, "relu", 1),
        Bneck(5, 120, 40, True, "relu", 1),
        Bneck(3, 240, 80, False, "hard_swish", 2),
        Bneck(3, 200, 80, False, "hard_swish", 1),
        Bneck(3, 184, 80, False, "hard_swish", 1),
        Bneck(3, 184, 80, False, "hard_swish", 1),
        Bneck(3, 480, 112, True, "hard_swish", 1),
        Bneck(3, 672, 112, True, "hard_swish", 1),
        Bneck(5, 672, 160, True, "hard_swish", 2),
        Bneck(5, 960, 160, True, "hard_swish", 1),
        Bneck(5, 960, 160, True, "hard_swish", 1),
        Conv(c=960, kernel=1, activation="hard_swish", expands=True),
        Pool(),
        Dense(c=1280, activation="hard_swish"),
        Classifier(dropout=0.2),
    ),
    activation="relu",
    bn_eps=1e-3,
)

MOBILENET_V3_SMALL = replace(
    MOBILENET_V3_LARGE,
    name="mobilenet_v3_small",
    paper="arXiv:1905.02244 Table 2",
    rows=(
        Conv(c=16, s=2, activation="hard_swish", widening="grow"),
        Bneck(3, 16, 16, True, "relu", 2),
        Bneck(3, 72, 24, False, "relu", 2),
        Bneck(3, 88, 24, False, "relu", 1),
        Bneck(5, 96, 40, True, "hard_swish", 2),
        Bneck(5, 240, 40, True, "hard_swish", 1),
        Bneck(5, 240, 40, True, "hard_swish", 1),
        Bneck(5, 120, 48, True, "hard_swish", 1),
        Bneck(5, 144, 48, True, "hard_swish", 1),
        Bneck(5, 288, 96, True, "hard_swish", 2),
        Bneck(5, 576, 96, True, "hard_swish", 1),
        Bneck(5, 576, 96, True, "hard_swish", 1),
        Conv(c=576, kernel=1, activation="hard_swish", expands=True),
        Pool(),
        Dense(c=1024, activation="hard_swish"),  # one revision prints 1280; every published weight has 1024
        Classifier(dropout=0.2),
    ),
)


def _minimalistic(arch: Arch) -> Arch:
    """Return V3 without squeeze-excite, h-swish and 5x5 kernels (TF-slim's "minimalistic" models)."""
    rows: list[Row] = []
    for row in arch.rows:
        if isinstance(row, Bneck):
            rows.append(replace(row, kernel=3, se=False, nl="relu"))
        elif isinstance(row, Conv | Dense):
            rows.append(replace(row, activation="relu"))
        else:
            rows.append(row)
    return replace(arch, name=f"{arch.name}_minimalistic", rows=tuple(rows))


MNASNET_B1 = Arch(
    name="mnasnet_b1",
    paper="arXiv:1807.11626, the search space's variant without squeeze-excite",
    rows=(
        Conv(c=32, s=2),
        InvertedResidual(1, 16, 1, 1),
        InvertedResidual(3, 24, 3, 2),
        InvertedResidual(3, 40, 3, 2, kernel=5),
        InvertedResidual(6, 80, 3, 2, kernel=5),
        InvertedResidual(6, 96, 2, 1),
        InvertedResidual(6, 192, 4, 2, kernel=5),
        InvertedResidual(6, 320, 1, 1),
        Conv(c=1280, kernel=1, widening="fixed"),
        Pool(),
        Classifier(dropout=0.2),
    ),
    activation="relu",
)

MNASNET_A1 = replace(
    MNASNET_B1,
    name="mnasnet_a1",
    paper="arXiv:1807.11626 Figure 7",
    rows=(
        Conv(c=32, s=2),
        InvertedResidual(1, 16, 1, 1),
        InvertedResidual(6, 24, 2, 2),
        InvertedResidual(3, 40, 3, 2, kernel=5, se=True),
        InvertedResidual(6, 80, 4, 2),
        InvertedResidual(6, 112, 2, 1, se=True),
        InvertedResidual(6, 160, 3, 2, kernel=5, se=True),
        InvertedResidual(6, 320, 1, 1),
        Conv(c=1280, kernel=1, widening="fixed"),
        Pool(),
        Classifier(dropout=0.2),
    ),
    se=SqueezeExcite(ratio=0.25, of="input", divisor=1, gate="sigmoid"),
)


def _efficientnet_lite(number: int, *, width: float, depth: float, resolution: int, dropout: float) -> Arch:
    """Return EfficientNet-Lite: stem, head and the first and last stage's repeats are not scaled."""
    table = (
        #                t  c    n  s
        InvertedResidual(1, 16, 1, 1),
        InvertedResidual(6, 24, 2, 2),
        InvertedResidual(6, 40, 2, 2, kernel=5),
        InvertedResidual(6, 80, 3, 2),
        InvertedResidual(6, 112, 3, 1, kernel=5),
        InvertedResidual(6, 192, 4, 2, kernel=5),
        InvertedResidual(6, 320, 1, 1),
    )
    middle = tuple(replace(row, n=math.ceil(row.n * depth)) for row in table[1:-1])
    return Arch(
        name=f"efficientnet_lite{number}",
        paper="arXiv:1905.11946 Table 1, in its Lite form",
        rows=(
            Conv(c=32, s=2, widening="fixed"),
            table[0],
            *middle,
            table[-1],
            Conv(c=1280, kernel=1, widening="fixed"),
            Pool(),
            Classifier(dropout=dropout),
        ),
        resolution=resolution,
        base_width=width,
        bn_eps=1e-3,
    )


_ALL = (
    MOBILENET_V1,
    MOBILENET_V2,
    MOBILENET_V2_CIFAR,
    MOBILENET_V2_MNIST,
    MOBILENET_V3_LARGE,
    _minimalistic(MOBILENET_V3_LARGE),
    MOBILENET_V3_SMALL,
    _minimalistic(MOBILENET_V3_SMALL),
    MNASNET_A1,
    MNASNET_B1,
    _efficientnet_lite(0, width=1.0, depth=1.0, resolution=224, dropout=0.2),
    _efficientnet_lite(1, width=1.0, depth=1.1, resolution=240, dropout=0.2),
    _efficientnet_lite(2, width=1.1, depth=1.2, resolution=260, dropout=0.3),
    _efficientnet_lite(3, width=1.2, depth=1.4, resolution=280, dropout=0.3),
    _efficientnet_lite(4, width=1.4, depth=1.8, resolution=300, dropout=0.3),
)

CLASSIFIERS: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in _ALL})
