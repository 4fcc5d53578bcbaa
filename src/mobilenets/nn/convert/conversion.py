"""The steps of `convert`: read, identify, assemble, write, read back, prove, and only then put in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilenets.arch import Arch, Plan, arch_named, cost, plan
from mobilenets.checkpoint import Card, Checkpoint, load, save
from mobilenets.errors import ConvertError
from mobilenets.nn.convert.assemble import assemble
from mobilenets.nn.convert.formats import read_source
from mobilenets.nn.convert.identify import identify
from mobilenets.nn.convert.labels import Classes, classes_of, detected_classes, read_labels
from mobilenets.nn.convert.layers import Source
from mobilenets.nn.convert.proof import Proof, compare, sample
from mobilenets.nn.download import digest
from mobilenets.nn.network import Network, from_checkpoint, load_tensors
from mobilenets.results import ConvertResult


def run(
    path: Path,
    out: Path,
    labels: Path | None,
    architecture: str | None,
    width: float | None,
    resolution: int | tuple[int, int] | None,
    layout: str | None,
) -> ConvertResult:
    """Do what :func:`mobilenets.convert` says."""
    names = None if labels is None else read_labels(labels)
    source = read_source(path, layout=layout)
    layers = recognise(source, path, architecture, width)
    given = names or source.labels
    if layers.arch.detector is None:
        classes = classes_of(source.classes, given, f"{labels or path}: ")
    else:
        classes = detected_classes(source.classes, given, f"{labels or path}: ")
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    notes = (*source.notes, *((classes.note,) if classes.note else ()))
    made = assemble(source, layers, classes, origin=f"{source.kind}, {path.name}", resolution=sides, notes=notes)
    card = replace(made.card, parent=digest(path))
    made = replace(made, card=card, sample=sample(from_checkpoint(made), card.preprocess))
    with TemporaryDirectory() as folder:  # nobody reads from `out` what has not been proved
        written = load(save(made, Path(folder) / out.name))
    try:
        proof = _prove(source, layers, classes, written)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None
    save(written, out)
    return _result(source, written.card, proof, out)


def recognise(source: Source, path: Path, architecture: str | None, width: float | None) -> Plan:
    """Identify the source among the tables it may be, or as the one that the user names.

    Raises:
        ConvertError: not recognised; or only its shapes are, and the user has not confirmed.
    """
    if architecture is None:
        found = identify(source, name=str(path), width=width)
        if not source.familiar:
            raise ConvertError(
                f"{path}: {source.kind} ({', '.join(layer.name for layer in source.layers[:3])}, ...); its shapes are "
                f"those of {found.arch.name}: if it is that, in PyTorch's usual conventions, convert it with "
                f"--architecture {found.arch.name}"
            )
        return found
    named: Arch = arch_named(architecture)
    own = tuple(table for table in source.tables if table.name == named.name)
    if own and source.familiar:  # the same, dressed in the conventions of its layout
        return identify(replace(source, tables=own), name=str(path), width=width)
    return identify(source, name=str(path), architecture=named, width=width)


def _prove(source: Source, layers: Plan, classes: Classes, written: Checkpoint) -> Proof | None:
    """Compare at the sides that the source runs at, which need not be those it will be used at."""
    card = written.card
    height, width = layers.resolution
    network = Network(
        plan(
            card.arch,
            width=card.width,
            resolution=(height, width),
            classes=len(card.labels),
            in_channels=card.in_channels,
        )
    )
    load_tensors(network, written.tensors)
    fed = replace(card.preprocess, height=height, width=width)
    return compare(source, network.eval(), fed, drops_background=classes.drops_background)


def _result(source: Source, card: Card, proof: Proof | None, out: Path) -> ConvertResult:
    layout = card.plan
    doubts: list[str] = []
    if proof is None:
        doubts.append("the source cannot be run here, so the conversion was not compared with it")
    elif not source.exact:
        doubts.append("the source is quantized: the difference is its own rounding")
    return ConvertResult(
        checkpoint=out,
        origin=card.origin or "",
        model=f"{card.arch.name}, width {card.width:g}, {card.resolution[0]}x{card.resolution[1]}",
        parameters=cost(layout).parameters,
        classes=len(card.labels),
        max_abs_error=None if proof is None else proof.max_abs_error,
        top1_agreement=None if proof is None else proof.top1_agreement,
        compared=None if proof is None else proof.pictures,
        notes=(*card.notes, *layout.notes, *doubts),
    )
