"""What every reader of other people's weights returns: weighted layers, in the order they run.

A reader (`torch_files`, `tflite`, `keras`, `onnx`) has one function, `read(path) -> Source`. It knows its file format
and its framework's memory layout, and nothing of architectures. Which table the layers are of, and how they become a
checkpoint, is decided once for all formats, in :mod:`.identify` and :mod:`.assemble`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import CLASSIFIERS, Arch
from mobilenets.arch.mobilenet import Activation
from mobilenets.image import Preprocess

Array = NDArray[np.float32]
Padding = Literal["symmetric", "same"]

Step = tuple[Literal["weights", "pool", "add", "scale"], tuple[int, ...], Activation | None]
"""What is done to the results of which earlier steps (-1 is the picture), and the activation after a "scale"."""


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A BatchNorm as stored: four float32 (C,) arrays; `eps` is None where the file does not say."""

    weight: Array
    bias: Array
    mean: Array
    variance: Array
    eps: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One convolution or fully connected layer of the source, with what follows it.

    weight: float32, torch's layout: (out, in / groups, k, k), or (out, in) for a fully connected layer. A depthwise
    convolution is (channels, 1, k, k). Squeeze-excite's two layers may be either; they come after the depthwise one.
    What a file does not say is None, for the activation "unknown" (None means that there is none).
    """

    name: str  # in the source, for messages
    weight: Array
    bias: Array | None = None
    norm: Norm | None = None
    stride: int | None = None
    padding: Padding | None = None  # None also where both rules agree, as at stride 1
    activation: Activation | Literal["unknown"] | None = "unknown"

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, (out, in) for a 1x1 convolution and a fully connected layer alike."""
        return bare_shape(self.weight.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A file of somebody else's weights, read.

    `reference` runs the source itself: float32 (N, C, H, W), normalized with this `mean` and `std`, at this
    `resolution` where there is one, to float32 (N, classes) as the source orders its classes (a background class
    included), or of a detector to its outputs, flat, in the order of our plan. `output` says whether that is logits or
    probabilities.
    """

    kind: str  # for people: "TFLite, int8 per channel"
    layers: tuple[Layer, ...]
    resolution: tuple[int, int] | None = None  # (height, width) in pixels; None: the table's
    mean: tuple[float, ...] | None = None  # on the 0..1 scale, one per channel or one for all; None: ImageNet's
    std: tuple[float, ...] | None = None
    crop_fraction: float | None = None  # height / `Preprocess.resize`: 0.875 is 224 of 256; None: stretch to fit
    interpolation: str = "bilinear"
    preprocess: Preprocess | None = None  # where all of it is known; the four above do not count then
    padding: Padding | None = None  # None: as the layers say, else as the table says
    activation: Activation | None = None  # the network's own (relu or relu6); None as above
    bn_eps: float | None = None  # None as above
    batch_norm: Literal["trained", "folded"] = "trained"
    steps: tuple[Step, ...] | None = None  # how the layers hang together; None where the file does not say
    labels: tuple[str, ...] | None = None  # as the source orders its classes
    tables: tuple[Arch, ...] = tuple(CLASSIFIERS.values())  # what it may be; the first that fits is taken
    output: Literal["logits", "softmax"] = "logits"
    familiar: bool = True  # False: shapes are all that is known of it, so that the user must name the table
    exact: bool = True  # False: a quantized source, which agrees with its float weights only roughly
    reference: Callable[[Array], Array] | None = None
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes the source tells apart: of a classifier a background class included, of a detector not."""
        outputs = int(self.layers[-1].weight.shape[0])
        detector = self.tables[0].detector if self.tables else None
        return outputs if detector is None else outputs // detector.anchors.counts[-1] - 1

    @property
    def in_channels(self) -> int:
        """How many channels its pictures have."""
        return int(self.layers[0].weight.shape[1])


def bare_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the kernel of a 1x1 convolution, so that it compares equal to a fully connected layer.

    >>> bare_shape((16, 32, 1, 1)), bare_shape((32, 1, 3, 3))
    ((16, 32), (32, 1, 3, 3))
    """
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
