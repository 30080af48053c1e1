"""Noncentral t and F: against published limits, and against integrals written out another way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from crucible_bench import compare, run_test
from crucible_bench.distributions.noncentral import (
    noncentral_chi_square_interval,
    noncentral_f_interval,
    noncentral_t_cdf,
    noncentral_t_interval,
)
from crucible_bench.effect_sizes.standardized import bias_factor


def test_limits_of_the_noncentral_t_are_those_of_mbess() -> None:
    # Kelley (2007), J. Stat. Softw. 20(8), and ?MBESS::conf.limits.nct: ncp = 2.83, df = 126, 95 %
    assert noncentral_t_interval(2.83, 126, 0.95) == pytest.approx((0.8337502, 4.815359), abs=5e-7)


def test_limits_agree_with_harms_published_r_output() -> None:
    # Harms (2016), ConfidenceIntervals-Noncentral.R, README: after Steiger (2004)
    assert noncentral_f_interval(13.18, (1, 314), 0.95) == pytest.approx((2.713216, 31.44969), rel=1e-6)
    assert noncentral_t_interval(3.04, 314, 0.99) == pytest.approx((0.4429486, 5.632345), rel=1e-6)


@pytest.mark.parametrize("df", [1, 2, 7, 60, 900])
@pytest.mark.parametrize("t", [0.0, 0.4, 2.5, 12.0])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 2.0])
def test_noncentral_t_equals_the_integral_over_the_chi_distribution(t: float, df: int, shift: float) -> None:
    delta = t + shift
    whole, _ = integrate.quad(
        lambda s: float(special.ndtr(t * s - delta) * stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)),
        0.0,
        1.0 + 14.0 / math.sqrt(df),
        points=[1.0],
        epsabs=1e-12,
        limit=200,
    )
    assert noncentral_t_cdf(t, df, delta) == pytest.approx(whole, abs=2e-10)


@pytest.mark.parametrize(
    ("t", "df", "delta", "expected"),
    [  # mpmath's quadrature of the normal distribution over the density of S, with 30 digits
        (1.0, 1.5, 1.0, 0.44345964701497),
        (0.8334872011855584, 1.2544923539684376, -0.13135724365027493, 0.771522136493803),
        (0.16672304903015778, 1.1194188626672192, 0.49953227084352414, 0.358630479900006),
    ],
)
def test_noncentral_t_has_digits_below_two_degrees_of_freedom(
    t: float, df: float, delta: float, expected: float
) -> None:
    assert noncentral_t_cdf(t, df, delta) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("df", [1.0, 2.3, 7.0, 60.0, 3e5, 2e6, 1e7])
def test_noncentral_t_joins_where_the_method_changes(df: float) -> None:
    here = max(1e3, math.sqrt(df / 2.0))
    for shift in (-2.0, 0.0, 2.0):
        delta = here + shift * math.hypot(1.0, here / math.sqrt(2.0 * df))
        below, above = (noncentral_t_cdf(here * factor, df, delta) for factor in (1.0, 1.0 + 1e-12))
        assert above == pytest.approx(below, abs=1e-8)


def test_all_of_it_lies_below_a_t_far_above_a_negative_delta() -> None:
    # There scipy gives nan.
    assert noncentral_t_cdf(22.508014150318257, 7.061198460504857, -15.279133251735853) == 1.0


def test_noncentral_t_has_digits_where_series_run_out() -> None:
    # For huge t, T <= t means S >= (delta + Z) / t, and Z no longer matters: a chi-square tail is left.
    assert noncentral_t_cdf(1e9, 20, 1e9) == pytest.approx(float(special.chdtrc(20, 20.0)), abs=1e-8)
    low, high = noncentral_t_interval(1e9, 20, 0.95)
    assert low == pytest.approx(1e9 * math.sqrt(special.chdtri(20, 0.975) / 20), rel=1e-6)
    assert high == pytest.approx(1e9 * math.sqrt(special.chdtri(20, 0.025) / 20), rel=1e-6)


@pytest.mark.parametrize("df", [(2.0, 20.0), (4.0, 1e6), (30.0, 1.0)])
def test_limits_of_the_noncentral_f_join_where_the_method_changes(df: tuple[float, float]) -> None:
    below, above = (np.array(noncentral_f_interval(f, df, 0.95)) / f for f in (9.999e6, 1.0001e7))
    assert above == pytest.approx(below, rel=1e-5)


def test_f_with_one_numerator_df_is_the_square_of_t() -> None:
    t_low, t_high = noncentral_t_interval(4.2, 30, 0.9)
    tail = 0.05
    f_low, f_high = noncentral_f_interval(4.2**2, (1, 30), 0.9)
    # Not exactly: F also counts T <= -t, which is improbable at this distance from zero.
    assert (f_low, f_high) == pytest.approx((t_low**2, t_high**2), rel=1e-3)
    assert stats.ncf.cdf(4.2**2, 1, 30, f_low) == pytest.approx(1 - tail, abs=1e-9)


def test_limits_of_the_noncentral_chi_square_are_where_the_tails_say() -> None:
    low, high = noncentral_chi_square_interval(17.0, 3, 0.95)
    assert stats.ncx2.cdf(17.0, 3, low) == pytest.approx(0.975, abs=1e-9)
    assert stats.ncx2.cdf(17.0, 3, high) == pytest.approx(0.025, abs=1e-9)
    assert noncentral_chi_square_interval(0.05, 3, 0.95) == (0.0, 0.0)


@pytest.mark.parametrize("df", [2, 3, 10, 100])
def test_hedges_factor_is_the_exact_one(df: int) -> None:
    # Hedges (1981), equation 6e
    exact = math.gamma(df / 2) / (math.sqrt(df / 2) * math.gamma((df - 1) / 2))
    assert bias_factor(df) == pytest.approx(exact, rel=1e-12)
    if df == 10:
        assert bias_factor(df) == pytest.approx(1 - 3 / (4 * df - 1), abs=1e-3)


def test_d_and_g_follow_from_the_textbook_formula_and_share_the_interval() -> None:
    x, y = [6.1, 7.4, 5.2, 8.8, 6.9], [4.0, 5.5, 6.1, 3.9]
    d = run_test("ttest", {"x": x, "y": y}, effect_size="cohens_d")
    g = run_test("ttest", {"x": x, "y": y}, effect_size="hedges_g")
    pooled = math.sqrt((4 * np.var(x, ddof=1) + 3 * np.var(y, ddof=1)) / 7)
    assert d.effect_size == pytest.approx((np.mean(x) - np.mean(y)) / pooled, rel=1e-12)
    assert g.effect_size == pytest.approx(d.effect_size * bias_factor(7), rel=1e-12)
    assert d.effect_size_interval == g.effect_size_interval
    root, t = math.sqrt(20 / 9), d.effect_size * math.sqrt(20 / 9)
    assert stats.nct.cdf(t, 7, d.effect_size_interval[0] * root) == pytest.approx(0.975, abs=1e-8)
    assert stats.nct.cdf(t, 7, d.effect_size_interval[1] * root) == pytest.approx(0.025, abs=1e-8)


def test_dz_interval_inverts_the_noncentral_t() -> None:
    x, y = [3.1, 4.0, 5.2, 6.6, 4.9, 7.0], [2.0, 4.4, 3.9, 5.0, 4.1, 5.5]
    result = run_test("paired_ttest", {"x": x, "y": y}, effect_size="cohens_dz")
    assert result.effect_size == pytest.approx(result.statistic / math.sqrt(6))
    assert run_test("paired_ttest", {"x": x, "y": y}).effect_size_interval == result.effect_size_interval
    low, high = (end * math.sqrt(6) for end in result.effect_size_interval)
    assert stats.nct.cdf(result.statistic, 5, low) == pytest.approx(0.975, abs=1e-8)
    assert stats.nct.cdf(result.statistic, 5, high) == pytest.approx(0.025, abs=1e-8)


def test_an_f_below_every_expectation_gives_an_interval_at_zero_and_says_so() -> None:
    groups = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [1.0, 2.0, 3.0]}
    result = run_test("anova", groups, effect_size="omega_squared")
    assert result.effect_size_interval == (0.0, 0.0)
    assert result.effect_size == 0.0
    assert any("improbable" in note for note in result.notes)
    assert any("given as 0" in note for note in result.notes)


def test_g_av_is_delacres_with_an_interval_that_agrees_with_welchs_test() -> None:
    # Delacre, Lakens, Ley, Liu & Leys (2021): d*_s in root mean square sds, times the bias factor of its own df
    x, y = [6.1, 7.4, 5.2, 8.8, 6.9], [4.0, 5.5, 6.1, 3.9]
    g = run_test("ttest", {"x": x, "y": y})
    d = run_test("ttest", {"x": x, "y": y}, effect_size="cohens_dav")
    a, b = np.var(x, ddof=1), np.var(y, ddof=1)
    assert d.effect_size == pytest.approx((np.mean(x) - np.mean(y)) / math.sqrt((a + b) / 2))
    assert g.effect_size_name == "hedges_gav"
    assert g.effect_size == pytest.approx(d.effect_size * bias_factor((a + b) ** 2 / (a**2 / 4 + b**2 / 3)))
    ends = [end / d.effect_size * d.statistic for end in d.effect_size_interval]
    assert stats.nct.cdf(d.statistic, d.df[0], ends) == pytest.approx([0.975, 0.025], abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("sizes", "sds"), [((5, 20), (3.0, 1.0)), ((5, 20), (1.0, 3.0)), ((15, 15), (1.0, 1.0))])
def test_the_interval_of_g_av_covers_whatever_the_variances(delta: float, sizes: Any, sds: Any) -> None:
    """Simulated, 1,000 times: the interval of the pooled g covers 74 % with sizes 5 and 20 and sds 3 and 1."""
    rng, runs, covered = np.random.default_rng(5), 1000, 0
    unit = math.sqrt((sds[0] ** 2 + sds[1] ** 2) / 2)
    for _ in range(runs):
        x, y = rng.normal(delta * unit, sds[0], sizes[0]), rng.normal(0.0, sds[1], sizes[1])
        result = run_test("ttest", {"x": x, "y": y})
        low, high = result.effect_size_interval
        covered += low <= delta <= high
        assert (result.p_value > 0.05) == (low <= 0.0 <= high)
    assert covered / runs >= 0.93 - 3.5 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("n", "significant"), [(2, False), (40, True)])
def test_no_effect_that_is_not_shown_is_called_large(n: int, significant: bool) -> None:
    found = compare({"new": [0.91, 0.92] * (n // 2), "old": [0.80, 0.83] * (n // 2)}).to_dict()["tests"]["ttest"]
    assert found["significant"] == significant
    assert (found["interpretation"] or {}).get("word") == ("large" if significant else None)
    assert found["effect_size"] > 1.0
