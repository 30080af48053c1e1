"""Two shares: their test, their interval and their verdict are one statement, and each keeps its promise.

Levels and coverages are sums over every outcome, so nothing here is simulated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special, stats

from crucible_bench import (
    CannotTestError,
    compare,
    compare_paired_proportions,
    compare_proportions,
    indistinguishable_from_best,
    judge_margin,
    run_test,
)
from crucible_bench.hypothesis_tests.share_difference import IndependentShares, PairedShares, ShareDifference


@pytest.mark.parametrize(
    ("counts", "interval"),
    [  # Newcombe (1998), Statistics in Medicine 17, 873-890, table II: method 6, Miettinen and Nurminen's
        ((56, 70, 48, 80), (0.0528, 0.3382)),
        ((9, 10, 3, 10), (0.1700, 0.8406)),
        ((6, 7, 2, 7), (0.0342, 0.8534)),
        ((5, 56, 0, 29), (-0.0326, 0.1933)),
    ],
)
def test_the_interval_of_two_shares_is_miettinens_and_nurminens(counts: Any, interval: Any) -> None:
    k, n, j, m = counts
    result = compare_proportions({"a": (k, n), "b": (j, m)})
    assert result.confidence_interval == pytest.approx(interval, abs=6e-5)
    assert (result.effect_size, result.effect_size_interval) == (result.estimate, result.confidence_interval)


def test_the_interval_of_paired_shares_is_tangos() -> None:
    # Fagerland, Lydersen & Laake (2017), Statistical Analysis of Contingency Tables, chapter 8: Bentur et al. 2009
    result = compare_paired_proportions(1, 1, 7, 12, mid_p=True)
    assert result.confidence_interval == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_likeliest_shares_with_a_difference_are_those_that_a_search_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, m = map(int, rng.integers(1, 40, 2))
        k, j, than = int(rng.integers(0, n + 1)), int(rng.integers(0, m + 1)), float(rng.uniform(-0.95, 0.95))

        def unlikely(p: float, k: int = k, j: int = j, n: int = n, m: int = m, than: float = than) -> float:
            q = p - than
            first = special.xlogy(k, p) + special.xlog1py(n - k, -p)
            return -float(first + special.xlogy(j, q) + special.xlog1py(m - j, -q))

        ends = max(0.0, than), min(1.0, 1.0 + than)
        found = optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-10}).x
        variance = (found * (1 - found) / n + (found - than) * (1 - found + than) / m) * (n + m) / (n + m - 1)
        score = (k / n - j / m - than) / math.sqrt(variance) if variance > 1e-9 else None
        if score is not None:
            assert IndependentShares(k, n, j, m).score(than) == pytest.approx(score, rel=1e-4, abs=1e-5)


def every_table(n: int, m: int) -> list[list[IndependentShares]]:
    return [[IndependentShares(k, n, j, m) for j in range(m + 1)] for k in range(n + 1)]


def weights(n: int, p: float) -> Any:
    return stats.binom.pmf(np.arange(n + 1), n, p)


SHARES = (0.5, 0.7, 0.9, 0.95, 0.98)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (10, 10), (5, 20), (30, 30), (10, 60)])
def test_the_test_of_two_shares_keeps_its_level(n: int, m: int) -> None:
    rejects = np.array([[of.two_sided() <= 0.05 for of in row] for row in every_table(n, m)])
    assert max(float(weights(n, p) @ rejects @ weights(m, p)) for p in SHARES) <= 0.06


def test_the_test_of_two_shares_is_not_far_below_its_level_where_it_matters() -> None:
    # Campbell (2007): the N - 1 chi-square. Fisher's test below an expected count of 5 had 0.012 and 0.694.
    rejects = np.array([[of.two_sided() <= 0.05 for of in row] for row in every_table(30, 30)])
    assert float(weights(30, 0.9) @ rejects @ weights(30, 0.9)) == pytest.approx(0.0544, abs=5e-4)
    assert float(weights(30, 0.95) @ rejects @ weights(30, 0.7)) == pytest.approx(0.778, abs=5e-3)


@pytest.mark.parametrize(("n", "m"), [(10, 10), (5, 20), (30, 30)])
def test_the_interval_of_two_shares_covers_their_difference(n: int, m: int) -> None:
    ends = np.array([[of.interval("", 0.025) for of in row] for row in every_table(n, m)])
    for p, q in itertools.product(SHARES, SHARES):
        holds = (ends[..., 0] <= p - q + 1e-12) & (p - q <= ends[..., 1] + 1e-12)
        assert float(weights(n, p) @ holds @ weights(m, q)) >= 0.93, (p, q)


@pytest.mark.parametrize("n", [5, 12])
def test_the_interval_of_paired_shares_covers_their_difference(n: int) -> None:
    tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    ends = [PairedShares(b, c, n).interval("", 0.025) for b, c in tables]
    covered = []
    for p, q in ((0.1, 0.1), (0.3, 0.1), (0.02, 0.02), (0.5, 0.3), (0.25, 0.0)):
        mass = [stats.multinomial.pmf([b, c, n - b - c], n, [p, q, 1 - p - q]) for b, c in tables]
        held = [low <= p - q + 1e-12 and p - q <= high + 1e-12 for low, high in ends]
        covered.append(float(np.dot(mass, held)))
    assert min(covered) >= 0.93


def tables_of_two() -> list[ShareDifference]:
    return [of for sizes in ((7, 7), (5, 20), (12, 9)) for row in every_table(*sizes) for of in row]


def tables_of_pairs() -> list[ShareDifference]:
    return [PairedShares(b, c, 12, mid_p) for b in range(13) for c in range(13 - b) for mid_p in (True, False)]


@pytest.mark.parametrize("tables", [tables_of_two, tables_of_pairs])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_interval_and_test_agree_about_zero(tables: Callable[[], list[ShareDifference]], alpha: float) -> None:
    for of in tables():
        low, high = of.interval("", alpha / 2)
        assert (of.two_sided() <= alpha) == (not low <= 0.0 <= high), of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "margin", "p"),
    [(30, 100, 0.01, 0.95), (10, 10, 0.1, 0.8), (10, 10, 0.1, 0.95), (5, 20, 0.05, 0.8), (5, 20, 0.05, 0.95)],
)
def test_a_verdict_about_two_shares_is_seldom_false(n: int, m: int, margin: float, p: float) -> None:
    """Welch's t on the numbers 0 and 1 had 16.3 % with 30 and 100 outcomes at 0.95."""
    for true in (0.0,) if n * m > 1000 else (0.0, -margin, -margin - 0.05):
        false = np.zeros((n + 1, m + 1))
        for k, j in itertools.product(range(n + 1), range(m + 1)):
            weight = stats.binom.pmf(k, n, p + true) * stats.binom.pmf(j, m, p)
            if weight < 2e-5:
                continue
            groups = {"a": np.arange(n) < k, "b": np.arange(m) < j}
            verdict = judge_margin(groups, margin, non_inferiority=True).verdict
            wrong = {"better": true <= 0, "worse": true >= 0, "equivalent": true <= -margin}
            false[k, j] = wrong.get(verdict, verdict == "non_inferior" and true <= -margin)
        chance = float(weights(n, p + true) @ false @ weights(m, p))
        # The score's own level is up to 0.06 one by one; a false "equivalent" needs one side only.
        assert chance <= 0.06, (true, chance)


