"""Comparing the spread of groups: Levene's and Brown & Forsythe's tests, and the F test of two variances."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from crucible_bench.data.moments import moments
from crucible_bench.data.sample import Sample, scale_exponent, scaled, unscaled
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.anova import analysis_of_variance
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import TestName


def levene_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Levene's (1960) test that groups have equal variances: analysis of variance of |x - group mean|."""
    return _deviations_test("levene", samples, settings, "mean")


def brown_forsythe_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """The same around the group median (Brown & Forsythe 1974): robust to skewed and heavy-tailed data."""
    return _deviations_test("brown_forsythe", samples, settings, "median")


def variance_ratio_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """F test that two variances are equal (Snedecor 1934), with the interval of their ratio, first over second.

    Exact for normal data and sensitive to any other; the two-sided p-value is twice the smaller tail.
    """
    name: TestName = "variance_ratio"
    parts = []
    for sample in samples:
        if sample.n < 2:
            raise CannotTestError(name, f"group {sample.name!r} has 1 value, from which no variance can be estimated")
        if sample.is_constant:
            raise CannotTestError(
                name, f"group {sample.name!r} is constant, so the ratio of variances is 0 or infinite"
            )
        parts.append((moments(sample.values, scale_exponent((sample,))), scale_exponent((sample,))))
    (first, first_exponent), (second, second_exponent) = parts
    ratio = unscaled(name, first.variance / second.variance, 2 * (first_exponent - second_exponent))
    df = (first.n - 1.0, second.n - 1.0)
    above, below = float(special.fdtrc(*df, ratio)), float(special.fdtr(*df, ratio))
    p_value = min(1.0, 2.0 * min(above, below))
    if settings.alternative != "two-sided":
        p_value = above if settings.alternative == "greater" else below
    if ratio == 0.0:
        raise CannotTestError(name, "the ratio of the variances is below the smallest double; rescale one group")

    def interval(tail: float) -> Interval:
        # The upper quantile is the reciprocal of a lower one with the degrees of freedom exchanged.
        low, high = float(special.fdtri(df[1], df[0], tail)), float(special.fdtri(*df, tail))
        if math.isinf(ratio / high):
            raise CannotTestError(name, "the interval ends beyond the largest double (1.8e308); rescale one group")
        return ratio * low, ratio / high

    return conclude(
        name,
        samples,
        settings,
        method=f"F test of two variances, {settings.sides}",
        statistic=("F", ratio),
        df=df,
        p_value=p_value,
        estimate=(
            f"ratio of variances ({samples[0].name} / {samples[1].name})",
            ratio,
            settings.bounded(interval(settings.estimate_tail), 0.0),
        ),
        effect=Effect(
            "variance_ratio",
            ratio,
            interval(settings.tail),
            Choice("F interval for the ratio of variances", "exact for normal groups", ("bootstrap interval",)),
        ),
        assumptions=("observations are independent, within and between the groups", "both groups are normal"),
        notes=(),
        decisions=(),
        null_value=1.0,
    )


def _deviations_test(name: TestName, samples: tuple[Sample, ...], settings: Settings, centre: str) -> TestResult:
    exponent = scale_exponent(samples)
    deviations = []
    for sample in samples:
        values = scaled(sample.values, exponent)
        values -= np.mean(values) if centre == "mean" else np.median(values)
        deviations.append(Sample(sample.name, np.abs(values)))
    if all(sample.n < 3 for sample in samples):
        raise CannotTestError(
            name, "no group has 3 values: one or two lie at one distance from their centre, so nothing varies"
        )
    return analysis_of_variance(
        name,
        tuple(deviations),
        settings,
        method=f"{'Levene' if centre == 'mean' else 'Brown-Forsythe'} test of equal spread, around the group {centre}",
        undefined=f"within every group all values lie at one distance from the {centre}, so F is undefined",
        assumptions=(
            "observations are independent, within and between the groups",
            f"groups are not small, or not skewed: the distances from the {centre} are treated as data",
            "the effect size is the share of variance of the distances",
        ),
    )
