"""The Brunner-Munzel test for two independent groups."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Vector
from crucible_bench.distributions.rank_distributions import midranks
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mann_whitney import dominance, dominance_interval
from crucible_bench.hypothesis_tests.ttests import t_tail
from crucible_bench.result import Choice, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative

_NOISE = 1e-10
_EXACT_UP_TO: Final = 8


def brunner_munzel_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Test that neither group tends to higher values: P(X > Y) + P(X = Y) / 2 is one half (Brunner & Munzel 2000).

    Unlike Mann-Whitney's, it keeps its level when the groups differ in spread or shape. Up to 8 values per group every
    division of the values is counted (the studentized permutation test of Neubert & Brunner 2007). If the groups do not
    overlap, t is infinite: the p-value is then that of the divisions that separate the values as far, at any n, and the
    interval is Feng and Cliff's (2004) for such groups.
    """
    x, y = samples
    for sample in samples:
        if sample.n < 2:
            raise CannotTestError(
                "brunner_munzel", f"group {sample.name!r} has 1 value, from which no spread can be estimated"
            )
    if x.values.min() == x.values.max() == y.values.min() == y.values.max():
        raise CannotTestError(
            "brunner_munzel", f"every value of both groups is {float(x.values[0])!r}: there is nothing to rank"
        )
    found = _studentized(x.values, y.values)
    u = found.share * x.n * y.n
    p_value, note, choice = _p_value(found, samples, settings.alternative)
    separated = ("the groups do not overlap, so Brunner and Munzel's t is infinite",) if found.error == 0.0 else ()
    return conclude(
        "brunner_munzel",
        samples,
        settings,
        method=f"Brunner-Munzel test, {settings.sides}",
        statistic=("U", u) if separated else ("t", found.t),
        df=() if separated else (found.df,),
        p_value=p_value,
        estimate=(
            f"P({x.name} > {y.name}) + P({x.name} = {y.name}) / 2",
            found.share,
            settings.bounded(_interval(found, samples, settings.estimate_tail), 0.0, 1.0),
        ),
        effect=dominance(x.values, y.values, u, settings),
        assumptions=("observations are independent, within and between the groups",),
        notes=(note, *separated),
        decisions=(choice,),
        null_value=0.5,
    )


@dataclass(frozen=True, slots=True)
class _Studentized:
    share: float
    error: float
    df: float

    @property
    def t(self) -> float:
        """Infinite if the groups do not overlap."""
        return (self.share - 0.5) / self.error if self.error > 0.0 else math.copysign(math.inf, self.share - 0.5)


def _studentized(x: Vector, y: Vector) -> _Studentized:
    n, m = x.size, y.size
    ranks = midranks(np.concatenate([x, y]))
    below_x, below_y = ranks[:n] - midranks(x), ranks[n:] - midranks(y)  # how many of the others are lower, per value
    parts = float(below_x.var(ddof=1)) / n / m**2, float(below_y.var(ddof=1)) / m / n**2
    total = sum(parts)
    df = total**2 / (parts[0] ** 2 / (n - 1.0) + parts[1] ** 2 / (m - 1.0)) if total > 0.0 else 1.0
    return _Studentized(float(below_x.mean()) / m, math.sqrt(total), df)


def _interval(found: _Studentized, samples: tuple[Sample, ...], tail: float) -> Interval:
    if found.error > 0.0:
        reach = -float(special.stdtrit(found.df, tail)) * found.error
        return max(0.0, found.share - reach), min(1.0, found.share + reach)
    (low, high), _ = dominance_interval(2.0 * found.share - 1.0, samples[0].values, samples[1].values, tail)
    return (low + 1.0) / 2.0, (high + 1.0) / 2.0


def _p_value(found: _Studentized, samples: tuple[Sample, ...], alternative: Alternative) -> tuple[float, str, Choice]:
    n, m = (sample.n for sample in samples)
    if max(n, m) > _EXACT_UP_TO:
        return _p_value_of_many(found, n, m, alternative)
    every = _every_division(np.concatenate([sample.values for sample in samples]), n)
    slack = _NOISE * (1.0 + abs(found.t)) if math.isfinite(found.t) else 0.0
    above, below = float(np.mean(every >= found.t - slack)), float(np.mean(every <= found.t + slack))
    p = min(1.0, 2.0 * min(above, below))
    if alternative != "two-sided":
        p = above if alternative == "greater" else below
    choice = Choice(
        "studentized permutation distribution",
        f"with at most {_EXACT_UP_TO} values per group the t approximation is too rough",
        ("t approximation",),
    )
    return p, f"exact p-value, every division into {n} and {m} counted", choice


def _p_value_of_many(found: _Studentized, n: int, m: int, alternative: Alternative) -> tuple[float, str, Choice]:
    # One of all divisions has the largest values in the first group, and no test of divisions has a smaller p-value.
    one = math.exp(math.lgamma(n + 1.0) + math.lgamma(m + 1.0) - math.lgamma(n + m + 1.0))
    least = 2.0 * one if alternative == "two-sided" else one
    if math.isinf(found.t):
        towards = alternative == "two-sided" or (alternative == "greater") == (found.t > 0.0)
        choice = Choice("studentized permutation distribution", "the groups do not overlap", ("t approximation",))
        return (least if towards else 1.0), f"exact p-value: one division into {n} and {m} is as extreme", choice
    choice = Choice("t approximation with Satterthwaite's df", f"groups of {n} and {m}", ("permutation",))
    p = max(least, t_tail(found.t, found.df, alternative))
    return p, f"t approximation on {found.df:.4g} df", choice


def _every_division(pooled: Vector, n: int) -> Vector:
    """The statistic of every division of the pooled values into n and the rest; infinite where the groups separate."""
    total, m = pooled.size, pooled.size - n
    wins = 0.5 * (np.greater.outer(pooled, pooled) * 1.0 + np.greater_equal.outer(pooled, pooled))
    chosen = np.zeros((math.comb(total, n), total))
    for row, members in enumerate(itertools.combinations(range(total), n)):
        chosen[row, list(members)] = 1.0
    rest = 1.0 - chosen
    over_rest, over_chosen = (rest @ wins.T) * chosen, (chosen @ wins.T) * rest
    share = over_rest.sum(1) / (n * m)
    spread = (np.square(over_rest).sum(1) - n * np.square(over_rest.sum(1) / n)) / (n - 1.0) / n / m**2
    spread += (np.square(over_chosen).sum(1) - m * np.square(over_chosen.sum(1) / m)) / (m - 1.0) / m / n**2
    error = np.sqrt(np.where(spread > _NOISE, spread, 0.0))
    far = np.copysign(np.inf, share - 0.5)
    statistic: Vector = np.where(error > 0.0, (share - 0.5) / np.where(error > 0.0, error, 1.0), far)
    return statistic
