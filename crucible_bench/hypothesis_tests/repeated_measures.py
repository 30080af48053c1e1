"""Analysis of variance of repeated measures, with its sphericity corrections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES
from crucible_bench.data.pairs import check_blocks
from crucible_bench.data.sample import Sample, scale_exponent, scaled
from crucible_bench.distributions.noncentral import noncentral_f_interval
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude

_NOISE = 1e-29  # rounding of the values, squared


def repeated_measures_anova_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """F test that two or more conditions, measured on the same subjects, have equal means.

    Both degrees of freedom are multiplied by Greenhouse and Geisser's epsilon; the notes also give the p-values with
    Huynh and Feldt's correction and with none. The effect size is partial eta squared.
    """
    table = _table(samples)
    epsilon, huynh_feldt = _epsilons(table)
    n, k = table.n, len(samples)
    df = (k - 1.0, (n - 1.0) * (k - 1.0))
    f = (table.between / df[0]) / (table.error / df[1])
    corrected = (df[0] * epsilon, df[1] * epsilon)
    effect = _partial_eta_squared(f, table, df, epsilon, settings)
    others = [
        f"{name} p-value {float(special.fdtrc(df[0] * factor, df[1] * factor, f)):.4g} (epsilon {factor:.4g})"
        for name, factor in (("Huynh-Feldt", huynh_feldt), ("uncorrected", 1.0))
    ]
    return conclude(
        "repeated_measures_anova",
        samples,
        settings,
        method="repeated-measures analysis of variance, Greenhouse-Geisser correction",
        statistic=("F", f),
        df=corrected,
        p_value=float(special.fdtrc(*corrected, f)),
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=(
            "values at the same position of the groups belong to one subject",
            "subjects are independent of each other",
            "differences between conditions are approximately normal",
        ),
        notes=(f"epsilon {epsilon:.4g}", *others) if k > 2 else ("two conditions: F is the square of the paired t",),
        decisions=(
            Choice(
                "Greenhouse-Geisser correction",
                "it keeps the level whatever the variances of the differences, so the choice is not made by a "
                "preliminary test of sphericity",
                ("Huynh-Feldt correction", "no correction"),
            ),
        ),
        disagreement="F tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Sums of squares on the scaled values, and the k x k covariance of the values without their subject's mean."""

    n: int
    between: float
    error: float
    covariance: NDArray[np.float64]


def _table(samples: tuple[Sample, ...]) -> _Table:
    name = "repeated_measures_anova"
    n = check_blocks(name, samples)
    if n < 2:
        raise CannotTestError(name, "one subject has no spread to judge by; at least two are needed")
    exponent = scale_exponent(samples)
    values = np.column_stack([scaled(sample.values, exponent) for sample in samples])
    size = float(np.square(values).sum())
    for _ in range(2):  # twice, because a first mean of large numbers is rounded
        values -= values.mean(axis=1, keepdims=True)
    means = values.mean(axis=0)
    between = n * float(np.square(means).sum())
    values -= means
    means = values.mean(axis=0)
    values -= means
    covariance = values.T @ values
    error = float(np.trace(covariance))
    if error <= _NOISE * size or error < LEAST_SQUARES:
        raise CannotTestError(
            name,
            "every subject differs between the conditions by the same amount, up to rounding, so the error variance is "
            "zero and F is undefined",
        )
    return _Table(n, between, error, covariance)


def _epsilons(table: _Table) -> tuple[float, float]:
    """Greenhouse and Geisser's (1959) and Huynh and Feldt's (1976) epsilon, the second at most 1.

    Epsilon (Box 1954) is 1 if the differences between conditions vary equally, and the smaller the less equally.
    """
    n, p = table.n, len(table.covariance) - 1.0
    relative = table.covariance / table.error
    greenhouse = min(1.0, max(1.0 / p, 1.0 / (p * float(np.square(relative).sum()))))
    room = p * (n - 1.0 - p * greenhouse)
    huynh = (n * p * greenhouse - 2.0) / room if room > 0.0 else 1.0
    return greenhouse, min(1.0, max(greenhouse, huynh))


def _partial_eta_squared(
    f: float, table: _Table, df: tuple[float, float], epsilon: float, settings: Settings
) -> Effect:
    """The share of condition in condition and error (Cohen 1973); interval of lambda / (lambda + df1 + df2 + 1).

    Under the alternative F is approximately noncentral F with epsilon df and noncentrality epsilon lambda (Muller &
    Barton 1989).
    """
    low, high = noncentral_f_interval(f, (df[0] * epsilon, df[1] * epsilon), settings.confidence_level)
    room = epsilon * (df[0] + df[1] + 1.0)
    choice = Choice(
        "noncentral-F interval for the effect size", "with the test's own corrected df", ("bootstrap interval",)
    )
    notes = () if high > 0.0 else ("an F this low is improbable even without an effect: both ends are 0",)
    value = table.between / (table.between + table.error)
    return Effect("partial_eta_squared", value, (low / (low + room), high / (high + room)), choice, notes)