def test_outcomes_as_numbers_and_as_booleans_are_judged_alike() -> None:
    a, b = np.arange(30) < 27, np.arange(100) < 95
    assert judge_margin({"a": a, "b": b}, 0.05) == judge_margin({"a": a * 1.0, "b": b * 1}, 0.05)
    judged = judge_margin({"a": a[:30], "b": b[:30]}, 0.05, paired=True)
    assert judged.method.startswith("Tango score intervals")
    assert judged.df == math.inf


def test_the_verdict_does_not_contradict_the_test_beside_it() -> None:
    result = compare({"a": [True] * 30, "b": [True] * 91 + [False] * 9}, margin=0.01)
    assert result.tests[0].p_value == pytest.approx(0.0897, abs=1e-3)
    assert result.verdicts[0].verdict == "inconclusive"
    assert result.verdicts[0].p_difference == result.tests[0].p_value
    assert result.verdicts[0].confidence_interval == pytest.approx(result.tests[0].confidence_interval)
    assert "better by" not in result.sentence


@pytest.mark.parametrize("design", ["independent", "paired"])
def test_two_groups_that_are_all_right_are_answered(design: Any) -> None:
    few = compare({"a": [True] * 10, "b": [True] * 10}, design=design, margin=0.1)
    many = compare({"a": [True] * 400, "b": [True] * 400}, design=design, margin=0.1)
    assert (few.tests[0].p_value, few.verdicts[0].verdict) == (1.0, "inconclusive")
    assert many.verdicts[0].verdict == "equivalent"
    assert "difference of proportions = 0, 95% CI [−" in few.sentence


