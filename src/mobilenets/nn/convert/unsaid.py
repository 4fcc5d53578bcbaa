"""What files of weights do not say, and what is assumed then: the range of the input, the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mobilenets.image.preprocess import IMAGENET_MEAN, IMAGENET_STD
from mobilenets.nn.convert.graph import Reading
from mobilenets.nn.convert.layers import Array, Layer

Numbers = tuple[float, ...]

CROP_FRACTION = 0.875
"""Of the picture's short side: how TF-slim, Keras's authors and torchvision evaluated what they published."""

_TENSORFLOW = (0.5, 0.5)  # x / 127.5 - 1: TF-slim's and Keras's preprocessing for every MobileNet
_RANGE_ERROR = 0.05  # a calibrated range ends up to this far, relatively, from the one that was meant


@dataclass(frozen=True, slots=True)
class Input:
    """The range a network wants: it sees (x / 255 - mean) / std for a picture's bytes x; one number, or per channel."""

    mean: Numbers
    std: Numbers
    notes: tuple[str, ...] = ()

    @classmethod
    def between(cls, low: ArrayLike, high: ArrayLike) -> Input:
        """Byte 0 becomes `low`, byte 255 `high`."""
        bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
        return cls(_numbers(0 - bottom / (top - bottom)), _numbers(1 / (top - bottom)))

    @classmethod
    def affine(cls, scale: Array, offset: Array) -> Input:
        """The network itself multiplies and adds first: bytes where that makes them small, else fractions of 255."""
        factor, shift = np.broadcast_arrays(scale.astype(np.float64), offset.astype(np.float64))
        top = 255.0 if 255 * float(np.abs(factor).max()) < 30 else 1.0
        return cls.between(shift, factor * top + shift)

    @classmethod
    def normalized(cls, mean: Array, deviation: Array) -> Input:
        """The picture's bytes are normalized with these, on the 0..255 scale."""
        return cls(_numbers(mean / 255), _numbers(deviation / 255))


def _numbers(values: ArrayLike) -> Numbers:
    return tuple(float(value) for value in np.asarray(values).reshape(-1))


def input_of(reading: Reading, size: tuple[int, int] | None, calibrated: tuple[float, float] | None = None) -> Input:
    """Find the range: what the graph itself makes of bytes, what calibration pictures happened to span, or a guess.

    Who pads as TensorFlow does was made with TensorFlow, whose MobileNets see -1 to 1; others see ImageNet's mean and
    deviation, as torchvision's and timm's do.
    """
    if reading.rescales:
        return Input.affine(reading.scale, reading.offset)
    if calibrated is not None:
        for low, high in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
            slack = _RANGE_ERROR * (high - low)
            if abs(calibrated[0] - low) < slack and abs(calibrated[1] - high) < slack:
                return Input.between(low, high)
    if _visual_wake_words(reading.layers, size):
        return Input((0.0,), (1.0,), ("recognised as MLPerf Tiny's visual wake words: pictures from 0 to 1",))
    if reading.padding == "symmetric":
        note = "the file does not say its input range: ImageNet's mean and deviation, as in torchvision, are assumed"
        return Input(IMAGENET_MEAN, IMAGENET_STD, (note,))
    mean, std = _TENSORFLOW
    return Input((mean,), (std,), ("the file does not say its input range: -1 to 1, TensorFlow's, is assumed",))


def known_labels(layers: Sequence[Layer], size: tuple[int, int] | None) -> tuple[str, ...] | None:
    """Return the names of the classes where the network is known to have these."""
    return ("non_person", "person") if _visual_wake_words(layers, size) else None


def _visual_wake_words(layers: Sequence[Layer], size: tuple[int, int] | None) -> bool:
    """Recognise MLPerf Tiny's reference network: V1 at width 0.25 and 96x96, with ReLU, for two classes."""
    shapes = [layer.shape for layer in layers]
    return (
        size == (96, 96)
        and len(layers) == 28
        and shapes[0] == (8, 3, 3, 3)
        and shapes[-1] == (2, 256)
        and all(layer.activation == "relu" for layer in layers[:-1])
    )
