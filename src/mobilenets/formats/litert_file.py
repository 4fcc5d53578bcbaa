"""Checkpoints as TFLite files, float32 and full int8, for LiteRT and everything else that reads `.tflite`.

The flatbuffer is written operation by operation from the plan. A converter (`litert-torch`) would quantize anew, wrap
the graph in transposes from torch's layout to TFLite's, and bring torch along; this way the file holds exactly the
checkpoint's own 8-bit numbers, one operation for one of the plan, and numpy is enough to write it.

Values are (N, height, width, channels) and are named as the operations of the plan are; the input is called `input`,
the output `logits`. N, height and width may differ from what the file says: LiteRT is told by `resize_tensor_input`.
int8 files use TFLite's signed codes: the checkpoint's unsigned ones less 128.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Literal

import numpy as np

from mobilenets.checkpoint import FORMAT, KEY, Card
from mobilenets.engine.folding import folded
from mobilenets.engine.quantized import LEVELS, Quantization, quantizations
from mobilenets.errors import CheckpointError, InputError
from mobilenets.formats.litert_graph import MARK, Graph, Steps, schema
from mobilenets.image.preprocess import scale_and_shift

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mobilenets.arch import Op
    from mobilenets.arch.mobilenet import Activation
    from mobilenets.checkpoint import Checkpoint

OUTPUT = "logits"
SIGNED = 128
"""TFLite's int8 codes are the checkpoint's uint8 codes less this."""

_FUSED: dict[Activation | None, int] = {None: 0, "relu": 1, "relu6": 3}  # ActivationFunctionType
_SAME, _VALID = 0, 1  # Padding
_FLOAT32, _INT8, _UINT8 = 0, 9, 3  # TensorType


def to_litert(checkpoint: Checkpoint, *, pictures: bool = False) -> bytes:
    """Return a checkpoint as a TFLite file.

    Args:
        checkpoint: float32 or int8.
        pictures: the input is uint8 (N, H, W, C), pictures as :func:`mobilenets.image.fit` leaves them, and the file
            normalizes them. Otherwise it is (N, H, W, C), normalized: float32, or the int8 codes of that.

    Returns:
        The file. Its output is float32 (N, classes), or the int8 codes of that.

    Raises:
        CheckpointError: the checkpoint is neither float32 nor int8.
        MissingExtraError: ai-edge-litert is not installed.
    """
    writer = _Int8Writer(checkpoint) if checkpoint.card.precision == "int8" else _FloatWriter(checkpoint)
    return writer.write(pictures=pictures)


def read_card(content: bytes) -> Card | None:
    """Return the card of a TFLite file that :func:`to_litert` wrote; None where it is another's.

    Raises:
        CheckpointError: it is no TFLite file, is damaged, or comes from a newer version.
        MissingExtraError: ai-edge-litert is not installed.
    """
    if content[4:8] != MARK:
        raise CheckpointError("not a TFLite file: it lacks the mark TFL3 at its start")
    text = _metadata(content, KEY)
    if text is None:
        return None
    try:
        data = json.loads(text)
        version = int(data["format"])
        if version > FORMAT:
            raise CheckpointError(f"written by a newer mobilenets (format {version}): pip install -U mobilenets")
        return Card.from_json(data)
    except (ValueError, KeyError, TypeError, RecursionError, InputError):
        raise CheckpointError("its card is damaged: copy or export it again") from None


def _metadata(content: bytes, name: str) -> bytes | None:
    try:
        root = schema().Model.GetRootAs(content, 0)
        for index in range(root.MetadataLength()):
            entry = root.Metadata(index)
            if entry.Name() == name.encode():
                return bytes(root.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError):
        raise CheckpointError("damaged or truncated: copy or export it again") from None
    return None
