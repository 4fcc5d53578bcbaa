"""Weights as kernels read them: in blocks of channels, one term of the sum after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mobilenets.engine.kernels import Dense, Window, cases

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dense(weight: NDArray[Any], layer: Dense, sources: int) -> NDArray[Any]:
    """Return (blocks, terms, block) of a convolution (out, in, k, k) or fully connected layer (out, in).

    Terms are rows, columns and channels of the window; `sources` channels are read, those that do not exist with zero
    weights.
    """
    four = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
    out, channels, k, _ = four.shape
    filled = np.zeros((layer.padded, k, k, sources), weight.dtype)
    filled[:out, :, :, :channels] = four.transpose(0, 2, 3, 1)
    blocks = filled.reshape(layer.blocks, layer.tile.block, -1)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def paired(weight: NDArray[Any], layer: Dense, sources: int) -> NDArray[Any]:
    """Return what :func:`dense` returns for vectors of pairs of terms, (blocks, terms / 2, 2 * block).

    A vector has eight channels, each twice, for an even term and the odd one behind it. Those of two vectors are
    0, 1, 4, 5, 8, ... and 2, 3, 6, 7, ..., so that sums within quarters of them are in order. Where one is left over,
    at the end of a block or of all channels, it has the last ones as they come.
    """
    packed = dense(weight, layer, sources)
    blocks, terms, block = packed.shape
    found = np.empty((blocks, terms // 2, block, 2), weight.dtype)
    for index, one in enumerate(packed):
        channels = min(block, layer.channels - index * block)
        whole = (channels + 7) // 16 * 16
        order = np.arange(block)
        order[:whole] = order[:whole].reshape(-1, 4, 2, 2).swapaxes(1, 2).reshape(-1)
        found[index] = one[:, order].reshape(terms // 2, 2, block).swapaxes(1, 2)
    return found.reshape(blocks, terms // 2, 2 * block)


def depthwise(weight: NDArray[Any], window: Window, height: int, channels: int, block: int) -> NDArray[Any]:
    """Return (blocks, cases, k * k, block) of a depthwise convolution (c, 1, k, k) that moves over `height` rows.

    Rows of the window that lie outside of the map have zero weights.
    """
    found = cases(window, height)
    out, _, k, _ = weight.shape
    rows = -(-height // window.stride)
    filled = np.zeros((found.count, k, k, channels), weight.dtype)
    for case in range(found.count):
        top = found.first(case, rows) * window.stride - window.top
        for row in range(k):
            if 0 <= top + row < height:
                filled[case, row, :, :out] = weight[:, 0, row].T
    shaped = filled.reshape(found.count, k * k, channels // block, block)
    return np.ascontiguousarray(shaped.transpose(2, 0, 1, 3))


def bias(values: NDArray[Any], channels: int, block: int) -> NDArray[Any]:
    """Return (blocks, block) of a bias for each of `channels`, zero where there is none."""
    filled = np.zeros(channels, values.dtype)
    filled[: len(values)] = values
    return filled.reshape(-1, block)
