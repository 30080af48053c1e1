"""The difference of a quantile of two groups, such as the 95th percentile of latencies, with its bootstrap interval."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.pairs import check_lengths
from crucible_bench.data.sample import (
    Sample,
    Values,
    Vector,
    check_count,
    read_groups,
    read_sample,
    scale_exponent,
    scaled,
    unscaled,
)
from crucible_bench.distributions.resampling import check_resamples, generators
from crucible_bench.errors import CannotTestError
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, TestResult, conclude
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import Alternative, TestName
from crucible_bench.wording import percentile

__all__ = ["compare_quantiles", "quantile_interval"]

_BATCH: Final = 1 << 17
_NOISE: Final = 1e-12


def compare_quantiles(
    groups: Mapping[str, Values],
    quantile: float,
    *,
    paired: bool = False,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """The quantile of the first group minus that of the second, in the units of the data, with a bootstrap interval.

    `groups` are two rows of numbers, shapes (n,) and (m,); `quantile` is 0.95 for the 95th percentile. With `paired`,
    values i of both form a pair, and pairs are resampled; the estimate is still the difference of the two groups'
    quantiles, not the quantile of the differences. The quantile of a sample is interpolated as by default in numpy and
    R (definition 7 of Hyndman & Fan 1996).

    The ends of the interval are quantiles of the resampled differences (Efron 1979). For quantiles, the coverage error
    of such an interval is of the order of 1/sqrt(n) (Falk & Kaufmann 1991); BCa would need an acceleration, which a
    jackknife cannot give here. The p-value is that of the test that the interval inverts: twice (b + 1) / (B + 1) if b
    of B resamples lie on the other side of zero. There is no effect size: the difference has the units of the data.

    Raises CannotTestError for more or fewer than two groups, too few values for an interval with two ends (`needed`),
    pairs of different lengths, and data that no test takes; ValueError for a quantile, a level, a number of resamples
    or a seed out of range.
    """
    name: TestName = "paired_quantile" if paired else "quantile"
    settings = read_settings(
        name,
        (),
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
        resamples=resamples,
        seed=seed,
    )
    quantile = _checked(quantile)
    check_resamples(name, settings.resamples, (settings.alpha,))
    samples = read_groups(name, groups)
    check_count(name, samples, True)
    difference = QuantileDifference.of(name, samples, quantile, paired, settings.resamples, settings.seed)
    interval = difference.interval(name, settings.estimate_tail)
    what = percentile(quantile)
    estimate = difference.estimate(name)
    return conclude(
        name,
        samples,
        settings,
        method=f"{'paired ' if paired else ''}bootstrap of the {what}, {settings.sides}, {settings.resamples} "
        "resamples",
        statistic=("difference", estimate),
        df=(),
        p_value={
            "two-sided": difference.two_sided,
            "greater": difference.upper_tail,
            "less": difference.lower_tail,
        }[settings.alternative](),
        estimate=(
            f"difference of {what}s ({samples[0].name} - {samples[1].name})",
            estimate,
            settings.bounded(interval),
        ),
        effect=None,
        assumptions=(
            ("values at the same position of the groups belong together", "pairs are independent of each other")
            if paired
            else ("observations are independent, within and between the groups",)
        ),
        notes=(f"{settings.resamples} resamples, seed {settings.seed}", *_notes(difference.replicates)),
        decisions=(
            Choice(
                "percentile bootstrap interval",
                "its coverage holds for quantiles of skewed values and of values with gaps, and the test inverts it "
                "(Falk & Kaufmann 1991)",
                ("BCa bootstrap interval", "Harrell-Davis estimator"),
            ),
        ),
        disagreement="p is counted with one more resample on either side",
    )


def quantile_interval(values: Values, quantile: float, *, confidence_level: float = 0.95) -> Interval:
    """An interval of a group's quantile that runs between two of its values, shape (n,), whatever their distribution.

    The number of values below the quantile is binomial, so that the confidence is at least `confidence_level`
    (Conover 1999, section 3.2). An end is infinite if there are too few values for it.

    Raises CannotTestError for data that no test takes, ValueError for a quantile or a level out of range.
    """
    quantile, level = _checked(quantile), levels(0.05, confidence_level)[1]
    ordered = np.sort(read_sample("quantile", "values", values).values)
    n, tail = ordered.size, (1.0 - level) / 2.0
    at_most = special.bdtr(np.arange(n + 1), n, quantile)  # P(at most k of n are below)
    below = int(np.count_nonzero(at_most <= tail))  # the value after that many has only such k below it
    above = int(np.count_nonzero(1.0 - at_most <= tail))
    low = ordered[below - 1] if below > 0 else -math.inf
    high = ordered[n + 1 - above] if above > 1 else math.inf
    return float(low), float(high)


def needed(quantile: float, tail: float) -> int:
    """The fewest values for an interval that leaves `tail` out at either end.

    All of n values lie below the quantile q with probability q**n: with fewer values, nothing bounds it from above.
    """
    return math.ceil(math.log(tail) / math.log(max(quantile, 1.0 - quantile)) - 1e-9)


def _checked(quantile: float) -> float:
    if not 0.0 < quantile < 1.0:
        raise ValueError(f"a quantile lies between 0 and 1, such as 0.95 for the 95th percentile, not {quantile!r}")
    return float(quantile)


@dataclass(frozen=True, slots=True, eq=False)
class QuantileDifference:
    """The quantile of the first of two groups minus that of the second, with its bootstrap distribution.

    `replicates`, shape (B,) and sorted, and `value` are divided by 2**exponent. `df` is infinite: no t is involved.
    """

    value: float
    replicates: Vector
    exponent: int
    quantile: float
    samples: tuple[Sample, ...]
    df: float = math.inf

    @classmethod
    def of(
        cls, test: str, samples: tuple[Sample, ...], quantile: float, paired: bool, resamples: int, seed: int
    ) -> QuantileDifference:
        """The difference for two samples. Raises CannotTestError for pairs of different lengths."""
        if paired:
            check_lengths(test, samples)
        exponent = scale_exponent(samples)
        both = [scaled(sample.values, exponent) for sample in samples]
        value = float(np.quantile(both[0], quantile) - np.quantile(both[1], quantile))
        draw = _drawn_pairs if paired else _drawn_groups
        return cls(value, np.sort(draw(samples, both, quantile, resamples, seed)), exponent, quantile, samples)

    def estimate(self, test: str) -> float:
        """The difference in units of the data."""
        return unscaled(test, self.value, self.exponent)

    def interval(self, test: str, tail: float) -> Interval:
        """The replicates of rank (B + 1) * tail from either end, in units of the data.

        Raises CannotTestError for too few values, or too few resamples.
        """
        self._refuse_few(test, tail)
        check_resamples(test, self.replicates.size, (tail,))
        rank = math.floor((self.replicates.size + 1) * tail + 1e-9)
        low, high = float(self.replicates[rank - 1]), float(self.replicates[-rank])
        return unscaled(test, low, self.exponent), unscaled(test, high, self.exponent)

    def upper_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at most `than`."""
        return self._share(self.replicates <= math.ldexp(than, -self.exponent) + self._noise)

    def lower_tail(self, than: float = 0.0) -> float:
        """The one-sided p-value against a difference of at least `than`."""
        return self._share(self.replicates >= math.ldexp(than, -self.exponent) - self._noise)

    def two_sided(self) -> float:
        """The two-sided p-value against no difference."""
        return min(1.0, 2.0 * min(self.upper_tail(), self.lower_tail()))

    def half_width(self, tail: float, more: int) -> float:
        """Half the length, divided by 2**exponent, if each group had `more` further values: it falls as 1/sqrt(n)."""
        rank = math.floor((self.replicates.size + 1) * tail + 1e-9)
        n = min(sample.n for sample in self.samples)
        return float(self.replicates[-rank] - self.replicates[rank - 1]) / 2.0 * math.sqrt(n / (n + more))

    @property
    def _noise(self) -> float:
        return _NOISE * float(np.abs(self.replicates).max())

    def _share(self, extreme: NDArray[np.bool_]) -> float:
        return (float(np.count_nonzero(extreme)) + 1.0) / (self.replicates.size + 1.0)

    def _refuse_few(self, test: str, tail: float) -> None:
        quantile = self.quantile
        fewest, least = min(self.samples, key=operator.attrgetter("n")), needed(quantile, tail)
        if fewest.n < least:
            extreme, side = ("largest", "below") if quantile >= 0.5 else ("smallest", "above")
            chance = max(quantile, 1.0 - quantile) ** fewest.n
            raise CannotTestError(
                test,
                f"group {fewest.name!r} has {fewest.n} values, and even the {extreme} of them lies {side} the "
                f"{percentile(quantile)} with a chance of {chance:.2g}; an interval that leaves out {tail:.3g} at an "
                f"end needs at least {least} values per group",
            )


