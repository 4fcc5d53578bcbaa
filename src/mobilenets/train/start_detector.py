"""From what was asked and data with boxes to the detector that is trained: which table, on which network's weights."""

from __future__ import annotations

from dataclasses import replace

from mobilenets import checkpoint as files
from mobilenets.arch import DETECTORS, Arch, arch_named
from mobilenets.arch.mobilenet import CLASSIFIERS, Pool
from mobilenets.arch.ssdlite import on_backbone
from mobilenets.checkpoint import Card, Checkpoint
from mobilenets.data import Data
from mobilenets.data.boxed import BoxedPictures
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.train import start
from mobilenets.train.fitted_anchors import with_fitting_anchors
from mobilenets.train.request import Request
from mobilenets.train.start import Say

_TAIL_ROWS = 4
"""So many rows at the end of a table may be narrower in a detector than in the classifier it is built on."""


def as_detector(request: Request, data: Data, say: Say) -> Request:
    """Return the request with a detector for its model: of a classifier's name or file, the SSDLite built on it.

    Raises:
        InputError: there is none, or classes are to be learned by a detector, or `--freeze` is asked for.
    """
    if not (start.is_architecture(request.model) or start.is_file(request.model)):  # the name of published weights
        if data.boxed:
            raise InputError(f"{request.data} has boxes: name one of {', '.join(DETECTORS)} with --model")
        return request
    model = _arch_of(request)
    if not data.boxed:
        if model.detector is not None:
            raise InputError(
                f"{request.data}: no boxes found, and {model.name} finds boxes: annotate it, or name a classifier"
            )
        return request
    if request.freeze:
        raise InputError("--freeze trains the classifier alone, and a detector has none: leave it out")
    if model.detector is not None:
        return request
    detector = next((name for name, arch in DETECTORS.items() if backbone_of(arch) == _base(model)), None)
    if detector is None:
        raise InputError(f"{request.data} has boxes, and {model.name} has no heads: name one of {', '.join(DETECTORS)}")
    say(f"{request.data} has boxes: {detector} is trained")
    if start.is_file(request.model):
        return replace(request, model=detector, weights=request.weights or request.model)
    return replace(request, model=detector)


def for_backbone(request: Request) -> Request:
    """Return the request whose weights are looked for: of a detector's name, that of the classifier it is built on."""
    if not start.is_architecture(request.model):
        return request
    arch = arch_named(request.model)
    name = None if arch.detector is None else backbone_of(arch)
    return request if name is None else replace(request, model=name)


def backbone_of(arch: Arch) -> str | None:
    """Return the name of the classifier that a detector is built on; None where it is no known one.

    >>> backbone_of(DETECTORS["ssdlite_mobilenet_v3_large"])
    'mobilenet_v3_large'
    """
    for name, classifier in CLASSIFIERS.items():
        rows = classifier.rows
        front = rows[: next((index for index, row in enumerate(rows) if isinstance(row, Pool)), len(rows))]
        count = len(arch.rows) - _TAIL_ROWS
        if len(front) == len(arch.rows) and front[:count] == arch.rows[:count]:
            return name
    return None


def detector_card(request: Request, data: Data, source: Checkpoint | None, say: Say) -> Card:
    """Return the card of the detector to be trained; pictures are stretched to its resolution.

    Padding, activations and normalization are those that the weights were trained with. A detector that begins with
    new heads gets anchors for boxes that the table's own do not fit.

    Raises:
        InputError: `--model` or `--width` contradict the weights.
        CheckpointError: the weights are not float32.
    """
    arch = _arch_of(request)
    channels = data.train.channels
    middle = (0.5,) * channels
    width, preprocess = request.width or 1.0, Preprocess(1, 1, channels, mean=middle, std=middle)
    own = None
    if source is not None:
        card = source.card
        if card.precision != "float32":
            raise CheckpointError(
                f"the weights are {card.precision}: train from the float32 checkpoint they were made of"
            )
        if request.width is not None and request.width != card.width:
            raise InputError(
                f"--width {request.width:g}: the weights have width {card.width:g}: leave it out, or --weights none"
            )
        if card.arch.detector is None:
            arch = on_backbone(arch, card.arch)
        elif card.arch.rows == arch.rows:
            arch, own = card.arch, card.resolution
        else:
            raise InputError(f"--weights {request.weights}: these are of {card.arch.name}, not of {arch.name}")
        width, preprocess = card.width, start.with_channels(card.preprocess, channels)
    height, wide = start.pair(request.resolution) or own or (arch.resolution, arch.resolution)
    card = Card(
        arch=arch,
        width=width,
        resolution=(height, wide),
        labels=data.labels,
        preprocess=replace(preprocess, height=height, width=wide, resize=None),
        in_channels=channels,
        task="detection",
        batch_norm="trained" if source is None else source.card.batch_norm,
        origin=None if source is None else source.card.origin,
        parent=None if source is None else source.sha256,
    )
    if own is None and isinstance(data.train, BoxedPictures):
        fitting, note = with_fitting_anchors(card.plan, data.train, card.preprocess)
        if note is not None:
            say(note)
        card = replace(card, arch=fitting)
    return card


def _arch_of(request: Request) -> Arch:
    return files.read_card(request.model).arch if start.is_file(request.model) else arch_named(request.model)


def _base(arch: Arch) -> str:
    """Return the name of the table that an architecture with options, or of a file, is of."""
    return next((name for name, known in CLASSIFIERS.items() if known.rows == arch.rows), arch.name)
