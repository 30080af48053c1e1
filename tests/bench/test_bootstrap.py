"""The bootstrap against full enumeration and against scipy's, and its promises about seeds and memory."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, run_test
from crucible_bench.distributions.resampling import bca_interval
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval

RNG = np.random.default_rng(11)
X, Y = RNG.gamma(2.0, 1.0, 24), RNG.gamma(2.0, 1.6, 31)


def test_an_interval_without_width_says_that_it_says_nothing() -> None:
    all_right = bootstrap_interval(np.mean, [1] * 20)
    assert all_right.interval == (1.0, 1.0)
    assert any("the interval has no width and says nothing about the error" in note for note in all_right.notes)
    assert not any("no width" in note for note in bootstrap_interval(np.mean, [1] * 19 + [0]).notes)


def test_p_value_is_that_of_the_enumerated_studentized_null_bootstrap() -> None:
    # Efron & Tibshirani (1993), algorithm 16.2, over all 4**4 * 4**4 resamples.
    x, y = np.array([1.0, 2.5, 4.0, 9.0]), np.array([3.0, 8.0, 9.5, 12.0])
    t = (x.mean() - y.mean()) / math.sqrt(x.var(ddof=1) / 4 + y.var(ddof=1) / 4)
    centre = np.concatenate([x, y]).mean()
    every = np.array(list(itertools.product(range(4), repeat=4)))
    xs, ys = (x - x.mean() + centre)[every], (y - y.mean() + centre)[every]
    difference = np.abs(np.subtract.outer(xs.mean(1), ys.mean(1)))
    error = np.sqrt(np.add.outer(xs.var(1, ddof=1) / 4, ys.var(1, ddof=1) / 4))
    exact = float((difference >= abs(t) * error * (1 - 1e-12)).mean())
    result = run_test("bootstrap", {"x": x, "y": y}, resamples=40_000, seed=2)
    assert result.statistic == pytest.approx(t)
    assert result.p_value == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000))


def test_p_value_follows_the_b_plus_one_rule() -> None:
    result = run_test("bootstrap", {"x": X, "y": Y + 50}, resamples=999)
    assert result.p_value == 1 / 1000


def test_bca_interval_agrees_with_scipys() -> None:
    def statistic(x: Any, y: Any, axis: int = -1) -> Any:
        return x.mean(axis) - y.mean(axis)

    oracle = stats.bootstrap((X, Y), statistic, n_resamples=40_000, method="BCa", rng=1)
    result = run_test("bootstrap", {"x": X, "y": Y}, resamples=40_000)
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert result.confidence_interval == pytest.approx(tuple(oracle.confidence_interval), abs=0.02 * width)
    assert any(choice.decision == "BCa bootstrap interval" for choice in result.decisions)


def test_effect_size_interval_agrees_with_scipys_bca_of_cohens_d() -> None:
    def statistic(x: Any, y: Any, axis: int = -1) -> Any:
        squares = x.var(axis, ddof=1) * (x.shape[axis] - 1) + y.var(axis, ddof=1) * (y.shape[axis] - 1)
        return (x.mean(axis) - y.mean(axis)) / np.sqrt(squares / (x.shape[axis] + y.shape[axis] - 2))

    oracle = stats.bootstrap((X, Y), statistic, n_resamples=40_000, method="BCa", rng=1)
    result = run_test("bootstrap", {"x": X, "y": Y}, resamples=40_000, effect_size="cohens_d")
    assert result.effect_size == pytest.approx(float(statistic(X, Y)))
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert result.effect_size_interval == pytest.approx(tuple(oracle.confidence_interval), abs=0.03 * width)


def test_percentiles_stand_in_where_bca_is_undefined_and_the_choice_is_recorded() -> None:
    above = np.linspace(0.1, 1.0, 200)
    (low, high), choice = bca_interval(above, 0.0, 0.025)
    assert (low, high) == pytest.approx(tuple(np.quantile(above, [0.025, 0.975])))
    assert choice.decision == "percentile bootstrap interval"
    assert choice.alternatives == ("BCa bootstrap interval",)
    # Efron (1987): z0 + z beyond 1 / a
    _, turned = bca_interval(np.linspace(-1.0, 1.0, 200), 0.6, 0.025)
    assert turned.decision == "percentile bootstrap interval"


def test_equal_seeds_give_equal_results_and_other_seeds_others() -> None:
    first, again, other = (run_test("bootstrap", {"x": X, "y": Y}, resamples=999, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first.confidence_interval != other.confidence_interval


def test_exchanging_groups_and_shuffling_values_changes_nothing_but_the_sign() -> None:
    there = run_test("bootstrap", {"x": X, "y": Y}, resamples=2000)
    back = run_test("bootstrap", {"y": RNG.permutation(Y), "x": RNG.permutation(X)}, resamples=2000)
    assert back.p_value == there.p_value
    low, high = there.confidence_interval
    assert back.confidence_interval == pytest.approx((-high, -low), rel=1e-9)
    assert back.effect_size == pytest.approx(-there.effect_size)


@pytest.mark.parametrize("n", [3, 5000, 300_000])
@pytest.mark.slow
def test_memory_stays_within_one_copy_of_a_group_and_a_constant(n: int) -> None:
    x = np.random.default_rng(n).normal(size=n)
    groups = {"x": x, "y": x[::-1] + 0.1}
    tracemalloc.start()
    run_test("bootstrap", groups, resamples=100, alpha=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000 + 8 * n


def test_resamples_that_cannot_resolve_the_tail_are_refused() -> None:
    with pytest.raises(CannotTestError, match=r"100 resamples cannot resolve a tail of 0\.0005; at least 1999"):
        run_test("bootstrap", {"x": X, "y": Y}, resamples=100, alpha=0.001)


def test_two_values_per_group_still_give_numbers_and_name_the_lost_resamples() -> None:
    result = run_test("bootstrap", {"x": [1.0, 2.0], "y": [5.0, 7.0]})
    assert 0.0 < result.p_value <= 1.0
    assert any("without any spread" in note for note in result.notes)
    assert any("too short" in note for note in result.notes)


# --- any statistic, many resamples at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.slow
def test_a_statistic_along_an_axis_gives_the_same_interval_faster(method: Any) -> None:
    rng = np.random.default_rng(6)
    x, y = rng.exponential(size=33), rng.normal(size=29)

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return np.median(a, axis=axis) - np.median(b, axis=axis)

    at_once = bootstrap_interval(difference, x, y, method=method, resamples=5_000)
    one_by_one = bootstrap_interval(difference, x, y, method=method, resamples=5_000, vectorized=False)
    assert at_once == one_by_one


def test_pairs_are_drawn_together_many_at_once_too() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=40)
    y = x + rng.normal(0, 0.1, 40)

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return a.mean(axis=axis) - b.mean(axis=axis)

    paired = bootstrap_interval(difference, x, y, paired=True, resamples=3_000)
    assert paired == bootstrap_interval(difference, x, y, paired=True, resamples=3_000, vectorized=False)
    assert paired.standard_error < 0.3 * bootstrap_interval(difference, x, y, resamples=3_000).standard_error


def test_a_vectorized_statistic_must_return_one_number_per_resample() -> None:
    with pytest.raises(CannotTestError, match=r"one number per resample.*vectorized=False"):
        bootstrap_interval(lambda a, axis=None: float(np.mean(a)), [1.0, 2.0, 4.0])
    assert bootstrap_interval(lambda a, axis=None: float(np.mean(a)), [1.0, 2.0, 4.0], vectorized=False).value
    assert bootstrap_interval(max, [1.0, 2.0, 4.0], resamples=200).value == 4.0  # a builtin has no signature


@pytest.mark.parametrize("n", [2, 1_000, 300_000])
def test_the_bootstrap_of_a_statistic_takes_batches_of_bounded_memory(n: int) -> None:
    values = np.random.default_rng(8).normal(size=n)
    tracemalloc.start()
    bootstrap_interval(np.mean, values, resamples=60 if n > 1_000 else 3_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6 + 25 * n  # one resample and its positions: 16 bytes a value
