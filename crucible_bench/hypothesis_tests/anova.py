"""One-way analysis of variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments
from crucible_bench.data.sample import Sample, scale_exponent
from crucible_bench.distributions.noncentral import noncentral_f_interval
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude
from crucible_bench.vocabulary import TestName


def anova_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Fisher's one-way F test that the means of two or more groups are equal."""
    return analysis_of_variance(
        "anova",
        samples,
        settings,
        method="one-way analysis of variance",
        undefined="no group varies, so the variance within groups is zero and F is undefined; "
        "compare the numbers directly",
        assumptions=(
            "observations are independent, within and between the groups",
            "group means are approximately normal (normal data, or groups that are not small)",
            "all groups have the same variance",
        ),
        notes=tuple(f"group {sample.name!r} is constant" for sample in samples if sample.n > 1 and sample.is_constant),
    )


def analysis_of_variance(
    test: TestName,
    samples: tuple[Sample, ...],
    settings: Settings,
    *,
    method: str,
    undefined: str,
    assumptions: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> TestResult:
    """The F test under any name; `undefined` is the reason given if no group varies."""
    table = _decompose(test, samples, undefined)
    f = (table.between / table.df[0]) / (table.within / table.df[1])
    effect = _explained_variance(f, table, settings)
    return conclude(
        test,
        samples,
        settings,
        method=method,
        statistic=("F", f),
        df=table.df,
        p_value=float(special.fdtrc(*table.df, f)),
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=assumptions,
        notes=notes,
        decisions=(),
        disagreement="F tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


@dataclass(frozen=True, slots=True)
class _Table:
    between: float
    within: float
    df: tuple[float, float]

    @property
    def n(self) -> float:
        return self.df[0] + self.df[1] + 1.0


def _decompose(test: TestName, samples: tuple[Sample, ...], undefined: str) -> _Table:
    k, n = len(samples), sum(sample.n for sample in samples)
    if n == k:
        raise CannotTestError(
            test, f"{k} groups of 1 value each have no spread within groups; at least one group needs 2 values"
        )
    if all(sample.is_constant for sample in samples):
        raise CannotTestError(test, undefined)
    exponent = scale_exponent(samples)
    parts = [moments(sample.values, exponent) for sample in samples]
    within = sum(part.squares for part in parts)
    if within < LEAST_SQUARES:
        raise CannotTestError(
            test,
            "the groups vary too little, next to the size of their values, for double precision; rescale",
        )
    return _Table(_between(parts), within, (k - 1.0, float(n - k)))


def _between(parts: list[Moments]) -> float:
    # Relative to one group's mean: the grand mean of numbers near 1e12 has lost the digits that matter here.
    offsets = np.array([part.minus(parts[0]) for part in parts])
    sizes = np.array([float(part.n) for part in parts])
    return float(np.dot(sizes, np.square(offsets - np.average(offsets, weights=sizes))))


def _explained_variance(f: float, table: _Table, settings: Settings) -> Effect:
    """Eta squared (Pearson 1905), epsilon squared (Kelley 1935) or omega squared (Hays 1963), and one interval for all.

    The population share is lambda / (lambda + n), lambda being F's noncentrality (Steiger 2004); the interval is
    exact for normal groups of equal variance.
    """
    notes: list[str] = []
    mean_within = table.within / table.df[1]
    value = table.between / (table.between + table.within)
    if settings.effect_size != "eta_squared":
        more = mean_within if settings.effect_size == "omega_squared" else 0.0
        value = (table.between - table.df[0] * mean_within) / (table.between + table.within + more)
        if value < 0.0:
            said = settings.effect_size.replace("_", " ")
            notes.append(f"{said} came out as {value:.3g} and is given as 0, its smallest possible value")
            value = 0.0
    low, high = noncentral_f_interval(f, table.df, settings.confidence_level)
    if high == 0.0:
        notes.append(
            "an F this low is improbable even without an effect: both ends of the effect size's interval are 0"
        )
    choice = Choice(
        "noncentral-F interval for the effect size",
        "exact for normal groups of equal variance, at any n",
        ("bootstrap interval",),
    )
    interval = low / (low + table.n), high / (high + table.n)
    return Effect(settings.effect_size, value, interval, choice, tuple(notes))
