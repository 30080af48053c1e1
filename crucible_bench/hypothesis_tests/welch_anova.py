"""Welch's analysis of variance: means of groups whose variances differ."""

from __future__ import annotations

import numpy as np
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments
from crucible_bench.data.sample import Sample, scale_exponent
from crucible_bench.distributions.noncentral import noncentral_f_interval
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude


def welch_anova_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Welch's (1951) F test that the means of two or more groups are equal, whatever their variances."""
    f, df = _welch_f(_parts(samples))
    n = sum(sample.n for sample in samples)
    effect = _omega_squared(f, df, n, settings)
    return conclude(
        "welch_anova",
        samples,
        settings,
        method="Welch's analysis of variance",
        statistic=("F", f),
        df=df,
        p_value=float(special.fdtrc(*df, f)),
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=(
            "observations are independent, within and between the groups",
            "group means are approximately normal (normal data, or groups that are not small)",
        ),
        notes=(),
        decisions=(),
        disagreement="F tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


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
