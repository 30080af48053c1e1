"""Exact p-values and Hodges-Lehmann numbers against plain enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import run_test
from crucible_bench.data.sample import scaled
from crucible_bench.distributions.hodges_lehmann import pseudomedian, shift
from crucible_bench.distributions.rank_distributions import exact_depth, signed_rank_null, untied_u_null


def enumerated_rank_sum_p(x: list[float], y: list[float]) -> float:
    ranks = stats.rankdata([*x, *y])
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(x))]
    observed = sum(ranks[: len(x)])
    tails = sum(s <= observed + 1e-9 for s in sums), sum(s >= observed - 1e-9 for s in sums)
    return min(1.0, 2 * min(tails) / len(sums))


def enumerated_signed_rank_p(differences: list[float]) -> float:
    kept = [d for d in differences if d]
    ranks = stats.rankdata(np.abs(kept))
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=len(kept))]  # fmt: skip  # noqa: E501
    observed = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    tails = sum(s <= observed + 1e-9 for s in sums), sum(s >= observed - 1e-9 for s in sums)
    return min(1.0, 2 * min(tails) / len(sums))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1.0], [2.0, 3.0, 4.0]),
        ([1.5, 3.0, 9.0], [2.0, 4.0, 5.0, 7.0]),
        ([12.0, 15.0, 18.0, 24.0, 88.0], [3.0, 13.0, 14.0, 16.0]),
        ([1.0, 1.0, 2.0], [3.0, 4.0, 4.0, 4.0]),
        ([2.0, 2.0, 3.0, 5.0, 5.0], [1.0, 2.0, 3.0, 3.0, 1.0]),
    ],
)
def test_mann_whitney_p_counts_every_division_into_groups(x: list[float], y: list[float]) -> None:
    result = run_test("mann_whitney", {"x": x, "y": y})
    assert result.p_value == pytest.approx(enumerated_rank_sum_p(x, y), abs=1e-12)
    assert any(note.startswith("exact p-value") for note in result.notes)
    assert result.statistic == sum((a > b) + (a == b) / 2 for a in x for b in y)
    assert result.effect_size == pytest.approx(2 * result.statistic / (len(x) * len(y)) - 1)


@pytest.mark.parametrize(
    "differences",
    [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [-1.0, 2.0, -3.0, 4.0, 5.5, 7.0, 8.0, 9.0, -10.0],
        [1.0, 1.0, -2.0, 3.0, 0.0, 0.0, 4.0],
        [-1.0, -1.0, -1.0, 2.0],
    ],
)
def test_wilcoxon_p_counts_every_assignment_of_signs(differences: list[float]) -> None:
    zero = [0.0] * len(differences)
    result = run_test("wilcoxon", {"d": differences, "zero": zero})
    assert result.p_value == pytest.approx(enumerated_signed_rank_p(differences), abs=1e-12)


def test_too_few_tied_values_are_never_called_significant() -> None:
    # The normal approximation gives 0.047 here, though the most extreme of the 35 divisions has p = 2/35.
    result = run_test("mann_whitney", {"x": [1, 1, 2], "y": [3, 4, 5, 6]})
    assert result.p_value == pytest.approx(2 / 35)
    assert not result.significant


def test_signs_of_equal_size_are_the_sign_test() -> None:
    # All |d| equal: W counts the signs, so that the exact p-value is binomial.
    result = run_test("wilcoxon", {"a": [1.0] * 12 + [-1.0] * 4, "b": [0.0] * 16})
    assert result.p_value == pytest.approx(stats.binomtest(12, 16).pvalue)
    many = run_test("wilcoxon", {"a": [1.0] * 38 + [-1.0] * 22, "b": [0.0] * 60})  # half a step of W is 15.25
    assert many.p_value == pytest.approx(stats.binomtest(38, 60).pvalue, abs=2e-3)


@pytest.mark.parametrize(
    ("wins", "n", "others", "m"), [(2, 9, 0, 20), (3, 12, 2, 31), (0, 6, 4, 90), (20, 400, 3, 300)]
)
@pytest.mark.parametrize("side", ["greater", "less"])
def test_zeros_and_ones_have_fishers_exact_tail(wins: int, n: int, others: int, m: int, side: Any) -> None:
    groups = {"a": [1.0] * wins + [0.0] * (n - wins), "b": [1.0] * others + [0.0] * (m - others)}
    expected = stats.fisher_exact([[wins, n - wins], [others, m - others]], alternative=side).pvalue
    result = run_test("mann_whitney", groups, alternative=side)
    assert result.p_value == pytest.approx(expected)
    assert result.notes[0].startswith("exact p-value")


def test_two_of_nine_against_none_of_twenty_are_not_significant() -> None:
    result = run_test("mann_whitney", {"a": [1.0] * 2 + [0.0] * 7, "b": [0.0] * 20})
    assert result.p_value == pytest.approx(2 * math.comb(9, 2) / math.comb(29, 2))  # 0.177; by approximation 0.036


def test_tied_ranks_too_many_to_count_keep_half_a_step_of_their_own() -> None:
    groups = {"a": [1.0] * 90 + [0.0] * 710, "b": [1.0] * 60 + [0.0] * 740}
    result = run_test("mann_whitney", groups)
    assert "normal approximation" in result.notes[0]
    table = np.array([[90, 710], [60, 740]])
    assert result.p_value == pytest.approx(stats.chi2_contingency(table, correction=True).pvalue, rel=0.01)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (4, 5), (6, 3)])
def test_untied_null_distribution_of_u_is_the_enumerated_one(n: int, m: int) -> None:
    counts = np.zeros(n * m + 1)
    for chosen in itertools.combinations(range(n + m), n):
        counts[sum(chosen) - n * (n - 1) // 2] += 1
    assert untied_u_null(n, m) == pytest.approx(counts / counts.sum(), abs=1e-15)


def test_null_distributions_stay_probabilities_at_the_largest_exact_sizes() -> None:
    u = untied_u_null(49, 49)
    w = signed_rank_null(np.arange(1.0, 50.0))
    for null in (u, w):
        assert null.min() >= 0.0
        assert null.sum() == pytest.approx(1.0, abs=1e-12)
        assert null == pytest.approx(null[::-1], abs=1e-15)
    assert float(np.dot(np.arange(u.size), u)) == pytest.approx(49 * 49 / 2)


def test_exact_p_agrees_with_scipy_beyond_what_can_be_enumerated() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=31), rng.normal(0.4, 1, size=44)
    oracle = stats.mannwhitneyu(x, y, method="exact")
    result = run_test("mann_whitney", {"x": x, "y": y})
    assert result.p_value == pytest.approx(float(oracle.pvalue), rel=1e-9)
    pairs = stats.wilcoxon(x, y[:31], method="exact")
    assert run_test("wilcoxon", {"x": x, "y": y[:31]}).p_value == pytest.approx(float(pairs.pvalue), rel=1e-9)


def test_normal_approximations_agree_with_scipy_with_many_ties() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 6, 80).astype(float), rng.integers(0, 7, 80).astype(float)
    oracle = stats.mannwhitneyu(x, y, method="asymptotic", use_continuity=True)
    assert run_test("mann_whitney", {"x": x, "y": y}).p_value == pytest.approx(float(oracle.pvalue), rel=1e-9)
    pairs = stats.wilcoxon(x, y, method="asymptotic", correction=True, zero_method="wilcox")
    assert run_test("wilcoxon", {"x": x, "y": y}).p_value == pytest.approx(float(pairs.pvalue), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(7, 4), (60, 55), (900, 700)])
@pytest.mark.parametrize("tied", [False, True])
def test_shift_and_its_ends_are_those_of_the_listed_differences(n: int, m: int, tied: bool) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), rng.normal(size=m)
    if tied:
        x, y = np.round(x), np.round(y)
    listed = np.sort(np.subtract.outer(x, y).ravel())
    depth = max(1, n * m // 3)
    point, interval = shift("test", scaled(x, 4), scaled(y, 4), 4, depth)
    assert point == pytest.approx(float(np.median(listed)), abs=1e-14)
    assert interval == pytest.approx((listed[depth - 1], listed[-depth]), abs=1e-14)


@pytest.mark.parametrize("n", [1, 2, 9, 80, 1100])
@pytest.mark.parametrize("tied", [False, True])
def test_pseudomedian_and_its_ends_are_those_of_the_listed_walsh_averages(n: int, tied: bool) -> None:
    d = np.random.default_rng(n).normal(size=n)
    if tied:
        d = np.round(2 * d) / 2
    listed = np.sort((np.add.outer(d, d) / 2)[np.triu_indices(n)])
    depth = max(1, listed.size // 4)
    point, interval = pseudomedian("test", scaled(d, 4), 4, depth)
    assert point == pytest.approx(float(np.median(listed)), abs=1e-14)
    assert interval == pytest.approx((listed[depth - 1], listed[-depth]), abs=1e-14)


def test_interval_depth_keeps_the_confidence_and_no_deeper_one_would() -> None:
    null = untied_u_null(8, 9)
    depth = exact_depth(null, 0.025)
    assert null[:depth].sum() <= 0.025 < null[: depth + 1].sum()


def test_an_interval_that_no_order_statistic_can_bound_is_infinite_and_noted() -> None:
    result = run_test("mann_whitney", {"x": [1.0, 2.0], "y": [3.0, 4.0, 5.0]})
    assert result.confidence_interval == (-math.inf, math.inf)
    assert any("too small for a finite interval" in note for note in result.notes)
    assert result.to_dict()["confidence_interval"] == [None, None]
    pairs = run_test("wilcoxon", {"x": [1.0, 2.0, 5.0], "y": [3.0, 5.0, 9.0]})
    assert pairs.confidence_interval == (-math.inf, math.inf)
    assert any("too few for a finite interval" in note for note in pairs.notes)


def test_differences_that_are_equal_but_for_rounding_are_ties_and_zeros() -> None:
    x = [0.81, 0.41, 0.3, 0.9, 0.7]
    y = [0.80, 0.40, 0.1 + 0.2, 0.7, 0.6]
    assert x[0] - y[0] != x[1] - y[1]
    assert x[2] != y[2]
    result = run_test("wilcoxon", {"x": x, "y": y})
    assert "1 zero difference dropped (Wilcoxon's rule)" in result.notes
    assert result.p_value == enumerated_signed_rank_p([1.0, 1.0, 0.0, 20.0, 10.0])


@pytest.mark.parametrize("seed", range(5))
def test_matched_rank_biserial_is_the_difference_of_the_rank_sums_over_their_total(seed: int) -> None:
    # Kerby (2014): favourable minus unfavourable share of the rank sum
    d = np.random.default_rng(seed).integers(-5, 8, 14).astype(float)
    kept = d[d != 0]
    ranks = stats.rankdata(np.abs(kept))
    expected = float((ranks * np.sign(kept)).sum() / ranks.sum())
    result = run_test("wilcoxon", {"d": d, "zero": np.zeros(14)})
    assert result.effect_size == pytest.approx(expected, abs=1e-14)


def test_matched_rank_biserial_interval_is_the_jackknife_on_the_z_scale() -> None:
    d = np.array([3.0, -1.0, 2.0, 5.0, -4.0, 6.0, 7.0])

    def biserial(v: np.ndarray) -> float:
        ranks = stats.rankdata(np.abs(v))
        return float((ranks * np.sign(v)).sum() / ranks.sum())

    left_out = np.array([biserial(np.delete(d, i)) for i in range(7)])
    error = math.sqrt(6 / 7 * ((left_out - left_out.mean()) ** 2).sum())
    reach = float(stats.t.ppf(0.975, 6)) * error / (1 - biserial(d) ** 2)
    expected = [math.tanh(math.atanh(biserial(d)) + s * reach) for s in (-1, 1)]
    result = run_test("wilcoxon", {"d": d, "zero": np.zeros(7)})
    assert result.effect_size_interval == pytest.approx(expected, abs=1e-12)


def test_effect_sizes_at_the_edge_keep_an_interval_of_positive_width() -> None:
    # Feng & Cliff (2004): the largest variance, (1 - delta**2) / 10, solved for delta; here with t on 18 df.
    quantile = float(stats.t.ppf(0.975, 18))
    apart = run_test("mann_whitney", {"x": np.arange(10.0), "y": np.arange(10.0) + 20})
    bound = (10 - quantile**2) / (10 + quantile**2)
    assert apart.effect_size == -1
    assert apart.effect_size_interval == pytest.approx((-1.0, -bound))
    assert (1 - bound) ** 2 == pytest.approx(quantile**2 * (1 - bound**2) / 10)
