"""From what the user names to files that runtimes open: the network to be timed, at the precisions it can be had in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobilenets.arch import ARCHITECTURES, arch_named, plan
from mobilenets.bench.children import Child, ChildError
from mobilenets.bench.configuration import FLOAT32, INT8, Job, timed_runtimes
from mobilenets.checkpoint import Card, Checkpoint, save
from mobilenets.errors import CheckpointError, InputError, MobileNetsError

if TYPE_CHECKING:
    from mobilenets.arch import Plan

OPEN_SECONDS = 300.0
"""The longest that opening a file may take: OpenVINO compiles, torch is 2 s to import."""


class PreparationError(Exception):
    """A network that cannot be had in a runtime's form or at a precision; says why in one line."""


@dataclass
class Subject:
    """The network to be timed: a checkpoint, or an exported file that one runtime opens."""

    name: str
    card: Card
    checkpoint: Checkpoint | None
    exported: tuple[str, Path] | None = None  # the runtime and its file
    notes: list[str] = field(default_factory=list)
    _int8: Checkpoint | None = None
    _files: dict[tuple[str, str], Path | str] = field(default_factory=dict)  # text: why there is none

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the weights that are there or can be made; bfloat16 is computed from float32."""
        return (INT8,) if self.card.precision == INT8 else (FLOAT32,) if self.exported else (FLOAT32, INT8)

    def file(self, runtime: str, precision: str, folder: Path) -> Path:
        """Return what a runtime opens at a precision, written into a folder when first asked for.

        Raises PreparationError where it cannot be made.
        """
        if self.exported is not None:
            return self.exported[1]
        weights = INT8 if precision == INT8 else FLOAT32
        key = (runtime, weights)
        if key not in self._files:
            try:
                self._files[key] = write(self._weights(weights), runtime, folder / f"{weights}.safetensors")
            except MobileNetsError as error:
                self._files[key] = str(error)
            except Exception as error:  # noqa: BLE001 - one format that fails is one row with an error
                self._files[key] = f"cannot be made for {runtime}: {type(error).__name__}: {error}"
        found = self._files[key]
        if isinstance(found, str):
            raise PreparationError(" ".join(found.split()))
        return found

    def _weights(self, precision: str) -> Checkpoint:
        assert self.checkpoint is not None
        if precision == self.card.precision:
            return self.checkpoint
        if self._int8 is None:
            from mobilenets.bench.synthetic import quick_int8

            self._int8 = quick_int8(self.checkpoint)
            self.notes.append(
                "int8: quantized here on noise, for timing alone; its answers mean nothing (mobilenets quantize does it"
                " with pictures)"
            )
        return self._int8


def write(checkpoint: Checkpoint, runtime: str, path: Path) -> Path:
    """Write a checkpoint in the form that a runtime opens, beside `path`; return the file, made if it is not there.

    Runtimes with a format of their own get a file of it, so that their process neither holds a checkpoint nor exports.
    Its height and width are fixed to what is timed.
    """
    form = FORMS.get(runtime)
    if form is not None:
        return form(checkpoint, path)
    if not path.exists():
        save(checkpoint, path)
    return path


def _onnx(checkpoint: Checkpoint, path: Path) -> Path:
    from mobilenets.formats.onnx_file import to_onnx

    return _written(path.with_suffix(".onnx"), to_onnx(checkpoint, resolution="fixed"))


def _litert(checkpoint: Checkpoint, path: Path) -> Path:
    from mobilenets.formats.litert_file import to_litert

    return _written(path.with_suffix(".tflite"), to_litert(checkpoint))


def _openvino(checkpoint: Checkpoint, path: Path) -> Path:
    from mobilenets.formats.openvino_file import to_openvino

    xml, weights = to_openvino(checkpoint, resolution="fixed")
    _written(path.with_suffix(".bin"), weights)
    return _written(path.with_suffix(".xml"), xml)


FORMS: dict[str, Callable[[Checkpoint, Path], Path]] = {"onnx": _onnx, "openvino": _openvino, "litert": _litert}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def file_bytes(path: Path) -> int:
    """Return the size of a model's file or, as OpenVINO has them, files.

    An .xml holds the graph, its weights lie beside it in a .bin.
    """
    weights = path.with_suffix(".bin")
    both = [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]
    return sum(each.stat().st_size for each in both)


def subject(
    model: str, *, width: float | None = None, resolution: int | tuple[int, int] | None = None, threads: int = 1
) -> Subject:
    """Find the network that MODEL names, at the resolution it is to be timed at.

    Args:
        model: an architecture, which gets random weights; published weights; a checkpoint; or an exported file.
        width: of an architecture; everything else has its own.
        resolution: of the pictures; None takes the model's.
        threads: to look into an exported file with.

    Raises:
        InputError: an unknown name, or a width for something that has one.
        CheckpointError: a file that is damaged, or that its runtime cannot open.
        WeightsError: published weights that cannot be had.
    """
    from mobilenets import runtime

    if model.partition(":")[0] in ARCHITECTURES and not Path(model).is_file():
        layout = plan(arch_named(model), width=1.0 if width is None else width, resolution=resolution)
        return _of_architecture(model, layout)
    if width is not None:
        raise InputError(f"--width is for architectures by name: {model} has its own")
    if runtime.exported(model) is not None:
        return _of_file(model, resolution, threads)
    checkpoint = runtime.resolve(model)
    card = checkpoint.card
    height, side = card.resolution if resolution is None else _sides(resolution)
    if (height, side) != card.resolution:
        fed = replace(card.preprocess, height=height, width=side, resize=None)
        checkpoint = Checkpoint(replace(card, resolution=(height, side), preprocess=fed), checkpoint.tensors)
    return Subject(model, checkpoint.card, checkpoint)


def _of_architecture(model: str, layout: Plan) -> Subject:
    from mobilenets.bench.synthetic import random_checkpoint

    checkpoint = random_checkpoint(layout)
    notes = ["random weights: speed does not depend on them", *layout.notes]
    return Subject(model, checkpoint.card, checkpoint, notes=notes)


def _of_file(model: str, resolution: int | tuple[int, int] | None, threads: int) -> Subject:
    """Ask a child for the card of an exported file: its runtime need not be imported here."""
    from mobilenets import runtime

    name, path = runtime.choose(None, model), Path(model).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with Child(Job(str(path), name, FLOAT32, threads, 1, (1, 1))) as child:
            card = Card.from_json(child.ask({"card": child.job.to_json()}, OPEN_SECONDS)["card"])
    except ChildError as error:
        raise CheckpointError(f"{path}: {name} cannot open it ({error})") from None
    if resolution is not None:
        card = replace(card, resolution=_sides(resolution))
    return Subject(model, card, None, exported=(name, path))


def _sides(resolution: int | tuple[int, int]) -> tuple[int, int]:
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    if min(sides) < 1:
        raise InputError(f"--resolution must be 1 or more, not {resolution}")
    return sides


def runtimes_for(found: Subject, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the runtimes to time: those asked for, or all that are installed and run such a model.

    Raises InputError for an unknown name or one that does not open this file, MissingExtraError for one not installed,
    or where none is.
    """
    from mobilenets.runtime import choose

    model = None if found.exported is None else str(found.exported[1])
    if asked is not None:
        return tuple(choose(name, model) for name in asked)
    if found.exported is not None:
        return (found.exported[0],)
    return timed_runtimes()
