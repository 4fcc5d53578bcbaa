"""8-bit numbers: what they stand for, and how a real number becomes one.

The scheme is TFLite's (symmetric int8 weights, asymmetric 8-bit activations, int32 biases), with unsigned activations:
real = scale * (q - zero_point). Rounding is to the nearest, halves to even, in float32: as ONNX Runtime and XNNPACK
do, and unlike the fixed-point multipliers of TFLite's reference kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch.mobilenet import Activation
    from mobilenets.checkpoint import Checkpoint

LEVELS = 256


@dataclass(frozen=True, slots=True)
class Quantization:
    """What an unsigned 8-bit number stands for: real = scale * (q - zero_point)."""

    scale: float  # a float32 value
    zero_point: int  # 0..255

    @property
    def low(self) -> float:
        """The smallest real number there is a code for."""
        return -self.scale * self.zero_point

    @property
    def high(self) -> float:
        """The largest real number there is a code for."""
        return self.scale * (LEVELS - 1 - self.zero_point)


def quantization(low: float, high: float) -> Quantization:
    """Return the quantization that covers low..high and has a code for zero, which padding needs.

    >>> quantization(-1.0, 1.0)
    Quantization(scale=0.007843137718737125, zero_point=127)
    >>> quantization(0.0, 6.0).zero_point
    0
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-8) / (LEVELS - 1)))
    return Quantization(scale, min(LEVELS - 1, max(0, round(-low / scale))))


def quantizations(checkpoint: Checkpoint) -> dict[str, Quantization]:
    """Return what the 8-bit values of an int8 checkpoint stand for.

    Keys are `input`, the operations' names, and `NAME.before` for values that a table takes to their activation.
    """
    ending = ".zero_point"
    names = [name.removesuffix(ending) for name in checkpoint.tensors if name.endswith(ending)]
    return {
        name: Quantization(float(checkpoint.tensors[f"{name}.scale"][0]), int(checkpoint.tensors[f"{name}{ending}"][0]))
        for name in names
    }


def quantize(real: NDArray[np.floating], to: Quantization) -> NDArray[np.uint8]:
    """Return the nearest codes, uint8, of real numbers; what lies outside becomes the outermost code."""
    steps = np.rint(real.astype(np.float32) / np.float32(to.scale)) + np.float32(to.zero_point)
    codes: NDArray[np.uint8] = np.clip(steps, 0, LEVELS - 1).astype(np.uint8)
    return codes


def dequantize(codes: NDArray[np.uint8], of: Quantization) -> NDArray[np.float32]:
    """Return what the codes stand for, float32."""
    return np.float32(of.scale) * (codes.astype(np.float32) - np.float32(of.zero_point))


def multipliers(weight_scale: NDArray[np.float32], source: Quantization, out: Quantization) -> NDArray[np.float32]:
    """Return what int32 sums of products are multiplied by to become codes: float32, as many as weight scales."""
    factors: NDArray[np.float32] = (weight_scale.astype(np.float64) * source.scale / out.scale).astype(np.float32)
    return factors


def bounds(activation: Activation | None, out: Quantization) -> tuple[int, int]:
    """Return the lowest and the highest code that an activation which only clips lets through."""
    low = out.zero_point if activation in ("relu", "relu6") else 0
    high = LEVELS - 1
    if activation == "relu6":
        high = min(high, out.zero_point + int(np.rint(np.float32(6) / np.float32(out.scale))))
    return low, high


def activated(real: NDArray[np.float64], activation: Activation | None) -> NDArray[np.float64]:
    """Apply an activation by its name to float64 numbers."""
    out = real
    match activation:
        case None:
            pass
        case "relu6":
            out = np.clip(real, 0, 6)
        case "relu":
            out = np.maximum(real, 0)
        case "hard_swish":
            out = real * np.clip(real + 3, 0, 6) / 6
        case "hard_sigmoid":
            out = np.clip(real + 3, 0, 6) / 6
        case "sigmoid":
            out = 1 / (1 + np.exp(-np.clip(real, -80, 80)))  # beyond, float32 has no smaller number
    return out


def table(activation: Activation | None, before: Quantization, after: Quantization) -> NDArray[np.uint8]:
    """Return the code after an activation for each of the 256 codes before it, uint8 (256,)."""
    real = before.scale * (np.arange(LEVELS, dtype=np.float64) - before.zero_point)
    steps = np.rint(activated(real, activation) / after.scale) + after.zero_point
    codes: NDArray[np.uint8] = np.clip(steps, 0, LEVELS - 1).astype(np.uint8)
    return codes
