"""The `export` verb: a checkpoint as a file for another runtime, proved to be the same model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from mobilenets.errors import InputError, ParityError
from mobilenets.files import need_folder
from mobilenets.results import json_number
from mobilenets.text import percent, printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mobilenets.checkpoint import Card, Checkpoint
    from mobilenets.parity import Parity, Shown, Tolerance

FileFormat = Literal["onnx", "openvino", "litert"]
Format = Literal["onnx", "openvino", "litert", "web", "native"]

AGAIN = 4
"""Pictures on which the file that is kept is compared with the one that was judged; it differs in its card alone."""

RESTATED = 1e-5
"""By how much of the logits' range these may differ: in a batch of another size, sums may be ordered otherwise."""


@dataclass(frozen=True)
class ExportResult:
    """Say what was written, and how far it is from what it was made from.

    `max_abs_error` is the largest difference of any logit over `images` pictures (`compared_on`), `relative_error` the
    same as a share of the range of all logits; `top1_agreement` is the share of pictures with the same best class. Of a
    detector they are of boxes and scores, whichever is further off, and of anchors instead of pictures. The file was
    run by its own runtime; the card inside holds these figures as well. `bytes` counts all `files`.
    """

    path: Path
    bytes: int
    max_abs_error: float
    relative_error: float
    top1_agreement: float
    images: int
    compared_on: str
    runtime: str
    precision: str
    takes: str
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    task: str = "classification"

    def __str__(self) -> str:
        names = ", ".join(printable(str(path)) for path in self.files)
        if len(self.files) > 2:
            names = f"{printable(str(self.path))}, {len(self.files)} files"
        detects = self.task == "detection"
        of = "range of boxes or scores" if detects else "logits' range"
        error = f"{self.max_abs_error:.3g}, {100 * self.relative_error:.2g} % of the {of}"
        rows = (
            ("saved", names),
            ("size", f"{self.bytes:,} bytes, {self.precision}"),
            ("takes", self.takes),
            ("compared on", f"{self.images:,} pictures ({printable(self.compared_on)}), run by {self.runtime}"),
            ("max abs error", error),
            ("same class" if detects else "same top-1", percent(self.top1_agreement)),
        )
        lines = [f"{name:<13}  {value}" for name, value in rows]
        return "\n".join([*lines, *(f"note           {printable(note)}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Return the fields; paths as text."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "max_abs_error": json_number(self.max_abs_error),
            "relative_error": json_number(self.relative_error),
            "top1_agreement": json_number(self.top1_agreement),
            "images": self.images,
            "compared_on": self.compared_on,
            "runtime": self.runtime,
            "precision": self.precision,
            "takes": self.takes,
            "files": [str(path) for path in self.files],
            "notes": list(self.notes),
            "task": self.task,
        }


def export(
    model: str,
    *,
    to: Format,
    out: Path | None = None,
    pictures: bool = False,
    fixed: bool = False,
    nms: bool = False,
    data: str | None = None,
    images: int = 100,
    tolerance: float | None = None,
    threads: int | None = None,
    target: str | None = None,
) -> ExportResult:
    """Write a model as a file for another runtime, and prove that it computes the same.

    The file is loaded back by its own runtime and run on pictures. Where its logits are not those of the checkpoint,
    nothing is written, and the error names the operation that differs first. The file carries labels, preprocessing
    and all else that is known of the model: predict and evaluate take it as they take the checkpoint, without torch.
    A web page is a folder for any static server; it runs the model in the browser, and takes another one beside it.
    Native is a folder with C, weights inside, and libraries made of it; it computes in the memory that `show --memory`
    calls streamed.

    Args:
        model: A checkpoint, or the name of published weights such as efficientnet_lite0.
        to: onnx writes .onnx, for ONNX Runtime and many others; openvino .xml and .bin; litert .tflite; web and native
            a folder.
        out: The file or folder to write; beside the checkpoint, under its name, by default.
        pictures: Let the file take pictures as they are, uint8 (N, H, W, C), and normalize them itself.
        fixed: Fix height and width to the checkpoint's instead of leaving them open (onnx, openvino).
        nms: Of a detector, decode and suppress in the file as well: boxes, scores and classes are outputs beside the
            raw maps (onnx; height and width are fixed).
        data: Pictures to compare on: a folder, or whatever evaluate takes; labels do not matter. Without it, eight
            drawn pictures are taken; the checkpoint's stored sample always is.
        images: Compare on at most this many of them, spread over the classes.
        tolerance: The largest error let through, as a share of the range of the logits; 0.001 for float32 and 0.1 for
            int8 by default.
        threads: How many the comparison may use.
        target: Of native, the machine: x86-64-linux, arm-64-linux, arm-64-android or wasm-32; this one by default.

    Raises:
        ParityError: the file would not compute what the checkpoint does; nothing was written.
        InputError: a flag out of range, or pictures that cannot be used.
        CheckpointError: the checkpoint is missing or damaged.
        MissingExtraError: the package that writes the file, or its runtime, is not installed.
    """
    from mobilenets import native, web
    from mobilenets import runtime as runtimes
    from mobilenets.parity import TOLERANCES, pictures_for

    _check_flags(model, to, images=images, tolerance=tolerance, pictures=pictures, fixed=fixed, nms=nms)
    if target is not None and to != "native":
        raise InputError(f"--target is for --to native: a file for {to} is for any machine")
    path = _place(model, out, to)
    checkpoint = runtimes.resolve(model)
    _check_task(checkpoint.card, model, nms=nms)
    need_folder(path.parent)
    allowed = TOLERANCES[checkpoint.card.precision]
    if tolerance is not None:
        allowed = replace(allowed, relative_error=tolerance)
    made = replace(checkpoint, card=checkpoint.child())
    shown = pictures_for(made.card, data, images)
    if to == "web":
        done = web.export_folder(made, model, path, shown, allowed)
        kept, parity, by = done.files, done.parity, done.runtime
    elif to == "native":
        compiled = native.export_folder(made, model, path, shown, allowed, target)
        kept, parity, by = compiled.files, compiled.parity, compiled.runtime
    else:
        by = _runtime_version(to)
        kept, parity = _export_file(
            made, path, shown, to, allowed, pictures=pictures, fixed=fixed or nms, nms=nms, threads=threads
        )
    channels = made.card.in_channels
    takes = "normalized float32 (N, C, H, W)"
    if to in ("web", "native") or pictures:
        takes = f"pictures, uint8 ({1 if to in ('web', 'native') else 'N'}, H, W, {channels})"
    return ExportResult(
        path=path,
        bytes=sum(each.stat().st_size for each in kept),
        max_abs_error=parity.max_abs_error,
        relative_error=parity.relative_error,
        top1_agreement=parity.top1_agreement,
        images=parity.images,
        compared_on=shown.name if parity.images == len(shown.fitted) else f"{shown.name} and the stored sample",
        runtime=by,
        precision=made.card.precision,
        takes=takes,
        files=kept,
        notes=made.card.plan.notes,
        task=made.card.task,
    )


def _place(model: str, out: Path | None, to: Format) -> Path:
    """Return the file or folder to write; raises InputError for one that cannot be, MissingExtraError early."""
    from mobilenets import native, web
    from mobilenets import runtime as runtimes

    if to == "web":
        return web.destination(model, out)
    if to == "native":
        return native.destination(model, out)
    runtimes.choose(to)
    return _destination(model, out, to)


def _check_flags(
    model: str, to: Format, *, images: int, tolerance: float | None, pictures: bool, fixed: bool, nms: bool
) -> None:
    """Raise InputError for flags out of range, or that contradict."""
    from mobilenets import runtime as runtimes

    if images < 1:
        raise InputError(f"--images must be 1 or more, not {images}")
    if tolerance is not None and not 0 < tolerance < 1:
        raise InputError(f"--tolerance is a share of the logits' range, above 0 and below 1, not {tolerance}")
    if runtimes.exported(model) is not None:
        raise InputError(f"{model}: exported already: name the checkpoint it was made from")
    if to in ("web", "native") and (pictures or fixed):
        raise InputError("--pictures, --fixed: a page and C have both by themselves: leave them out")
    if nms and to != "onnx":
        raise InputError(f"--nms is for --to onnx: behind a file for {to}, predict and evaluate do it")


def _check_task(card: Card, model: str, *, nms: bool) -> None:
    """Raise InputError for what is only for detectors."""
    if nms and card.task != "detection":
        raise InputError(f"--nms is for detectors, and {model} classifies pictures: leave it out")


def _export_file(
    made: Checkpoint,
    path: Path,
    shown: Shown,
    to: FileFormat,
    allowed: Tolerance,
    *,
    pictures: bool,
    fixed: bool,
    nms: bool,
    threads: int | None,
) -> tuple[tuple[Path, ...], Parity]:
    """Write a file once it is proved; return what was written, and how far it is from its checkpoint."""
    from mobilenets.parity import prove, with_facts

    with TemporaryDirectory() as folder:  # nobody reads from `path` what has not been proved
        draft = Path(folder) / path.name
        _write(made, to, draft, pictures=pictures, fixed=fixed, nms=nms)
        parity, logits = prove(made, draft, shown, tolerance=allowed, threads=threads)
        card = with_facts(made.card, parity, shown, f"exported for {to}", _runtime_version(to))
        files = _write(replace(made, card=card), to, draft, pictures=pictures, fixed=fixed, nms=nms)
        _check_again(draft, card, shown, logits[-len(shown.fitted) :])
        return _keep(files, path), parity


def _destination(model: str, out: Path | None, to: FileFormat) -> Path:
    """Return where the file goes; its ending is what tells the runtimes apart.

    Raises InputError for another ending, and for a folder.
    """
    from mobilenets.runtime import RUNTIMES

    suffix = RUNTIMES[to].suffix
    assert suffix is not None
    if out is None:
        return Path(f"{Path(model).expanduser().as_posix().removesuffix('.safetensors')}{suffix}")
    path = out.expanduser()
    if path.is_dir():
        raise InputError(f"--out {out}: a folder: name a file in it, ending in {suffix}")
    if path.suffix.lower() != suffix:
        raise InputError(f"--out {out}: a file for {to} must end in {suffix}")
    return path


def _write(
    checkpoint: Checkpoint, to: FileFormat, path: Path, *, pictures: bool, fixed: bool, nms: bool
) -> tuple[Path, ...]:
    """Write a checkpoint's files, the one called `path` last; return their paths.

    Raises:
        MissingExtraError: the package that writes them is not installed.
        InputError: sizes cannot be fixed in this format.
    """
    resolution: Literal["fixed", "dynamic"] = "fixed" if fixed else "dynamic"
    contents: dict[str, bytes]
    match to:
        case "onnx":
            from mobilenets.formats.onnx_file import to_onnx

            contents = {path.suffix: to_onnx(checkpoint, pictures=pictures, resolution=resolution, nms=nms)}
        case "openvino":
            from mobilenets.formats.openvino_file import to_openvino

            xml, weights = to_openvino(checkpoint, pictures=pictures, resolution=resolution)
            contents = {".bin": weights, path.suffix: xml}
        case "litert":
            from mobilenets.formats.litert_file import to_litert

            if fixed:
                raise InputError(
                    "--fixed: a .tflite states the checkpoint's sizes, and its runtime resizes: leave it out"
                )
            contents = {path.suffix: to_litert(checkpoint, pictures=pictures)}
    paths = []
    for suffix, content in contents.items():
        paths.append(path.with_suffix(suffix))
        paths[-1].write_bytes(content)
    return tuple(paths)


def _check_again(path: Path, card: Card, shown: Shown, logits: npt.NDArray[np.float32]) -> None:
    """Load the file that is kept, which has another card than the one judged, and see that it is the same otherwise."""
    from mobilenets import runtime as runtimes
    from mobilenets.parity import answers, compare

    with closing(runtimes.load(path)) as predictor:
        again = answers(predictor, shown.fitted[:AGAIN])
        same_card = predictor.card.to_json() == card.to_json()
    if not same_card or compare(logits[:AGAIN], again).relative_error > RESTATED:
        raise ParityError(f"{path.name}: read back, it is not what was written; nothing was kept")


def _keep(files: tuple[Path, ...], path: Path) -> tuple[Path, ...]:
    """Put proved files in their place, all or none; return their paths, the one called `path` first."""
    from mobilenets.files import write_atomically

    targets = tuple(path.with_suffix(file.suffix) for file in files)
    for number, (file, target) in enumerate(zip(files, targets, strict=True)):
        try:
            write_atomically(target, file.read_bytes())
        except InputError:
            for done in targets[:number]:  # weights beside the graph of another export would be worse than none
                done.unlink(missing_ok=True)
            raise
    return targets[::-1]


def _runtime_version(to: FileFormat) -> str:
    from importlib.metadata import version

    from mobilenets.runtime import RUNTIMES

    package = RUNTIMES[to].package
    return f"{package} {version(package)}"
