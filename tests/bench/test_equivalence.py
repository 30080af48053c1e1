"""Verdicts against a margin: statsmodels' TOST, Schuirmann's rule, and the promised error rate by simulation."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from crucible_bench import CannotTestError, run_test
from crucible_bench.decisions.differences import Differences
from crucible_bench.decisions.equivalence import MarginResult, Verdict, judge_margin, judge_new_value

A = [5.1, 4.8, 5.6, 5.0, 5.3, 4.9, 5.2, 5.5]
B = [5.0, 5.1, 5.4, 4.7, 5.2, 5.3]

values = st.lists(st.integers(-40, 40).map(lambda i: i / 4), min_size=3, max_size=10)


def judged(x: Any, y: Any, margin: float = 1.0, **options: Any) -> MarginResult:
    return judge_margin({"new": x, "old": y}, margin, **options)


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_tost_equals_statsmodels(margin: float) -> None:
    p, below, above = ttost_ind(np.array(A), np.array(B), -margin, margin, usevar="unequal")
    result = judged(A, B, margin)
    assert result.p_equivalence == pytest.approx(p)
    assert result.p_non_inferiority == pytest.approx(below[1])
    assert judged(A, B, margin, higher_is_better=False).p_non_inferiority == pytest.approx(above[1])
    paired = judged(A[:6], B, margin, paired=True)
    assert paired.p_equivalence == pytest.approx(ttost_paired(np.array(A[:6]), np.array(B), -margin, margin)[0])


def test_the_intervals_are_those_of_the_t_tests() -> None:
    result = judged(A, B, alpha=0.1)
    welch = stats.ttest_ind(A, B, equal_var=False)
    assert result.confidence_interval == pytest.approx(tuple(welch.confidence_interval(0.9)))
    assert result.equivalence_interval == pytest.approx(tuple(welch.confidence_interval(0.8)))
    assert result.p_difference == pytest.approx(welch.pvalue)
    assert result.df == pytest.approx(welch.df)
    paired = judged(A[:6], B, paired=True)
    assert paired.confidence_interval == pytest.approx(
        run_test("paired_ttest", {"new": A[:6], "old": B}).confidence_interval
    )


@given(x=values, y=values, margin=st.sampled_from([0.25, 1.0, 3.0, 10.0]), paired=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_verdict_is_what_the_p_values_say(x: list[float], y: list[float], margin: float, paired: bool) -> None:
    n = min(len(x), len(y))
    try:
        result = judged(x[:n], y[:n], margin, paired=paired, non_inferiority=True)
    except CannotTestError:
        assume(False)
        raise
    assume(all(abs(p - alpha) > 1e-9 for p in (result.p_equivalence, result.p_difference) for alpha in (0.05,)))
    if result.p_equivalence < 0.05:
        expected = "equivalent"
    elif result.p_difference < 0.05:
        expected = "better" if result.estimate > 0 else "worse"
    else:
        expected = "non_inferior" if result.p_non_inferiority < 0.05 else "inconclusive"
    assert result.verdict == expected
    turned = {"better": "worse", "worse": "better", "equivalent": "equivalent"}
    mirrored = judged(y[:n], x[:n], margin, paired=paired).verdict
    assert mirrored == turned.get(expected, "inconclusive")
    assert judged(x[:n], y[:n], margin, paired=paired, higher_is_better=False).verdict == mirrored


@given(x=values, y=values, factor=st.sampled_from([0.25, 8.0, 2.0**600, 2.0**-600]))
@settings(max_examples=40, deadline=None)
def test_the_unit_does_not_matter(x: list[float], y: list[float], factor: float) -> None:
    try:
        means = Differences("independent", of_shares=False)  # a change of unit can make outcomes of numbers
        before = judged(x, y, 2.0, difference=means)
    except CannotTestError:
        assume(False)
        raise
    moved = ([value * factor for value in values] for values in (x, y))
    after = judged(*moved, 2.0 * factor, difference=means)
    assert (after.verdict, after.more_replicates) == (before.verdict, before.more_replicates)
    assert after.p_equivalence == pytest.approx(before.p_equivalence, rel=1e-9)


def test_each_verdict_of_the_vocabulary_is_reached() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0.0, 1.0, 40)
    other = rng.permutation(-noise)
    reached = {
        judged(noise + shift, other, margin, non_inferiority=True).verdict
        for shift, margin in itertools.product((-2.0, 0.0, 0.3, 2.0), (0.1, 0.45, 1.0))
    }
    assert reached == set(get_args(Verdict))


def test_a_difference_within_the_margin_is_equivalent_even_if_it_is_not_zero() -> None:
    result = judged([1.01, 1.02, 1.03, 1.02], [1.0, 1.0, 1.01, 1.0], 0.1)
    assert result.verdict == "equivalent"
    assert result.p_difference < 0.05
    assert any("better by a difference that is not zero" in note for note in result.notes)


@pytest.mark.parametrize("paired", [False, True])
def test_the_planning_number_is_the_first_at_which_the_interval_is_as_short_as_the_margin(paired: bool) -> None:
    x, y, margin = A[:6], B, 0.13
    result = judged(x, y, margin, paired=paired)
    assert result.verdict == "inconclusive"
    more = result.more_replicates
    assert more is not None

    def length(m: int) -> float:  # written out again, by scipy
        if paired:
            n = 6 + m
            return float(2 * stats.t.ppf(0.975, n - 1) * np.std(np.subtract(x, y), ddof=1) / math.sqrt(n))
        s, n = (np.var(x, ddof=1), np.var(y, ddof=1)), 6 + m
        df = (sum(s) / n) ** 2 / sum((v / n) ** 2 / (n - 1) for v in s)
        return float(2 * stats.t.ppf(0.975, df) * math.sqrt(sum(s) / n))

    assert length(more) <= margin < length(more - 1)
    assert any("planning number" in note for note in result.notes)


@given(x=values, y=values)
@settings(max_examples=60, deadline=None)
def test_an_interval_no_longer_than_the_margin_always_decides(x: list[float], y: list[float]) -> None:
    try:
        length = float(np.subtract(*judged(x, y).confidence_interval[::-1]))
        assert judged(x, y, length * 1.0001).verdict != "inconclusive"
    except CannotTestError:
        assume(False)


def test_more_replicates_than_a_billion_are_not_promised() -> None:
    assert judged([1.0, 2.0, 3.0, 0.0], [2.0, 1.0, 3.0, 0.5], 1e-9).more_replicates is None
    assert judged([1.0, 2.0, 3.0, 0.0], [2.0, 1.0, 3.0, 0.5], 1e-320).more_replicates is None


def test_what_cannot_be_judged_is_refused() -> None:
    for margin in (0.0, -1.0, math.nan, math.inf, True):
        with pytest.raises(CannotTestError, match="margin must be a positive number"):
            judged(A, B, margin)
    with pytest.raises(CannotTestError, match="3 were given"):
        judge_margin({"a": A, "b": B, "c": A}, 1.0)
    with pytest.raises(CannotTestError, match="1 value"):
        judged([1.0], B)
    with pytest.raises(CannotTestError, match="one length"):
        judged(A, B, paired=True)
    with pytest.raises(CannotTestError, match="all 3 differences between 'new' and 'old' are equal"):
        judged([1.1, 2.1, 3.1], [1.0, 2.0, 3.0], paired=True)
    with pytest.raises(CannotTestError, match="one pair"):
        judged([1.1], [1.0], paired=True)
    with pytest.raises(ValueError, match=r"below 0\.5"):
        judged(A, B, alpha=0.6)


def test_a_result_is_plain_json() -> None:
    result = judged(A, B)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert result.to_dict()["verdict"] == result.verdict


@pytest.mark.parametrize("delta", [-1.0, 0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("n", [6, 14])
@pytest.mark.slow
def test_whatever_the_truth_a_false_verdict_has_at_most_the_chance_alpha(delta: float, n: int) -> None:
    rng = np.random.default_rng(7)
    runs, alpha, margin = 700, 0.1, 1.0
    true = {"inconclusive"}
    true |= {"equivalent"} if abs(delta) < margin else set()
    true |= {"better"} if delta > 0 else set()
    true |= {"worse"} if delta < 0 else set()
    true |= {"non_inferior"} if delta > -margin else set()
    false = sum(
        judged(rng.normal(delta, 1.0, n), rng.normal(0.0, 1.5, n), margin, alpha=alpha, non_inferiority=True).verdict
        not in true
        for _ in range(runs)
    )
    assert false / runs <= alpha + 3.5 * math.sqrt(alpha * (1 - alpha) / runs)


# --- one new value ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [4.2, 5.1, 6.0])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_interval_of_a_new_value_is_the_prediction_interval_turned_around(value: float, alpha: float) -> None:
    result = judge_new_value(value, A, 1.0, alpha=alpha)
    fitted = OLS(np.array(A), np.ones(len(A))).fit().get_prediction([[1.0]])
    for interval, level in ((result.confidence_interval, alpha), (result.equivalence_interval, 2 * alpha)):
        low, high = fitted.summary_frame(alpha=level)[["obs_ci_lower", "obs_ci_upper"]].iloc[0]
        assert interval == pytest.approx((value - high, value - low))
    assert result.estimate == pytest.approx(value - np.mean(A))
    assert (result.df, result.n) == (len(A) - 1, (1, len(A)))


def test_a_new_value_is_judged_by_the_same_rules() -> None:
    def of(value: float, margin: float, **more: Any) -> Verdict:
        return judge_new_value(value, A, margin, non_inferiority=True, **more).verdict

    assert of(5.2, 1.0) == "equivalent"
    assert of(9.0, 1.0) == "better"
    assert of(1.0, 1.0) == "worse"
    assert of(1.0, 1.0, higher_is_better=False) == "better"
    assert of(5.6, 0.6) == "non_inferior"
    assert of(5.1, 0.1) == "inconclusive"


def test_more_earlier_values_decide_only_what_the_new_ones_own_variation_allows() -> None:
    spread = float(np.std(A, ddof=1))
    never = judge_new_value(5.5, A, 0.5 * spread)
    assert (never.verdict, never.more_replicates) == ("inconclusive", None)
    some = judge_new_value(4.65, A, 2 * stats.norm.ppf(0.95) * spread * 1.02, alpha=0.1)
    assert some.verdict == "inconclusive"
    assert some.more_replicates is not None
    n = len(A) + some.more_replicates

    def length(n: int) -> float:
        return float(2 * stats.t.ppf(0.95, n - 1) * spread * math.sqrt(1 + 1 / n))

    assert length(n) <= some.margin < length(n - 1)


def test_a_false_verdict_of_a_new_value_is_as_rare_as_promised() -> None:
    rng, alpha, margin, runs = np.random.default_rng(11), 0.1, 1.0, 20_000
    for true, wrong in ((-margin, {"equivalent", "better", "non_inferior"}), (0.0, {"worse"})):
        earlier = rng.normal(size=(runs, 6))
        new = true + rng.normal(size=runs)
        error = earlier.std(axis=1, ddof=1) * math.sqrt(1 + 1 / 6)
        reach = stats.t.ppf(1 - alpha / (2 if wrong == {"worse"} else 1), 5) * error
        change = new - earlier.mean(axis=1)
        rate = np.mean(change + reach < 0 if wrong == {"worse"} else change - reach > -margin)
        promised = alpha / 2 if wrong == {"worse"} else alpha
        assert abs(rate - promised) < 4 * math.sqrt(promised / runs)
        for index in range(200):
            verdict = judge_new_value(new[index], earlier[index], margin, alpha=alpha, non_inferiority=True).verdict
            beyond = change[index] + reach[index] < 0 if wrong == {"worse"} else change[index] - reach[index] > -margin
            assert (verdict in wrong) <= bool(beyond)


def test_a_new_value_needs_two_earlier_ones_that_differ() -> None:
    for earlier, said in (([1.0], "one earlier value"), ([1.0, 1.0], "equal up to rounding"), ([], "is empty")):
        with pytest.raises(CannotTestError, match=said):
            judge_new_value(1.0, earlier, 1.0)
    with pytest.raises(CannotTestError, match="too far"):
        judge_new_value(1e300, [1e-9, 2e-9], 1.0)
    with pytest.raises(CannotTestError, match="positive number"):
        judge_new_value(1.0, A, 0.0)
