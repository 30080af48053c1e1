"""Power, sample size and detectable effect: statsmodels, Cohen's tables, simulation, and each the others' inverse."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import FTestAnovaPower, TTestIndPower, TTestPower

from crucible_bench import CannotTestError, compare_paired_proportions, compare_proportions, proportion_test
from crucible_bench.power.power import PlannedTest, minimum_detectable_effect, power_of, sample_size

SHARES: dict[str, dict[str, Any]] = {
    "mcnemar": {"discordant": 0.4},
    "mcnemar_midp": {"discordant": 0.4},
    "proportion": {"baseline": 0.3},
    "two_proportions": {"baseline": 0.5},
}
EXACT = ["anova", "one_sample_ttest", "paired_ttest", "student_ttest", "ttest"]
SIDES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


@pytest.mark.parametrize("alternative", SIDES)
@pytest.mark.parametrize(("d", "n", "alpha"), [(0.2, 10, 0.05), (0.5, 34, 0.05), (0.9, 7, 0.01), (-0.4, 25, 0.1)])
def test_powers_of_t_tests_are_statsmodels(alternative: Any, d: float, n: int, alpha: float) -> None:
    side = SIDES[alternative]
    for test in ("paired_ttest", "one_sample_ttest"):
        ours = power_of(test, d, n, alpha=alpha, alternative=alternative).power  # type: ignore[arg-type]
        assert ours == pytest.approx(TTestPower().power(d, n, alpha, alternative=side), abs=1e-9)
    ours = power_of("student_ttest", d, (n, 2 * n), alpha=alpha, alternative=alternative).power
    assert ours == pytest.approx(TTestIndPower().power(d, n, alpha, ratio=2, alternative=side), abs=1e-9)


@pytest.mark.parametrize(("f", "n", "k"), [(0.1, 50, 3), (0.25, 20, 4), (0.4, 5, 2)])
def test_power_of_anova_is_statsmodels(f: float, n: int, k: int) -> None:
    theirs = FTestAnovaPower().power(f, n * k, 0.05, k)
    assert power_of("anova", f, (n,) * k).power == pytest.approx(theirs, abs=1e-9)


def test_sizes_are_those_of_cohens_tables() -> None:
    # Cohen (1992), "A power primer", table 2: n per group for power .80 at alpha .05 and .01
    for d, five, one in ((0.2, 393, 586), (0.5, 64, 95), (0.8, 26, 38)):
        assert sample_size("student_ttest", d).n[0] == pytest.approx(five, abs=1)  # his are rounded
        assert sample_size("student_ttest", d, alpha=0.01).n[0] == pytest.approx(one, abs=1)
    for f, sizes in ((0.1, (322, 274)), (0.25, (52, 45)), (0.4, (21, 18))):
        for k, n in zip((3, 4), sizes, strict=True):
            assert sample_size("anova", f, groups=k).n[0] == pytest.approx(n, abs=1)


def test_two_groups_make_the_power_of_f_that_of_t() -> None:
    # f = d / 2 for two groups of one size.
    assert power_of("anova", 0.3, (17, 17)).power == pytest.approx(power_of("student_ttest", 0.6, 17).power, abs=1e-10)


@pytest.mark.parametrize(
    ("sizes", "ratio", "d"), [((2, 2), 1.0, 0.0), ((5, 15), 3.0, 0.0), ((6, 4), 0.5, 1.0), ((4, 12), 4.0, 1.2)]
)
def test_the_exact_power_of_welchs_test_is_what_simulation_finds(
    sizes: tuple[int, int], ratio: float, d: float
) -> None:
    rng, runs = np.random.default_rng(9), 40_000
    shift = d * math.sqrt((1 + ratio**2) / 2)
    x = rng.normal(shift, 1.0, (runs, sizes[0]))
    y = rng.normal(0.0, ratio, (runs, sizes[1]))
    found = (stats.ttest_ind(x, y, axis=1, equal_var=False).pvalue <= 0.05).mean()
    exact = power_of("ttest", d, sizes, sd_ratio=ratio).power
    assert exact == pytest.approx(found, abs=4 * math.sqrt(exact * (1 - exact) / runs))


@pytest.mark.parametrize("n", [100, 10_000, 1_000_000])
def test_large_groups_make_welchs_power_that_of_the_pooled_test(n: int) -> None:
    d = 3.0 / math.sqrt(n)
    assert power_of("ttest", d, n).power == pytest.approx(power_of("student_ttest", d, n).power, abs=0.02 / n)


@pytest.mark.parametrize("test", EXACT)
@given(n=st.integers(4, 200), power=st.floats(0.2, 0.99), alpha=st.sampled_from([0.01, 0.05, 0.2]), less=st.booleans())
@settings(max_examples=12, deadline=None)
def test_the_three_questions_are_inverse_to_each_other(
    test: Any, n: int, power: float, alpha: float, less: bool
) -> None:
    power = max(power, 2 * alpha)
    options: dict[str, Any] = {"alpha": alpha}
    if test != "anova" and less:
        options["alternative"] = "less"
    plan = minimum_detectable_effect(test, n, power=power, **options)
    assert power_of(test, plan.effect_size, n, **options).power == pytest.approx(power, abs=1e-9)
    slightly_more = sample_size(test, plan.effect_size * (1 + 1e-6), power=power, **options)
    assert slightly_more.n == plan.n
    slightly_less = sample_size(test, plan.effect_size * (1 - 1e-6), power=power, **options)
    assert slightly_less.n == tuple(size + 1 for size in plan.n)
    assert (plan.effect_size < 0) == ("alternative" in options)


@given(n=st.integers(3, 60), d=st.floats(0.05, 2.0))
@settings(max_examples=20, deadline=None)
def test_power_rises_with_the_size_and_with_the_effect(n: int, d: float) -> None:
    for test in ("ttest", "paired_ttest", "anova"):
        here: Any = power_of(test, d, n).power  # type: ignore[arg-type]
        assert 0.05 - 0.03 <= here <= power_of(test, d, n + 1).power + 1e-12  # type: ignore[arg-type]
        assert here <= power_of(test, 1.1 * d, n).power + 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("test", ["anova", "one_sample_ttest", "paired_ttest", "student_ttest"])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_without_an_effect_the_power_is_alpha(test: Any, alpha: float) -> None:
    assert power_of(test, 0.0, 9, alpha=alpha).power == pytest.approx(alpha, abs=1e-9)


def test_a_ratio_of_sizes_is_kept() -> None:
    plan = sample_size("student_ttest", 0.5, ratio=3)
    needed = math.ceil(TTestIndPower().solve_power(0.5, power=0.8, alpha=0.05, ratio=3))
    assert plan.n == (needed, 3 * needed)


@pytest.mark.slow
def test_simulated_power_of_the_bootstrap_and_the_rank_tests_is_near_theory() -> None:
    # Asymptotic relative efficiency 3 / pi for normal data: the rank tests need about 5 % more.
    theory = power_of("ttest", 0.8, 25).power
    for test in ("mann_whitney", "bootstrap"):
        plan = power_of(test, 0.8, 25, simulations=400, resamples=299)  # type: ignore[arg-type]
        assert plan.power == pytest.approx(theory, abs=0.03 + 3.5 * plan.power_error)
        assert plan.power_error == pytest.approx(math.sqrt(plan.power * (1 - plan.power) / 400))
    plan = power_of("wilcoxon", 0.5, 30, simulations=400)
    assert plan.power == pytest.approx(power_of("paired_ttest", 0.5, 30).power, abs=0.03 + 3.5 * plan.power_error)
    plan = power_of("kruskal_wallis", 0.4, (20,) * 3, simulations=400)
    assert plan.power == pytest.approx(power_of("anova", 0.4, (20,) * 3).power, abs=0.04 + 3.5 * plan.power_error)


@pytest.mark.slow
def test_simulated_power_is_exact_where_few_values_leave_few_outcomes() -> None:
    # Groups of 3 and 3 reach p = 0.1 only in full separation: P(max x < min y or the reverse), integrated by scipy.
    shift = 1.5
    low = stats.norm.expect(lambda m: 3 * stats.norm.cdf(m) ** 2 * (1 - stats.norm.cdf(m - shift)) ** 3)
    high = stats.norm.expect(lambda m: 3 * stats.norm.sf(m) ** 2 * stats.norm.cdf(m - shift) ** 3)
    plan = power_of("mann_whitney", shift, 3, alpha=0.1, simulations=1500)
    assert plan.power == pytest.approx(low + high, abs=3.5 * plan.power_error)


@pytest.mark.slow
def test_simulated_questions_are_inverse_and_reproducible() -> None:
    options: dict[str, Any] = {"simulations": 150, "seed": 4}
    plan = sample_size("mann_whitney", 1.0, **options)
    n = plan.n[0]
    assert plan == power_of("mann_whitney", 1.0, n, **options) == sample_size("mann_whitney", 1.0, **options)
    assert plan.power >= 0.8 > power_of("mann_whitney", 1.0, n - 1, **options).power
    effect = minimum_detectable_effect("wilcoxon", 12, **options)
    assert effect.power >= 0.8 > power_of("wilcoxon", 0.99 * effect.effect_size, 12, **options).power
    assert effect == power_of("wilcoxon", effect.effect_size, 12, **options)


def test_other_noise_can_be_planned_with() -> None:
    # Heavy tails: there the rank test beats its power under normal noise of the same standard deviation.
    heavy = power_of("mann_whitney", 0.5, 40, simulations=300, draw=lambda rng, n: rng.standard_t(3, n) / math.sqrt(3))
    assert heavy.power > power_of("mann_whitney", 0.5, 40, simulations=300).power
    assert any("noise that was given" in text for text in heavy.assumptions)
    coarse = power_of("wilcoxon", 0.0, 2, simulations=100, draw=lambda rng, n: np.zeros(n))
    assert coarse.power == 0.0
    with pytest.raises(ValueError, match="must return shape"):
        power_of("wilcoxon", 0.0, 5, draw=lambda rng, n: np.zeros(n + 1))


@pytest.mark.parametrize("test", get_args(PlannedTest))
def test_a_plan_is_plain_json_and_never_of_observed_data(test: Any) -> None:
    plan = power_of(test, 0.3, 12, simulations=100, resamples=100, **SHARES.get(test, {}))
    assert json.loads(json.dumps(plan.to_dict(), allow_nan=False)) == plan.to_dict()
    assert plan.to_dict()["effect_size_name"]
    assert 0.0 <= plan.power <= 1.0
    assert "before any data" in str(type(plan).__doc__)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(CannotTestError, match="cannot be planned; known: anova"):
        power_of("friedman", 0.5, 10)  # type: ignore[arg-type]
    with pytest.raises(CannotTestError, match="too small"):
        power_of("ttest", 0.5, 1)
    with pytest.raises(CannotTestError, match="too small"):
        power_of("anova", 0.5, (1, 1, 1))
    with pytest.raises(CannotTestError, match="takes two sizes, but 3"):
        power_of("ttest", 0.5, (5, 5, 5))
    with pytest.raises(CannotTestError, match="no direction"):
        power_of("anova", 0.5, 5, alternative="less")
    with pytest.raises(CannotTestError, match="look in the direction"):
        sample_size("paired_ttest", 0.5, alternative="less")
    with pytest.raises(CannotTestError, match="no effect size up to"):
        minimum_detectable_effect("mann_whitney", 3, simulations=100)  # p is at least 0.1
    for wrong in (
        lambda: power_of("ttest", math.nan, 5),
        lambda: power_of("anova", -0.5, 5),
        lambda: power_of("anova", 0.5, 5, sd_ratio=2.0),
        lambda: power_of("ttest", 0.5, 5, sd_ratio=0.0),
        lambda: power_of("ttest", 0.5, 5, alpha=1.0),
        lambda: power_of("ttest", 0.5, 5, alternative="up"),  # type: ignore[arg-type]
        lambda: power_of("wilcoxon", 0.5, 5, simulations=10),
        lambda: sample_size("ttest", 0.0),
        lambda: power_of("mcnemar", 0.1, 10),
        lambda: power_of("two_proportions", 0.1, 10),
        lambda: power_of("two_proportions", 0.1, 10, baseline=1.0),
        lambda: power_of("two_proportions", 0.6, 10, baseline=0.5),
        lambda: power_of("mcnemar", -0.3, 10, discordant=0.2),
        lambda: sample_size("proportion", -0.2, baseline=0.1),
        lambda: power_of("ttest", 0.1, 10, baseline=0.5),
        lambda: power_of("ttest", 0.1, 10, test_share=0.5),
        lambda: power_of("corrected_resampled_ttest", 0.1, 10, test_share=0.0),
        lambda: sample_size("ttest", 0.5, power=1.0),
        lambda: sample_size("ttest", 0.5, ratio=-1.0),
        lambda: minimum_detectable_effect("ttest", 10, power=0.04, alpha=0.05),
    ):
        with pytest.raises(ValueError, match=r"must|does not take|unknown|no sign|is not above|cannot be"):
            wrong()


# --- proportions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", SIDES)
def test_the_power_of_two_proportions_sums_the_tests_own_rejections(alternative: Any) -> None:
    (n, m), (p, q), found = (12, 9), (0.8, 0.3), 0.0
    for i, j in itertools.product(range(n + 1), range(m + 1)):
        test = compare_proportions({"a": (i, n), "b": (j, m)}, alternative=alternative)
        found += test.significant * stats.binom.pmf(i, n, p) * stats.binom.pmf(j, m, q)
    plan = power_of("two_proportions", p - q, (n, m), baseline=q, alternative=alternative)
    assert plan.power == pytest.approx(found, abs=1e-10)
    assert plan.method == "exact, summed over all outcomes"


@pytest.mark.parametrize("alternative", SIDES)
@pytest.mark.parametrize("mid_p", [False, True])
def test_the_power_of_mcnemars_test_sums_the_tests_own_rejections(alternative: Any, mid_p: bool) -> None:
    n, difference, discordant, found = 13, 0.3, 0.5, 0.0
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    for b, c in itertools.product(range(n + 1), range(n + 1)):
        if 0 < b + c <= n:
            test = compare_paired_proportions(n - b - c, b, c, 0, mid_p=mid_p, alternative=alternative)
            found += test.significant * stats.multinomial.pmf([b, c, n - b - c], n, shares)
    name: Any = "mcnemar_midp" if mid_p else "mcnemar"
    plan = power_of(name, difference, n, discordant=discordant, alternative=alternative)
    assert plan.power == pytest.approx(found, abs=1e-10)


@pytest.mark.parametrize("alternative", SIDES)
def test_the_power_of_one_proportion_sums_the_tests_own_rejections(alternative: Any) -> None:
    n, p, reference = 23, 0.55, 0.3
    rejected = [proportion_test(k, n, reference=reference, alternative=alternative).significant for k in range(n + 1)]
    found = np.dot(rejected, stats.binom.pmf(np.arange(n + 1), n, p))
    plan = power_of("proportion", p - reference, n, baseline=reference, alternative=alternative)
    assert plan.power == pytest.approx(float(found), abs=1e-10)


def test_the_sizes_for_proportions_are_near_the_textbooks_normal_ones() -> None:
    # Fleiss, Levin & Paik (2003), Statistical Methods for Rates and Proportions, equation 4.14 (no continuity term)
    p, q, z, beta = 0.55, 0.40, stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    mean = (p + q) / 2
    root = z * math.sqrt(2 * mean * (1 - mean)) + beta * math.sqrt(p * (1 - p) + q * (1 - q))
    plan = sample_size("two_proportions", p - q, baseline=q)
    assert plan.n[0] == pytest.approx((root / (p - q)) ** 2, rel=0.04)
    assert plan.power >= 0.8
    # Connor (1987), Sample size for testing differences in proportions for the paired-sample design
    difference, discordant = 0.1, 0.3
    needed = (z * math.sqrt(discordant) + beta * math.sqrt(discordant - difference**2)) ** 2 / difference**2
    assert sample_size("mcnemar_midp", difference, discordant=discordant).n[0] == pytest.approx(needed, rel=0.03)


@pytest.mark.parametrize("test", SHARES)
def test_questions_about_proportions_are_each_others_inverse(test: Any) -> None:
    found = minimum_detectable_effect(test, 60, **SHARES[test])
    assert power_of(test, found.effect_size, 60, **SHARES[test]).power == pytest.approx(0.8, abs=1e-9)
    needed = sample_size(test, found.effect_size * (1 + 1e-9), **SHARES[test])
    assert needed.n[0] <= 1.2 * 60  # the power rises in teeth: smaller sizes may do as well, larger ones not
    assert needed.power >= 0.8
    one_less = tuple(size - 1 for size in needed.n)
    assert power_of(test, needed.effect_size, one_less, **SHARES[test]).power < 0.8


def test_the_power_of_the_corrected_test_is_what_correlated_folds_find() -> None:
    # Differences of folds with the correlation rho = n_test / (n_test + n_train) that Nadeau & Bengio (2003) assume.
    folds, share, runs = 10, 1 / 9, 40_000
    rho, rng = share / (1 + share), np.random.default_rng(12)
    shared, own = rng.normal(size=(runs, 1)), rng.normal(size=(runs, folds))
    d = 1.1
    differences = math.sqrt(rho) * shared + math.sqrt(1 - rho) * (own + d)
    t = differences.mean(1) / (differences.std(1, ddof=1) * math.sqrt(1 / folds + share))
    found = (2 * stats.t.sf(np.abs(t), folds - 1) <= 0.05).mean()
    plan = power_of("corrected_resampled_ttest", d, folds)
    assert plan.power == power_of("corrected_resampled_ttest", d, folds, test_share=share).power
    assert plan.power == pytest.approx(found, abs=4 * math.sqrt(found * (1 - found) / runs))
    assert plan.power < power_of("paired_ttest", d, folds).power


@pytest.mark.parametrize("test", ["brunner_munzel", "permutation", "paired_permutation", "sign", "welch_anova"])
@pytest.mark.slow
def test_simulated_powers_of_the_other_tests_are_near_what_theory_says(test: Any) -> None:
    options: dict[str, Any] = {"simulations": 300, "resamples": 199}
    if test == "welch_anova":
        plan, theory = power_of(test, 0.4, (20,) * 3, **options), power_of("anova", 0.4, (20,) * 3).power
    elif test == "sign":  # a binomial of the share of positive differences
        plan = power_of(test, 0.8, 20, **options)
        theory = power_of("proportion", stats.norm.cdf(0.8) - 0.5, 20, baseline=0.5).power
    elif test == "paired_permutation":
        plan, theory = power_of(test, 0.7, 18, **options), power_of("paired_ttest", 0.7, 18).power
    else:
        plan, theory = power_of(test, 0.9, 20, **options), power_of("ttest", 0.9, 20).power
    assert plan.power == pytest.approx(theory, abs=0.04 + 3.5 * plan.power_error)
