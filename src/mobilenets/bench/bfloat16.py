"""Predictors that compute a float32 checkpoint in bfloat16: half the bytes, and on some processors twice the speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mobilenets.bench.configuration import Job
from mobilenets.errors import InputError

if TYPE_CHECKING:
    from mobilenets.checkpoint import Checkpoint
    from mobilenets.nn.network import Network
    from mobilenets.runtime import Predictor


def open_bfloat16(job: Job) -> Predictor:
    """Return a predictor in bfloat16.

    torch: weights and activations are bfloat16. OpenVINO: its precision hint, which lets it choose for each operation.

    Raises:
        InputError: this runtime has no bfloat16.
    """
    if job.runtime == "torch":
        return _torch(job)
    if job.runtime == "openvino":
        return _openvino(job)
    raise InputError(f"{job.runtime} does not compute in bfloat16")


def _torch(job: Job) -> Predictor:
    from mobilenets import checkpoint
    from mobilenets.runtime.torch_runtime import TorchPredictor

    loaded = checkpoint.load(job.path)
    network = bfloat16_network(loaded)
    network.register_forward_pre_hook(lambda _, sources: (sources[0].bfloat16(),))
    network.register_forward_hook(lambda _, __, logits: logits.float())
    return TorchPredictor(loaded.card, network, job.threads)


def _openvino(job: Job) -> Predictor:
    from mobilenets.runtime.openvino_runtime import open_file

    return open_file(Path(job.path), job.threads, "bf16")


def float32_network(checkpoint: Checkpoint) -> Network:
    """Return the network as the torch runtime runs it: BatchNorm folded, channels last."""
    import torch

    from mobilenets.nn.network import from_checkpoint
    from mobilenets.runtime.torch_runtime import fold_batch_norm

    return fold_batch_norm(from_checkpoint(checkpoint)).to(memory_format=torch.channels_last)


def bfloat16_network(checkpoint: Checkpoint) -> Network:
    """Return the same with weights in bfloat16, which takes bfloat16 pictures."""
    return float32_network(checkpoint).bfloat16()