# --- resampling -------------------------------------------------------------------------------------------------------


def _drawn_groups(
    samples: tuple[Sample, ...], both: list[Vector], quantile: float, resamples: int, seed: int
) -> Vector:
    """Differences of the quantiles of separate resamples, shape (B,).

    The k-th smallest of n drawn positions needs no n draws: the k-th of n uniform numbers has a Beta distribution, and
    that of the next one, given it, is Beta too (David & Nagaraja 2003, section 2.5).
    """
    first, second = (
        _resampled(np.sort(values), quantile, resamples, stream)
        for values, stream in zip(both, generators(seed, samples), strict=True)
    )
    return first - second


def _resampled(ordered: Vector, quantile: float, resamples: int, stream: np.random.Generator) -> Vector:
    n = ordered.size
    place = (n - 1) * quantile
    k = int(place)  # the k + 1-th smallest value and the next one
    uniform = stream.beta(k + 1, n - k, resamples)
    low = ordered[_position(uniform, n)]
    if place == k:
        return low
    uniform += (1.0 - uniform) * stream.beta(1, n - k - 1, resamples)
    return low + (place - k) * (ordered[_position(uniform, n)] - low)


def _position(uniform: Vector, n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.minimum((uniform * n).astype(np.int64), n - 1)


def _drawn_pairs(samples: tuple[Sample, ...], both: list[Vector], quantile: float, resamples: int, seed: int) -> Vector:
    """Differences of the quantiles of resampled pairs, shape (B,)."""
    turned = samples[0].name > samples[1].name
    x, y = reversed(both) if turned else both
    order = np.lexsort((y, x))  # then the order of the pairs does not change which of them are drawn
    x, y = x[order], y[order]
    stream, n = np.random.default_rng([seed, 2]), x.size
    rows = max(1, _BATCH // n)
    parts = []
    for start in range(0, resamples, rows):
        drawn = stream.integers(0, n, (min(rows, resamples - start), n))
        parts.append(np.quantile(x[drawn], quantile, axis=1) - np.quantile(y[drawn], quantile, axis=1))
    replicates = np.concatenate(parts)
    return -replicates if turned else replicates


def _notes(replicates: Vector) -> Iterator[str]:
    if replicates[0] == replicates[-1]:
        yield "every resample gives the same difference, because the values around the quantile are all equal"
