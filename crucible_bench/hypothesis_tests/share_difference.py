"""A difference of two proportions by its score, without a test around it: p-values and intervals that agree.

The mean difference of outcomes has no t distribution: near 0 and 1 its standard error is too small. The score compares
the observed difference with the standard error that it would have if the true difference were the one asked about.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from scipy import optimize, special

from crucible_bench.data.outcomes import read_outcomes
from crucible_bench.data.sample import Sample
from crucible_bench.distributions.hypergeometric import MOST_CELLS, fisher_tail
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Interval
from crucible_bench.vocabulary import Alternative

__all__ = ["IndependentShares", "PairedShares", "independent_shares", "paired_shares"]

LEAST_EXPECTED: Final = 1.0
"""The expected count from which on the N - 1 chi-square keeps its level (Campbell 2007)."""

_SURE: Final = 1e-12


@dataclass(frozen=True, slots=True)
class ShareDifference(abc.ABC):
    """First share minus second, with the tests and intervals that belong to its score.

    An interval contains the differences that the score does not reject. At zero the test has the last word, so that
    interval and test do not contradict each other: where its p-value is exact and does not reject, the interval is
    extended to zero.
    """

    df: ClassVar[float] = math.inf
    exponent: ClassVar[int] = 0

    @property
    @abc.abstractmethod
    def value(self) -> float: ...

    @abc.abstractmethod
    def score(self, than: float = 0.0) -> float:
        """How many standard errors the difference lies above `than`, if that is the true difference."""

    @abc.abstractmethod
    def p_value(self, alternative: Alternative = "two-sided") -> float:
        """The p-value of no difference."""

    @abc.abstractmethod
    def _grown(self, more: int) -> ShareDifference:
        """The same shares with that many more outcomes in each group."""

    def upper_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at most `than`."""
        return self.p_value("greater") if than == 0.0 else float(special.ndtr(-self.score(than)))

    def lower_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at least `than`."""
        return self.p_value("less") if than == 0.0 else float(special.ndtr(self.score(than)))

    def two_sided(self) -> float:
        """The two-sided p-value against no difference."""
        return self.p_value()

    def estimate(self, _: str) -> float:
        """The difference of the shares."""
        return self.value

    def interval(self, _: str, tail: float) -> Interval:
        """The interval that leaves out `tail` at each end."""
        low, high = self._score_interval(tail)
        if low > 0.0 and self.upper_tail() > tail:
            low = 0.0
        if high < 0.0 and self.lower_tail() > tail:
            high = 0.0
        return low, high

    def half_width(self, tail: float, more: int) -> float:
        """Half the interval's length if each group grew by `more` with the same shares."""
        low, high = self._grown(more)._score_interval(tail)
        return (high - low) / 2.0

    def _score_interval(self, tail: float) -> Interval:
        z = -float(special.ndtri(tail))
        return self._root(lambda than: self.score(than) - z, -1.0), self._root(lambda than: self.score(than) + z, 1.0)

    def _root(self, of: Callable[[float], float], end: float) -> float:
        """Where a score that falls as its argument grows crosses zero, between the estimate and the end."""
        near, far = self.value, end
        if abs(far - near) <= _SURE or of(far) * end >= 0.0:  # the score does not get there before the end
            return end
        return float(optimize.brentq(lambda than: _finite(of(than)), min(near, far), max(near, far), xtol=_SURE))


@dataclass(frozen=True, slots=True)
class IndependentShares(ShareDifference):
    """k of n against j of m. Counts may be fractions when an interval is planned."""

    k: float
    n: float
    j: float
    m: float

    @property
    def value(self) -> float:
        return (self.k * self.m - self.j * self.n) / (self.n * self.m)  # whole numbers until one division

    @property
    def least_expected(self) -> float:
        """The smallest expected count of the table if both probabilities are equal."""
        total, both = self.n + self.m, self.k + self.j
        return min(self.n, self.m) * min(both, total - both) / total

    @property
    def is_exact(self) -> bool:
        """Whether the p-value is Fisher's mid-p."""
        both = self.k + self.j
        few = self.least_expected < LEAST_EXPECTED
        return few and min(self.n, self.m, both, self.n + self.m - both) <= MOST_CELLS

    def score(self, than: float = 0.0) -> float:
        """Miettinen and Nurminen's (1985) score: the variance is that of the likeliest shares with that difference,
        times N / (N - 1). At zero it is the root of the N - 1 chi-square (Pearson 1900; Campbell 2007).
        """
        p = _likeliest(self, than)
        q = max(0.0, p - than)
        total = self.n + self.m
        variance = p * (1.0 - p) / self.n + q * (1.0 - q) / self.m
        return _over(self.value - than, variance * total / (total - 1.0))

    def p_value(self, alternative: Alternative = "two-sided") -> float:
        """The N - 1 chi-square's, or Fisher's mid-p where an expected count is below 1."""
        if self.is_exact:
            margins = int(self.n), int(self.m), int(self.k + self.j)
            return fisher_tail(int(self.k), margins, alternative, mid_p=True)
        return normal_tail(self.score(), alternative)

    def _grown(self, more: int) -> IndependentShares:
        n, m = self.n + more, self.m + more
        return IndependentShares(self.k / self.n * n, n, self.j / self.m * m, m)


