"""A checkpoint as OpenVINO's intermediate representation: an .xml of operations and a .bin of weights.

OpenVINO's own reader makes it of our ONNX file, so that both are one description of the network.
"""

from __future__ import annotations

import importlib
import io
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import MissingExtraError
from mobilenets.formats.card import KEY, card_to_text
from mobilenets.formats.onnx_file import Resolution, to_onnx

_TELEMETRY = "openvino_telemetry"
_ONNX_METADATA = "framework"  # where OpenVINO's reader of ONNX keeps the file's metadata


def openvino() -> Any:
    """Import and return OpenVINO, which otherwise reports its own import to a server over the network.

    Its telemetry package is made to look absent for the time of the import: OpenVINO then uses a stub that does
    nothing.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    hidden = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how import is told that there is no such module
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


@cache
def core() -> Any:
    """Return OpenVINO's core: one for the process, which lives as long as the process does.

    On processors with AVX-512 every core gives the thread that uses it a stack for signals, and puts back the one
    before when it goes. Where several come and go, the thread is left with a stack that was freed, and the next signal
    that has a handler (Ctrl-C, or the end of a process that loads data) ends in a segmentation fault: OpenVINO 2026.4.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    return openvino().Core()


def to_openvino(
    checkpoint: Checkpoint, *, pictures: bool = False, resolution: Resolution = "dynamic"
) -> tuple[bytes, bytes]:
    """Return a checkpoint, float32 or int8, as the bytes of an .xml and of the .bin that belongs beside it.

    Input, output and arguments are those of `to_onnx`; the card is in the model's `rt_info`. Weights stay as they are,
    float32 or int8: nothing is rounded to 16 bits.

    Raises:
        InputError: a resolution that is neither "dynamic" nor "fixed".
        MissingExtraError: onnx or openvino is not installed.
    """
    package = openvino()
    model = to_model(checkpoint, pictures=pictures, resolution=resolution)
    with TemporaryDirectory(prefix="mobilenets-") as folder:
        xml = Path(folder) / "model.xml"
        package.save_model(model, xml, compress_to_fp16=False)
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()


def to_model(checkpoint: Checkpoint, *, pictures: bool = False, resolution: Resolution = "dynamic") -> Any:
    """Return a checkpoint as an `openvino.Model` in memory, the card in it; arguments as for `to_openvino`."""
    content = to_onnx(checkpoint, pictures=pictures, resolution=resolution)
    model = core().read_model(io.BytesIO(content))
    if model.has_rt_info([_ONNX_METADATA]):  # the card once more, where nobody looks
        del model.rt_info[_ONNX_METADATA]
    model.set_rt_info(card_to_text(checkpoint.card), [KEY])
    return model
