"""ONNX Runtime on the CPU: float32 and int8, checkpoints and `.onnx` files.

Opening a checkpoint writes it as ONNX in memory, which needs the package onnx; a file needs ONNX Runtime alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.engine.quantized import dequantize
from mobilenets.errors import CheckpointError, MissingExtraError
from mobilenets.formats.card import KEY, card_from_text, output_names
from mobilenets.machine import vector_instructions

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = ["CPUExecutionProvider"]


def open_predictor(checkpoint: Checkpoint, threads: int | None) -> OnnxPredictor:
    """Make a predictor of a checkpoint, float32 or int8; raises MissingExtraError without onnx or onnxruntime."""
    from mobilenets.formats.onnx_file import to_onnx

    return OnnxPredictor(checkpoint.card, open_session(to_onnx(checkpoint), threads, "the checkpoint"))


def open_file(path: Path, threads: int | None) -> OnnxPredictor:
    """Open a file that `mobilenets export --to onnx` wrote.

    Raises:
        CheckpointError: missing, damaged, or without our card.
        MissingExtraError: onnxruntime is not installed.
    """
    session = open_session(_read(path), threads, str(path))
    card = card_from_text(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    kinds = [entry.type for entry in session.get_inputs()]
    made = {out.name for out in session.get_outputs()}
    if kinds not in (["tensor(float)"], ["tensor(uint8)"]) or not made >= set(output_names(card.plan)):
        raise CheckpointError(f"{path}: its inputs or outputs are not those that were written: export the model again")
    return OnnxPredictor(card, session)


def trace(path: Path, batch: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Run a file and return every operation's output by its name, float32 (N, C, H, W), int8 dequantized.

    Args:
        path: a file that `mobilenets export --to onnx` wrote.
        batch: what the file takes: float32 (N, C, H, W), normalized, or pictures, uint8 (N, H, W, C).

    Raises:
        CheckpointError: missing, damaged, or without our card.
        MissingExtraError: onnx, which adds the outputs to the graph, or onnxruntime is not installed.
    """
    from mobilenets.formats.onnx_values import show_values

    card = open_file(path, None).card
    content, values = show_values(_read(path), card, path)
    session = open_session(content, None, str(path))
    results = session.run([value.name for value in values.values()], {session.get_inputs()[0].name: batch})
    outputs: dict[str, npt.NDArray[np.float32]] = {}
    for (name, value), result in zip(values.items(), results, strict=True):
        real = result if value.quantization is None else dequantize(result, value.quantization)
        outputs[name] = real.reshape(*real.shape, *(1,) * (4 - real.ndim))
    return outputs


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def open_session(content: bytes, threads: int | None, name: str) -> onnxruntime.InferenceSession:
    """Load a model; `name` is what an error calls it."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as states
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors come as exceptions; warnings are not for users of a finished model
    # Idle threads sleep instead of burning their core until the next operation: others work on this machine, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not {"avx_vnni", "avx512_vnni"}.intersection(vector_instructions()):
        # Without VNNI, pairs of uint8 x int8 products are added in 16 bits and may overflow. This avoids it, and is
        # not for processors that have VNNI: there it takes 2.6 times as long.
        options.add_session_config_entry("session.x64quantprecision", "1")
    damage = (
        *(states.Fail, states.InvalidArgument, states.InvalidGraph, states.InvalidProtobuf),
        *(states.NoSuchFile, states.NotImplemented, states.RuntimeException),
    )
    try:
        return onnxruntime.InferenceSession(content, options, providers=_PROVIDERS)
    except damage as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{name}: ONNX Runtime cannot open it ({reason}): export the model again") from None


class OnnxPredictor:
    """Runs one session of ONNX Runtime."""

    def __init__(self, card: Card, session: onnxruntime.InferenceSession) -> None:
        self.card = card
        (entry,) = session.get_inputs()
        self.pictures: bool = entry.type == "tensor(uint8)"
        self._input: str = entry.name
        self._outputs = list(output_names(card.plan))
        self._session = session

    def run(self, batch: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return logits or maps, float32, of float32 (N, C, H, W), or of uint8 (N, H, W, C) pictures."""
        return tuple(self._session.run(self._outputs, {self._input: batch}))

    def close(self) -> None:
        """Let go of the session."""
        del self._session
