"""Permutation tests and bootstrap intervals: published data, scipy, enumeration, inversion, coverage."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from crucible_bench import CannotTestError, run_test
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval

SIDES = ["greater", "less", "two-sided"]
RNG = np.random.default_rng(41)
# Efron & Tibshirani (1993), table 2.1: survival of 16 mice, means 86.86 and 56.22
MICE = {"treatment": [94, 197, 16, 38, 99, 141, 23], "control": [52, 104, 146, 10, 51, 30, 40, 27, 46]}
# Darwin's maize, in eighths of an inch, cross minus self; Fisher (1935), section 21, sums over all 2**15 signs:
# 863 of 32768 arrangements have a sum as large as 314, so 1726 / 32768 = 5.267 % two-sided.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def mean_difference(x: Any, y: Any, axis: int = -1) -> Any:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def test_fishers_permutation_of_darwins_maize() -> None:
    # 2**15 is more than are enumerated, so 14 of the pairs are compared with enumeration here and all 15 by resampling.
    groups = {"cross": DARWIN, "self": [0] * 15}
    fisher = 1726 / 32768
    result = run_test("paired_permutation", groups, resamples=40_000)
    assert result.p_value == pytest.approx(fisher, abs=4 * math.sqrt(fisher * (1 - fisher) / 40_000))
    every = np.array(list(itertools.product((1, -1), repeat=14))) @ np.array(DARWIN[:14])
    exact = run_test("paired_permutation", {"cross": DARWIN[:14], "self": [0] * 14}, alternative="greater")
    assert exact.p_value == float(np.mean(every >= sum(DARWIN[:14])))
    assert "exact p-value, all 16384" in exact.notes[0]


@pytest.mark.parametrize("side", SIDES)
def test_every_division_is_counted_as_by_scipy(side: Any) -> None:
    oracle = stats.permutation_test(tuple(MICE.values()), mean_difference, n_resamples=np.inf, alternative=side)
    result = run_test("permutation", MICE, alternative=side)
    assert result.p_value == pytest.approx(float(oracle.pvalue))
    assert result.statistic == pytest.approx(30.63, abs=5e-3)
    assert "all 11440" in result.notes[0]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.slow
def test_random_divisions_come_near_every_one(side: Any) -> None:
    groups = {"x": RNG.normal(0.4, 1, 10), "y": RNG.normal(0, 1, 8)}
    oracle = stats.permutation_test(tuple(groups.values()), mean_difference, n_resamples=np.inf, alternative=side)
    exact = float(oracle.pvalue)
    result = run_test("permutation", groups, alternative=side, resamples=20_000)
    assert result.p_value == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / 20_000))
    assert "random" in result.notes[0]


def test_p_is_never_zero() -> None:
    far = {"x": RNG.normal(0, 1, 60), "y": RNG.normal(50, 1, 60)}
    assert run_test("permutation", far, resamples=999).p_value == 2 / 1000
    assert run_test("paired_permutation", far, resamples=999, alternative="less").p_value == 1 / 1000
    assert run_test("permutation", {"x": [1, 2, 3], "y": [11, 12, 13]}).p_value == pytest.approx(2 / 20)


@pytest.mark.parametrize("test", ["permutation", "paired_permutation"])
@given(
    x=st.lists(st.integers(-40, 40), min_size=5, max_size=6),
    y=st.lists(st.integers(-40, 40), min_size=5, max_size=6),
    side=st.sampled_from(SIDES),
)
@settings(max_examples=30, deadline=None)
def test_the_interval_holds_the_shifts_that_the_test_does_not_reject(
    test: str, x: list[int], y: list[int], side: Any
) -> None:
    if test == "paired_permutation":
        x, y = x[:5], y[:5]
    options = {"alternative": side, "effect_size": "rank_biserial", "alpha": 0.1}
    try:
        low, high = run_test(test, {"x": x, "y": y}, **options).confidence_interval  # type: ignore[arg-type]
    except CannotTestError:
        assume(False)
        raise

    def rejected(shift: float) -> bool:
        try:
            return run_test(test, {"x": [v - shift for v in x], "y": y}, **options).significant  # type: ignore[arg-type]
        except CannotTestError:
            return False

    for end, inside, outside in ((low, 1e-3, -1e-3), (high, -1e-3, 1e-3)):
        if math.isfinite(end):
            assert rejected(end + outside)
            assert low == high or not rejected(end + inside)


@pytest.mark.parametrize("test", ["permutation", "paired_permutation"])
def test_exchanging_the_groups_turns_the_sign_and_nothing_else(test: str) -> None:
    groups = {"x": RNG.normal(0.4, 1, 30), "y": RNG.normal(0, 1, 30)}
    there = run_test(test, groups, resamples=999)
    back = run_test(test, dict(reversed(groups.items())), resamples=999)
    again = run_test(test, groups, resamples=999)
    assert there == again
    assert there.p_value == back.p_value
    assert there.estimate == pytest.approx(-back.estimate)
    assert there.confidence_interval == pytest.approx((-back.confidence_interval[1], -back.confidence_interval[0]))
    order = RNG.permutation(30)
    shuffled = run_test(test, {name: values[order] for name, values in groups.items()}, resamples=999)
    assert shuffled.p_value == there.p_value
    moved = run_test(test, {name: np.ldexp(values, -1000) for name, values in groups.items()}, resamples=999)
    assert moved.p_value == there.p_value


@pytest.mark.slow
@pytest.mark.parametrize("test", ["permutation", "paired_permutation"])
def test_intervals_cover_and_levels_hold(test: str) -> None:
    rng, runs, covered, rejected = np.random.default_rng(1), 400, 0, 0
    for _ in range(runs):
        shift = rng.exponential(size=9) - rng.exponential(size=9)  # symmetric differences, not normal
        x, y = (shift + 0.7, np.zeros(9)) if test == "paired_permutation" else (rng.exponential(size=6) + 0.7, rng.exponential(size=6))  # fmt: skip  # noqa: E501
        result = run_test(test, {"x": x, "y": y})
        covered += result.confidence_interval[0] <= 0.7 <= result.confidence_interval[1]
        rejected += run_test(test, {"x": x - 0.7, "y": y}).significant
    assert covered / runs >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / runs)
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.95 * 0.05 / runs)


def test_constant_groups_are_compared_by_ranks_and_refused_by_standard_deviations() -> None:
    groups = {"x": [5.0] * 4, "y": [6.0] * 4}
    assert run_test("permutation", groups, effect_size="rank_biserial").p_value == pytest.approx(2 / 70)
    with pytest.raises(CannotTestError, match="neither group varies"):
        run_test("permutation", groups)
    assert run_test("permutation", {"x": [5.0] * 4, "y": [5.0] * 4}, effect_size="rank_biserial").p_value == 1.0
    assert run_test("paired_permutation", groups, effect_size="rank_biserial").p_value == pytest.approx(2 / 16)
    with pytest.raises(CannotTestError, match="rank_biserial is defined here"):
        run_test("paired_permutation", groups)
    with pytest.raises(CannotTestError, match="nothing can change sign"):
        run_test("paired_permutation", {"x": [5.0] * 4, "y": [5.0] * 4}, effect_size="rank_biserial")


def test_too_few_resamples_for_the_tail_are_refused() -> None:
    with pytest.raises(CannotTestError, match="cannot resolve a tail"):
        run_test("permutation", {"x": RNG.normal(size=30), "y": RNG.normal(size=30)}, resamples=100, alpha=1e-4)


@pytest.mark.parametrize("test", ["permutation", "paired_permutation"])
@pytest.mark.slow
def test_a_million_values_need_little_memory(test: str) -> None:
    rng = np.random.default_rng(0)
    groups = {"x": rng.normal(0.01, 1, 500_000), "y": rng.normal(0, 1, 500_000)}
    tracemalloc.start()
    result = run_test(test, groups, resamples=100, confidence_level=0.9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    assert 0 < result.p_value <= 1


def test_percentile_and_bca_agree_with_scipy_for_any_statistic() -> None:
    x = RNG.gamma(2.0, 1.0, 40)

    def spread(values: Any, axis: int = -1) -> Any:
        return np.std(values, axis=axis) / np.mean(values, axis=axis)

    for method in ("bca", "percentile"):
        oracle = stats.bootstrap((x,), spread, n_resamples=20_000, method=method, rng=1)
        result = bootstrap_interval(spread, x, method=method, resamples=20_000)  # type: ignore[arg-type]
        width = oracle.confidence_interval.high - oracle.confidence_interval.low
        assert result.interval == pytest.approx(tuple(oracle.confidence_interval), abs=0.04 * width)
        assert result.standard_error == pytest.approx(float(oracle.standard_error), rel=0.05)


def test_pairs_are_resampled_together_as_by_scipy() -> None:
    x = RNG.normal(size=35)
    y = x + RNG.normal(size=35)

    def r(a: Any, b: Any) -> float:
        return float(np.corrcoef(a, b)[0, 1])

    oracle = stats.bootstrap((x, y), r, n_resamples=5_000, paired=True, vectorized=False, rng=1)
    result = bootstrap_interval(r, x, y, paired=True, resamples=5_000)
    assert result.interval == pytest.approx(tuple(oracle.confidence_interval), abs=0.06)
    assert result.n == (35, 35)


def test_separate_samples_are_resampled_separately_as_by_scipy() -> None:
    x, y = RNG.gamma(2.0, 1.0, 30), RNG.gamma(2.0, 1.6, 25)
    oracle = stats.bootstrap((x, y), mean_difference, n_resamples=20_000, rng=1)
    result = bootstrap_interval(mean_difference, x, y, resamples=10_000)
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert result.interval == pytest.approx(tuple(oracle.confidence_interval), abs=0.04 * width)


def test_percentile_is_the_quantile_of_every_resample() -> None:
    x = np.array([1.0, 2.0, 4.0, 9.0])
    every = x[np.array(list(itertools.product(range(4), repeat=4)))].mean(axis=1)
    result = bootstrap_interval(np.mean, x, method="percentile", resamples=40_000, confidence_level=0.8)
    low, high = np.quantile(every, [0.1, 0.9])
    assert result.interval == pytest.approx((low, high), abs=0.26)  # one step of the discrete replicates
    assert result.standard_error == pytest.approx(float(every.std()), rel=0.02)


def test_bootstrap_intervals_are_reproducible_and_follow_the_unit() -> None:
    x = RNG.gamma(2.0, 1.0, 30)
    first = bootstrap_interval(np.median, x, resamples=500, seed=3)
    assert first == bootstrap_interval(np.median, x, resamples=500, seed=3)
    assert first != bootstrap_interval(np.median, x, resamples=500, seed=4)
    for exponent in (1000, -1000):
        moved = bootstrap_interval(np.median, np.ldexp(x, exponent), resamples=500, seed=3)
        assert moved.interval == pytest.approx(tuple(np.ldexp(first.interval, exponent)))
    assert first.to_dict()["interval"] == list(first.interval)


def test_bca_covers_a_skewed_statistic() -> None:
    rng, runs, covered = np.random.default_rng(7), 200, 0
    for _ in range(runs):
        low, high = bootstrap_interval(np.mean, rng.exponential(size=40), resamples=299).interval
        covered += low <= 1.0 <= high
    assert covered / runs >= 0.93 - 3.5 * math.sqrt(0.95 * 0.05 / runs)


def test_resamples_of_which_the_statistic_is_undefined_are_counted_or_refused() -> None:
    def log_sd(values: Any) -> float:
        return float(np.log(np.std(values)))

    few = bootstrap_interval(log_sd, [1.0, 1.0, 1.0, 2.0, 3.0, 4.0], resamples=500)
    assert any("left out" in note for note in few.notes)
    with pytest.raises(CannotTestError, match="of 500 resamples is not finite"):
        bootstrap_interval(log_sd, [1.0, 1.0, 1.0, 2.0], resamples=500)
    with pytest.raises(CannotTestError, match="statistic of the samples is -inf"):
        bootstrap_interval(log_sd, [1.0, 1.0, 1.0], resamples=500)
    with pytest.raises(CannotTestError, match="must return one number"):
        bootstrap_interval(lambda values: values, [1.0, 2.0, 3.0], resamples=500)


@pytest.mark.parametrize(
    ("samples", "options", "error", "said"),
    [
        ((), {}, CannotTestError, "no sample"),
        (([1.0],), {}, CannotTestError, "has 1 value"),
        (([],), {}, CannotTestError, "empty"),
        (([1.0, math.nan],), {}, CannotTestError, "missing"),
        (([True, False],), {}, CannotTestError, "booleans"),
        ((["a", "b"],), {}, CannotTestError, "a str"),
        (([1.0, 2.0], [1.0, 2.0, 3.0]), {"paired": True}, CannotTestError, "one length"),
        (([1.0, 2.0],), {"resamples": 10}, CannotTestError, "cannot resolve"),
        (([1.0, 2.0],), {"method": "basic"}, ValueError, "known: bca, percentile"),
        (([1.0, 2.0],), {"seed": -1}, ValueError, "negative"),
        (([1.0, 2.0],), {"confidence_level": 1.0}, ValueError, "confidence_level"),
    ],
)
def test_what_cannot_be_resampled_is_refused(samples: Any, options: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        bootstrap_interval(lambda *vectors: float(np.mean(vectors[0])), *samples, **options)


def test_a_constant_sample_has_an_interval_without_width() -> None:
    result = bootstrap_interval(np.mean, [3.0] * 5, resamples=200)
    assert (result.value, result.interval, result.standard_error) == (3.0, (3.0, 3.0), 0.0)


def test_a_statistic_cannot_change_the_data() -> None:
    def spoiler(values: Any) -> float:
        values[:] = 0.0
        return float(values.sum())

    x = np.array([1.0, 2.0, 3.0])
    bootstrap_interval(spoiler, x, resamples=100)
    assert x.tolist() == [1.0, 2.0, 3.0]
