"""The Brunner-Munzel test for two independent groups."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.sample import Sample, Vector
from crucible_bench.distributions.rank_distributions import midranks
from crucible_bench.distributions.resampling import check_resamples
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mann_whitney import dominance, dominance_interval
from crucible_bench.hypothesis_tests.ttests import t_tail
from crucible_bench.result import Choice, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative

Divisions: TypeAlias = NDArray[np.bool_]

_NOISE: Final = 1e-10
_FEW: Final = 8
"""If the smaller group has at most this many values, t rejects too often."""
_EVERY_UP_TO: Final = 20_000
_CELLS: Final = 1 << 20


def brunner_munzel_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Test that neither group tends to higher values: P(X > Y) + P(X = Y) / 2 is one half (Brunner & Munzel 2000).

    Unlike Mann-Whitney's, it keeps its level when the groups differ in spread or shape. Where t is too rough, test and
    interval use the studentized permutation distribution (Neubert & Brunner 2007; Pauly, Asendorf & Konietschke 2016):
    every division of the values up to 20,000 of them, else random ones if a group has at most 8 values. If the groups
    do not overlap, t is infinite: the p-value is then the share of divisions that separate the values as well, at any
    n, and the interval is Feng and Cliff's (2004) for such groups.
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
    by = _distribution(found, samples, settings)
    p_value, note, choice = by.p_value(settings.alternative)
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
            settings.bounded(_interval(found, by, samples, settings.estimate_tail), 0.0, 1.0),
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


def _interval(found: _Studentized, by: _Distribution, samples: tuple[Sample, ...], tail: float) -> Interval:
    if found.error > 0.0:
        low, high = by.quantiles(tail)
        return max(0.0, found.share - high * found.error), min(1.0, found.share - low * found.error)
    (low, high), _ = dominance_interval(2.0 * found.share - 1.0, samples[0].values, samples[1].values, tail)
    return (low + 1.0) / 2.0, (high + 1.0) / 2.0


class _Distribution(Protocol):
    """The distribution of t if neither group tends to higher values."""

    def p_value(self, alternative: Alternative) -> tuple[float, str, Choice]: ...

    def quantiles(self, tail: float) -> Interval: ...


def _distribution(found: _Studentized, samples: tuple[Sample, ...], settings: Settings) -> _Distribution:
    n, m = (sample.n for sample in samples)
    is_counted = math.comb(n + m, n) <= _EVERY_UP_TO if min(n, m) <= _FEW else False
    if min(n, m) > _FEW or (math.isinf(found.t) and not is_counted):
        return _Student(found, n, m)
    pooled = np.concatenate([sample.values for sample in samples])
    if is_counted:
        return _Permuted(found, _of_divisions(np.sort(pooled), _every_division(n + m, n)), n, m)
    check_resamples("brunner_munzel", settings.resamples, (settings.alpha / 2.0, settings.tail))
    order = np.argsort(pooled, kind="stable")
    # The draws are of the smaller group, or of the first by name: then exchanging the groups only changes the sign.
    is_smaller = (n, samples[0].name) < (m, samples[1].name)
    drawn = _drawn(pooled[order], order < n if is_smaller else order >= n, settings)
    return _Permuted(found, drawn if is_smaller else -drawn, n, m, settings)


@dataclass(frozen=True, slots=True)
class _Student:
    found: _Studentized
    n: int
    m: int

    def p_value(self, alternative: Alternative) -> tuple[float, str, Choice]:
        found, n, m = self.found, self.n, self.m
        # One of all divisions has the largest values in the first group; no test of divisions has a smaller p-value.
        one = math.exp(math.lgamma(n + 1.0) + math.lgamma(m + 1.0) - math.lgamma(n + m + 1.0))
        least = 2.0 * one if alternative == "two-sided" else one
        if math.isinf(found.t):
            towards = alternative == "two-sided" or (alternative == "greater") == (found.t > 0.0)
            choice = Choice("studentized permutation distribution", "the groups do not overlap", ("t approximation",))
            return (least if towards else 1.0), f"exact p-value: one division into {n} and {m} is as extreme", choice
        choice = Choice("t approximation with Satterthwaite's df", f"groups of {n} and {m}", ("permutation",))
        p = max(least, t_tail(found.t, found.df, alternative))
        return p, f"t approximation on {found.df:.4g} df", choice

    def quantiles(self, tail: float) -> Interval:
        reach = -float(special.stdtrit(self.found.df, tail))
        return -reach, reach


@dataclass(frozen=True, slots=True)
class _Permuted:
    """`statistics` has one per division: of all, or of random ones and the observed one; then `drawn` is not None."""

    found: _Studentized
    statistics: Vector
    n: int
    m: int
    drawn: Settings | None = None

    def p_value(self, alternative: Alternative) -> tuple[float, str, Choice]:
        t = self.found.t
        slack = _NOISE * (1.0 + abs(t)) if math.isfinite(t) else 0.0
        above = float(np.mean(self.statistics >= t - slack))
        below = float(np.mean(self.statistics <= t + slack))
        p = min(1.0, 2.0 * min(above, below))
        if alternative != "two-sided":
            p = above if alternative == "greater" else below
        choice = Choice(
            "studentized permutation distribution",
            f"with so few values per group ({self.n} and {self.m}) the t approximation is too rough",
            ("t approximation",),
        )
        if self.drawn is None:
            return p, f"exact p-value, every division into {self.n} and {self.m} counted", choice
        return p, f"p-value of {self.drawn.resamples} random divisions, seed {self.drawn.seed}", choice

    def quantiles(self, tail: float) -> Interval:
        """The statistics beyond which at most `tail` lies on each side, so that test and interval agree."""
        ordered = np.sort(self.statistics)
        depth = min(math.floor(tail * ordered.size * (1.0 + _NOISE)), ordered.size - 1)
        low, high = float(ordered[depth]), float(ordered[-1 - depth])
        return low - _NOISE * (1.0 + abs(low)), high + _NOISE * (1.0 + abs(high))


def _drawn(ordered: Vector, chosen: Divisions, settings: Settings) -> Vector:
    """The statistic of random divisions, and of the observed one at the end."""
    rng, n = np.random.default_rng(settings.seed), int(chosen.sum())
    rows = max(1, _CELLS // ordered.size)
    parts = []
    for start in range(0, settings.resamples, rows):
        keys = rng.random((min(rows, settings.resamples - start), ordered.size))
        divisions = np.zeros(keys.shape, dtype=np.bool_)
        np.put_along_axis(divisions, np.argpartition(keys, n - 1, axis=1)[:, :n], True, axis=1)
        parts.append(_of_divisions(ordered, divisions))
    return np.concatenate([*parts, _of_divisions(ordered, chosen[None, :])])


@functools.lru_cache(maxsize=8)
def _every_division(total: int, n: int) -> Divisions:
    """Shape (divisions, total): which of the pooled values are the first group's."""
    chosen = np.zeros((math.comb(total, n), total), dtype=np.bool_)
    places = np.fromiter(itertools.chain.from_iterable(itertools.combinations(range(total), n)), dtype=np.intp)
    np.put_along_axis(chosen, places.reshape(-1, n), True, axis=1)
    return chosen


def _of_divisions(ordered: Vector, chosen: Divisions) -> Vector:
    """The statistic of each division of the ordered values; infinite where the groups separate."""
    total, n = ordered.size, int(chosen[0].sum())
    m = total - n
    first, last = (np.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    counts = np.zeros((chosen.shape[0], total + 1))
    np.cumsum(chosen, axis=1, out=counts[:, 1:])
    below = (counts[:, first] + counts[:, last]) / 2.0  # how many of the chosen are lower, ties half
    over_rest, over_chosen = np.where(chosen, (first + last) / 2.0 - below, 0.0), np.where(chosen, 0.0, below)
    share = over_rest.sum(axis=1) / (n * m)
    spread = (np.square(over_rest).sum(axis=1) - n * np.square(over_rest.sum(axis=1) / n)) / (n - 1.0) / n / m**2
    spread += (np.square(over_chosen).sum(axis=1) - m * np.square(over_chosen.sum(axis=1) / m)) / (m - 1.0) / m / n**2
    error = np.sqrt(np.where(spread > _NOISE, spread, 0.0))
    far = np.copysign(np.inf, share - 0.5)
    statistic: Vector = np.where(error > 0.0, (share - 0.5) / np.where(error > 0.0, error, 1.0), far)
    return statistic
