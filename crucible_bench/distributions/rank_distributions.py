"""Ranks, the null distributions of their statistics, and what intervals take from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.sample import Vector
from crucible_bench.vocabulary import Alternative

# R's wilcox.test draws the line for untied data at the same place, so the p-values agree.
EXACT_BELOW: Final = 50
# With ties the permutation distribution is still exact but depends on the data. Counting it takes up to a second.
_MOST_STEPS: Final = 10**8

_SLACK = 1e-12


def midranks(values: Vector) -> Vector:
    """Ranks from 1, shape (n,); equal values share the mean of their ranks."""
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Vector = (np.cumsum(counts) - (counts - 1) / 2.0)[level]
    return ranks


def signed_rank_null(ranks: Vector) -> Vector:
    """P(2 W = w) for w = 0, 1, ..., where W sums the ranks that random signs make positive.

    Ranks may be midranks; doubling makes them whole. One convolution per rank (Wilcoxon 1945, the exact table).
    """
    doubled = np.rint(2.0 * ranks).astype(int)
    probability = np.zeros(int(doubled.sum()) + 1)
    probability[0] = 1.0
    reach = 0
    for step in doubled:
        reach += int(step)
        shifted = np.zeros(reach + 1)
        shifted[step:] = probability[: reach + 1 - step]
        probability[: reach + 1] = 0.5 * (probability[: reach + 1] + shifted)
    return probability


@dataclass(frozen=True, slots=True, eq=False)
class TiedRanks:
    """Midranks as whole numbers: rank = (least + step * level) / 2, levels from 0 and the largest step possible."""

    levels: NDArray[np.int64]
    step: int

    @classmethod
    def of(cls, ranks: Vector) -> TiedRanks:
        doubled = np.rint(2.0 * ranks).astype(np.int64)
        doubled -= doubled.min()
        step = int(np.gcd.reduce(doubled)) or 1
        return cls(doubled // step, step)

    @property
    def half_step(self) -> float:
        """Half the distance between neighbouring rank sums, and at least the 1/2 of ranks without ties."""
        return max(0.5, self.step / 4.0)

    def exact_tail(self, n: int, alternative: Alternative) -> float | None:
        """The p-value of the sum of the first n ranks among all choices of n; None if counting them takes too long.

        The counts are exact below 2**53, and beyond to the digits of a double.
        """
        m = self.levels.size - n
        few, own = (n, self.levels[:n]) if n <= m else (m, self.levels[n:])
        largest = int(np.sort(self.levels)[m if few == n else n :].sum())
        if few * self.levels.size * largest > _MOST_STEPS:
            return None
        counts = np.zeros((few + 1, largest + 1))
        counts[0, 0] = 1.0
        for step in self.levels.tolist():
            counts[1:, step:] += counts[:-1, : largest + 1 - step].copy()
        if few != n and alternative != "two-sided":
            alternative = "less" if alternative == "greater" else "greater"
        return exact_tail(counts[few] / counts[few].sum(), int(own.sum()), alternative)


@lru_cache(maxsize=64)
def untied_u_null(n: int, m: int) -> Vector:
    """P(U = u) for u = 0 .. n * m without ties (Mann & Whitney 1947), from the Gaussian binomial coefficient.

    Counted in whole numbers, because the division step cancels.
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    total = math.comb(n + m, n)
    probability = np.array([count / total for count in counts])
    probability.flags.writeable = False
    return probability


def exact_tail(null: Vector, observed: int, alternative: Alternative) -> float:
    """The tail at and beyond the observed value; two-sided, twice the smaller tail, at most 1."""
    below, above = float(null[: observed + 1].sum()), float(null[observed:].sum())
    if alternative != "two-sided":
        return min(1.0, above if alternative == "greater" else below)
    return min(1.0, 2.0 * min(below, above))


def normal_tail(deviation: float, variance: float, alternative: Alternative, half_step: float = 0.5) -> float:
    """P-value of a rank statistic's deviation from its mean, with half a step of the statistic as continuity
    correction.
    """
    if alternative != "two-sided":
        towards = deviation if alternative == "greater" else -deviation
        return float(special.ndtr(-(towards - half_step) / math.sqrt(variance)))
    z = max(0.0, abs(deviation) - half_step) / math.sqrt(variance)
    return min(1.0, 2.0 * float(special.ndtr(-z)))


def exact_depth(null: Vector, tail: float) -> int:
    """How many values of the statistic have a lower tail of at most `tail`: the depth k of the interval that runs
    from the k-th smallest to the k-th largest pairwise value (Hollander & Wolfe 1999); 0 if there is none.
    """
    return int(np.count_nonzero(np.cumsum(null) <= tail * (1.0 + _SLACK)))


def approximate_depth(mean: float, variance: float, tail: float) -> int:
    """The same depth from the normal approximation with continuity correction."""
    return max(0, math.floor(mean + float(special.ndtri(tail)) * math.sqrt(variance) + 0.5))


def tie_sum(ranks: Vector) -> float:
    """The sum of t**3 - t over the groups of equal ranks."""
    counts = np.unique(ranks, return_counts=True)[1].astype(float)
    return float((counts**3 - counts).sum())
