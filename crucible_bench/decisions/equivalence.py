"""Differences judged against a margin: equivalence, non-inferiority, and which of two is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scipy import special

from crucible_bench.compared import MarginResult, Verdict
from crucible_bench.data.moments import LEAST_SQUARES, moments
from crucible_bench.data.outcomes import booleans_as_numbers
from crucible_bench.data.sample import Sample, Values, read_groups, read_sample, scale_exponent, scaled
from crucible_bench.decisions.differences import Difference, Differences
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference
from crucible_bench.levels import share
from crucible_bench.result import Choice, Interval

_MOST_REPLICATES: Final = 10**9


def judge_margin(
    groups: Mapping[str, Values],
    margin: float,
    *,
    paired: bool = False,
    difference: Differences | None = None,
    higher_is_better: bool = True,
    non_inferiority: bool = False,
    alpha: float = 0.05,
) -> MarginResult:
    """Judge the first of two groups against the second by their means and a margin, the difference that would matter.

    `groups` maps names to values of shape (n,). `margin` is in their units; for outcomes (booleans, or only the numbers
    0 and 1) it is a difference of shares. The first rule that holds gives the verdict. (l, u) is the 1 - 2 alpha
    interval and (L, U) the 1 - alpha interval of the difference, with its sign chosen so that positive is good:

    | verdict | holds when | source |
    | --- | --- | --- |
    | equivalent | -margin < l and u < margin | TOST, Schuirmann 1987 |
    | better | 0 < L | the two-sided test |
    | worse | U < 0 | the two-sided test |
    | non_inferior, if asked for | -margin < l | one-sided test against the margin |
    | inconclusive | otherwise | |

    Whatever the true difference, the chance of a false verdict is at most alpha. Better and worse cost alpha / 2 each;
    beyond the margin, every false verdict lies in a single one-sided event. A difference that is not zero but lies
    within the margin is equivalent, with a note: the margin says that it does not matter.

    The test is Welch's t-test, or that of pairs, or that of the design in `difference`. Shares are judged by score
    intervals (Miettinen & Nurminen 1985; for pairs Tango 1998), because t intervals of outcomes near 0 and 1 are too
    short; `two_proportions` and `mcnemar_midp` are the matching tests of no difference.

    Raises CannotTestError for a margin that is not a positive number and for data that the test refuses, ValueError for
    an alpha that is not below 1/2.
    """
    test, alpha = "margin", _checked(alpha, margin)
    samples = read_groups(test, booleans_as_numbers(groups))
    if len(samples) != 2:
        raise CannotTestError(
            test, f"it judges the first of two groups against the second, but {len(samples)} were given"
        )
    pair = samples[0], samples[1]
    of = (difference or Differences("paired" if paired else "independent")).of(pair)
    return _judged(
        of(test, pair),
        pair,
        margin,
        alpha,
        paired=of.design != "independent",
        higher_is_better=higher_is_better,
        non_inferiority=non_inferiority,
        intervals=f"{of.intervals} intervals",
        method=f"{of.intervals} intervals against a margin (two one-sided tests)",
        assumptions=of.assumptions,
    )


def judge_new_value(
    value: float,
    earlier: Values,
    margin: float,
    *,
    higher_is_better: bool = True,
    non_inferiority: bool = False,
    alpha: float = 0.05,
) -> MarginResult:
    """Judge one new value against k earlier ones of the same kind, by the verdicts of `judge_margin`.

    The interval is the prediction interval of a new observation, turned around: value - mean +- t s sqrt(1 + 1/k), with
    k - 1 degrees of freedom (Hahn & Meeker 1991, chapter 4; as a test of one case against a small sample: Crawford &
    Howell 1998). The new value is assumed to vary as the earlier ones do. `earlier` has shape (k,); the margin is in
    its units.

    `more_replicates` is how many more earlier values would decide; None if no number would, because the new value's own
    variation is too large for the margin. Raises as `judge_margin` does, and CannotTestError for fewer than two earlier
    values or for values that are all equal.
    """
    test, alpha = "margin", _checked(alpha, margin)
    new, sample = read_sample(test, "new", [value]), read_sample(test, "earlier", earlier)
    if sample.n < 2:
        raise CannotTestError(test, "one earlier value has no spread to judge by; at least two are needed")
    if sample.is_constant:
        raise CannotTestError(
            test,
            f"all {sample.n} earlier values are equal up to rounding, so a new one has no standard error; no inference "
            "is needed for a difference without variation",
        )
    exponent = scale_exponent((new, sample))
    of = moments(sample.values, exponent)
    if of.squares < LEAST_SQUARES:
        raise CannotTestError(test, "the new value is too far from the earlier ones for double precision")
    difference = _NewValue(
        float(scaled(new.values, exponent)[0]) - of.reference - of.offset,
        math.sqrt(of.variance * (1.0 + 1.0 / sample.n)),
        sample.n - 1.0,
        exponent,
        (of.variance,),
        (sample.n,),
    )
    return _judged(
        difference,
        (new, sample),
        margin,
        alpha,
        paired=False,
        higher_is_better=higher_is_better,
        non_inferiority=non_inferiority,
        method="t intervals of one new value against a margin",
        intervals="t intervals of a new observation",
        assumptions=(
            "the new value and the earlier ones are independent",
            "they are normal, with one standard deviation",
        ),
    )


@dataclass(frozen=True, slots=True)
class _NewValue(MeanDifference):
    """One value minus the mean of earlier ones; only the number of earlier ones can grow."""

    def half_width(self, tail: float, more: int) -> float:
        n = self.counts[0] + more
        return -float(special.stdtrit(n - 1.0, tail)) * math.sqrt(self.variances[0] * (1.0 + 1.0 / n))


def _checked(alpha: float, margin: float) -> float:
    alpha = share("alpha", alpha)
    if alpha >= 0.5:
        raise ValueError(f"alpha must lie below 0.5, where intervals have a width, but is {alpha!r}")
    if isinstance(margin, bool) or not (math.isfinite(margin) and margin > 0.0):
        raise CannotTestError("margin", f"the margin must be a positive number in units of the data, not {margin!r}")
    return alpha


def _judged(
    difference: Difference,
    pair: tuple[Sample, Sample],
    margin: float,
    alpha: float,
    *,
    paired: bool,
    higher_is_better: bool,
    non_inferiority: bool,
    method: str,
    intervals: str,
    assumptions: tuple[str, ...],
) -> MarginResult:
    test = "margin"
    low, high = difference.interval(test, alpha)
    wide = difference.interval(test, alpha / 2.0)
    p_above, p_below = difference.upper_tail(-margin), difference.lower_tail(margin)
    sided = (low, high, *wide) if higher_is_better else (-high, -low, -wide[1], -wide[0])
    verdict = _verdict(sided, margin, non_inferiority)
    more = _more_replicates(difference, margin, alpha) if verdict == "inconclusive" else 0
    return MarginResult(
        verdict=verdict,
        method=method,
        groups=(pair[0].name, pair[1].name),
        n=(pair[0].n, pair[1].n),
        paired=paired,
        higher_is_better=higher_is_better,
        margin=float(margin),
        alpha=alpha,
        estimate=difference.estimate(test),
        df=difference.df,
        confidence_interval=wide,
        equivalence_interval=(low, high),
        p_equivalence=max(p_above, p_below),
        p_non_inferiority=p_above if higher_is_better else p_below,
        p_difference=difference.two_sided(),
        more_replicates=more,
        assumptions=(*assumptions, "the margin was declared before the data were seen"),
        notes=_notes(verdict, wide, sided, more),
        decisions=(
            Choice(
                intervals,
                "one interval answers equivalence, superiority and non-inferiority alike, so the verdicts cannot "
                "contradict each other",
                ("separate tests for each question",),
            ),
        ),
    )


def _verdict(sided: tuple[float, float, float, float], margin: float, non_inferiority: bool) -> Verdict:
    low, high, wide_low, wide_high = sided
    if -margin < low and high < margin:
        return "equivalent"
    if wide_low > 0.0:
        return "better"
    if wide_high < 0.0:
        return "worse"
    return "non_inferior" if non_inferiority and low > -margin else "inconclusive"


def _notes(
    verdict: Verdict, wide: Interval, sided: tuple[float, float, float, float], more: int | None
) -> tuple[str, ...]:
    if verdict == "equivalent" and not wide[0] <= 0.0 <= wide[1]:
        side = "better" if sided[2] > 0.0 else "worse"
        return (f"the first group is {side} by a difference that is not zero but lies within the margin",)
    if verdict == "inconclusive" and more:
        return (
            f"{more:,} more is a planning number from the spread seen here: with that many more, the expected interval "
            "is as short as the margin and decides, whatever the difference",
        )
    return ()


def _more_replicates(difference: Difference, margin: float, alpha: float) -> int | None:
    """The fewest more for which the expected 1 - alpha interval is no longer than the margin.

    An interval no longer than the margin either leaves zero out, or lies within the margin on both sides.
    """
    try:
        goal = math.ldexp(margin, -difference.exponent) / 2.0
    except OverflowError:
        return 0

    def reaches(more: int) -> bool:
        return difference.half_width(alpha / 2.0, more) <= goal

    if not reaches(_MOST_REPLICATES):
        return None
    low, high = -1, 1
    while not reaches(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
