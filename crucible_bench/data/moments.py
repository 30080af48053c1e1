"""Means and sums of squares that stay accurate with large offsets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from crucible_bench.data.sample import Vector, scaled

# For values scaled to at most 1: below this, the squares of deviations have lost digits to underflow.
LEAST_SQUARES: Final = 1e-280


@dataclass(frozen=True, slots=True)
class Moments:
    """n, the mean in two parts and the sum of squared deviations of a group, all on the scaled values.

    The mean is `reference + offset`. The parts are kept apart because the difference of two means near 1e12 has no
    digits left once each has been rounded to a double.
    """

    n: int
    reference: float
    offset: float
    squares: float

    @property
    def mean(self) -> float:
        return self.reference + self.offset

    @property
    def variance(self) -> float:
        """The unbiased sample variance; needs n >= 2."""
        return self.squares / (self.n - 1)

    def minus(self, other: Moments) -> float:
        """The difference of the two means."""
        return (self.reference - other.reference) + (self.offset - other.offset)


def moments(values: Vector, exponent: int) -> Moments:
    """Moments of the values divided by 2**exponent, in two passes (Chan, Golub & LeVeque 1983)."""
    residuals = scaled(values, exponent)
    reference = float(residuals.mean())
    residuals -= reference
    offset = float(residuals.mean())
    squares = float(np.dot(residuals, residuals)) - residuals.size * offset**2
    return Moments(int(residuals.size), reference, offset, max(0.0, squares))


def standard_error(variances: tuple[float, ...], counts: tuple[int, ...]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean, or of a difference of two (Welch 1947; Satterthwaite 1946)."""
    parts = [variance / n for variance, n in zip(variances, counts, strict=True)]
    total = sum(parts)
    # From the shares of the variance, so that tiny variances do not underflow when squared.
    df = 1.0 / sum((part / total) ** 2 / (n - 1) for part, n in zip(parts, counts, strict=True))
    return math.sqrt(total), df
