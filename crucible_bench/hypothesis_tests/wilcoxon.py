"""Wilcoxon's signed-rank test for pairs."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from crucible_bench.data.pairs import Integers, pair_differences
from crucible_bench.data.sample import Sample
from crucible_bench.distributions.hodges_lehmann import pseudomedian
from crucible_bench.distributions.rank_distributions import (
    EXACT_BELOW,
    approximate_depth,
    exact_depth,
    exact_tail,
    midranks,
    normal_tail,
    signed_rank_null,
    tie_sum,
)
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative
from crucible_bench.wording import counted


def wilcoxon_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Signed-rank test (Wilcoxon 1945); W is the rank sum of the positive differences."""
    pairs = pair_differences("wilcoxon", samples)
    levels = pairs.signed_levels()
    nonzero = levels[levels != 0]
    if nonzero.size == 0:
        raise CannotTestError(
            "wilcoxon", f"none of {counted(levels.size, 'difference')} is other than zero: there is nothing to rank"
        )
    ranks = midranks(np.abs(nonzero))
    w = float(ranks[nonzero > 0].sum())
    p_value, notes, choice = _p_value(w, ranks, levels.size, settings.alternative)
    depth, depth_note = _depth(levels.size, settings.estimate_tail)
    point, interval = pseudomedian("wilcoxon", pairs.values, pairs.exponent, depth)
    return conclude(
        "wilcoxon",
        samples,
        settings,
        method=f"Wilcoxon signed-rank test, {settings.sides}",
        statistic=("W", w),
        df=(),
        p_value=p_value,
        estimate=(
            f"Hodges-Lehmann pseudomedian of the differences ({samples[0].name} - {samples[1].name})",
            point,
            settings.bounded(interval),
        ),
        effect=matched_rank_biserial(nonzero, settings),
        assumptions=(
            "values at the same position of the two groups belong together",
            "pairs are independent of each other",
            "the differences are symmetric about their median",
        ),
        notes=(*notes, *depth_note),
        decisions=(choice,),
    )


def _p_value(
    w: float, ranks: np.ndarray[tuple[int], np.dtype[np.float64]], pairs: int, alternative: Alternative
) -> tuple[float, tuple[str, ...], Choice]:
    n, ties = ranks.size, tie_sum(ranks)
    zeros = pairs - n
    notes = (f"{counted(zeros, 'zero difference')} dropped (Wilcoxon's rule)",) if zeros else ()
    clean = not ties and not zeros
    if n < EXACT_BELOW:
        p = exact_tail(signed_rank_null(ranks), round(2.0 * w), alternative)
        note = f"exact p-value, n = {n}" + ("; no ties, no zeros" if clean else ", given the ties and zeros")
        choice = Choice(
            "exact signed-rank distribution",
            f"{n} nonzero differences: every assignment of signs is counted",
            ("normal approximation",),
        )
        return p, (*notes, note), choice
    variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0
    step = float(np.gcd.reduce(np.rint(2.0 * ranks).astype(int))) / 2.0  # of W
    p = normal_tail(w - n * (n + 1.0) / 4.0, variance, alternative, max(0.5, step / 2.0))
    tied = n - np.unique(ranks).size
    what = f"{counted(tied, 'tie')}, " if tied else ""
    note = f"{what}normal approximation with tie and continuity correction"
    why = (
        f"{n} differences"
        if clean
        else f"{n} nonzero differences with {counted(tied, 'tie')} and {counted(zeros, 'zero')}"
    )
    return (
        p,
        (*notes, note),
        Choice("normal approximation of the signed-rank statistic", why, ("exact distribution",)),
    )


def _depth(n: int, tail: float) -> tuple[int, tuple[str, ...]]:
    # The interval uses all differences, zeros included: they are observations of the shift like any other.
    if n < EXACT_BELOW:
        depth = exact_depth(signed_rank_null(np.arange(1.0, n + 1.0))[::2], tail)
        if depth == 0:
            return 0, (f"{n} pairs are too few for a finite interval at this confidence level",)
        return depth, ("interval for the pseudomedian from the Walsh averages, exact (conservative with ties)",)
    mean, variance = n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0
    return approximate_depth(mean, variance, tail), (
        "interval for the pseudomedian from the Walsh averages, with ends by normal approximation",
    )


def matched_rank_biserial(levels: Integers, settings: Settings) -> Effect:
    """(R+ - R-) / (R+ + R-) of the nonzero differences (King & Minium 2003; Kerby 2014).

    It equals the mean sign of the Walsh averages, a U-statistic, whose jackknife standard error (Arvesen 1969) gives
    an interval on Fisher's z scale with t quantiles.
    """
    n = levels.size
    ordered = np.sort(levels)
    against = np.searchsorted(ordered, -levels, side="left") + np.searchsorted(ordered, -levels, side="right")
    signs = n - against  # sum over j of sign(d_i + d_j), with j = i counted once
    total = n * (n + 1.0) / 2.0
    walsh = (signs.sum() + np.sign(levels).sum()) / 2.0
    value = float(walsh / total)
    interval, notes = _biserial_interval(value, (walsh - signs) / (total - n) if n > 1 else None, settings)
    return Effect(
        "rank_biserial",
        value,
        interval,
        Choice(
            "jackknife interval on Fisher's z scale for the rank-biserial correlation",
            "it uses the spread of the data, where the textbook formula uses the variance under no effect, "
            "and it stays within -1 and 1",
            ("null-variance z interval", "bootstrap interval"),
        ),
        notes,
    )


def _biserial_interval(
    value: float, left_out: np.ndarray[tuple[int], np.dtype[np.float64]] | None, settings: Settings
) -> tuple[Interval, tuple[str, ...]]:
    if left_out is None:
        return (-1.0, 1.0), ("one nonzero difference says nothing about the spread of the effect size",)
    n = left_out.size
    quantile = -float(special.stdtrit(n - 1.0, settings.tail))
    if abs(value) >= 1.0:
        bound = (n - quantile**2) / (n + quantile**2)
        note = "all differences have one sign: the effect size's interval is Wilson's (1927) for n signs of n"
        return ((bound, 1.0) if value > 0 else (-1.0, -bound)), (note,)
    error = math.sqrt((n - 1.0) / n * float(np.square(left_out - left_out.mean()).sum()))
    reach = quantile * error / (1.0 - value**2)
    centre = math.atanh(value)
    return (math.tanh(centre - reach), math.tanh(centre + reach)), ()
