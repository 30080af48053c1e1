"""The Mann-Whitney test for two independent groups."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Vector, scale_exponent, scaled
from crucible_bench.distributions.hodges_lehmann import shift
from crucible_bench.distributions.rank_distributions import (
    EXACT_BELOW,
    TiedRanks,
    approximate_depth,
    exact_depth,
    exact_tail,
    midranks,
    normal_tail,
    tie_sum,
    untied_u_null,
)
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative, EffectSizeName
from crucible_bench.wording import counted

DOMINANCE_EFFECTS: Final[tuple[EffectSizeName, ...]] = ("rank_biserial", "cliffs_delta", "common_language")
"""What `dominance` computes: the first two are one number under the names of two literatures."""


def mann_whitney_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Rank test (Mann & Whitney 1947); U counts the pairs in which the first group is higher, ties as half."""
    x, y = samples
    ranks = midranks(np.concatenate([x.values, y.values]))
    if np.ptp(ranks) == 0.0:
        raise CannotTestError(
            "mann_whitney", f"every value of both groups is {float(x.values[0])!r}: there is nothing to rank"
        )
    u = float(ranks[: x.n].sum()) - x.n * (x.n + 1.0) / 2.0
    p_value, note, choice = _p_value(u, ranks, (x.n, y.n), settings.alternative)
    depth, depth_note = _depth(x.n, y.n, settings.estimate_tail)
    exponent = scale_exponent(samples)
    point, interval = shift("mann_whitney", scaled(x.values, exponent), scaled(y.values, exponent), exponent, depth)
    return conclude(
        "mann_whitney",
        samples,
        settings,
        method=f"Mann-Whitney U test, {settings.sides}",
        statistic=("U", u),
        df=(),
        p_value=p_value,
        estimate=(f"Hodges-Lehmann shift ({x.name} - {y.name})", point, settings.bounded(interval)),
        effect=dominance(x.values, y.values, u, settings),
        assumptions=(
            "observations are independent, within and between the groups",
            "the p-value assumes that without an effect both groups have the same distribution",
            "the shift and its interval assume distributions that differ in location only; the effect size does not",
        ),
        notes=(note, depth_note),
        decisions=(choice,),
    )


def _p_value(u: float, ranks: Vector, sizes: tuple[int, int], alternative: Alternative) -> tuple[float, str, Choice]:
    (n, m), ties = sizes, tie_sum(ranks)
    if not ties and max(n, m) < EXACT_BELOW:
        choice = Choice(
            "exact U distribution", f"no ties and both groups below {EXACT_BELOW}", ("normal approximation",)
        )
        return (
            exact_tail(untied_u_null(n, m), round(u), alternative),
            f"exact p-value, n = {n} and {m}; no ties",
            choice,
        )
    tied_ranks = TiedRanks.of(ranks)
    if ties and (p := tied_ranks.exact_tail(n, alternative)) is not None:
        choice = Choice(
            "exact permutation distribution of the midranks",
            f"groups of {n} and {m} with ties, for which the normal approximation can be far off",
            ("normal approximation with tie correction",),
        )
        return p, f"exact p-value, n = {n} and {m}, given the ties", choice
    total = n + m
    variance = n * m / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)))
    tied = total - np.unique(ranks).size
    note = f"{counted(tied, 'tie')}, " if tied else ""
    choice = Choice(
        "normal approximation of U",
        f"groups of {n} and {m} with {counted(tied, 'tie')}",
        ("exact distribution",),
    )
    return (
        normal_tail(u - n * m / 2.0, variance, alternative, tied_ranks.half_step),
        f"{note}normal approximation with tie and continuity correction",
        choice,
    )


def _depth(n: int, m: int, tail: float) -> tuple[int, str]:
    if max(n, m) < EXACT_BELOW:
        depth = exact_depth(untied_u_null(n, m), tail)
        if depth == 0:
            return 0, f"groups of {n} and {m} are too small for a finite interval at this confidence level"
        return depth, "interval for the shift from the pairwise differences, exact (conservative with ties)"
    depth = approximate_depth(n * m / 2.0, n * m * (n + m + 1.0) / 12.0, tail)
    if depth == 0:
        return 0, f"groups of {n} and {m} are too small for a finite interval at this confidence level"
    return depth, ("interval for the shift from the pairwise differences, with ends by normal approximation")


