"""How a checkpoint's numbers are stored in a TFLite file: as they are, or as TFLite's 8-bit codes.

TFLite's int8 codes are the checkpoint's unsigned ones less 128; weights are signed in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import LEVELS, Quantization, quantizations, quantize
from mobilenets.formats.litert_graph import Steps
from mobilenets.image.preprocess import normalize, scale_and_shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.arch import Op
    from mobilenets.checkpoint import Checkpoint
    from mobilenets.image import Preprocess

SIGNED = 128
"""What unsigned codes are reduced by to be signed ones."""

Stored = tuple["NDArray[Any]", Steps | None]
"""A constant's array, and what it stands for where it is quantized."""

LOGISTIC = Quantization(1 / 256, 0)
"""What TFLite's int8 LOGISTIC insists on for its output (its quantization specification)."""


class Numbers(Protocol):
    """How the values of one network are stored."""

    kind: str
    """The type of values: FLOAT32 or INT8."""

    def steps(self, name: str) -> Steps | None:
        """Return what the codes of a value stand for, by its name in the checkpoint; None where it is not quantized."""

    def layer(self, op: Op) -> tuple[Stored, Stored]:
        """Return weight, in torch's layout, and bias."""

    def hard_sigmoid(self, name: str) -> tuple[Stored, Steps | None, Stored]:
        """Return the 3, what the codes of relu6(x + 3) stand for, and the sixth."""

    def logistic(self, name: str) -> bool:
        """Say whether TFLite's sigmoid can give a value as it is stored."""

    def pixels(self, preprocess: Preprocess) -> Steps | None:
        """Return what a pixel's bytes have to stand for so that one requantization makes them the input, if it can."""


class FloatNumbers:
    """float32 throughout, BatchNorms folded."""

    kind = "FLOAT32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._layers = folded(checkpoint)

    def steps(self, name: str) -> None:
        """Return None."""

    def layer(self, op: Op) -> tuple[Stored, Stored]:
        """Return weight and bias, float32."""
        layer = self._layers[op.name]
        return (layer.weight, None), (layer.bias, None)

    def hard_sigmoid(self, name: str) -> tuple[Stored, None, Stored]:  # noqa: ARG002  # the same for all
        """Return 3 and a sixth, float32."""
        return (np.array([3], np.float32), None), None, (np.array([1 / 6], np.float32), None)

    def logistic(self, name: str) -> bool:  # noqa: ARG002  # the same for all
        """Return True."""
        return True

    def pixels(self, preprocess: Preprocess) -> None:
        """Return None."""


class Int8Numbers:
    """8-bit codes, exactly as the checkpoint has them."""

    kind = "INT8"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = checkpoint.tensors
        self._quantizations = quantizations(checkpoint)
        self._sources = {op.name: op.sources[0] for op in checkpoint.card.plan.ops}

    def steps(self, name: str) -> Steps:
        """Return the checkpoint's quantization of a value."""
        return _steps(self._quantizations[name])

    def layer(self, op: Op) -> tuple[Stored, Stored]:
        """Return the int8 weight and the int32 bias."""
        weight, bias, scale = (self._tensors[f"{op.name}.{part}"] for part in ("weight", "bias", "weight_scale"))
        source = self._quantizations[op.sources[0]]
        along = 3 if op.depthwise else 0
        return (weight, Steps(scale, 0, along)), (bias, Steps((scale * np.float32(source.scale)), 0))

    def hard_sigmoid(self, name: str) -> tuple[Stored, Steps, Stored]:
        """Return both constants in 7 bits.

        The sum is stored with six times the scale of the result, so that multiplying by the sixth leaves its codes as
        they are: all is rounded once, as in a table.
        """
        out = self._quantizations[name]
        most = np.array([127], np.int8)
        three, sixth = (Steps(np.array([value / 127], np.float32), 0) for value in (3, 1 / 6))
        return (most, three), _steps(Quantization(6 * out.scale, out.zero_point)), (most, sixth)

    def logistic(self, name: str) -> bool:
        """Say whether its scale is 1/256."""
        return self._quantizations[name] == LOGISTIC

    def pixels(self, preprocess: Preprocess) -> Steps | None:
        """Return unsigned codes for pixels if by them all 256 become the input's codes, give or take one."""
        wanted = quantize(_all_pixels(preprocess), self._quantizations["input"])  # (256, channels)
        scale, shift = scale_and_shift(preprocess)
        if len(set(scale)) > 1 or len(set(shift)) > 1:
            return None
        middle = -shift[0] / scale[0]
        best = min((int(np.floor(middle)), int(np.ceil(middle))), key=lambda zero: self._error(wanted, scale[0], zero))
        if not 0 <= best < LEVELS or self._error(wanted, scale[0], best) > 1:
            return None
        return Steps(np.array([scale[0]], np.float32), best)

    def _error(self, wanted: NDArray[np.uint8], scale: float, zero_point: int) -> int:
        """Return the largest difference of any code from what it should be, with pixels scale * (byte - zero_point)."""
        real = scale * (np.arange(LEVELS)[:, np.newaxis] - zero_point)
        found = quantize(real, self._quantizations["input"])
        return int(np.abs(found.astype(int) - wanted).max())


def _all_pixels(preprocess: Preprocess) -> NDArray[np.float32]:
    """Return all 256 values of a byte, normalized, float32 (256, channels)."""
    levels = np.arange(LEVELS, dtype=np.uint8).reshape(LEVELS, 1, 1, 1)
    pixels: NDArray[np.float32] = normalize(np.repeat(levels, preprocess.channels, axis=3), preprocess)[:, :, 0, 0]
    return pixels


def _steps(quantization: Quantization) -> Steps:
    return Steps(np.array([quantization.scale], np.float32), quantization.zero_point - SIGNED)
