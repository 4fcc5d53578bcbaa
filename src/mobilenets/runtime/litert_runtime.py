"""The LiteRT runtime: float32 and int8 on the CPU, through XNNPACK, which LiteRT uses by itself.

XNNPACK computes whole networks, but for int8 h-swish, which LiteRT 2.3 leaves to a slow kernel of its own. So it is
computed in float32 where the file is made here: V3-Large 0.25 at 224 took 14.6 ms and not 47 on one thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets.engine.quantized import Quantization, dequantize, quantize
from mobilenets.errors import CheckpointError, InputError, MissingExtraError
from mobilenets.formats.card import output_names
from mobilenets.formats.litert_file import read_card, to_litert
from mobilenets.formats.litert_graph import watched
from mobilenets.image.preprocess import scale_and_shift

if TYPE_CHECKING:
    from mobilenets.checkpoint import Card, Checkpoint

_SIGN = np.uint8(128)
"""TFLite's codes are signed; with this bit flipped they are the engine's unsigned ones."""

PICTURES = 4
"""Pictures computed at a time: more are no faster on a CPU (V2 in int8: 4 take 8 % less than 4 times 1, as 16 do)."""


def open_predictor(checkpoint: Checkpoint, threads: int | None) -> LitertPredictor:
    """Write a checkpoint, float32 or int8, as a TFLite file in memory, and open that."""
    return LitertPredictor(checkpoint.card, to_litert(checkpoint, h_swish="float32"), threads, Path("the checkpoint"))


def open_file(path: Path, threads: int | None) -> LitertPredictor:
    """Open a TFLite file that :func:`to_litert` wrote.

    Raises:
        CheckpointError: it cannot be read, is damaged, or somebody else's.
        MissingExtraError: ai-edge-litert is not installed.
    """
    content = _read(path)
    return LitertPredictor(read_card(content, path), content, threads, path)


def trace(path: Path, batch: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the output of every operation of a file, float32 (N, C, H, W) by its name in the plan.

    They are what LiteRT computes with all of them asked for. Where an activation is an operation of its own, what it
    reads is there as `NAME.before`.

    Args:
        path: a file as for :func:`open_file`.
        batch: what the file takes: float32 (N, C, H, W), normalized, or pictures, uint8 (N, H, W, C). A file that takes
            pictures is given the nearest ones of a normalized batch, too.
    """
    content = _read(path)
    card = read_card(content, path)
    names = {f"{op.name}{part}" for op in card.plan.ops for part in ("", ".before")}
    interpreter = _interpreter(watched(content, names), None, path)
    source = interpreter.get_input_details()[0]
    if source["dtype"] != np.uint8:
        batch = _entered(batch, source)
    elif batch.dtype != np.uint8:
        batch = _pixels(batch, card)
    _feed(interpreter, source, batch)
    found: dict[str, npt.NDArray[np.float32]] = {}
    for target in interpreter.get_output_details():
        if target["name"] in names:
            value = _real(interpreter.get_tensor(target["index"]), target)
            found[target["name"]] = np.ascontiguousarray(value.transpose(0, 3, 1, 2))
    return found


class LitertPredictor:
    """Runs a TFLite file with LiteRT's interpreter, told of new sizes as they come."""

    def __init__(self, card: Card, content: bytes, threads: int | None, path: Path) -> None:
        self.card = card
        self._interpreter = _interpreter(content, threads, path)
        self._source = self._interpreter.get_input_details()[0]
        targets = {target["name"]: target for target in self._interpreter.get_output_details()}
        if not targets.keys() >= set(output_names(card.plan)):
            raise CheckpointError(f"{path}: its outputs are not those that were written: export the model again")
        self._targets = [targets[name] for name in output_names(card.plan)]
        self.pictures: bool = self._source["dtype"] == np.uint8

    def run(self, batch: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits or maps, float32, of float32 (N, C, H, W), or of pictures, uint8 (N, H, W, C)."""
        if self._interpreter is None:
            raise InputError("this predictor is closed: load the model again")
        given = batch if self.pictures else _entered(batch, self._source)
        parts = []
        for first in range(0, len(batch), PICTURES):
            _feed(self._interpreter, self._source, given[first : first + PICTURES])
            parts.append([self._result(target) for target in self._targets])
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _result(self, target: dict[str, Any]) -> npt.NDArray[np.float32]:
        """Return an output as real numbers, (N, classes) or (N, C, H, W)."""
        value = _real(self._interpreter.get_tensor(target["index"]), target)
        return value if value.ndim == 2 else np.ascontiguousarray(value.transpose(0, 3, 1, 2))

    def close(self) -> None:
        """Let go of the interpreter and its weights."""
        self._interpreter = None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _interpreter(content: bytes, threads: int | None, path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingExtraError("ai-edge-litert", "litert") from None
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: LiteRT refuses it ({str(error).splitlines()[0]}): export it again") from None
    return interpreter


def _entered(batch: npt.NDArray[np.float32], source: dict[str, Any]) -> npt.NDArray[Any]:
    """Return normalized pictures, float32 (N, C, H, W), as the input wants them, (N, H, W, C)."""
    across = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
    if source["dtype"] == np.float32:
        return across
    return (quantize(across, _steps(source)) ^ _SIGN).view(np.int8)


def _pixels(batch: npt.NDArray[np.float32], card: Card) -> npt.NDArray[np.uint8]:
    """Undo normalization: float32 (N, C, H, W) to uint8 (N, H, W, C)."""
    scale, shift = (np.array(each, np.float64) for each in scale_and_shift(card.preprocess))
    levels = np.rint((batch.transpose(0, 2, 3, 1) - shift) / scale)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _feed(interpreter: Any, source: dict[str, Any], value: npt.NDArray[Any]) -> None:
    """Run the interpreter on a value of any batch size, height and width."""
    if tuple(interpreter.get_input_details()[0]["shape"]) != value.shape:
        interpreter.resize_tensor_input(source["index"], value.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(value))
    interpreter.invoke()


def _real(value: npt.NDArray[Any], target: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Return what an output's codes stand for; float32 is left as it is."""
    return value if value.dtype == np.float32 else dequantize(value.view(np.uint8) ^ _SIGN, _steps(target))


def _steps(tensor: dict[str, Any]) -> Quantization:
    """Return what the codes of a tensor stand for, once they are unsigned."""
    scale, zero_point = tensor["quantization"]
    return Quantization(float(scale), int(zero_point) + int(_SIGN))
