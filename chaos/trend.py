"""Whether something grows: a line through points, and how sure its slope is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trend:
    """The line that fits some points best, by least squares.

    Attributes:
        slope: by how much y grows for each 1 of x.
        error: the standard error of the slope.
    """

    slope: float
    error: float

    def surely_above(self, limit: float) -> bool:
        """Return whether the slope is above a limit by more than twice its error."""
        return self.slope - 2 * self.error > limit


def fit(points: Sequence[tuple[float, float]]) -> Trend:
    """Fit a line.

    Args:
        points: x and y, at least three, of different x.
    """
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return Trend(slope, math.sqrt(left / (count - 2) / spread))


def percentile(numbers: Sequence[float], share: float) -> float:
    """Return the number that this share of all is not above; 0.0 if there are none."""
    ordered = sorted(numbers)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
