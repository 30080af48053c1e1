"""Comparing two means: Welch's and Student's t-tests for independent groups, Student's for pairs."""

from __future__ import annotations

import math
from typing import Final

from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments, standard_error
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import Sample, scale_exponent, unscaled
from crucible_bench.effect_sizes.standardized import paired_standardized, pooled_sd, standardized_difference
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.no_spread import no_spread_of_groups, no_spread_of_pairs, without_spread
from crucible_bench.result import Choice, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative, TestName

_INDEPENDENT: Final = "observations are independent, within and between the groups"
_PAIRED: Final = (
    "values at the same position of the two groups belong together",
    "pairs are independent of each other",
)


def welch_ttest(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Welch's t-test (Welch 1947) with Satterthwaite's degrees of freedom."""
    if min(sample.n for sample in samples) > 1 and (still := no_spread_of_groups(samples)) is not None:
        return without_spread("ttest", samples, still, settings, "difference of means", (_INDEPENDENT,))
    first, second, exponent = independent_moments("ttest", samples)
    error, df = standard_error((first.variance, second.variance), (first.n, second.n))
    difference = first.minus(second)
    t = difference / error
    return conclude(
        "ttest",
        samples,
        settings,
        method=f"Welch's t-test, {settings.sides}",
        statistic=("t", t),
        df=(df,),
        p_value=t_tail(t, df, settings.alternative),
        estimate=(
            f"difference of means ({samples[0].name} - {samples[1].name})",
            unscaled("ttest", difference, exponent),
            t_interval("ttest", (difference, error), df, exponent, settings),
        ),
        effect=standardized_difference("ttest", first, second, settings),
        assumptions=(
            _INDEPENDENT,
            "group means are approximately normal (normal data, or groups that are not small)",
            *(
                ("the effect size and its interval also assume equal variances; the test does not",)
                if settings.effect_size in ("cohens_d", "hedges_g")
                else ()
            ),
        ),
        notes=_constant_notes(samples),
        decisions=(
            Choice(
                "Welch's t-test",
                "it keeps its level when the variances differ and loses next to nothing when they do not, so the "
                "choice is not made by a preliminary test of the variances",
                ("Student's t-test with pooled variance",),
            ),
        ),
    )


def student_ttest(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Student's t-test (Student 1908; Fisher 1925) of two groups with one pooled variance; one may have 1 value."""
    name: TestName = "student_ttest"
    df = float(sum(sample.n for sample in samples) - 2)
    if df < 1.0:
        raise CannotTestError(
            name, "two groups of 1 value have no spread within groups; at least one group needs 2 values"
        )
    if (still := no_spread_of_groups(samples)) is not None:
        return without_spread(name, samples, still, settings, "difference of means", (_INDEPENDENT,))
    first, second, exponent = _varying_moments(name, samples)
    error = pooled_sd(first, second) * math.sqrt(1.0 / first.n + 1.0 / second.n)
    difference = first.minus(second)
    t = difference / error
    return conclude(
        name,
        samples,
        settings,
        method=f"Student's t-test, {settings.sides}",
        statistic=("t", t),
        df=(df,),
        p_value=t_tail(t, df, settings.alternative),
        estimate=(
            f"difference of means ({samples[0].name} - {samples[1].name})",
            unscaled(name, difference, exponent),
            t_interval(name, (difference, error), df, exponent, settings),
        ),
        effect=standardized_difference(name, first, second, settings),
        assumptions=(
            _INDEPENDENT,
            "group means are approximately normal (normal data, or groups that are not small)",
            "both groups have the same variance; with unequal sizes the level depends on it",
        ),
        notes=tuple(
            f"group {sample.name!r} is constant; the pooled variance comes from the other group"
            for sample in samples
            if sample.is_constant
        ),
        decisions=(
            Choice(
                "one pooled variance",
                "it was asked for; Welch's test keeps its level without it and loses next to nothing",
                ("Welch's t-test",),
            ),
        ),
    )


def paired_ttest(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Student's t-test (Student 1908) of the differences within pairs."""
    pairs = pair_differences("paired_ttest", samples)
    n = pairs.values.size
    if n < 2:
        raise CannotTestError("paired_ttest", "one pair has no spread to judge by; at least two pairs are needed")
    if (still := no_spread_of_pairs("paired_ttest", samples)) is not None:
        return without_spread("paired_ttest", samples, still, settings, "mean difference", _PAIRED)
    of = moments(pairs.values, 0)
    error = math.sqrt(of.variance / n)
    t = of.mean / error
    return conclude(
        "paired_ttest",
        samples,
        settings,
        method=f"paired t-test, {settings.sides}",
        statistic=("t", t),
        df=(n - 1.0,),
        p_value=t_tail(t, n - 1.0, settings.alternative),
        estimate=(
            f"mean difference ({samples[0].name} - {samples[1].name})",
            unscaled("paired_ttest", of.mean, pairs.exponent),
            t_interval("paired_ttest", (of.mean, error), n - 1.0, pairs.exponent, settings),
        ),
        effect=paired_standardized("paired_ttest", samples, of, pairs.exponent, settings),
        assumptions=(*_PAIRED, "the mean difference is approximately normal (normal differences, or many pairs)"),
        notes=(),
        decisions=(),
    )


def independent_moments(test: str, samples: tuple[Sample, ...]) -> tuple[Moments, Moments, int]:
    """Scaled moments of two groups whose difference of means has a standard error, and the scale's exponent."""
    for sample in samples:
        if sample.n < 2:
            raise CannotTestError(
                test,
                f"group {sample.name!r} has 1 value, from which no variance can be estimated; "
                "at least 2 per group are needed",
            )
    return _varying_moments(test, samples)


def _varying_moments(test: str, samples: tuple[Sample, ...]) -> tuple[Moments, Moments, int]:
    if all(sample.is_constant for sample in samples):
        shown = ", ".join(f"{sample.name!r} is always {float(sample.values[0])!r}" for sample in samples)
        raise CannotTestError(
            test,
            f"neither group varies ({shown}), so the standard error is zero and t is undefined; "
            "compare the two numbers directly",
        )
    exponent = scale_exponent(samples)
    first, second = (moments(sample.values, exponent) for sample in samples)
    if first.squares + second.squares < LEAST_SQUARES:
        raise CannotTestError(
            test,
            "the groups vary too little, next to the size of their values, for double precision; rescale",
        )
    return first, second, exponent


def t_tail(t: float, df: float, alternative: Alternative) -> float:
    """The probability that Student's t is as far out as this, to the side or sides asked about."""
    if alternative == "two-sided":
        return 2.0 * float(special.stdtr(df, -abs(t)))
    return float(special.stdtr(df, -t if alternative == "greater" else t))


def t_interval(
    test: str, centre_and_error: tuple[float, float], df: float, exponent: int, settings: Settings
) -> Interval:
    """The interval that belongs to the test `t_tail`, from a scaled estimate and its standard error."""
    centre, error = centre_and_error
    reach = -float(special.stdtrit(df, settings.estimate_tail)) * error
    ends = settings.bounded((centre - reach, centre + reach))
    low, high = (end if math.isinf(end) else unscaled(test, end, exponent) for end in ends)
    return low, high


def _constant_notes(samples: tuple[Sample, ...]) -> tuple[str, ...]:
    return tuple(
        f"group {sample.name!r} is constant; the whole standard error comes from the other group"
        for sample in samples
        if sample.is_constant
    )
