"""Standardized mean differences: Cohen's d, Hedges' g, Glass's delta, d_z and d_av, with noncentral-t intervals."""

from __future__ import annotations

import math
from typing import Final

from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments, standard_error
from crucible_bench.data.sample import Sample, scale_exponent
from crucible_bench.distributions.noncentral import noncentral_t_interval
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings

_LEAST_DF: Final = 2.0
"""With fewer degrees of freedom, as with two values, the effect size has no mean that could be corrected."""


def standardized_difference(test: str, first: Moments, second: Moments, settings: Settings) -> Effect:
    """Cohen's d, Hedges' g or Glass's delta of two independent groups, first minus second.

    d is the difference of means over the pooled sd (Cohen 1988); g is d times the exact factor that removes its bias in
    normal samples (Hedges 1981). Both estimate the same population delta, so both carry the same interval: the deltas
    under which the pooled t statistic is not extreme. It is exact for normal groups of equal variance. Glass's delta
    (Glass 1976) divides by the second group's sd alone; CannotTestError if that is zero. d_av and g_av divide by the
    root mean square of the two sds, and assume nothing about them.
    """
    if settings.effect_size == "glass_delta":
        return _glass_delta(test, first, second, settings)
    if settings.effect_size in ("cohens_dav", "hedges_gav"):
        return _average_variance(first, second, settings)
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
    df: float | None = None,
    own_df: float | None = None,
    interval: Choice | None = None,
) -> Effect:
    """Cohen's d_z: the mean of the paired differences over their standard deviation (Cohen 1988).

    Or Hedges' g_z: d_z times the exact factor that removes its bias (Hedges 1981), 0.80 for five pairs. For two pairs
    there is no such factor, and d_z stays. The interval inverts the noncentral t distribution and is exact for
    independent normal differences. If they are not independent, the caller gives the mean's standard error, its degrees
    of freedom, those of the standard deviation unless they are n - 1, and the basis of the interval.
    """
    sd = math.sqrt(difference.variance)
    dz = difference.mean / sd
    root = math.sqrt(difference.n) if error is None else sd / error
    low, high = noncentral_t_interval(dz * root, difference.n - 1 if df is None else df, settings.confidence_level)
    choice = interval or _interval_choice("normal differences")
    own_df = difference.n - 1 if own_df is None else own_df
    if settings.effect_size != "hedges_gz" or own_df < _LEAST_DF:
        notes = () if settings.effect_size != "hedges_gz" else ("two values have no effect size without bias",)
        return Effect("cohens_dz", dz, (low / root, high / root), choice, notes)
    return Effect("hedges_gz", dz * bias_factor(own_df), (low / root, high / root), choice)


def _average_variance(first: Moments, second: Moments, settings: Settings) -> Effect:
    """d_av, the difference over the root mean square of the sds (Bonett 2008), and g_av without its bias.

    Delacre et al. (2021) call them d*_s and g*_s. The interval is that of Welch's t, taken as noncentral t with Welch's
    degrees of freedom, in the unit of d_av: it leaves out zero where Welch's test rejects.
    """
    variances, sizes = (first.variance, second.variance), (first.n, second.n)
    error, df = standard_error(variances, sizes)
    difference, unit = first.minus(second), math.sqrt(sum(variances) / 2.0)
    low, high = noncentral_t_interval(difference / error, df, settings.confidence_level)
    value = difference / unit
    if settings.effect_size == "hedges_gav":
        # Satterthwaite's degrees of freedom of the mean of the two variances, by shares so that nothing underflows.
        parts = [variance / sum(variances) for variance in variances]
        own = 1.0 / sum(part**2 / (n - 1.0) for part, n in zip(parts, sizes, strict=True))
        value *= bias_factor(max(2.0, own))  # `own` may be below 2, from two values; d then has no mean
    choice = Choice(
        "noncentral-t interval for the effect size, with Welch's standard error and degrees of freedom",
        "it agrees with Welch's test about zero and needs no equal variances; the variances' ratio is taken as "
        "observed, so it is approximate for normal groups",
        ("bootstrap interval", "interval of the pooled d, for equal variances"),
    )
    return Effect(settings.effect_size, value, (low * error / unit, high * error / unit), choice)


