"""Standardized mean differences: Cohen's d, Hedges' g and d_z, with noncentral-t intervals."""

from __future__ import annotations

import math

from scipy import special

from crucible_core.stats.moments import Moments
from crucible_core.stats.noncentral import noncentral_t_interval
from crucible_core.stats.result import Choice, Effect, Settings


def standardized_difference(first: Moments, second: Moments, settings: Settings) -> Effect:
    """Cohen's d or Hedges' g of two independent groups, first minus second, in pooled standard deviations.

    d is the difference of means over the pooled sd (Cohen 1988); g is d times the exact factor that removes its bias
    in normal samples (Hedges 1981). Both estimate the same population delta, so both carry the same interval: the
    deltas under which the pooled t statistic is not extreme. It is exact for normal groups of equal variance.
    """
    df = first.n + second.n - 2
    d = first.minus(second) / pooled_sd(first, second)
    root = math.sqrt(first.n * second.n / (first.n + second.n))
    low, high = noncentral_t_interval(d * root, df, settings.confidence_level)
    value = d * bias_factor(df) if settings.effect_size == "hedges_g" else d
    return Effect(
        settings.effect_size,
        value,
        (low / root, high / root),
        _interval_choice("normal groups of equal variance"),
    )


def standardized_mean(
    difference: Moments,
    settings: Settings,
    *,
    error: float | None = None,
    df: int | None = None,
    interval: Choice | None = None,
) -> Effect:
    """Cohen's d_z: the mean of the paired differences over their standard deviation (Cohen 1988).

    The interval inverts the noncentral t distribution and is exact for independent normal differences. Where they are
    not independent the caller gives the mean's standard error, its degrees of freedom, and what its interval rests on.
    """
    sd = math.sqrt(difference.variance)
    dz = difference.mean / sd
    root = math.sqrt(difference.n) if error is None else sd / error
    low, high = noncentral_t_interval(dz * root, difference.n - 1 if df is None else df, settings.confidence_level)
    return Effect("cohens_dz", dz, (low / root, high / root), interval or _interval_choice("normal differences"))


def pooled_sd(first: Moments, second: Moments) -> float:
    """The square root of the pooled within-group variance, on n1 + n2 - 2 degrees of freedom."""
    return math.sqrt((first.squares + second.squares) / (first.n + second.n - 2))


def bias_factor(df: int) -> float:
    """The factor that unbiases d for normal samples of equal variance (Hedges 1981, exact); needs df >= 2."""
    log_ratio = float(special.gammaln(df / 2.0) - special.gammaln((df - 1.0) / 2.0))
    return math.exp(log_ratio) / math.sqrt(df / 2.0)


def _interval_choice(what: str) -> Choice:
    return Choice(
        "noncentral-t interval for the effect size",
        f"exact for {what}, at any n; Hedges' correction changes the estimate, not the interval",
        ("bootstrap interval", "large-sample normal interval"),
    )
