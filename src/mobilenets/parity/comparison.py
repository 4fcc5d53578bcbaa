"""How far apart the answers of two networks are, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mobilenets.arch import Plan
from mobilenets.image.answers import by_anchor
from mobilenets.text import percent

Logits = npt.NDArray[np.float32]
Fitted = npt.NDArray[np.uint8]

CLEAR = {"float32": 2e-3, "int8": 0.04}
"""A best class leads clearly by more than this share of the logits' range.

For float32 that is twice the tolerance, so that two networks within it never differ in a clear answer. For int8 it is
ten steps of the logits' 255.
"""

COLLAPSED = 0.1
"""A network has collapsed whose answers vary less from picture to picture than this share of what they should."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is let through: an error of the logits as a share of their range, and how often the clear answers agree."""

    relative_error: float
    agreement: float


TOLERANCES = {"float32": Tolerance(1e-3, 1.0), "int8": Tolerance(0.1, 0.95)}
"""By precision.

float32 in another order of sums differs by 1e-6, another network by 1e-1. int8 is a runtime's int8 kernels beside the
reference's: each may round every operation's result to the code next to it.
"""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far apart two networks are, on so many pictures.

    max_abs_error: the largest difference of any logit. relative_error: as a share of the range of all logits.
    top1_agreement: the share of pictures with the same best class. clear_agreement: the same among the `clear` pictures
    whose best class leads clearly. variation: how much the answers vary from picture to picture, where 1 is as they
    should.
    """

    max_abs_error: float
    relative_error: float
    top1_agreement: float
    clear_agreement: float
    clear: int
    variation: float
    images: int

    @property
    def collapsed(self) -> bool:
        """Whether it says nearly the same of every picture, where it should not."""
        return self.variation < COLLAPSED

    def objection(self, tolerance: Tolerance) -> str | None:
        """Return what is wrong with it, None where all is within the tolerance."""
        if not np.isfinite(self.max_abs_error):
            return "it gives no numbers (nan)"
        if self.collapsed:
            return "it has collapsed: it says nearly the same of every picture"
        if self.relative_error > tolerance.relative_error:
            share = f"{100 * self.relative_error:.2g} % of the logits' range"
            return f"its logits are off by {share}, where {100 * tolerance.relative_error:g} % are let through"
        if self.clear_agreement < tolerance.agreement:
            return f"it agrees in {percent(self.clear_agreement)} of {self.clear} clear answers"
        return None


def compare(expected: Logits, measured: Logits, *, clear: float = CLEAR["float32"]) -> Parity:
    """Compare logits, both float32 (N, classes) of the same pictures, N at least 1.

    Args:
        expected: what is meant.
        measured: what is judged.
        clear: by which share of the range the best class must lead for the answer to be clear.

    Raises:
        ValueError: the shapes differ, or there is no picture.

    >>> compare(np.array([[0, 2]], np.float32), np.array([[0, 1]], np.float32)).relative_error
    0.5
    """
    if expected.shape != measured.shape or not len(expected):
        raise ValueError(f"logits {measured.shape} are not comparable with {expected.shape}")
    meant, found = expected.astype(np.float64), measured.astype(np.float64)
    value_range = max(float(np.ptp(meant)), 1e-30)
    finite = bool(np.isfinite(found).all())
    found = found if finite else np.zeros_like(meant)
    error = float(np.abs(found - meant).max()) if finite else float("inf")
    same = meant.argmax(1) == found.argmax(1)
    two_best = np.sort(meant, axis=1)[:, -2:]
    lead = np.ptp(two_best, axis=1) if meant.shape[1] > 1 else np.zeros(len(meant))
    leads = lead > clear * value_range
    spread_meant, spread_found = float(meant.std(0).mean()), float(found.std(0).mean())
    return Parity(
        max_abs_error=error,
        relative_error=error / value_range,
        top1_agreement=float(same.mean()),
        clear_agreement=float(same[leads].mean()) if leads.any() else 1.0,
        clear=int(leads.sum()),
        variation=spread_found / spread_meant if spread_meant > 1e-6 * value_range else 1.0,
        images=len(meant),
    )


def compare_answers(layout: Plan, expected: Logits, measured: Logits, *, clear: float = CLEAR["float32"]) -> Parity:
    """Compare the answers (N, values) of a network: logits, or what a detector says anchor by anchor.

    There every anchor is as a picture that is classified; errors are shares of the range of the boxes or the scores.
    """
    if layout.arch.detector is None or expected.shape != measured.shape:
        return compare(expected, measured, clear=clear)
    pairs = zip(by_anchor(layout, expected), by_anchor(layout, measured), strict=True)
    boxes, scores = (
        compare(meant.reshape(-1, meant.shape[2]), found.reshape(-1, meant.shape[2]), clear=clear)
        for meant, found in pairs
    )
    error, relative = (
        max(getattr(each, name) for each in (boxes, scores)) for name in ("max_abs_error", "relative_error")
    )
    return replace(scores, max_abs_error=error, relative_error=relative, images=len(expected))