def _glass_delta(test: str, first: Moments, control: Moments, settings: Settings) -> Effect:
    if control.n < 2 or control.squares < LEAST_SQUARES:
        raise CannotTestError(
            test,
            "Glass's delta divides by the standard deviation of the second group, which does not vary; put the group "
            "that does second, or ask for cohens_d",
        )
    sd = math.sqrt(control.variance)
    # The standard error in units of the control's sd, each group with its own variance as in Welch's test.
    error, df = sd * math.sqrt(1.0 / first.n + 1.0 / control.n), control.n - 1.0
    if first.n > 1:
        error, welch_df = standard_error((first.variance, control.variance), (first.n, control.n))
        df = min(df, welch_df)
    root = sd / error
    delta = first.minus(control) / sd
    low, high = noncentral_t_interval(delta * root, df, settings.confidence_level)
    choice = Choice(
        "noncentral-t interval for Glass's delta",
        "the difference of means is independent of the control's standard deviation (Hedges 1981); the variances' "
        "ratio is taken as observed and the smaller of the control's and Welch's degrees of freedom, so it is "
        "approximate for normal groups",
        ("bootstrap interval",),
    )
    return Effect("glass_delta", delta, (low / root, high / root), choice)


def paired_standardized(
    test: str, samples: tuple[Sample, ...], difference: Moments, exponent: int, settings: Settings
) -> Effect:
    """Cohen's d_z, Hedges' g_z or Cohen's d_av of pairs whose differences, divided by 2**exponent, have these moments.

    d_av is the mean difference over the root mean square of the two groups' sds (Cumming 2012, equation 11.10), the
    unit that does not depend on how well pairs agree. Its interval is that of d_z times the ratio of the two units
    (Algina & Keselman 2003), so that it leaves out zero where the paired t-test does.
    """
    if settings.effect_size != "cohens_dav":
        return standardized_mean(difference, settings)
    own = scale_exponent(samples)
    average = math.sqrt(sum(moments(sample.values, own).variance for sample in samples) / 2.0)
    if not average > 0.0:
        raise CannotTestError(test, "neither group varies, so d_av has no unit; cohens_dz is defined here")
    dz = standardized_mean(difference, settings)
    ratio = math.ldexp(math.sqrt(difference.variance) / average, exponent - own)
    choice = Choice(
        "Algina and Keselman's noncentral-t interval for d_av",
        "that of d_z in the other unit, so it agrees with the paired t-test about zero; it takes the ratio of the "
        "units as observed, so it is approximate, and wide rather than narrow for large effects",
        ("bootstrap interval",),
    )
    return Effect("cohens_dav", dz.value * ratio, (dz.interval[0] * ratio, dz.interval[1] * ratio), choice)


def pooled_sd(first: Moments, second: Moments) -> float:
    """The square root of the pooled within-group variance, on n1 + n2 - 2 degrees of freedom."""
    return math.sqrt((first.squares + second.squares) / (first.n + second.n - 2))


def bias_factor(df: float) -> float:
    """The factor that unbiases d for normal samples of equal variance (Hedges 1981, exact); needs df >= 2."""
    log_ratio = float(special.gammaln(df / 2.0) - special.gammaln((df - 1.0) / 2.0))
    return math.exp(log_ratio) / math.sqrt(df / 2.0)


def _interval_choice(what: str) -> Choice:
    return Choice(
        "noncentral-t interval for the effect size",
        f"exact for {what}, at any n; Hedges' correction changes the estimate, not the interval",
        ("bootstrap interval", "large-sample normal interval"),
    )
