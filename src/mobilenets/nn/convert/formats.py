"""What kind of file it is, by what is in it; the name does not count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from mobilenets.checkpoint import is_checkpoint
from mobilenets.errors import ConvertError, InputError

if TYPE_CHECKING:
    from mobilenets.nn.convert.layers import Source

_HEAD_BYTES = 64
_READS = "TFLite, Keras (.h5, .keras), ONNX, PyTorch state dicts (.pth, .safetensors) and frozen TensorFlow detectors"


def read_source(path: Path, *, layout: str | None = None) -> Source:
    """Read a file of any of the known formats.

    Args:
        path: the file.
        layout: whose PyTorch state dict it is, where that cannot be told from its keys.

    Raises:
        InputError: there is no such file, or it is a checkpoint already.
        ConvertError: of no known format, damaged, or not a network of this family.
        MissingExtraError: reading the format needs a package that is not installed.
    """
    kind = _format_of(path)
    if layout is not None and kind != "torch":
        raise InputError(f"{path}: --layout is for PyTorch state dicts, and this is none")
    if kind == "torch":
        from mobilenets.nn.convert import torch_files

        return torch_files.read(path, layout=layout)
    if kind == "tflite":
        from mobilenets.nn.convert import tflite

        return tflite.read(path)
    if kind == "keras":
        from mobilenets.nn.convert import keras

        return keras.read(path)
    if kind == "tensorflow":
        from mobilenets.nn.convert import tensorflow_graph

        return tensorflow_graph.read(path)
    from mobilenets.nn.convert import onnx

    return onnx.read(path)


def _format_of(path: Path) -> str:
    """Return "tflite", "keras", "onnx", "tensorflow" or "torch"."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(path)
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 100_000_000:
        if is_checkpoint(path):
            raise InputError(f"{path}: a mobilenets checkpoint already: use it as it is")
        return "torch"
    if head.startswith(b"\x80") and len(head) > 1 and head[1] <= 5:  # a pickle, protocol 2 to 5
        return "torch"
    if head.startswith(b"\x08") and len(head) > 1 and head[1] < 32:  # protobuf: ModelProto.ir_version
        return "onnx"
    if (
        head.startswith(b"\x0a") and b"\x0a" in head[2:4]
    ):  # protobuf: a GraphDef's first node, which begins with its name
        return "tensorflow"
    raise ConvertError(f"{path}: {_guess(head)}; what can be converted: {_READS}")


def _in_zip(path: Path) -> str:
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError, ValueError) as error:
        raise ConvertError(f"{path}: a damaged zip archive ({error}): copy it again") from None
    if "model.weights.h5" in names and "config.json" in names:
        return "keras"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    raise ConvertError(f"{path}: a zip archive of no known kind: unpack it and convert the model file in it")


def _guess(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.lstrip()[:1] == b"<" or head.startswith(b"version https://git-lfs"):
        return "a web page or a Git LFS pointer instead of the weights: download the file itself"
    return "not a file of weights of a known format"
