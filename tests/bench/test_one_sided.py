"""One-sided tests: against scipy and enumeration, and consistent with the two-sided ones."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, run_test
from crucible_bench.data.sample import read_groups
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.vocabulary import TESTS_OF_MANY_GROUPS

RNG = np.random.default_rng(5)
X, Y = RNG.normal(0.5, 1.0, 14), RNG.normal(0.0, 2.0, 14)
LONG = RNG.normal(0.3, 1.0, 70), RNG.normal(0.0, 1.0, 70)
TIED = np.round(LONG[0]), np.round(LONG[1])
MEASURED = {test for test, definition in DEFINITIONS.items() if definition.read is read_groups}
PAIRWISE = sorted(MEASURED - TESTS_OF_MANY_GROUPS)
CORRELATIONS = {"kendall", "pearson", "spearman"}
LIMITS = {"brunner_munzel": (0.0, 1.0), "variance_ratio": (0.0, math.inf), **dict.fromkeys(CORRELATIONS, (-1.0, 1.0))}
"""Between which numbers the estimate lies, where not all are possible."""
ORACLES: dict[str, Any] = {
    "mann_whitney": lambda x, y, alternative: stats.mannwhitneyu(
        x, y, alternative=alternative, method="exact" if x is X else "asymptotic"
    ),
    "paired_ttest": stats.ttest_rel,
    "ttest": lambda x, y, alternative: stats.ttest_ind(x, y, equal_var=False, alternative=alternative),
    "wilcoxon": lambda x, y, alternative: (
        counted_signs(x, y, alternative)
        if x is TIED[0]
        else stats.wilcoxon(x, y, alternative=alternative, correction=x is LONG[0], method=METHODS[x is X])
    ),
}
METHODS = {True: "exact", False: "asymptotic"}


def counted_signs(x: Any, y: Any, alternative: str) -> SimpleNamespace:
    """The signed-rank test given its ties, which scipy only approximates: every sum of ranks, with its chance."""
    differences = (x - y)[x != y]
    doubled = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)
    chances = np.ones(1)
    for rank in doubled:
        chances = np.convolve(chances, [0.5, *np.zeros(rank - 1), 0.5])
    observed = doubled[differences > 0].sum()
    return SimpleNamespace(
        pvalue=chances[observed:].sum() if alternative == "greater" else chances[: observed + 1].sum()
    )


@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize("data", [(X, Y), LONG, TIED], ids=["small", "long", "tied"])
@pytest.mark.parametrize("test", sorted(ORACLES))
def test_one_sided_p_values_agree_with_scipy(test: str, data: tuple[Any, Any], alternative: Any) -> None:
    result = run_test(test, {"x": data[0], "y": data[1]}, alternative=alternative)
    assert result.p_value == pytest.approx(float(ORACLES[test](*data, alternative=alternative).pvalue), rel=1e-9)
    assert result.alternative == alternative
    assert f"one-sided ({alternative})" in result.method


def test_wilcoxon_and_mann_whitney_print_rs_one_sided_p_values() -> None:
    # R, ?wilcox.test (Hollander & Wolfe 1973, p. 29 f. and p. 69 f.), both with alternative = "greater"
    first = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    second = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    result = run_test("wilcoxon", {"first": first, "second": second}, alternative="greater")
    assert result.p_value == pytest.approx(0.01953, abs=5e-6)
    at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    early = [1.15, 0.88, 0.90, 0.74, 1.21]
    result = run_test("mann_whitney", {"at term": at_term, "early": early}, alternative="greater")
    assert result.p_value == pytest.approx(0.1272, abs=5e-5)


def test_the_bootstrap_counts_one_tail_of_the_enumerated_null() -> None:
    x, y = np.array([1.0, 2.5, 4.0, 9.0]), np.array([3.0, 8.0, 9.5, 12.0])
    t = (x.mean() - y.mean()) / math.sqrt(x.var(ddof=1) / 4 + y.var(ddof=1) / 4)
    every = np.array(list(itertools.product(range(4), repeat=4)))
    xs, ys = (x - x.mean())[every], (y - y.mean())[every]
    difference = np.subtract.outer(xs.mean(1), ys.mean(1))
    error = np.sqrt(np.add.outer(xs.var(1, ddof=1) / 4, ys.var(1, ddof=1) / 4))
    exact = float((difference <= t * error + 1e-12).mean())
    result = run_test("bootstrap", {"x": x, "y": y}, resamples=40_000, alternative="less")
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


@pytest.mark.parametrize("test", PAIRWISE)
def test_a_one_sided_interval_is_half_of_a_two_sided_one_that_leaves_out_twice_as_much(test: str) -> None:
    groups = {"x": X, "y": Y}
    both = run_test(test, groups, alpha=0.1)
    up, down = (run_test(test, groups, alternative=side) for side in ("greater", "less"))  # type: ignore[arg-type]
    least, most = LIMITS.get(test, (-math.inf, math.inf))
    assert up.confidence_interval == pytest.approx((both.confidence_interval[0], most))
    assert down.confidence_interval == pytest.approx((least, both.confidence_interval[1]))
    assert min(up.p_value, down.p_value) < 0.5 <= max(up.p_value, down.p_value)
    assert up.effect_size_interval == run_test(test, groups).effect_size_interval
    assert up.to_dict()["confidence_interval"][1] == (None if math.isinf(most) else most)


@pytest.mark.parametrize("test", sorted(set(PAIRWISE) - CORRELATIONS))
def test_exchanging_the_groups_exchanges_the_alternatives(test: str) -> None:
    there = run_test(test, {"x": X, "y": Y}, alternative="greater")
    back = run_test(test, {"y": Y, "x": X}, alternative="less")
    assert there.p_value == pytest.approx(back.p_value, rel=1e-12)


@pytest.mark.parametrize("test", sorted(MEASURED & TESTS_OF_MANY_GROUPS))
def test_tests_without_a_direction_refuse_one(test: str) -> None:
    with pytest.raises(CannotTestError, match="two-sided only"):
        run_test(test, {"x": X, "y": Y}, alternative="greater")


def test_an_unknown_alternative_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="greater, less, two-sided, not 'bigger'"):
        run_test("ttest", {"x": X, "y": Y}, alternative="bigger")  # type: ignore[arg-type]
