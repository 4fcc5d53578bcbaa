"""Weights, biases and scales of int8 layers as kernels read them: vectors of channels, groups of four terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.engine.int8_kernels import MOVED, NOTHING, TABLED, WORD
from mobilenets.engine.quantized import LEVELS, Quantization, bounds, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch.mobilenet import Activation

_NUMBERS = 64  # bytes in front of a table


def dense(weight: NDArray[Any], lanes: int, vectors: int, pixel: int | None = None) -> NDArray[np.int8]:
    """Return (vectors, rows, terms, lanes, 4) of a convolution (out, in, k, k) or fully connected layer (out, in).

    Args:
        weight: int8.
        lanes: channels in a vector.
        vectors: of the output's channels.
        pixel: the bytes from a pixel of the source to the next, for a window; None: of a pixel as few as there are.
    """
    four = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
    out, channels, k, _ = four.shape
    filled = np.zeros((vectors * lanes, k, k, -(-channels // WORD) * WORD if pixel is None else pixel), np.int8)
    filled[:out, :, :, :channels] = four.transpose(0, 2, 3, 1)
    groups = filled.reshape(vectors, lanes, k, -1, WORD)
    return np.ascontiguousarray(groups.transpose(0, 2, 3, 1, 4))


def reordered(packed: NDArray[np.int8], order: list[int]) -> NDArray[np.int8]:
    """Return packed weights of a 1x1 convolution for a source whose groups of four channels lie in another order."""
    filled = np.zeros((*packed.shape[:2], len(order), *packed.shape[3:]), np.int8)
    for place, group in enumerate(order):
        if group < packed.shape[2]:
            filled[:, :, place] = packed[:, :, group]
    return filled


def depthwise(weight: NDArray[Any], lanes: int, vectors: int) -> NDArray[np.int8]:
    """Return (vectors, columns, words, lanes, 4) of a depthwise convolution (c, 1, k, k).

    The last row of the window is the top byte of the first word; bytes of rows that are no longer needed are zero.
    """
    out, _, k, _ = weight.shape
    filled = np.zeros((vectors * lanes, k, -(-k // WORD), WORD), np.int8)
    for row in range(k):
        age = k - 1 - row
        filled[:out, :, age // WORD, WORD - 1 - age % WORD] = weight[:, 0, row]
    return np.ascontiguousarray(filled.reshape(vectors, lanes, k, -1, WORD).transpose(0, 2, 3, 1, 4))


def scales(bias: NDArray[Any], factors: NDArray[np.float32], lanes: int, vectors: int) -> NDArray[np.int32]:
    """Return (vectors, 2, lanes): a bias for each channel, which wraps round, and the bits of its factor."""
    filled = np.zeros((2, vectors * lanes), np.int32)
    filled[0, : len(bias)] = bias.astype(np.int64).astype(np.int32)
    filled[1, : len(bias)] = np.broadcast_to(factors, len(bias)).view(np.int32)
    return np.ascontiguousarray(filled.reshape(2, vectors, lanes).transpose(1, 0, 2))


def after(activation: Activation | None, before: Quantization | None, out: Quantization) -> int:
    """Return what is done to the rounded steps of an operation's output."""
    if before is not None:
        return TABLED
    del activation
    return MOVED if out.zero_point else NOTHING


def coding(
    activation: Activation | None, before: Quantization | None, out: Quantization, fill: int = 0
) -> NDArray[np.uint8]:
    """Return the bytes that say how sums become codes: bounds, zero point, code of padding, and a table.

    Args:
        activation: of the operation.
        before: what its codes stand for in front of the table, where the activation is no clip.
        out: what they stand for in the end.
        fill: the code that is read outside of a depthwise convolution's source.
    """
    packed = np.zeros(_NUMBERS + LEVELS, np.uint8)
    packed[:16] = _bounded(activation, before, out, fill)
    if before is not None:
        packed[_NUMBERS:] = table(activation, before, out)
    return packed


def addition(
    activation: Activation | None,
    before: Quantization | None,
    out: Quantization,
    factors: tuple[float, float],
    zeros: tuple[int, int],
) -> NDArray[np.uint8]:
    """Return the bytes that say how two maps become one: a factor and a zero point of each, and how sums become codes.

    Args:
        activation: as for :func:`coding`, and so the next two.
        before: see there.
        out: see there.
        factors: of the first and the second map; of a product, the first alone.
        zeros: the zero points of the codes that are read.
    """
    packed = np.zeros(_NUMBERS + LEVELS, np.uint8)
    packed[:8] = np.array(factors, np.float32).view(np.uint8)
    packed[8:16] = np.array(zeros, np.int32).view(np.uint8)
    packed[16:32] = _bounded(activation, before, out, 0)
    if before is not None:
        packed[_NUMBERS:] = table(activation, before, out)
    return packed


def saturating(weight: NDArray[Any], bias: NDArray[Any], factors: NDArray[np.float32], coding: NDArray[Any]) -> bool:
    """Say whether codes are clipped at 0 and 255 alone, and all that is rounded is far from what int32 holds."""
    low, high = coding[:8].view(np.float32)
    zero = coding[8:12].view(np.int32)[0]
    if (low + zero, high + zero) != (0, LEVELS - 1):
        return False
    most = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) * LEVELS + np.abs(bias.astype(np.int64))
    return bool((most * factors.astype(np.float64)).max() < 2**30)


def real(of: Quantization) -> NDArray[np.uint8]:
    """Return the bytes that say what codes stand for: scale, zero point, bounds in steps from it."""
    packed = np.zeros(16, np.uint8)
    packed[:4] = np.array([of.scale], np.float32).view(np.uint8)
    packed[4:8] = np.array([of.zero_point], np.int32).view(np.uint8)
    steps = np.array([-of.zero_point, LEVELS - 1 - of.zero_point], np.float32)
    packed[8:16] = steps.view(np.uint8)
    return packed


def _bounded(
    activation: Activation | None, before: Quantization | None, out: Quantization, fill: int
) -> NDArray[np.uint8]:
    """Return the 16 bytes of the C type coding_t."""
    target = out if before is None else before
    low, high = bounds(activation if before is None else None, target)
    limits = np.array([low - target.zero_point, high - target.zero_point], np.float32)
    return np.concatenate([limits.view(np.uint8), np.array([target.zero_point, fill], np.int32).view(np.uint8)])
