"""Long-run promises, by simulation: the level of each test and the coverage of each interval, seeds fixed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from crucible_bench import TestResult, run_test

Groups = dict[str, np.ndarray]

RUNS = 500
# 95 % give or take 3.5 standard errors of so many runs.
LEAST, MOST = (0.95 + sign * 3.5 * math.sqrt(0.95 * 0.05 / RUNS) for sign in (-1, 1))


def simulate(test: str, draw: Callable[[np.random.Generator], Groups], runs: int, **options: str) -> list[TestResult]:
    rng = np.random.default_rng(2024)
    return [run_test(test, draw(rng), resamples=399, **options) for _ in range(runs)]  # type: ignore[arg-type]


def covered(results: list[TestResult], truth: float, field: str) -> float:
    return sum(getattr(r, field)[0] <= truth <= getattr(r, field)[1] for r in results) / len(results)


def independent(n: int, m: int, shift: float, sd: float = 1.0) -> Callable[[np.random.Generator], Groups]:
    return lambda rng: {"a": rng.normal(shift, 1.0, n), "b": rng.normal(0.0, sd, m)}


def paired(n: int, shift: float) -> Callable[[np.random.Generator], Groups]:
    def draw(rng: np.random.Generator) -> Groups:
        base = rng.normal(size=n)
        return {"a": base + rng.normal(shift, 1.0, n), "b": base}

    return draw


def three(n: int, step: float) -> Callable[[np.random.Generator], Groups]:
    return lambda rng: {str(i): rng.normal(i * step, 1.0, n) for i in range(3)}


def correlated(n: int) -> Callable[[np.random.Generator], Groups]:
    return lambda rng: {"a": rng.normal(size=n), "b": rng.exponential(size=n)}


def blocks(n: int, k: int) -> Callable[[np.random.Generator], Groups]:
    def draw(rng: np.random.Generator) -> Groups:
        base = rng.normal(size=n)
        return {str(i): base + rng.normal(0.0, 1.0 + i, n) for i in range(k)}

    return draw


def outcomes(n: int, m: int, p: float) -> Callable[[np.random.Generator], Groups]:
    return lambda rng: {"a": (rng.random(n) < p) * 1.0, "b": (rng.random(m) < p) * 1.0}


NULL = {
    "brown_forsythe": three(20, 0.0),
    "brunner_munzel": independent(20, 12, 0.0, 4.0),
    "friedman": lambda rng: {str(i): rng.normal(size=15) for i in range(7)},
    "kendall": correlated(12),
    "mcnemar": outcomes(60, 60, 0.7),
    "mcnemar_midp": outcomes(60, 60, 0.7),
    "paired_permutation": paired(9, 0.0),
    "pearson": correlated(12),
    "permutation": independent(5, 6, 0.0),
    "repeated_measures_anova": blocks(10, 4),
    "sign": paired(25, 0.0),
    "spearman": correlated(12),
    "student_ttest": independent(5, 12, 0.0),
    "two_proportions": outcomes(40, 30, 0.7),
    "variance_ratio": independent(9, 14, 0.0),
    "welch_anova": lambda rng: {str(i): rng.normal(0.0, 1.0 + i, 12 - 2 * i) for i in range(3)},
    "anova": three(7, 0.0),
    "bootstrap": independent(8, 14, 0.0, 3.0),
    "kruskal_wallis": three(9, 0.0),
    "mann_whitney": independent(9, 12, 0.0),
    "paired_ttest": paired(6, 0.0),
    "ttest": independent(6, 14, 0.0, 3.0),
    "wilcoxon": paired(11, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("test", sorted(NULL))
def test_the_level_is_kept_without_an_effect(test: str) -> None:
    runs = 800
    rejected = sum(result.significant for result in simulate(test, NULL[test], runs)) / runs
    error = math.sqrt(0.05 * 0.95 / runs)
    assert rejected <= 0.05 + 3.5 * error
    assert rejected >= 0.025 - 3.5 * error  # nor is the test asleep; small exact ones are conservative


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "draw", "truth", "field", "least", "most"),
    [
        ("ttest", independent(6, 14, 1.0, 3.0), 1.0, "confidence_interval", LEAST, MOST),
        ("ttest", independent(7, 12, 1.2), 1.2, "effect_size_interval", LEAST, MOST),
        ("student_ttest", independent(5, 9, 1.0), 1.0, "confidence_interval", LEAST, MOST),
        ("student_ttest", independent(5, 9, 1.5), 1.5, "effect_size_interval", LEAST, MOST),
        ("variance_ratio", independent(8, 12, 0.0, 2.0), 0.25, "confidence_interval", LEAST, MOST),
        ("permutation", independent(5, 6, 0.7), 0.7, "confidence_interval", LEAST, 0.99),
        (
            "brunner_munzel",
            independent(9, 12, 1.0),
            special.ndtr(1 / 2**0.5),
            "confidence_interval",
            LEAST - 0.02,
            0.98,
        ),
        ("paired_ttest", paired(7, 0.8), 0.8, "confidence_interval", LEAST, MOST),
        ("paired_ttest", paired(7, 0.8), 0.8, "effect_size_interval", LEAST, MOST),
        ("wilcoxon", paired(12, 0.8), 0.8, "confidence_interval", LEAST, 0.99),
        ("wilcoxon", paired(60, 0.3), 0.3, "confidence_interval", LEAST, MOST),
        # P(D1 + D2 > 0) for D ~ N(shift, 1) gives the population's matched rank-biserial correlation.
        ("wilcoxon", paired(15, 0.5), 2 * special.ndtr(0.5 * 2**0.5) - 1, "effect_size_interval", LEAST, 1.0),
        ("wilcoxon", paired(15, 0.0), 0.0, "effect_size_interval", LEAST, 1.0),
        ("mann_whitney", independent(9, 12, 0.7), 0.7, "confidence_interval", LEAST, 0.99),
        ("mann_whitney", independent(55, 30, 0.7), 0.7, "confidence_interval", LEAST, MOST),
        # P(X > Y) for unit normals
        (
            "mann_whitney",
            independent(9, 12, 1.0),
            2 * special.ndtr(1 / 2**0.5) - 1,
            "effect_size_interval",
            LEAST,
            0.98,
        ),
        ("mann_whitney", independent(9, 12, 0.0), 0.0, "effect_size_interval", LEAST, 0.99),
        # means 0, s, 2 s: the population share is the variance of the means over that plus one
        ("anova", three(8, 0.8), (0.64 * 2 / 3) / (0.64 * 2 / 3 + 1), "effect_size_interval", LEAST, MOST),
        ("anova", three(8, 0.0), 0.0, "effect_size_interval", 0.95, 1.0),
        ("bootstrap", independent(25, 30, 0.5), 0.5, "confidence_interval", LEAST - 0.01, MOST),
        ("bootstrap", independent(25, 30, 0.5), 0.5, "effect_size_interval", LEAST - 0.01, 0.99),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    test: str,
    draw: Callable[[np.random.Generator], Groups],
    truth: float,
    field: str,
    least: float,
    most: float,
) -> None:
    assert least <= covered(simulate(test, draw, RUNS), float(truth), field) <= most


@pytest.mark.slow
@pytest.mark.parametrize(("n", "step"), [(9, 0.0), (9, 0.5), (25, 0.3)])
@pytest.mark.parametrize("effect_size", ["epsilon_squared", "eta_squared"])
def test_the_kruskal_wallis_effect_covers_its_population_value(n: int, step: float, effect_size: str) -> None:
    # 12 times the mean of (P(X_j > X) + P(X_j = X) / 2 - 1/2)**2, X from the mixture of the three groups
    means = step * np.arange(3)
    above = special.ndtr(np.subtract.outer(means, means) / math.sqrt(2)).mean(axis=1)
    truth = float(12 * np.square(above - 0.5).mean())
    results = simulate("kruskal_wallis", three(n, step), 400, effect_size=effect_size)
    assert covered(results, truth, "effect_size_interval") >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / 400)
