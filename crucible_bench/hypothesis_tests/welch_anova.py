"""Welch's analysis of variance: means of groups whose variances differ."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments
from crucible_bench.data.sample import Sample, Vector, scale_exponent
from crucible_bench.distributions.noncentral import noncentral_f_interval
from crucible_bench.distributions.resampling import check_resamples, generators
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude

_MANY: Final = 4  # groups
_ENOUGH: Final = 12  # values, for any number of groups


def welch_anova_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Welch's (1951) F test that the means of two or more groups are equal, whatever their variances.

    His degrees of freedom are for groups that are not small: for ten groups of three values with equal variances, it
    rejects in 14 %. Where there are four groups or more and the smallest has few values for their number, the p-value
    is that of the parametric bootstrap of the same statistic (Krishnamoorthy, Lu & Mathew 2007), which keeps its level.
    """
    parts = _parts(samples)
    f, df = _welch_f(parts)
    n = sum(sample.n for sample in samples)
    p_value, notes, choices = float(special.fdtrc(*df, f)), tuple[str, ...](), tuple[Choice, ...]()
    if _is_small(samples):
        p_value = _bootstrapped(samples, parts, settings)
        notes = (f"p-value of {settings.resamples} parametric bootstrap resamples, seed {settings.seed}",)
        choices = (
            Choice(
                "parametric bootstrap of Welch's statistic",
                f"for {len(samples)} groups, of which the smallest has {min(sample.n for sample in samples)} values, "
                "Welch's F rejects too often (Krishnamoorthy, Lu & Mathew 2007)",
                ("Welch's F distribution",),
            ),
        )
    effect = _omega_squared(f, df, n, settings)
    return conclude(
        "welch_anova",
        samples,
        settings,
        method="Welch's analysis of variance",
        statistic=("F", f),
        df=df,
        p_value=p_value,
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=(
            "observations are independent, within and between the groups",
            "group means are approximately normal (normal data, or groups that are not small)",
        ),
        notes=notes,
        decisions=choices,
        disagreement="F tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


def _is_small(samples: tuple[Sample, ...]) -> bool:
    """Whether Welch's F is liberal, by simulations of normal groups of equal and unequal variances: above 6 %."""
    k = len(samples)
    return k >= _MANY and min(sample.n for sample in samples) <= min(k + 1, _ENOUGH)


def _bootstrapped(samples: tuple[Sample, ...], parts: list[Moments], settings: Settings) -> float:
    """(b + 1) / (B + 1) of B draws of all means and variances under equal means, with the variances as observed."""
    check_resamples("welch_anova", settings.resamples, (settings.alpha,))
    streams = generators(settings.seed, samples)
    observed, means, weights = [], [], []
    for part, stream in zip(parts, streams, strict=True):
        error = part.variance / part.n
        means.append(stream.normal(0.0, math.sqrt(error), settings.resamples))
        weights.append((part.n - 1.0) / (error * stream.chisquare(part.n - 1.0, settings.resamples)))
        observed.append((part.minus(parts[0]), 1.0 / error))
    drawn = _between(np.array(means), np.array(weights))
    seen = _between(*np.array(observed).T[:, :, None])
    return float(np.count_nonzero(drawn >= seen) + 1) / (settings.resamples + 1)


def _between(means: NDArray[np.float64], weights: NDArray[np.float64]) -> Vector:
    """The weighted sum of squares of the means around their weighted mean; shapes (k, B)."""
    centre = (weights * means).sum(axis=0) / weights.sum(axis=0)
    found: Vector = (weights * np.square(means - centre)).sum(axis=0)
    return found


def _parts(samples: tuple[Sample, ...]) -> list[Moments]:
    for sample in samples:
        if sample.n < 2:
            raise CannotTestError(
                "welch_anova", f"group {sample.name!r} has 1 value, from which no variance can be estimated"
            )
        if sample.is_constant:
            raise CannotTestError(
                "welch_anova",
                f"group {sample.name!r} is constant, so its mean would get infinite weight; anova pools the variances, "
                "kruskal_wallis needs none",
            )
    exponent = scale_exponent(samples)
    parts = [moments(sample.values, exponent) for sample in samples]
    if min(part.squares for part in parts) < LEAST_SQUARES:
        raise CannotTestError(
            "welch_anova", "a group varies too little, next to the size of the values, for double precision; rescale"
        )
    return parts


def _welch_f(parts: list[Moments]) -> tuple[float, tuple[float, float]]:
    k = len(parts)
    sizes = np.array([float(part.n) for part in parts])
    weights = sizes / np.array([part.variance for part in parts])
    shares = weights / weights.sum()
    offsets = np.array([part.minus(parts[0]) for part in parts])
    between = float(np.dot(weights, np.square(offsets - np.dot(shares, offsets)))) / (k - 1.0)
    unequal = float((np.square(1.0 - shares) / (sizes - 1.0)).sum())
    f = between / (1.0 + 2.0 * (k - 2.0) / (k**2 - 1.0) * unequal)
    return f, (k - 1.0, (k**2 - 1.0) / (3.0 * unequal))


def _omega_squared(f: float, df: tuple[float, float], n: int, settings: Settings) -> Effect:
    """Omega squared from F (Hays 1973), the groups weighted as in the test; the interval inverts the noncentral F."""
    value, notes = df[0] * (f - 1.0) / (df[0] * (f - 1.0) + n), list[str]()
    if value < 0.0:
        notes.append(f"omega squared came out as {value:.3g} and is given as 0, its smallest possible value")
    low, high = noncentral_f_interval(f, df, settings.confidence_level)
    if high == 0.0:
        notes.append(
            "an F this low is improbable even without an effect: both ends of the effect size's interval are 0"
        )
    choice = Choice(
        "noncentral-F interval for the effect size",
        "Welch's F is approximately noncentral F; the share is of variance in units of each group's own",
        ("bootstrap interval",),
    )
    return Effect("omega_squared", max(0.0, value), (low / (low + n), high / (high + n)), choice, tuple(notes))
