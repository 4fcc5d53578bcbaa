"""Times to numbers one can compare: median, extremes, spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """The distribution of the times of one thing done again and again, in milliseconds."""

    count: int
    median_ms: float
    min_ms: float
    p95_ms: float
    first_quartile_ms: float
    third_quartile_ms: float

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median: 0 where every run took the same."""
        return (self.third_quartile_ms - self.first_quartile_ms) / self.median_ms if self.median_ms else 0.0

    def clearly_faster_than(self, other: Timing) -> bool:
        """Say whether three quarters of the runs here took less than three quarters of the runs there.

        Otherwise the two overlap so much that a second measurement could turn them round.
        """
        return self.third_quartile_ms < other.first_quartile_ms


def summarize(times_ms: Sequence[float]) -> Timing:
    """Return the summary of at least one time.

    >>> summarize([3.0, 1.0, 2.0, 5.0, 4.0])
    Timing(count=5, median_ms=3.0, min_ms=1.0, p95_ms=4.8, first_quartile_ms=2.0, third_quartile_ms=4.0)
    """
    ordered = sorted(times_ms)
    first, median, third, p95 = (quantile(ordered, share) for share in (0.25, 0.5, 0.75, 0.95))
    return Timing(len(ordered), median, ordered[0], p95, first, third)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share (0..1) of sorted values lies, interpolated between neighbours.

    >>> quantile([1.0, 2.0], 0.5), quantile([7.0], 0.95)
    (1.5, 7.0)
    """
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def middle_mean(times_ms: Sequence[float]) -> float:
    """Return the mean of the middle half: as steady as the median, and finer where clocks count in microseconds.

    >>> middle_mean([1.0, 2.0, 3.0, 100.0]), middle_mean([5.0])
    (2.5, 5.0)
    """
    ordered = sorted(times_ms)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)
