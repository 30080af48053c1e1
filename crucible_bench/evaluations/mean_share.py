"""The mean of values between 0 and 1, such as shares of items or wins with ties counted half."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.sample import Vector
from crucible_bench.result import Interval

__all__ = ["ROUNDING", "MeanShare", "mean_share"]

ROUNDING: Final = 1e-24
"""A variance up to this counts as zero: values up to 1 that differ by 1e-12 differ only by rounding."""


@dataclass(frozen=True, slots=True)
class MeanShare:
    """A mean of values between 0 and 1.

    `effective` is the number of independent outcomes, each 0 or 1, that would give a share of this size the same
    variance. `df` are the degrees of freedom of that variance.
    """

    value: float
    n: int
    clusters: int
    effective: float
    df: float

    def interval(self, confidence_level: float) -> Interval:
        """Wilson's interval for the effective number of outcomes, with the quantile of t in place of the normal one.

        It stays between 0 and 1, has a width where all values are equal, and for large n is the mean's t interval
        (Wilson 1927; for clusters Korn & Graubard 1998 and Franco, Little, Louis & Slud 2019).
        """
        squared = float(special.stdtrit(self.df, 0.5 + confidence_level / 2.0)) ** 2 / self.effective
        centre = (self.value + squared / 2.0) / (1.0 + squared)
        half = math.sqrt(squared * (self.value * (1.0 - self.value) + squared / 4.0)) / (1.0 + squared)
        low = 0.0 if self.value == 0.0 else max(0.0, centre - half)
        return low, 1.0 if self.value == 1.0 else min(1.0, centre + half)

    @property
    def from_half(self) -> tuple[float, float]:
        """The statistic against a mean of one half, and its two-sided p-value by t; `interval` inverts this test."""
        statistic = (self.value - 0.5) * 2.0 * math.sqrt(self.effective)
        return statistic, 2.0 * float(special.stdtr(self.df, -abs(statistic)))


def mean_share(values: Vector, codes: NDArray[Any] | None = None) -> MeanShare:
    """The mean of values between 0 and 1, shape (n,), n >= 2, and how much it varies.

    `codes` number the values' clusters from 0, at least two of them; without `codes`, each value is a cluster. The
    variance is CR2 with Satterthwaite's degrees of freedom, as in `clustered_mean` (Bell & McCaffrey 2002). Where all
    clusters' averages are equal it is taken from the share itself, one outcome per cluster. Never raises.
    """
    n = values.size
    sizes = np.ones(n) if codes is None else np.bincount(codes).astype(np.float64)
    sums = values if codes is None else np.bincount(codes, weights=values)
    mean = float(values.mean())
    share = sizes / n
    lever = share**2 / (1.0 - share)
    variance = float(np.dot(lever, np.square(sums / sizes - mean)))
    spread = mean * (1.0 - mean)
    return MeanShare(
        min(1.0, max(0.0, mean)),
        n,
        sizes.size,
        spread / variance if variance > ROUNDING and spread > 0.0 else float(sizes.size),
        round(1.0 / float(np.square(share).sum() + lever.sum() ** 2 - np.square(lever).sum()), 9),
    )