@dataclass(frozen=True, slots=True)
class PairedShares(ShareDifference):
    """n pairs, of which the first wins `b` alone and the second `c` alone."""

    b: float
    c: float
    n: float
    mid_p: bool = True

    @property
    def value(self) -> float:
        return (self.b - self.c) / self.n

    def score(self, than: float = 0.0) -> float:
        """Tango's (1998) score; at zero it is the root of McNemar's chi-square."""
        b, c, n = self.b, self.c, self.n
        linear, constant = -b - c + (2.0 * n - b + c) * than, -c * than * (1.0 - than)
        second = (math.sqrt(max(0.0, linear * linear - 8.0 * n * constant)) - linear) / (4.0 * n)
        return _over(b - c - n * than, n * max(0.0, 2.0 * second + than * (1.0 - than)))

    def p_value(self, alternative: Alternative = "two-sided") -> float:
        """McNemar's (1947), exact or with the mid-p-value; 1 if no pair differs."""
        b, total = int(self.b), int(self.b + self.c)
        p = binomial_tail(b, total, 0.5, alternative)
        if not self.mid_p:
            return p
        log_half = special.gammaln(total + 1.0) - special.gammaln(b + 1.0) - special.gammaln(total - b + 1.0)
        observed = math.exp(float(log_half) - total * math.log(2.0))
        if alternative != "two-sided":
            return p - observed / 2.0
        smaller = binomial_tail(min(b, total - b), total, 0.5, "less")
        return min(1.0, 2.0 * smaller - observed)

    def _grown(self, more: int) -> PairedShares:
        n = self.n + more
        return PairedShares(self.b / self.n * n, self.c / self.n * n, n)


def independent_shares(test: str, samples: tuple[Sample, Sample]) -> IndependentShares:
    """The difference of two independent groups of outcomes, 0 or 1."""
    first, second = read_outcomes(test, {sample.name: sample.values for sample in samples})
    return IndependentShares(float(first.values.sum()), first.n, float(second.values.sum()), second.n)


def paired_shares(test: str, samples: tuple[Sample, Sample], *, mid_p: bool = True) -> PairedShares:
    """The difference of two groups of outcomes that belong together pair by pair."""
    first, second = read_outcomes(test, {sample.name: sample.values for sample in samples})
    if first.n != second.n:
        raise CannotTestError(
            test,
            f"paired outcomes need groups of one length, but {first.name!r} has {first.n} and {second.name!r} has "
            f"{second.n}; pair them, or use two_proportions for independent groups",
        )
    won, lost = np.count_nonzero(first.values > second.values), np.count_nonzero(first.values < second.values)
    return PairedShares(float(won), float(lost), first.n, mid_p)


def binomial_tail(k: int, n: int, probability: float, alternative: Alternative) -> float:
    """The probability of this many successes or more (greater) or fewer (less); two-sided, twice the smaller."""
    above = 1.0 if k == 0 else float(special.betainc(k, n - k + 1.0, probability))
    below = 1.0 if k == n else float(special.betaincc(k + 1.0, n - k, probability))
    if alternative != "two-sided":
        return above if alternative == "greater" else below
    return min(1.0, 2.0 * min(above, below))


def normal_tail(z: float, alternative: Alternative) -> float:
    """The probability that a normal z is as far out as this, to the side or sides asked about."""
    if alternative == "two-sided":
        return 2.0 * float(special.ndtr(-abs(z)))
    return float(special.ndtr(-z if alternative == "greater" else z))


def _likeliest(of: IndependentShares, than: float) -> float:
    """The first probability, of those that lie `than` above the second, that fits the counts best.

    A root of a cubic, in closed form (Miettinen & Nurminen 1985, appendix 1).
    """
    total, both = of.n + of.m, of.k + of.j
    if than == 0.0:
        return both / total
    third = ((of.n + 2.0 * of.m) * than - total - both) / (3.0 * total)
    linear = ((of.m * than - total - 2.0 * of.j) * than + both) / (3.0 * total)
    q = third**3 - 1.5 * third * linear + of.j * than * (1.0 - than) / (2.0 * total)
    p = math.copysign(math.sqrt(max(0.0, third * third - linear)), q)
    angle = math.pi / 2.0 if p == 0.0 else (math.pi + math.acos(max(-1.0, min(1.0, q / p**3)))) / 3.0
    second = min(1.0, 1.0 - than, max(0.0, -than, 2.0 * p * math.cos(angle) - third))
    return second + than


def _over(difference: float, variance: float) -> float:
    if variance > 0.0:
        return difference / math.sqrt(variance)
    return 0.0 if abs(difference) <= _SURE else math.copysign(math.inf, difference)


def _finite(value: float) -> float:
    return max(-1e300, min(1e300, value)) if value == value else 0.0  # noqa: PLR0124  # inf - inf at both ends
