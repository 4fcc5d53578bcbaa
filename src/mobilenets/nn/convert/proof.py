"""Does a converted network compute what its source computes? Both are run, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.errors import ConvertError
from mobilenets.image import Preprocess
from mobilenets.image.answers import by_anchor
from mobilenets.image.drawn import pictures
from mobilenets.image.preprocess import normalize
from mobilenets.nn.convert.layers import Array, Source

if TYPE_CHECKING:
    from mobilenets.nn.network import Network

PICTURES = 8
"""As many as are compared."""

_LARGEST_RELATIVE_ERROR = 1e-3
"""Of a float source, of its largest output: float32 in another order differs by 1e-6, another network by 1e-1."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far apart source and converted network are, on so many pictures.

    max_abs_error: the largest difference of any output. relative: of the source's largest output.
    """

    max_abs_error: float
    relative: float
    top1_agreement: float
    pictures: int


def compare(source: Source, network: Network, preprocess: Preprocess, *, drops_background: bool) -> Proof | None:
    """Run both on the same pictures; None where the source cannot be run here.

    Args:
        source: what a reader returned.
        network: in eval mode.
        preprocess: the network's own, its sides those that the source runs at.
        drops_background: the network lacks the source's first class.

    Raises:
        ConvertError: a float source computes something else; or it does not run on these pictures.
    """
    if source.reference is None:
        return None
    batch = normalize(pictures(preprocess, PICTURES), preprocess)
    theirs = _run(source.reference, batch)
    ours = _logits(network, batch)
    if source.output == "softmax":
        ours = _softmax(ours)
    if drops_background:
        theirs = theirs[:, 1:]
        if source.output == "softmax":
            theirs = theirs / theirs.sum(axis=1, keepdims=True)
    if theirs.shape != ours.shape or not np.isfinite(theirs).all():
        raise ConvertError(f"{source.kind}: run by its own runtime it gives {theirs.shape}, expected {ours.shape}")
    error = float(np.abs(ours - theirs).max())
    relative = error / max(float(np.abs(theirs).max()), 1e-30)
    agreement = float((_best(network.plan, ours) == _best(network.plan, theirs)).mean())
    if source.exact and relative > _LARGEST_RELATIVE_ERROR:
        raise ConvertError(
            f"{source.kind}: the layers fit {network.plan.arch.name}, but what it computes differs from the source by "
            f"{100 * relative:.2g} % of the largest output, so it is another network: nothing was written"
        )
    return Proof(error, relative, agreement, len(batch))


def sample(network: Network, preprocess: Preprocess) -> tuple[NDArray[np.uint8], Array]:
    """Return a picture, uint8 (height, width, channels), and the network's answer to it: float32 (values,)."""
    picture = pictures(preprocess, 2)[1]
    return picture, _logits(network, normalize(picture[np.newaxis], preprocess))[0]


def _best(layout: Plan, answers: Array) -> NDArray[np.int64]:
    """Return the best class: of every picture, (N,), or of every anchor in it, (N, anchors)."""
    if layout.arch.detector is None:
        return np.asarray(answers.argmax(1), np.int64)
    return np.asarray(by_anchor(layout, answers)[1].argmax(2), np.int64)


def _run(reference: Callable[[Array], Array], batch: Array) -> Array:
    out: Array = np.asarray(reference(batch), np.float32)
    return out.reshape(len(batch), -1)


def _logits(network: Network, batch: Array) -> Array:
    import torch

    with torch.inference_mode():
        values = network.maps(torch.from_numpy(batch))
    return np.concatenate([value.flatten(1).numpy() for value in values], axis=1)


def _softmax(logits: Array) -> Array:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = exponents / exponents.sum(axis=1, keepdims=True)
    return result
