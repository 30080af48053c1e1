"""Student's t-test and the standardized differences beside Cohen's d: R, published formulas, simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, run_test

SIDES = ["greater", "less", "two-sided"]
SLEEP = {  # R's sleep
    "1": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    "2": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
}
RUNS = 1200
MISS = 3.5 * math.sqrt(0.05 * 0.95 / RUNS)


def covered(test: str, effect_size: Any, draw: Any, truth: float) -> float:
    rng = np.random.default_rng(7)
    found = [run_test(test, draw(rng), effect_size=effect_size).effect_size_interval for _ in range(RUNS)]
    return float(np.mean([low <= truth <= high for low, high in found]))


def test_student_agrees_with_r_on_sleep() -> None:
    # R: t.test(extra ~ group, data = sleep, var.equal = TRUE): t = -1.8608, df = 18, p-value = 0.07919,
    # 95 percent confidence interval -3.363874 0.203874
    result = run_test("student_ttest", SLEEP)
    assert result.statistic == pytest.approx(-1.8608, abs=5e-5)
    assert result.df == (18.0,)
    assert result.p_value == pytest.approx(0.07919, abs=5e-6)
    assert result.confidence_interval == pytest.approx((-3.363874, 0.203874), abs=5e-7)
    assert result.method == "Student's t-test, two-sided"


@pytest.mark.parametrize("side", SIDES)
def test_student_agrees_with_scipy_and_its_interval_with_itself(side: Any) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(1, 1, 9), rng.normal(0, 1, 5)
    oracle = stats.ttest_ind(x, y, alternative=side)
    result = run_test("student_ttest", {"x": x, "y": y}, alternative=side)
    assert result.statistic == pytest.approx(float(oracle.statistic))
    assert result.p_value == pytest.approx(float(oracle.pvalue))
    expected = oracle.confidence_interval(0.95)
    assert result.confidence_interval == pytest.approx((float(expected.low), float(expected.high)))


def test_student_is_the_analysis_of_variance_of_two_groups_and_takes_one_value_in_one() -> None:
    student, anova = run_test("student_ttest", SLEEP), run_test("anova", SLEEP)
    assert student.statistic**2 == pytest.approx(anova.statistic)
    assert student.p_value == pytest.approx(anova.p_value)
    one = run_test("student_ttest", {"a": [5.0], "b": [1.0, 2.0, 3.0]})
    oracle = stats.ttest_ind([5.0], [1.0, 2.0, 3.0])
    assert (one.statistic, one.p_value) == pytest.approx((float(oracle.statistic), float(oracle.pvalue)))
    assert run_test("student_ttest", {"a": [5.0], "b": [1.0, 2.0, 3.0]}, effect_size="glass_delta").effect_size == 3.0
    with pytest.raises(CannotTestError, match="2 values"):
        run_test("student_ttest", {"a": [5.0], "b": [1.0]})
    assert run_test("student_ttest", {"a": [5.0, 5.0], "b": [5.0]}).p_value == 1.0


def test_the_effect_sizes_of_the_student_test_are_those_of_the_welch_test() -> None:
    for name in ("cohens_d", "hedges_g", "glass_delta"):
        student, welch = (run_test(test, SLEEP, effect_size=name) for test in ("student_ttest", "ttest"))  # type: ignore[arg-type]
        assert (student.effect_size, student.effect_size_interval) == (welch.effect_size, welch.effect_size_interval)


def test_glass_delta_divides_by_the_second_groups_sd() -> None:
    # Glass (1976): the difference of means over the control group's standard deviation
    x, y = (np.array(values) for values in SLEEP.values())
    result = run_test("ttest", SLEEP, effect_size="glass_delta")
    assert result.effect_size == pytest.approx((x.mean() - y.mean()) / y.std(ddof=1))
    low, high = result.effect_size_interval
    assert low < result.effect_size < high
    with pytest.raises(CannotTestError, match="does not vary; put the group that does second"):
        run_test("ttest", {"a": [1.0, 2.0, 4.0], "b": [3.0, 3.0, 3.0]}, effect_size="glass_delta")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "sd", "truth", "least"),
    [(6, 8, 1.0, 0.0, 0.95), (6, 8, 1.0, 2.0, 0.95), (14, 6, 3.0, 1.0, 0.95), (6, 14, 3.0, 1.0, 0.94)],
)
def test_the_interval_of_glass_delta_covers(n: int, m: int, sd: float, truth: float, least: float) -> None:
    rate = covered("ttest", "glass_delta", lambda rng: {"a": rng.normal(truth, sd, n), "b": rng.normal(0, 1, m)}, truth)
    assert least - MISS <= rate <= 0.99


def test_d_av_divides_by_the_root_mean_square_of_the_two_sds_and_agrees_with_the_test_about_zero() -> None:
    # Cumming (2012), Understanding the New Statistics, equation 11.10; Algina & Keselman (2003) for the interval
    x, y = (np.array(values) for values in SLEEP.values())
    unit = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    result = run_test("paired_ttest", SLEEP, effect_size="cohens_dav")
    dz = run_test("paired_ttest", SLEEP)
    assert result.effect_size == pytest.approx((x - y).mean() / unit)
    ratio = (x - y).std(ddof=1) / unit
    assert result.effect_size_interval == pytest.approx([end * ratio for end in dz.effect_size_interval])
    scaled = {name: [value * 1e200 for value in values] for name, values in SLEEP.items()}
    assert run_test("paired_ttest", scaled, effect_size="cohens_dav").effect_size == pytest.approx(result.effect_size)
    assert run_test("paired_permutation", SLEEP, effect_size="cohens_dav").effect_size == result.effect_size


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho", "sd", "truth"), [(5, 0.8, 1.0, 1.0), (8, 0.5, 2.0, 1.0), (8, 0.9, 1.0, 2.0)])
def test_the_interval_of_d_av_covers(n: int, rho: float, sd: float, truth: float) -> None:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        base = rng.normal(size=n)
        other = rho * base + math.sqrt(1 - rho * rho) * rng.normal(size=n)
        return {"a": sd * other + truth * math.sqrt((1 + sd * sd) / 2), "b": base}

    assert 0.95 - MISS <= covered("paired_ttest", "cohens_dav", draw, truth) <= 0.99


def test_cliffs_delta_the_rank_biserial_and_common_language_are_one_statistic() -> None:
    results = {
        name: run_test("mann_whitney", SLEEP, effect_size=name)  # type: ignore[arg-type]
        for name in ("rank_biserial", "cliffs_delta", "common_language")
    }
    x, y = (np.array(values) for values in SLEEP.values())
    wins = np.sign(np.subtract.outer(x, y)).mean()
    assert results["cliffs_delta"].effect_size == pytest.approx(wins)
    assert results["rank_biserial"].effect_size == results["cliffs_delta"].effect_size
    assert results["rank_biserial"].effect_size_interval == results["cliffs_delta"].effect_size_interval
    shares = np.array(results["cliffs_delta"].effect_size_interval) / 2 + 0.5
    assert results["common_language"].effect_size == pytest.approx(wins / 2 + 0.5)
    assert results["common_language"].effect_size_interval == pytest.approx(shares)


def test_epsilon_squared_of_the_analysis_of_variance_is_the_adjusted_share_of_variance() -> None:
    # Kelley (1935); the same number as the adjusted R squared of the regression on the groups
    groups = {**SLEEP, "3": [2.0, 5.0, 3.5, 4.0]}
    n, k = 24, 3
    eta = run_test("anova", groups, effect_size="eta_squared").effect_size
    epsilon = run_test("anova", groups, effect_size="epsilon_squared")
    assert epsilon.effect_size == pytest.approx(1 - (1 - eta) * (n - 1) / (n - k))
    alike = run_test("anova", {"a": [1.0, 3.0], "b": [1.0, 3.0]}, effect_size="epsilon_squared")
    assert alike.effect_size == 0.0
    assert any("epsilon squared came out as" in note for note in alike.notes)
