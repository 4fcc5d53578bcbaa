"""Run a model: `load` makes a `Predictor` of a checkpoint or an exported file, by one of several runtimes.

A runtime is one module with a function `open_predictor(checkpoint, threads) -> Predictor`, and one line in `RUNTIMES`.
Where it has a file format of its own, `open_file(path, threads) -> Predictor` opens what `mobilenets export` wrote.
It computes and nothing else: what goes in is checked here, and decoding, resizing, normalization and softmax are
written once, above it (`mobilenets.runtime.feed`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

    @property
    def pictures(self) -> bool:
        """Whether `run` takes pictures themselves, uint8 (N, H, W, C), and normalizes them as its first step."""

    def run(self, batch: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        """Compute the outputs for float32 (N, C, H, W), normalized as the card says, or for pictures (see there).

        For a classifier that is one array of logits, float32 (N, classes); for a detector its maps, float32
        (N, C, H, W), in the order of the plan's outputs. The batch is left as it is, and pictures do not influence one
        another. Height and width may differ from the card's: these networks take any.
        """

    def close(self) -> None:
        """Free what the model holds; afterwards `run` raises InputError. Closing twice is harmless."""


@dataclass(frozen=True)
class Runtime:
    """Where a runtime's adapter is, the package that computes, and the extra that brings it.

    With `concurrent`, several threads may call one predictor's `run` at a time, each with its own thread computing.
    """

    module: str
    package: str
    extra: str
    precisions: tuple[str, ...] = ("float32", "int8")
    suffix: str | None = None  # of the files it opens
    concurrent: bool = False

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return find_spec(self.package) is not None


RUNTIMES = {
    "torch": Runtime("mobilenets.runtime.torch_runtime", "torch", "train", ("float32",)),
    "openvino": Runtime("mobilenets.runtime.openvino_runtime", "openvino", "openvino", suffix=".xml"),
    "onnx": Runtime("mobilenets.runtime.onnx_runtime", "onnxruntime", "onnx", suffix=".onnx", concurrent=True),
    "litert": Runtime("mobilenets.runtime.litert_runtime", "ai_edge_litert", "litert", suffix=".tflite"),
    "engine": Runtime("mobilenets.runtime.engine_runtime", "halide", "engine"),
    "reference": Runtime("mobilenets.runtime.reference_runtime", "numpy", "train"),
}
"""Runtimes by name: `runtime=None` takes the first that is installed and can run the model.

