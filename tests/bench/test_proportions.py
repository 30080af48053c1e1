"""Proportions and tables of counts: published examples, statsmodels, scipy and enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats import contingency_tables, proportion

from crucible_bench import CannotTestError, run_test
from crucible_bench.hypothesis_tests.contingency import chi_square_test, fisher_exact_test
from crucible_bench.hypothesis_tests.proportions import (
    compare_paired_proportions,
    compare_proportions,
    proportion_interval,
    proportion_test,
)

SIDES = ["greater", "less", "two-sided"]
TEA = {"milk": [3, 1], "tea": [1, 3]}  # R, ?fisher.test: Fisher's tea drinker
CONVICTIONS = {"dizygotic": [2, 15], "monozygotic": [10, 3]}  # R, ?fisher.test: Fisher (1962, 1970), criminal twins
JOB = {  # R, ?fisher.test: Agresti (2002), p. 57, job satisfaction
    "VeryD": [1, 2, 1, 0],
    "LittleD": [3, 3, 6, 1],
    "ModerateS": [10, 10, 14, 9],
    "VeryS": [6, 7, 12, 11],
}


@pytest.mark.parametrize(
    ("k", "n", "wilson", "exact"),
    [  # Newcombe (1998), Statistics in Medicine 17, 857-872, table I: methods 3 and 5
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_intervals_of_a_proportion_are_newcombes(k: int, n: int, wilson: Any, exact: Any) -> None:
    assert proportion_interval(k, n) == pytest.approx(wilson, abs=5e-5)
    assert proportion_interval(k, n, method="clopper_pearson") == pytest.approx(exact, abs=5e-5)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1), level=st.floats(0.5, 0.9999))
@settings(max_examples=60, deadline=None)
def test_intervals_of_a_proportion_agree_with_statsmodels_and_mirror(n: int, share: float, level: float) -> None:
    k = round(share * n)
    for method, name in (("wilson", "wilson"), ("clopper_pearson", "beta")):
        low, high = proportion_interval(k, n, method=method, confidence_level=level)  # type: ignore[arg-type]
        oracle = proportion.proportion_confint(k, n, 1 - level, method=name)
        assert (low, high) == pytest.approx(oracle, rel=1e-7, abs=1e-9)
        assert 0 <= low <= k / n <= high <= 1
        mirrored = proportion_interval(n - k, n, method=method, confidence_level=level)  # type: ignore[arg-type]
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("p", [0.03, 0.3, 0.5])
def test_coverage_of_the_intervals_by_summing_over_every_outcome(p: float) -> None:
    n = 40
    weights = stats.binom.pmf(np.arange(n + 1), n, p)
    for method, least, most in (("clopper_pearson", 0.95, 1.0), ("wilson", 0.92, 0.985)):
        covered = [low <= p <= high for low, high in (proportion_interval(k, n, method=method) for k in range(n + 1))]  # type: ignore[arg-type]
        assert least <= float(weights[covered].sum()) <= most


@pytest.mark.parametrize("side", SIDES)
def test_the_binomial_test_agrees_with_r_and_with_exact_fractions(side: Any) -> None:
    # R, ?binom.test (Conover 1971, p. 97 f.): 682 of 925 against 3/4, interval 0.7076683 to 0.7654066
    result = proportion_test(682, 925, reference=0.75, interval="clopper_pearson", alternative=side)
    tails = [
        float(sum(Fraction(math.comb(925, k)) * Fraction(3, 4) ** k * Fraction(1, 4) ** (925 - k) for k in ks))
        for ks in (range(682, 926), range(683))
    ]
    expected = {"greater": tails[0], "less": tails[1], "two-sided": 2 * min(tails)}[side]
    assert result.p_value == pytest.approx(expected, rel=1e-10)
    if side == "two-sided":
        assert result.confidence_interval == pytest.approx((0.7076683, 0.7654066), abs=5e-8)
    assert result.estimate == 682 / 925


@given(k=st.integers(0, 30), n=st.integers(1, 30), reference=st.floats(0.01, 0.99), side=st.sampled_from(SIDES))
@settings(max_examples=80, deadline=None)
def test_the_exact_test_and_the_exact_interval_agree(k: int, n: int, reference: float, side: Any) -> None:
    result = proportion_test(min(k, n), n, reference=reference, interval="clopper_pearson", alternative=side)
    low, high = result.confidence_interval
    assert result.significant == (not low <= reference <= high)


COUNTS = [((56, 70), (48, 80)), ((9, 10), (3, 10)), ((30, 500), (61, 420)), ((1, 30), (7, 25)), ((0, 10), (6, 12))]


@pytest.mark.parametrize(("first", "second"), COUNTS)
@pytest.mark.parametrize("side", SIDES)
def test_two_proportions_are_statsmodels_z_with_one_less_than_n(first: Any, second: Any, side: Any) -> None:
    result = compare_proportions({"a": first, "b": second}, alternative=side)
    (k, n), (j, m) = first, second
    words = {"greater": "larger", "less": "smaller"}
    z = proportion.proportions_ztest([k, j], [n, m], alternative=words.get(side, side))[0]
    z *= math.sqrt((n + m - 1) / (n + m))
    tails = {"greater": stats.norm.sf(z), "less": stats.norm.cdf(z), "two-sided": 2 * stats.norm.sf(abs(z))}
    assert result.statistic == pytest.approx(z)
    assert result.p_value == pytest.approx(float(tails[side]))
    assert result.estimate == pytest.approx(k / n - j / m)


@pytest.mark.parametrize("counts", [(2, 5, 20, 20), (0, 6, 1, 30), (5, 5, 100, 101)])
@pytest.mark.parametrize("side", SIDES)
def test_below_an_expected_count_of_one_it_is_fishers_mid_p(counts: Any, side: Any) -> None:
    k, n, j, m = counts
    null = stats.hypergeom(n + m, k + j, n)
    below = float(null.cdf(k) - null.pmf(k) / 2)
    expected = {"less": below, "greater": 1 - below, "two-sided": 2 * min(below, 1 - below)}[side]
    result = compare_proportions({"a": (k, n), "b": (j, m)}, alternative=side)
    assert result.p_value == pytest.approx(expected)
    assert result.method.startswith("Fisher's mid-p test")


@pytest.mark.parametrize(("first", "second"), COUNTS)
@pytest.mark.parametrize(("name", "compare"), [("risk_ratio", "ratio"), ("odds_ratio", "odds-ratio")])
def test_ratios_have_the_score_intervals_of_statsmodels(first: Any, second: Any, name: Any, compare: str) -> None:
    (k, n), (j, m) = first, second
    result = compare_proportions({"a": first, "b": second}, effect_size=name)
    odds = k * (m - j) / (j * (n - k))
    assert result.effect_size == pytest.approx(odds if name == "odds_ratio" else k * m / (j * n))
    if k == 0:
        assert result.effect_size_interval[0] == 0.0
        assert 0 < result.effect_size_interval[1] < math.inf
        return
    with np.errstate(all="ignore"):
        oracle = proportion.confint_proportions_2indep(k, n, j, m, compare=compare, method="score", correction=False)
    assert result.effect_size_interval == pytest.approx(oracle, rel=1e-4)


def test_cohens_h_is_the_published_one() -> None:
    # Cohen (1988), table 6.2.2: phi(.50) = 1.571 and phi(.25) = 1.047
    result = compare_proportions({"a": (50, 100), "b": (25, 100)}, effect_size="cohens_h")
    assert result.effect_size == pytest.approx(1.571 - 1.047, abs=1e-3)


def test_groups_without_any_success_are_compared_and_their_ratio_is_refused() -> None:
    result = compare_proportions({"a": (0, 10), "b": (0, 20)})
    assert (result.p_value, result.statistic, result.estimate, result.effect_size) == (1.0, 0.0, 0.0, 0.0)
    with pytest.raises(CannotTestError, match="odds ratio is 0 / 0"):
        compare_proportions({"a": (0, 10), "b": (0, 20)}, effect_size="odds_ratio")
    infinite = compare_proportions({"a": (5, 10), "b": (0, 20)}, effect_size="risk_ratio")
    assert infinite.effect_size == math.inf
    assert infinite.effect_size_interval[1] == math.inf
    assert infinite.to_dict()["effect_size"] is None
    assert any("infinite" in note for note in infinite.notes)


def test_outcomes_one_by_one_give_what_their_counts_give() -> None:
    a, b = [True] * 9 + [False], [1] * 3 + [0] * 7
    assert run_test("two_proportions", {"a": a, "b": b}) == compare_proportions({"a": (9, 10), "b": (3, 10)})
    assert run_test("two_proportions", {"a": np.array(a), "b": np.array(b, dtype=bool)}) == compare_proportions(
        {"a": (9, 10), "b": (3, 10)}
    )


def test_mcnemar_is_fagerlands_exact_and_mid_p() -> None:
    # Fagerland, Lydersen & Laake (2013), airway hyper-responsiveness before and after stem cell transplantation
    before, after = [1] * 1 + [1] * 1 + [0] * 7 + [0] * 12, [1] * 1 + [0] * 1 + [1] * 7 + [0] * 12
    exact = run_test("mcnemar", {"before": before, "after": after})
    mid = run_test("mcnemar_midp", {"before": before, "after": after})
    assert exact.p_value == pytest.approx(0.0703, abs=5e-5)
    assert mid.p_value == pytest.approx(0.0391, abs=5e-5)
    assert exact.estimate == pytest.approx(2 / 21 - 8 / 21)
    assert exact == compare_paired_proportions(1, 1, 7, 12, names=("before", "after"))
    assert mid == compare_paired_proportions(1, 1, 7, 12, names=("before", "after"), mid_p=True)


@given(b=st.integers(0, 40), c=st.integers(0, 40), side=st.sampled_from(SIDES))
@settings(max_examples=60, deadline=None)
def test_mcnemar_counts_every_way_in_which_the_discordant_pairs_could_fall(b: int, c: int, side: Any) -> None:
    if b + c == 0:
        none = compare_paired_proportions(5, b, c, 8, alternative=side)
        assert (none.p_value, none.estimate) == (1.0, 0.0)
        with pytest.raises(CannotTestError, match="agree in all 13 pairs, and cohens_g is about those that differ"):
            compare_paired_proportions(5, b, c, 8, effect_size="cohens_g")
        return
    n = b + c
    tails = [float(Fraction(sum(math.comb(n, k) for k in ks), 2**n)) for ks in (range(b, n + 1), range(b + 1))]
    half = float(Fraction(math.comb(n, b), 2 ** (n + 1)))
    exact = {"greater": tails[0], "less": tails[1], "two-sided": min(1.0, 2 * min(tails))}[side]
    mid = {"greater": tails[0] - half, "less": tails[1] - half, "two-sided": min(1.0, 2 * (min(tails) - half))}[side]
    assert compare_paired_proportions(5, b, c, 8, alternative=side).p_value == pytest.approx(exact, rel=1e-10)
    if side == "two-sided":
        oracle = contingency_tables.mcnemar([[5, b], [c, 8]], exact=True)
        assert exact == pytest.approx(float(oracle.pvalue))
    result = compare_paired_proportions(5, b, c, 8, alternative=side, mid_p=True)
    assert result.p_value == pytest.approx(mid, rel=1e-9, abs=1e-15)


def test_paired_difference_covers_the_truth() -> None:
    cells, runs = np.array([0.5, 0.2, 0.1, 0.2]), 2000
    drawn = np.random.default_rng(8).multinomial(40, cells, runs)
    intervals = [compare_paired_proportions(*map(int, row)).confidence_interval for row in drawn if row[1] + row[2]]
    covered = np.mean([low <= 0.1 <= high for low, high in intervals])
    assert abs(covered - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / runs) + 0.01


def test_paired_odds_ratio_and_cohens_g_have_the_exact_binomial_interval() -> None:
    low, high = proportion_interval(25, 37, method="clopper_pearson")
    g = compare_paired_proportions(100, 25, 12, 80, effect_size="cohens_g")
    assert g.effect_size == pytest.approx(25 / 37 - 0.5)
    assert g.effect_size_interval == pytest.approx((low - 0.5, high - 0.5))
    odds = compare_paired_proportions(100, 25, 12, 80, effect_size="odds_ratio")
    assert odds.effect_size == pytest.approx(25 / 12)
    assert odds.effect_size_interval == pytest.approx((low / (1 - low), high / (1 - high)))
    assert compare_paired_proportions(9, 3, 0, 9, effect_size="odds_ratio").effect_size == math.inf


def test_fisher_prints_what_r_documents() -> None:
    # R, ?fisher.test: the tea drinker, alternative = "greater": p = 0.2429, 0.3135693 to Inf, 6.408309
    tea = fisher_exact_test(TEA, alternative="greater")
    assert tea.p_value == pytest.approx(17 / 70)
    assert tea.confidence_interval == (pytest.approx(0.3135693, abs=1e-5), math.inf)
    # (R searches its root to 1e-4 only)
    assert tea.estimate == pytest.approx(6.408309, abs=5e-5)
    # R, ?fisher.test: Convictions, alternative = "less": p = 0.0004652, 0 to 0.2849601, 0.04693661
    less = fisher_exact_test(CONVICTIONS, alternative="less")
    assert less.p_value == pytest.approx(0.0004652, abs=5e-8)
    assert less.confidence_interval == (0.0, pytest.approx(0.2849601, abs=2e-6))
    assert less.estimate == pytest.approx(0.04693661, abs=5e-7)
    # and two-sided at 95 % and 99 %: p = 0.0005367, 0.003325764 to 0.363182271, 0.001386333 to 0.578851645
    both = fisher_exact_test(CONVICTIONS)
    assert both.p_value == pytest.approx(0.0005367, abs=5e-8)
    assert both.confidence_interval == pytest.approx((0.003325764, 0.363182271), abs=2e-5)
    wide = fisher_exact_test(CONVICTIONS, confidence_level=0.99)
    assert wide.confidence_interval == pytest.approx((0.001386333, 0.578851645), abs=2e-5)


@given(cells=st.lists(st.integers(0, 14), min_size=4, max_size=4), side=st.sampled_from(SIDES))
@settings(max_examples=60, deadline=None)
def test_fisher_agrees_with_scipy(cells: list[int], side: Any) -> None:
    a, b, c, d = cells
    if 0 in (a + b, c + d, a + c, b + d):
        with pytest.raises(CannotTestError, match="empty"):
            fisher_exact_test({"x": [a, b], "y": [c, d]})
        return
    result = fisher_exact_test({"x": [a, b], "y": [c, d]}, alternative=side)
    assert result.p_value == pytest.approx(float(stats.fisher_exact([[a, b], [c, d]], side).pvalue), rel=1e-7)
    oracle = stats.contingency.odds_ratio([[a, b], [c, d]])
    assert result.estimate == pytest.approx(oracle.statistic, rel=1e-5)
    ends = oracle.confidence_interval(0.95, side)
    assert result.confidence_interval == pytest.approx((ends.low, ends.high), rel=1e-5)


def test_fisher_of_a_larger_table_is_near_what_r_documents() -> None:
    # R, ?fisher.test: Job (Agresti 2002, p. 57), p-value = 0.7827; too many tables to count them here
    result = fisher_exact_test(JOB)
    assert result.p_value == pytest.approx(0.7827, abs=4 * math.sqrt(0.7827 * 0.2173 / 10_000))
    assert "10000 random tables" in result.notes[0]
    assert (result.effect_size_name, result.effect_size) == ("cramers_v", chi_square_test(JOB).effect_size)


@given(data=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_fisher_counts_every_small_table(data: list[list[int]]) -> None:
    cells = np.array(data)
    assume(cells.sum(0).all() and cells.sum(1).all())
    rows, columns = cells.sum(1), cells.sum(0)
    probabilities = []
    for a, b, c, d in itertools.product(*(range(min(r, k) + 1) for r in rows[:2] for k in columns[:2])):
        table = np.zeros((3, 3), dtype=int)
        table[:2, :2] = [[a, b], [c, d]]
        table[:2, 2] = rows[:2] - table[:2, :2].sum(1)
        table[2] = columns - table[:2].sum(0)
        if (table >= 0).all():
            probabilities.append((math.exp(-special.gammaln(table + 1.0).sum()), (table == cells).all()))
    weights = np.array([weight for weight, _ in probabilities])
    observed = next(weight for weight, same in probabilities if same)
    expected = weights[weights <= observed * (1 + 1e-7)].sum() / weights.sum()
    result = fisher_exact_test({str(i): line for i, line in enumerate(data)})
    assert result.p_value == pytest.approx(float(expected))
    turned = fisher_exact_test({str(i): line for i, line in enumerate(cells.T.tolist())})
    assert turned.p_value == pytest.approx(result.p_value)
    assert result.notes[0] == "exact p-value, every table counted"


def test_fisher_with_nothing_in_a_cell_is_infinite_and_says_so() -> None:
    result = fisher_exact_test({"x": [3, 0], "y": [0, 3]})
    assert (result.p_value, result.estimate) == (pytest.approx(0.1), math.inf)
    assert any("infinite" in note for note in result.notes)
    assert result.to_dict()["estimate"] is None


@pytest.mark.parametrize("table", [{"a": [762, 327, 468], "b": [484, 239, 477]}, {"a": [30, 21], "b": [12, 44]}])
def test_chi_square_agrees_with_scipy_and_statsmodels(table: dict[str, list[int]]) -> None:
    # The first: R, ?chisq.test (Agresti 2007, p. 39), X-squared = 30.07, df = 2, p-value = 2.954e-07
    result = chi_square_test(table)
    cells = np.array(list(table.values()))
    oracle = stats.chi2_contingency(cells, correction=False)
    assert result.statistic == pytest.approx(oracle.statistic)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert result.effect_size == pytest.approx(stats.contingency.association(cells, "cramer"))
    if len(table["a"]) == 3:
        assert result.statistic == pytest.approx(30.07, abs=5e-3)
        assert result.p_value == pytest.approx(2.954e-07, abs=5e-11)


def test_the_noncentralities_behind_cramers_v_make_chi_square_just_extreme() -> None:
    result = chi_square_test({"a": [762, 327, 468], "b": [484, 239, 477]})
    low, high = (2757 * end**2 for end in result.effect_size_interval)
    assert stats.ncx2.cdf(result.statistic, 2, low) == pytest.approx(0.975, abs=1e-7)
    assert stats.ncx2.cdf(result.statistic, 2, high) == pytest.approx(0.025, abs=1e-7)


def test_small_tables_are_judged_by_random_tables_with_their_margins() -> None:
    result = chi_square_test(CONVICTIONS, resamples=20_000)
    assert "random tables" not in result.notes[0]  # every expected count is above 5 here
    tea = chi_square_test(TEA, resamples=20_000)
    exact = 34 / 70  # tables as far from independence as the observed one: Fisher's p, by symmetry
    assert tea.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    job = chi_square_test(JOB, resamples=20_000)
    # Agresti (2002): X-squared = 5.97 on 9 df; R's Fisher p is 0.7827, the random tables' share is close to it
    assert job.statistic == pytest.approx(5.97, abs=5e-3)
    assert job.p_value == pytest.approx(0.77, abs=0.03)
    assert job == chi_square_test(JOB, resamples=20_000)
    assert chi_square_test(TEA, resamples=100, alpha=0.05).p_value > 0


def test_cramers_v_covers_the_truth() -> None:
    cells = np.array([[0.25, 0.1, 0.1], [0.1, 0.2, 0.25]])
    independent = np.outer(cells.sum(1), cells.sum(0))
    truth = math.sqrt(float(((cells - independent) ** 2 / independent).sum()))
    drawn = np.random.default_rng(2).multinomial(150, cells.ravel(), 500).reshape(-1, 2, 3)
    ends = [chi_square_test({"a": t[0].tolist(), "b": t[1].tolist()}).effect_size_interval for t in drawn]
    covered = np.mean([low <= truth <= high for low, high in ends])
    assert abs(covered - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / 500)


@pytest.mark.parametrize(
    ("k", "n", "said"),
    [
        (3, 2, "cannot exceed n"),
        (-1, 2, "at least 0"),
        (1.5, 2, "whole number"),
        (math.nan, 2, "whole number"),
        (math.inf, math.inf, "whole number"),
        (True, 2, "must be a count"),
        ("1", 2, "must be a count"),
        (None, 2, "must be a count"),
        (0, 0, "n = 0"),
        (1, 10**300, "2\\*\\*53"),
    ],
)
def test_counts_that_are_none_are_refused(k: Any, n: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        proportion_interval(k, n)
    with pytest.raises(CannotTestError, match=said):
        compare_proportions({"a": (1, 2), "b": (k, n)})


@pytest.mark.parametrize("test", ["mcnemar", "mcnemar_midp", "two_proportions"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 1, 2], "2.0 at position 2; an outcome"),
        ([0, 1, math.nan], "missing"),
        ([0, 1, None], "missing"),
        (["yes", "no", "yes"], "'yes' at position 0"),
        ([], "is empty"),
        (np.ones((2, 2), dtype=bool), "shape"),
        ("101", "must be a sequence"),
    ],
)
def test_outcomes_that_are_none_are_refused(test: str, values: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        run_test(test, {"good": [True, False, True], "bad": values})


def test_paired_outcomes_of_unequal_length_are_refused() -> None:
    with pytest.raises(CannotTestError, match="'a' has 3 and 'b' has 2"):
        run_test("mcnemar", {"a": [1, 0, 1], "b": [1, 0]})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": [1, 2]}, "at least two rows"),
        ({"a": [1], "b": [2]}, "two columns"),
        ({}, "at least two rows"),
        ({"a": [1, 2], "b": [3]}, "differ in length"),
        ({"a": [0, 0], "b": [3, 4]}, "row 'a' is empty"),
        ({"a": [0, 2], "b": [0, 4]}, "column 0 is empty"),
        ({"a": [1, 2.5], "b": [3, 4]}, "row 'a', column 1"),
        ({"a": [1, math.nan], "b": [3, 4]}, "whole number"),
        ({"a": [True, 2], "b": [3, 4]}, "must be a count"),
        ({"a": "12", "b": [3, 4]}, "sequence of counts"),
        ([[1, 2], [3, 4]], "must be a mapping"),
        ({"a": [2**53, 2], "b": [2**53, 4]}, "add up to more"),
    ],
)
def test_tables_that_are_none_are_refused(table: Any, said: str) -> None:
    for test in (chi_square_test, fisher_exact_test):
        if test is chi_square_test and said == "column 0 is empty":
            assert test(table).p_value == 1.0  # all outcomes are alike
            continue
        with pytest.raises(CannotTestError, match=said):
            test(table)
    with pytest.raises(CannotTestError, match="column 1 is empty"):
        chi_square_test({"a": [1, 0, 2], "b": [3, 0, 4]})


def test_fisher_refuses_what_is_not_two_by_two_or_needs_no_exactness() -> None:
    with pytest.raises(CannotTestError, match="4 rows and 4 columns has no direction"):
        fisher_exact_test(JOB, alternative="less")
    with pytest.raises(CannotTestError, match="as good as exact"):
        fisher_exact_test({"a": [10**9, 10**9], "b": [10**9, 10**9]})


def test_billions_of_outcomes_are_no_obstacle() -> None:
    result = compare_proportions({"a": (5 * 10**11, 10**12), "b": (5 * 10**11 + 3 * 10**6, 10**12)})
    assert result.statistic == pytest.approx(-4.2426, abs=1e-4)
    assert chi_square_test({"a": [10**12, 10**12], "b": [10**12, 10**12]}).p_value == 1.0
    rare = compare_proportions({"a": (3, 10**15), "b": (0, 10**15)})  # 1.5 are expected of each
    assert rare.p_value == pytest.approx(2 * stats.norm.sf(math.sqrt(3)))
