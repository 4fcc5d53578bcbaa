"""Run a model: `load` makes a `Predictor` of a checkpoint, by one of several runtimes.

A runtime is one module with a function `open_predictor(checkpoint, threads) -> Predictor`, and one line in `RUNTIMES`.
It computes and nothing else: what goes in is checked here, and decoding, resizing, normalization and softmax are
written once, above it (`mobilenets.runtime.feed`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mobilenets.arch import ARCHITECTURES
from mobilenets.errors import CheckpointError, InputError, MissingExtraError, WeightsError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mobilenets.checkpoint import Card, Checkpoint


class Predictor(Protocol):
    """A loaded model: pictures in, numbers out."""

    @property
    def card(self) -> Card:
        """What the model is: labels, preprocessing, resolution."""

    def run(self, batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        """Compute the outputs for float32 (N, C, H, W), normalized as the card says.

        For a classifier that is one array of logits, float32 (N, classes). The batch is left as it is, and pictures do
        not influence one another. Height and width may differ from the card's: these networks take any.
        """

    def close(self) -> None:
        """Free what the model holds; afterwards `run` raises InputError. Closing twice is harmless."""


@dataclass(frozen=True)
class Runtime:
    """Where a runtime's adapter is, the package that computes, and the extra that brings it."""

    module: str
    package: str
    extra: str


RUNTIMES = {
    "torch": Runtime("mobilenets.runtime.torch_runtime", "torch", "train"),
}
"""Runtimes by name, the fastest first: `runtime=None` takes the first whose package is installed."""


def load(model: str | Path | Checkpoint, runtime: str | None = None, threads: int | None = None) -> Predictor:
    """Load a model to run it.

    Args:
        model: a checkpoint's path, a published-weights name, or a `Checkpoint` in memory.
        runtime: a name in `RUNTIMES`; None takes the fastest that is installed.
        threads: how many the computation may use; None leaves that to the runtime.

    Returns:
        A predictor whose `run` checks its batch before it computes.

    Raises:
        InputError: an unknown runtime, or threads below 1.
        CheckpointError: the file is missing, damaged, or of a kind this runtime does not run.
        WeightsError: no weights are published under that name, or they cannot be had.
        MissingExtraError: the runtime is not installed.

    >>> load("mobilenet_v2", runtime="abacus")
    Traceback (most recent call last):
    mobilenets.errors.InputError: no runtime is called 'abacus': there is torch
    """
    name = choose(runtime)
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be 1 or more, not {threads}")
    adapter = import_module(RUNTIMES[name].module)
    return _Checked(adapter.open_predictor(resolve(model), threads))


def choose(runtime: str | None = None) -> str:
    """Return the name of the runtime to use: the one asked for, or the fastest installed.

    Raises InputError for an unknown name and MissingExtraError where it, or any, is not installed.
    """
    if runtime is not None and runtime not in RUNTIMES:
        close = difflib.get_close_matches(runtime, RUNTIMES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(RUNTIMES)}"
        raise InputError(f"no runtime is called {runtime!r}: {hint}")
    names = list(RUNTIMES) if runtime is None else [runtime]
    for name in names:
        if find_spec(RUNTIMES[name].package) is not None:
            return name
    raise MissingExtraError(RUNTIMES[names[0]].package, RUNTIMES[names[0]].extra)


def resolve(model: str | Path | Checkpoint) -> Checkpoint:
    """Return the checkpoint that `model` names: a file, or published weights.

    What is a file is read as one; anything else without a folder or the ending .safetensors is looked up as published
    weights.
    """
    from mobilenets import checkpoint

    if isinstance(model, checkpoint.Checkpoint):
        return model
    path = Path(model).expanduser()
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint: name the .safetensors file in it")
    if isinstance(model, Path) or path.is_file() or path.suffix == ".safetensors" or path.name != model:
        return checkpoint.load(path)
    from mobilenets.nn import weights

    if model in ARCHITECTURES and not weights.published(model):
        raise WeightsError(
            f"{model}: nobody published weights for this architecture: train it, and name the checkpoint"
        )
    return weights.checkpoint_for(model)


class _Checked:
    """A predictor that refuses what its runtime could not compute, in the same words for every runtime."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor: Predictor | None = predictor
        self._card = predictor.card

    @property
    def card(self) -> Card:
        return self._card

    def run(self, batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
        if self._predictor is None:
            raise InputError("this predictor is closed: load the model again")
        _check_batch(batch, self._card)
        return self._predictor.run(batch)

    def close(self) -> None:
        predictor, self._predictor = self._predictor, None
        if predictor is not None:
            predictor.close()


def _check_batch(batch: npt.NDArray[np.float32], card: Card) -> None:
    import numpy as np

    height, width = card.resolution
    wanted = f"float32 (N, {card.in_channels}, H, W), here H = {height} and W = {width}"
    if not isinstance(batch, np.ndarray):
        raise InputError(f"a batch must be a numpy array, {wanted}, not {type(batch).__name__}")
    if batch.ndim != 4 or batch.shape[1] != card.in_channels:
        raise InputError(f"a batch of shape {batch.shape} does not fit: it must be {wanted}")
    if batch.dtype != np.float32:
        raise InputError(f"a batch of {batch.dtype} does not fit: it must be {wanted}; `image.normalize` makes it")
    if 0 in batch.shape[2:]:
        raise InputError(f"a batch of shape {batch.shape} has pictures without pixels")
