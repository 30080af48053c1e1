"""A difference of two means with its standard error, without a test around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from crucible_bench.data.moments import moments, standard_error
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import Sample, unscaled
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.ttests import independent_moments
from crucible_bench.result import Interval


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """First minus second and its standard error, both divided by 2**exponent, and Student's degrees of freedom.

    `variances` (divided by 4**exponent) and `counts` are those of the two groups, or of the differences within pairs,
    or of the clusters. `floor` (divided by 4**exponent) is the part of the squared error that more values cannot lower.
    """

    value: float
    error: float
    df: float
    exponent: int
    variances: tuple[float, ...]
    counts: tuple[int, ...]
    floor: float = 0.0

    def upper_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at most `than` (in units of the data)."""
        return float(special.stdtr(self.df, -self._t(than)))

    def lower_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at least `than`."""
        return float(special.stdtr(self.df, self._t(than)))

    def two_sided(self) -> float:
        """The two-sided p-value against no difference."""
        return min(1.0, 2.0 * float(special.stdtr(self.df, -abs(self._t(0.0)))))

    def interval(self, test: str, tail: float) -> Interval:
        """The interval that leaves out `tail` at each end, in units of the data."""
        reach = -float(special.stdtrit(self.df, tail)) * self.error
        return unscaled(test, self.value - reach, self.exponent), unscaled(test, self.value + reach, self.exponent)

    def half_width(self, tail: float, more: int) -> float:
        """Half the interval's length, divided by 2**exponent, if each count grew by `more` with the same spread."""
        error, df = standard_error(self.variances, tuple(count + more for count in self.counts))
        return -float(special.stdtrit(df, tail)) * math.hypot(error, math.sqrt(self.floor))

    def estimate(self, test: str) -> float:
        """The difference in units of the data."""
        return unscaled(test, self.value, self.exponent)

    def _t(self, than: float) -> float:
        try:
            return (self.value - math.ldexp(than, -self.exponent)) / self.error
        except OverflowError:
            return -math.copysign(math.inf, than)


def independent_difference(test: str, samples: tuple[Sample, Sample]) -> MeanDifference:
    """The difference of two independent groups, under the rules of the t-test."""
    first, second, exponent = independent_moments(test, samples)
    return _difference(first.minus(second), exponent, (first.variance, second.variance), (first.n, second.n))


def paired_difference(test: str, samples: tuple[Sample, Sample]) -> MeanDifference:
    """The difference of two groups whose values belong together pair by pair."""
    pairs = pair_differences(test, samples)
    n = pairs.values.size
    if n < 2:
        raise CannotTestError(test, "one pair has no spread to judge by; at least two pairs are needed")
    if pairs.is_constant:
        raise CannotTestError(
            test,
            f"all {n} differences between {samples[0].name!r} and {samples[1].name!r} are equal up to rounding, so "
            "their mean has no standard error; no inference is needed for a difference without variation",
        )
    of = moments(pairs.values, 0)
    return _difference(of.mean, pairs.exponent, (of.variance,), (n,))


def _difference(value: float, exponent: int, variances: tuple[float, ...], counts: tuple[int, ...]) -> MeanDifference:
    return MeanDifference(value, *standard_error(variances, counts), exponent, variances, counts)
