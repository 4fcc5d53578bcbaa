"""A checkpoint as C and as libraries, proved by running what was compiled on pictures."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.errors import InputError, ParityError
from mobilenets.files import write_atomically
from mobilenets.formats import native_build
from mobilenets.formats.native_file import identifier, to_native
from mobilenets.image.detection import Decoder
from mobilenets.parity import prove
from mobilenets.parity.comparison import Tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Card, Checkpoint
    from mobilenets.parity import Parity, Shown
    from mobilenets.parity.comparison import Fitted, Logits

SAME_BITS = 1e-6
"""How far an int8 network in C may be from what it means, as a share of the range: it has the same codes."""

OFF = np.array([1e-4, 0.5, 0.05, 0.05, 0.05, 0.05])
"""How far a box in C may be from Python's: its score, its class, and its corners in pixels."""
LEAST_SHARED = 0.98
"""Of a picture's boxes; where two overlap by what is just let through, rounding decides."""


@dataclass(frozen=True, slots=True)
class NativeFolder:
    """What was written, how far what it computes is from what it was made from, and by what that was found out."""

    path: Path
    files: tuple[Path, ...]
    parity: Parity
    runtime: str


def destination(model: str, out: Path | None) -> Path:
    """Return the folder to write, `NAME_native` beside the checkpoint by default.

    Raises InputError where a file is there.
    """
    folder = Path(f"{Path(model).expanduser().as_posix().removesuffix('.safetensors')}_native") if out is None else out
    folder = folder.expanduser()
    if folder.is_file():
        raise InputError(f"--out {out}: a file: name a folder, which the sources and libraries go into")
    return folder


def export_folder(
    made: Checkpoint, model: str, folder: Path, shown: Shown, allowed: Tolerance, target: str | None
) -> NativeFolder:
    """Write sources and libraries into a folder, once a program made of them is proved.

    Args:
        made: what to write.
        model: what the user called it, from which the functions get their names.
        folder: where to; libraries go into a folder in it, called as the target.
        shown: pictures to compare on.
        allowed: what is let through in float32; int8 must have the same bits.
        target: the kind of machine; None is this one.

    Raises:
        ParityError: it would not compute what the checkpoint does; nothing was written.
        InputError: no compiler, or a target whose programs cannot be run here.
    """
    target = target or native_build.here()
    if target not in native_build.TARGETS:
        raise InputError(f"--target {target}: there is {', '.join(native_build.TARGETS)}")
    if native_build.runner(target) is None:
        needs = native_build.TARGETS[target].runner[0]
        raise InputError(f"--target {target}: its programs are proved with {needs}, which is not installed")
    name, precision = identifier(Path(model).stem), made.card.precision
    if precision == "int8":
        allowed = Tolerance(SAME_BITS, allowed.agreement)
    with TemporaryDirectory() as temporary:
        draft = Path(temporary)
        for file, content in to_native(made, name, version=_version(made.card)).items():
            (draft / file).write_bytes(content)
        libraries = native_build.build(draft, name, target, precision)
        program = native_build.example(draft, name, target)

        def run(_path: Path, fitted: Fitted) -> Logits:
            return _answers(program, target, fitted, made.card)

        parity, _ = prove(made, draft / f"{name}.c", shown, tolerance=allowed, run=run)
        sources = [draft / f"{name}.h", draft / f"{name}.c", draft / "example.c", draft / "CMakeLists.txt"]
        files = (*sources, *libraries)
        kept = [write_atomically(folder / file.relative_to(draft), file.read_bytes()) for file in files]
    with_what = native_build.runner(target) or ("this machine",)
    return NativeFolder(folder, tuple(kept), parity, f"{native_build.compiler(target).name}, run by {with_what[0]}")


def _answers(program: Path, target: str, fitted: Fitted, card: Card) -> Logits:
    """Run a program on pictures uint8 (N, height, width, C); return answers float32 (N, values)."""
    folder = program.parent / "pictures"
    folder.mkdir()
    paths = []
    for number, picture in enumerate(fitted):
        paths.append(folder / f"{number}.bin")
        paths[-1].write_bytes(np.ascontiguousarray(picture).tobytes())
    if card.task == "detection":
        return _maps(program, native_build.printed(program, target, paths, "--maps"), len(fitted), card)
    classes = len(card.labels)
    numbers = np.array(native_build.logits(program, target, paths, classes), np.float32)
    if numbers.shape != (len(fitted), classes):
        raise ParityError(f"{program.name}: it gives logits {numbers.shape}; nothing was written")
    return numbers


def _maps(program: Path, printed: list[float], count: int, card: Card) -> Logits:
    """Return what a detector's heads say of `count` pictures, once its boxes are those that Python makes of that.

    Raises ParityError where they are not.
    """
    layout, numbers, begin = card.plan, np.array(printed, np.float64), 0
    shapes = [layout.op(name).out for name in layout.outputs]
    ends = np.cumsum([prod(shape) for shape in shapes])
    decoder, answers = Decoder(layout), []
    for _ in range(count):
        flat = numbers[begin : begin + ends[-1]].astype(np.float32)
        begin += int(ends[-1])
        if len(flat) < ends[-1] or begin >= len(numbers):
            raise ParityError(f"{program.name}: it says too little of a picture; nothing was written")
        found = numbers[begin + 1 : begin + 1 + 6 * int(numbers[begin])].reshape(-1, 6)
        begin += 1 + found.size
        raw = [part.reshape(1, *shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
        meant = decoder(raw)[0]
        share = shared_boxes(np.column_stack([meant.scores, meant.classes, meant.boxes]), found)
        if share < LEAST_SHARED:
            raise ParityError(f"{program.name}: {100 * share:.3g} % of its boxes are right; nothing was written")
        answers.append(flat)
    return np.stack(answers)


def shared_boxes(meant: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Return the share of boxes that two lists have in common: of score, class and corners, (N, 6) and (M, 6).

    Of equal scores either may come first, and the last one kept may be another.
    """
    if not len(meant) and not len(found):
        return 1.0
    off = np.abs(meant[:, np.newaxis] - found[np.newaxis])
    near: NDArray[np.bool_] = np.all(off <= OFF, axis=2)
    return float(np.any(near, axis=1).sum() / max(len(meant), len(found)))


def _version(card: Card) -> str:
    """Say what a network is in one line."""
    height, width = card.resolution
    return f"{card.arch.name} {card.width:g}, {height}x{width}, {card.precision}, {len(card.labels)} classes"