Not the fastest first: torch runs a checkpoint as it is, and for the others it is made a file of theirs first. Only the
engine comes before them all where it was compiled, or is worth it: see :mod:`mobilenets.runtime.preference`.
"""


def load(
    model: str | Path | Checkpoint,
    runtime: str | None = None,
    threads: int | None = None,
    *,
    pictures: int | None = None,
) -> Predictor:
    """Load a model to run it.

    Args:
        model: a checkpoint's or an exported file's path, a published-weights name, or a `Checkpoint` in memory.
        runtime: a name in `RUNTIMES`; None takes the first that is installed, or the engine: see `pictures`. An
            exported file has its own.
        threads: how many the computation may use; None leaves that to the runtime.
        pictures: about how many there are to compute, all of the card's size. Then the engine is taken where it is
            installed and is compiled already or worth compiling. None: not known, and perhaps of many sizes.

    Returns:
        A predictor whose `run` checks its batch before it computes.

    Raises:
        InputError: an unknown runtime, one that does not run this file, or threads below 1.
        CheckpointError: the file is missing, damaged, or of a kind this runtime does not run.
        WeightsError: no weights are published under that name, or they cannot be had.
        MissingExtraError: the runtime is not installed.

    >>> load("mobilenet_v2", runtime="onyx")
    Traceback (most recent call last):
    mobilenets.errors.InputError: no runtime is called 'onyx': did you mean onnx?
    """
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be 1 or more, not {threads}")
    name = choose(runtime, model)
    if exported(model) is not None:
        assert isinstance(model, str | Path)
        path = Path(model).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        return _Checked(import_module(RUNTIMES[name].module).open_file(path, threads))
    checkpoint = resolve(model)
    precision = checkpoint.card.precision
    if runtime is None:
        name = choose(None, checkpoint, precision=precision, pictures=pictures)
    elif precision not in RUNTIMES[name].precisions:
        able = ", ".join(each for each, of in RUNTIMES.items() if precision in of.precisions)
        raise CheckpointError(f"the {name} runtime does not run {precision} checkpoints: choose one of {able}")
    return _Checked(import_module(RUNTIMES[name].module).open_predictor(checkpoint, threads))


def exported(model: str | Path | Checkpoint) -> str | None:
    """Return the name of the runtime whose exported file a path names, by its ending; None for anything else.

    >>> exported("cats.onnx"), exported("cats.safetensors")
    ('onnx', None)
    """
    if not isinstance(model, str | Path):
        return None
    suffix = Path(model).suffix.lower()
    return next((name for name, each in RUNTIMES.items() if suffix and each.suffix == suffix), None)


def choose(
    runtime: str | None = None,
    model: str | Path | Checkpoint | None = None,
    *,
    precision: str = "float32",
    pictures: int | None = None,
) -> str:
    """Return the name of the runtime to use: the one asked for, the exported file's own, or the first installed.

    With a `Checkpoint` and a number of pictures, the engine comes before the first installed where it is compiled
    already or that many are worth it.

    Raises InputError for an unknown name or one that does not open this file, and MissingExtraError where it, or any,
    is not installed.
    """
    if runtime is not None and runtime not in RUNTIMES:
        close = difflib.get_close_matches(runtime, RUNTIMES, 1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(RUNTIMES)}"
        raise InputError(f"no runtime is called {runtime!r}: {hint}")
    own = None if model is None else exported(model)
    if own is not None and runtime not in (None, own):
        raise InputError(f"{model}: this file is run by {own}, not by {runtime}: name the checkpoint it was made from")
    asked = runtime or own
    if asked is None and pictures is not None and model is not None and _engine_is_best(model, pictures):
        return "engine"
    names = [name for name, each in RUNTIMES.items() if precision in each.precisions] if asked is None else [asked]
    for name in names:
        if RUNTIMES[name].installed:
            return name
    raise MissingExtraError(RUNTIMES[names[0]].package, RUNTIMES[names[0]].extra)


def _engine_is_best(model: str | Path | Checkpoint, pictures: int) -> bool:
    from mobilenets.runtime.preference import engine_is_best

    engine = RUNTIMES.get("engine")
    return (
        not isinstance(model, str | Path)
        and engine is not None
        and engine.installed
        and engine_is_best(model.card, pictures)
    )


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
        self._pictures = predictor.pictures

    @property
    def card(self) -> Card:
        return self._card

    @property
    def pictures(self) -> bool:
        return self._pictures

    def run(self, batch: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], ...]:
        if self._predictor is None:
            raise InputError("this predictor is closed: load the model again")
        _check_batch(batch, self._card, pictures=self._pictures)
        if not len(batch):
            return _nothing(self._card)
        return self._predictor.run(batch)

    def close(self) -> None:
        predictor, self._predictor = self._predictor, None
        if predictor is not None:
            predictor.close()


def _nothing(card: Card) -> tuple[npt.NDArray[np.float32], ...]:
    """Return the outputs for no pictures at all, which no runtime can compute."""
    import numpy as np

    layout = card.plan
    shapes = [layout.op(name).out for name in layout.outputs]
    if layout.arch.detector is None:
        shapes = [shape[:1] for shape in shapes]  # type: ignore[misc]  # logits are flat
    return tuple(np.zeros((0, *shape), np.float32) for shape in shapes)


def _check_batch(batch: npt.NDArray[Any], card: Card, *, pictures: bool) -> None:
    import numpy as np

    height, width = card.resolution
    dtype, remedy = (np.uint8, "`image.fit`") if pictures else (np.float32, "`image.normalize`")
    shape = f"(N, H, W, {card.in_channels})" if pictures else f"(N, {card.in_channels}, H, W)"
    wanted = f"{dtype.__name__} {shape}, here H = {height} and W = {width}"
    if not isinstance(batch, np.ndarray):
        raise InputError(f"a batch must be a numpy array, {wanted}, not {type(batch).__name__}")
    if batch.ndim != 4 or batch.shape[3 if pictures else 1] != card.in_channels:
        raise InputError(f"a batch of shape {batch.shape} does not fit: it must be {wanted}")
    if batch.dtype != dtype:
        raise InputError(f"a batch of {batch.dtype} does not fit: it must be {wanted}; {remedy} makes it")
    if 0 in (batch.shape[1:3] if pictures else batch.shape[2:]):
        raise InputError(f"a batch of shape {batch.shape} has pictures without pixels")