def test_ordinal_values_have_no_margin_in_units_of_the_data() -> None:
    with pytest.raises(CannotTestError, match=r"no distances.*`outcome: continuous`"):
        compare({"a": [1, 2, 5], "b": [2, 4, 4]}, outcome="ordinal", margin=0.5)


def test_a_sweep_of_outcomes_is_judged_by_their_shares() -> None:
    best = compare({"a": [True] * 20, "b": [True] * 20, "c": [True] * 10 + [False] * 10}, study="sweep").best
    assert best is not None
    assert best.kept == ("a", "b")
    assert "one-sided tests of two proportions" in best.method
    c = next(one for one in best.contenders if one.name == "c")
    alone = run_test("two_proportions", {"a": [1] * 20, "c": [1] * 10 + [0] * 10}, alternative="greater")
    assert c.p_value == pytest.approx(2 * alone.p_value)
    lowest = indistinguishable_from_best({"a": [0, 0, 1, 0] * 5, "b": [1, 1, 1, 0] * 5}, higher_is_better=False)
    assert lowest.kept == ("a",)


# --- which numbers are outcomes -------------------------------------------------------------------------------------


def test_numbers_that_are_all_0_and_1_are_outcomes_and_a_decision_says_so() -> None:
    groups = {"a": [1] * 27 + [0] * 3, "b": [1.0] * 95 + [0.0] * 5}
    result = compare(groups)
    assert (result.outcome, result.tests[0].test) == ("binary", "two_proportions")
    reasons = [choice.reasoning for about, choice in result.decisions if about == "outcome"]
    assert reasons == [
        "every value of every group is 0 or 1, so they are outcomes; `outcome: continuous` compares them as "
        "measurements"
    ]
    assert compare(groups, outcome="continuous").tests[0].test == "ttest"
    asked = compare(groups, tests=("ttest",), margin=0.01)
    assert asked.outcome == "continuous"
    assert asked.verdicts[0].method.startswith("Welch t intervals")
    assert compare({"a": [1, 0, 0.5], "b": [1, 0, 1]}).outcome == "continuous"


@pytest.mark.slow
def test_the_level_of_outcomes_given_as_numbers() -> None:
    """Exact, at 0.95 with 30 and 100: Welch's t-test of the numbers had 16.3 %."""
    size = 0.0
    for k, j in itertools.product(range(31), range(101)):
        weight = stats.binom.pmf(k, 30, 0.95) * stats.binom.pmf(j, 100, 0.95)
        if weight > 1e-5:
            p = judge_margin({"a": [1] * k + [0] * (30 - k), "b": [1] * j + [0] * (100 - j)}, 1.0).p_difference
            size += weight * (p <= 0.05)
    assert size <= 0.06


def test_pairs_of_whole_numbers_are_not_taken_for_data() -> None:
    with pytest.raises(CannotTestError, match=r"'successes': 3, 'n': 10.*two values a list, \[3, 10\]"):
        compare({"a": (3, 10), "b": (7, 10)})
    assert compare({"a": {"successes": 3, "n": 10}, "b": {"successes": 7, "n": 10}}).outcome == "binary"
    assert compare({"a": [3, 10], "b": [7, 10]}).groups["a"].n == 2


# --- words --------------------------------------------------------------------------------------------------------


def test_the_sentence_names_the_test_whose_p_it_shows() -> None:
    many = compare({"a": [True] * 20 + [False] * 10, "b": [True] * 10 + [False] * 20})
    assert "N-1 chi-square test of two proportions, two-sided, z = " in many.sentence
    few = compare({"a": [False] * 2 + [True] * 28, "b": [True] * 100})
    assert few.tests[0].p_value == pytest.approx(2 * 0.5 * special.comb(30, 2) / special.comb(130, 2))
    assert "Fisher's mid-p test of two proportions, two-sided, successes of a = 28" in few.sentence
    assert "z = " not in few.sentence


def test_cohens_h_covers_near_one() -> None:
    # Its normal interval covers 81 to 86 % there.
    n, p, q = 30, 0.98, 0.95
    true = 2 * (math.asin(math.sqrt(p)) - math.asin(math.sqrt(q)))
    covered = 0.0
    for k, j in itertools.product(range(n + 1), range(n + 1)):
        weight = stats.binom.pmf(k, n, p) * stats.binom.pmf(j, n, q)
        if weight > 1e-6:
            interval = compare_proportions({"a": (k, n), "b": (j, n)}, effect_size="cohens_h").effect_size_interval
            assert interval is not None
            covered += weight * (interval[0] <= true <= interval[1])
    assert covered >= 0.93
