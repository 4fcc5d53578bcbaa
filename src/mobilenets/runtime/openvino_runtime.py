"""OpenVINO on the CPU: float32 and int8, checkpoints and `.xml` files with their `.bin`.

Opening a checkpoint writes it as ONNX in memory, which needs the package onnx; a file needs OpenVINO alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.errors import CheckpointError
from mobilenets.formats.card import INPUT, KEY, card_from_text, output_names
from mobilenets.formats.onnx_file import real_names
from mobilenets.formats.openvino_file import core, to_model

Precision = Literal["float32", "bf16"]

_HINTS = {"float32": "f32", "bf16": "bf16"}


def open_predictor(checkpoint: Checkpoint, threads: int | None, precision: Precision = "float32") -> OpenvinoPredictor:
    """Make a predictor of a checkpoint, float32 or int8.

    Args:
        checkpoint: what to run.
        threads: how many the computation may use; None leaves that to OpenVINO.
        precision: what float operations compute in. "bf16" is faster where the processor has it, and keeps 8 bits of
            each number; without it OpenVINO computes in float32 all the same.

    Raises:
        MissingExtraError: onnx or openvino is not installed.
    """
    return OpenvinoPredictor(checkpoint.card, to_model(checkpoint), threads, precision)


def open_file(path: Path, threads: int | None, precision: Precision = "float32") -> OpenvinoPredictor:
    """Open a file that `mobilenets export --to openvino` wrote; threads and precision as for `open_predictor`.

    Raises:
        CheckpointError: missing, damaged, without its .bin, or without our card.
        MissingExtraError: openvino is not installed.
    """
    model = _read(path)
    return OpenvinoPredictor(_card(model, path), model, threads, precision)


def trace(path: Path, batch: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Run a file and return every operation's output by its name, float32 (N, C, H, W), int8 dequantized.

    Args:
        path: a file that `mobilenets export --to openvino` wrote.
        batch: what the file takes: float32 (N, C, H, W), normalized, or pictures, uint8 (N, H, W, C).

    Raises:
        CheckpointError: missing, damaged, or rewritten by another program.
        MissingExtraError: openvino is not installed.
    """
    model = _read(path)
    card = _card(model, path)
    values = real_names(card.plan, card.precision)
    known = {name for out in model.outputs for name in out.get_names()}
    try:
        model.add_outputs([value for value in values.values() if value not in known])
    except RuntimeError:
        raise CheckpointError(f"{path}: not all operations are as they were written: export the model again") from None
    results = _compile(model, None, "float32")(batch)
    outputs = {}
    for name, value in values.items():
        real = np.array(results[value], np.float32)
        outputs[name] = real.reshape(*real.shape, *(1,) * (4 - real.ndim))
    return outputs


def _read(path: Path) -> Any:
    weights = path.with_suffix(".bin")
    for each in (path, weights):
        if not each.is_file():
            hint = "" if each == path else f": {path.name} has its weights there, so keep the two files together"
            raise CheckpointError(f"{each}: no such file{hint}")
    try:
        return core().read_model(path, weights)
    except (RuntimeError, ValueError, TypeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise CheckpointError(
            f"{path}: OpenVINO cannot open it ({lines[-1].strip()}): export the model again"
        ) from None


def _card(model: Any, path: Path) -> Card:
    """Return the card in a model, having checked that the model's inputs and outputs are as they were written."""
    info = model.get_rt_info([KEY]) if model.has_rt_info([KEY]) else None
    card = card_from_text(info if info is None or isinstance(info, str) else info.astype(str), path)
    kinds = [entry.get_element_type().get_type_name() for entry in model.inputs]
    made = {name for out in model.outputs for name in out.get_names()}
    if kinds not in (["f32"], ["u8"]) or not made >= set(output_names(card.plan)):
        raise CheckpointError(f"{path}: its inputs or outputs are not those that were written: export the model again")
    return card


def _compile(model: Any, threads: int | None, precision: Precision) -> Any:
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    return core().compile_model(model, "CPU", settings)


class OpenvinoPredictor:
    """Runs a model compiled for one picture of the card's size and, once there are others, for any number and size.

    Known sizes save OpenVINO work in every operation: 13 % of MobileNetV2's time at 224 on one thread of an Intel Xeon,
    26 % of a quantized V3-Large's.
    """

    def __init__(self, card: Card, model: Any, threads: int | None, precision: Precision = "float32") -> None:
        self.card = card
        self.pictures: bool = model.input(INPUT).get_element_type().get_type_name() == "u8"
        height, width = card.resolution
        channels = card.in_channels
        self._single = (1, height, width, channels) if self.pictures else (1, channels, height, width)
        self._model: Any = model
        self._settings = (threads, precision)
        self._compiled: dict[bool, Any] = {}  # by whether it is the one for a single picture
        self._compile_for(self._single)

    def _compile_for(self, shape: tuple[int, ...]) -> Any:
        single = shape == self._single
        if single not in self._compiled:
            model = self._model
            if single:
                model = model.clone()
                model.reshape(list(shape))
            self._compiled[single] = _compile(model, *self._settings)
        return self._compiled[single]

    def run(self, batch: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits or maps, float32, of float32 (N, C, H, W), or of uint8 (N, H, W, C) pictures."""
        results = self._compile_for(batch.shape)({INPUT: batch}, share_inputs=True)
        return tuple(results[name] for name in output_names(self.card.plan))

    def close(self) -> None:
        """Let go of the model and what was compiled of it."""
        del self._model, self._compiled
