"""The Kruskal-Wallis test."""

from __future__ import annotations

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Vector
from crucible_bench.distributions.noncentral import noncentral_chi_square_interval
from crucible_bench.distributions.rank_distributions import midranks, tie_sum
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude
from crucible_bench.wording import counted

_SMALL_GROUP = 5


def kruskal_wallis_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Rank test that two or more groups have the same distribution (Kruskal & Wallis 1952), tie-corrected."""
    sizes = [sample.n for sample in samples]
    pooled = np.concatenate([sample.values for sample in samples])
    ranks = midranks(pooled)
    n, k = ranks.size, len(samples)
    if np.ptp(ranks) == 0.0:
        raise CannotTestError(
            "kruskal_wallis", f"every value of all groups is {float(pooled[0])!r}: there is nothing to rank"
        )
    if n == k:
        raise CannotTestError(
            "kruskal_wallis",
            f"{k} groups of 1 value each cannot be told apart; at least one group needs 2 values",
        )
    h = _h(ranks, sizes)
    p_value = float(special.chdtrc(k - 1.0, h))
    effect = _rank_effect(h, n, k, settings)
    tied = n - np.unique(ranks).size
    notes = [f"{counted(tied, 'tie')}, tie correction applied" if tied else "no ties"]
    if min(sizes) < _SMALL_GROUP:
        notes.append(
            f"the smallest group has {min(sizes)} values: below {_SMALL_GROUP} the chi-square approximation is rough"
        )
    return conclude(
        "kruskal_wallis",
        samples,
        settings,
        method="Kruskal-Wallis rank sum test",
        statistic=("H", h),
        df=(k - 1.0,),
        p_value=p_value,
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=(
            "observations are independent, within and between the groups",
            "without an effect all groups have the same distribution",
            "H is approximately chi-square distributed",
        ),
        notes=tuple(notes),
        decisions=(),
        disagreement="H tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


def _h(ranks: Vector, sizes: list[int]) -> float:
    n = float(ranks.size)
    by_group = np.split(ranks, np.cumsum(sizes)[:-1])
    spread = sum(part.size * (float(part.mean()) - (n + 1.0) / 2.0) ** 2 for part in by_group)
    return 12.0 / (n * (n + 1.0)) * spread / (1.0 - tie_sum(ranks) / (n**3 - n))


def _rank_effect(h: float, n: int, k: int, settings: Settings) -> Effect:
    """Epsilon squared H / (n - 1) (Kelley 1935; Tomczak & Tomczak 2014), or eta squared (H - k + 1) / (n - k).

    Both estimate the same share, so both carry the same interval: the noncentralities under which H is not extreme,
    by the limiting noncentral chi-square distribution of H (Andrews 1954), over n - 1.
    """
    notes: tuple[str, ...] = ()
    value = h / (n - 1.0)
    if settings.effect_size == "eta_squared":
        value = (h - k + 1.0) / (n - k)
        if value < 0.0:
            notes += (f"eta squared came out as {value:.3g} and is given as 0, its smallest possible value",)
    low, high = noncentral_chi_square_interval(h, k - 1.0, settings.confidence_level)
    if high == 0.0:
        notes += ("an H this low is improbable even without an effect: both ends of the effect size's interval are 0",)
    choice = Choice(
        "noncentral chi-square interval for the effect size",
        "it agrees with the test about zero and keeps its confidence for small and moderate shifts, where "
        "percentiles of bootstrapped H, which no resample brings to zero, cover too rarely; "
        "for strong effects it is wider than necessary",
        ("bootstrap interval",),
    )
    interval = min(1.0, low / (n - 1.0)), min(1.0, high / (n - 1.0))
    return Effect(settings.effect_size, min(1.0, max(0.0, value)), interval, choice, notes)
