from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import CheckpointError
from mobilenets.nn.network import Convolution, from_checkpoint
from mobilenets.runtime import load, torch_runtime


def test_answers_known_beforehand(colour_checkpoint: Checkpoint) -> None:
    batch = np.zeros((2, 3, 16, 16), np.float32)
    batch[0, 1] = 0.5
    batch[1, 2, :8] = 1.0
    (logits,) = load(colour_checkpoint, "torch").run(batch)
    np.testing.assert_allclose(logits, [[0, 4, 0], [0, 0, 4]], atol=1e-5)


def test_batch_norm_is_folded_away(colour_checkpoint: Checkpoint) -> None:
    network = torch_runtime.fold_batch_norm(from_checkpoint(colour_checkpoint))
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    stem = next(module for module in network.modules() if isinstance(module, Convolution))
    assert stem.bias is not None
    assert stem.bias.tolist() == pytest.approx([1.0] * 8)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_threads_are_set_for_the_run_alone(colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    during = []
    forward = Convolution.forward

    def seen(self: Convolution, x: torch.Tensor) -> torch.Tensor:
        during.append(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(Convolution, "forward", seen)
    before = torch.get_num_threads()
    batch = np.zeros((1, 3, 16, 16), np.float32)
    predictor = load(colour_checkpoint, "torch", threads=before + 1)
    predictor.run(batch)
    assert (during, torch.get_num_threads()) == ([before + 1], before)
    load(colour_checkpoint, "torch").run(batch)
    assert during[1:] == [before]

    def failing(_self: Convolution, _x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Convolution, "forward", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        predictor.run(batch)
    assert torch.get_num_threads() == before


def test_large_batches_are_computed_in_parts(colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    forward = Convolution.forward

    def seen(self: Convolution, x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Convolution, "forward", seen)
    monkeypatch.setattr(torch_runtime, "LARGEST_ACTIVATION_BYTES", 3 * 4 * 8 * 16 * 16)  # three pictures of the stem
    predictor = load(colour_checkpoint, "torch")
    predictor.run(np.zeros((7, 3, 16, 16), np.float32))
    assert sizes == [3, 3, 1]
    predictor.run(np.zeros((2, 3, 32, 32), np.float32))
    assert sizes[3:] == [1, 1]


def test_no_gradients_are_kept(colour_checkpoint: Checkpoint) -> None:
    with torch.enable_grad():
        (logits,) = load(colour_checkpoint, "torch").run(np.zeros((1, 3, 16, 16), np.float32))
    assert type(logits) is np.ndarray


def test_other_precisions_are_refused(colour_checkpoint: Checkpoint) -> None:
    quantized = replace(colour_checkpoint, card=replace(colour_checkpoint.card, precision="int8"))
    with pytest.raises(CheckpointError, match="does not run int8 checkpoints: choose one of"):
        load(quantized, "torch")
