"""Differences judged against a margin: equivalence, non-inferiority, and which of two is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from crucible_core.stats.differences import ASSUMPTIONS, INTERVALS, Differences
from crucible_core.stats.levels import share
from crucible_core.stats.mean_difference import MeanDifference
from crucible_core.stats.refusal import CannotTestError
from crucible_core.stats.result import Choice, Interval, plain_json
from crucible_core.stats.sample import Values, read_groups

Verdict = Literal["better", "equivalent", "inconclusive", "non_inferior", "worse"]

_MOST_REPLICATES: Final = 10**9


@dataclass(frozen=True, slots=True)
class MarginResult:
    """The first group judged against the second.

    `estimate` and the intervals are the first mean minus the second, in units of the data, whichever direction is
    better. `confidence_interval` has the confidence 1 - alpha and decides between better and worse;
    `equivalence_interval` has 1 - 2 alpha, its ends are the one-sided 1 - alpha bounds, and it is held against the
    margin. `p_equivalence` is the larger of the two one-sided p-values (TOST), `p_non_inferiority` the one on the bad
    side, `p_difference` the two-sided one against no difference.

    `more_replicates` is a planning number, per group (or pairs): how many more make the expected 1 - alpha interval
    as short as the margin, which always decides, whatever the true difference. It rests on the spread seen here, and
    on nothing about the difference seen here. 0 where the verdict stands; None if a billion would not do.
    """

    verdict: Verdict
    method: str
    groups: tuple[str, str]
    n: tuple[int, int]
    paired: bool
    higher_is_better: bool
    margin: float
    alpha: float
    estimate: float
    df: float
    confidence_interval: Interval
    equivalence_interval: Interval
    p_equivalence: float
    p_non_inferiority: float
    p_difference: float
    more_replicates: int | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


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
    """Judge the first of two groups against the second by mean and margin, the difference that would matter.

    The first rule that holds gives the verdict; (l, u) is the 1 - 2 alpha interval and (L, U) the 1 - alpha interval
    of the difference, turned so that positive is good:

    | verdict | holds when | source |
    | --- | --- | --- |
    | equivalent | -margin < l and u < margin | TOST, Schuirmann 1987 |
    | better | 0 < L | the two-sided t-test |
    | worse | U < 0 | the two-sided t-test |
    | non_inferior, if asked | -margin < l | one-sided t-test against the margin |
    | inconclusive | otherwise | |

    Whatever the true difference, the chance of a verdict that is false is at most alpha: better and worse cost
    alpha / 2 each, and beyond the margin every false verdict lies in one one-sided event. A difference that is not
    zero but lies within the margin is equivalent, with a note: the margin says that it does not matter.

    The t-test is Welch's, or that of pairs, or that of the design in `difference`.

    Raises CannotTestError for a margin that is not a positive number and for data that the t-test refuses, ValueError
    for an alpha that is not below 1/2.
    """
    test = "margin"
    alpha = share("alpha", alpha)
    if alpha >= 0.5:
        raise ValueError(f"alpha must lie below 0.5, where intervals have a width, but is {alpha!r}")
    if isinstance(margin, bool) or not (math.isfinite(margin) and margin > 0.0):
        raise CannotTestError(test, f"the margin must be a positive number in units of the data, not {margin!r}")
    samples = read_groups(test, groups)
    if len(samples) != 2:
        raise CannotTestError(
            test, f"it judges the first of two groups against the second, but {len(samples)} were given"
        )
    pair = samples[0], samples[1]
    of = difference or Differences("paired" if paired else "independent")
    found = of(test, pair)
    low, high = found.interval(test, alpha)
    wide = found.interval(test, alpha / 2.0)
    p_above, p_below = found.upper_tail(-margin), found.lower_tail(margin)
    sided = (low, high, *wide) if higher_is_better else (-high, -low, -wide[1], -wide[0])
    verdict = _verdict(sided, margin, non_inferiority)
    return MarginResult(
        verdict=verdict,
        method=f"{INTERVALS[of.design]} intervals against a margin (two one-sided tests)",
        groups=(pair[0].name, pair[1].name),
        n=(pair[0].n, pair[1].n),
        paired=of.design != "independent",
        higher_is_better=higher_is_better,
        margin=float(margin),
        alpha=alpha,
        estimate=found.estimate(test),
        df=found.df,
        confidence_interval=wide,
        equivalence_interval=(low, high),
        p_equivalence=max(p_above, p_below),
        p_non_inferiority=p_above if higher_is_better else p_below,
        p_difference=found.two_sided(),
        more_replicates=_more_replicates(found, margin, alpha) if verdict == "inconclusive" else 0,
        assumptions=(
            *ASSUMPTIONS[of.design],
            "the mean difference is approximately normal",
            "the margin was declared before the data were seen",
        ),
        notes=_notes(verdict, wide, sided),
        decisions=(
            Choice(
                f"{INTERVALS[of.design]} intervals",
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


def _notes(verdict: Verdict, wide: Interval, sided: tuple[float, float, float, float]) -> tuple[str, ...]:
    if verdict == "equivalent" and not wide[0] <= 0.0 <= wide[1]:
        side = "better" if sided[2] > 0.0 else "worse"
        return (f"the first group is {side} by a difference that is not zero but lies within the margin",)
    if verdict == "inconclusive":
        return (
            "more_replicates is a planning number from the spread seen here: with so many more the expected interval "
            "is as short as the margin and decides, whatever the difference",
        )
    return ()


def _more_replicates(difference: MeanDifference, margin: float, alpha: float) -> int | None:
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