def dominance(x: Vector, y: Vector, u: float, settings: Settings) -> Effect:
    """P(X > Y) - P(X < Y): the rank-biserial correlation (Wendt 1972), also Cliff's delta (Cliff 1993).

    Or, the same on another scale, P(X > Y) + P(X = Y) / 2: the common language effect size (McGraw & Wong 1992, with
    the ties of Vargha & Delaney 2000). Interval: the consistent variance of Cliff (1996) in the asymmetric interval of
    Feng & Cliff (2004), t quantiles.
    """
    n, m = x.size, y.size
    delta = 2.0 * u / (n * m) - 1.0
    interval, notes = dominance_interval(delta, x, y, settings.tail)
    choice = Choice(
        "Feng and Cliff's asymmetric interval with Cliff's consistent variance",
        "it needs neither equal variances nor large groups and stays within -1 and 1",
        ("symmetric interval", "bootstrap interval"),
    )
    if settings.effect_size == "common_language":
        low, high = interval
        return Effect("common_language", u / (n * m), ((low + 1.0) / 2.0, (high + 1.0) / 2.0), choice, notes)
    return Effect(settings.effect_size, delta, interval, choice, notes)


def dominance_interval(delta: float, x: Vector, y: Vector, tail: float) -> tuple[Interval, tuple[str, ...]]:
    """Feng and Cliff's (2004) interval of P(X > Y) - P(X < Y), and notes about it."""
    n, m = x.size, y.size
    if min(n, m) < 2:
        return (-1.0, 1.0), ("a group of one value says nothing about the spread of the effect size",)
    quantile = -float(special.stdtrit(n + m - 2.0, tail))
    if abs(delta) >= 1.0:
        smaller = min(n, m)
        bound = (smaller - quantile**2) / (smaller + quantile**2)
        note = (
            "the groups do not overlap: the effect size's interval uses the largest variance a delta allows, "
            "(1 - delta**2) / min(n) (Feng & Cliff 2004)"
        )
        return ((bound, 1.0) if delta > 0 else (-1.0, -bound)), (note,)
    return asymmetric_interval(delta, dominance_variance(delta, x, y), quantile), ()


def asymmetric_interval(delta: float, variance: float, quantile: float) -> Interval:
    """Interval for a delta inside (-1, 1) that bends towards zero as it should (Feng & Cliff 2004)."""
    centre, scale = delta - delta**3, 1.0 - delta**2 + quantile**2 * variance
    reach = quantile * math.sqrt(variance * ((1.0 - delta**2) ** 2 + quantile**2 * variance))
    return max(-1.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def dominance_variance(delta: float, x: Vector, y: Vector) -> float:
    """Cliff's (1996) consistent estimate of the variance of delta; shapes (n,) and (m,), n, m >= 2."""
    n, m = x.size, y.size
    by_row, row_pairs = _dominance(x, y)
    by_column, _ = _dominance(y, x)
    rows = float(np.square(by_row / m - delta).sum()) / (n - 1.0)
    columns = float(np.square(by_column / n + delta).sum()) / (m - 1.0)
    cells = (row_pairs - n * m * delta**2) / ((n - 1.0) * (m - 1.0))
    return ((m - 1.0) * rows + (n - 1.0) * columns + cells) / (float(n) * m)


def _dominance(values: Vector, others: Vector) -> tuple[Vector, float]:
    """For each value how many others are lower minus how many are higher; and the number of untied pairs."""
    ordered = np.sort(others)
    lower = np.searchsorted(ordered, values, side="left")
    higher = others.size - np.searchsorted(ordered, values, side="right")
    return (lower - higher).astype(np.float64), float(lower.sum() + higher.sum())
