"""Correlations: R's documented output, NIST, scipy, enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from crucible_bench import CannotTestError, run_test

CORRELATIONS = ["kendall", "pearson", "spearman"]
SIDES = ["greater", "less", "two-sided"]
# R, ?cor.test: Hollander & Wolfe (1973), p. 187 f., Hunter L measure and panel scores of canned tuna
TUNA = {
    "x": [44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1],
    "y": [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8],
}
RNG = np.random.default_rng(17)
LONG = {"x": RNG.normal(size=60), "y": RNG.normal(size=60)}
LONG["y"] = LONG["y"] + 0.5 * LONG["x"]
TIED = {name: np.round(values * 2) for name, values in LONG.items()}
ORACLES: dict[str, Any] = {"kendall": stats.kendalltau, "pearson": stats.pearsonr, "spearman": stats.spearmanr}


def test_kendall_prints_rs_exact_p_value() -> None:
    # cor.test(x, y, method = "kendall", alternative = "greater"): T = 26, p-value = 0.05972, tau 0.4444444
    result = run_test("kendall", TUNA, alternative="greater")
    assert result.p_value == pytest.approx(0.05972, abs=5e-6)
    assert result.estimate == pytest.approx(0.4444444, abs=5e-8)


def test_pearson_prints_rs_interval() -> None:
    # cor.test(x, y): t = 1.8411, df = 7, p-value = 0.1082, -0.1497426 to 0.8955795, cor 0.5711816
    result = run_test("pearson", TUNA)
    r = result.estimate
    assert r == pytest.approx(0.5711816, abs=5e-8)
    assert r * math.sqrt(7 / (1 - r * r)) == pytest.approx(1.8411, abs=5e-5)
    assert result.df == (7.0,)
    assert result.p_value == pytest.approx(0.1082, abs=5e-5)
    assert result.confidence_interval == pytest.approx((-0.1497426, 0.8955795), abs=5e-8)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("groups", [TUNA, LONG, TIED], ids=["tuna", "long", "tied"])
@pytest.mark.parametrize("test", CORRELATIONS)
def test_values_and_p_values_agree_with_scipy(test: str, groups: Any, side: Any) -> None:
    result = run_test(test, groups, alternative=side)
    oracle = ORACLES[test](groups["x"], groups["y"], alternative=side)
    assert result.estimate == pytest.approx(float(oracle.statistic), rel=1e-10)
    if test != "spearman" or groups is not TUNA:  # scipy has no exact Spearman
        if test == "kendall" and groups is LONG:
            oracle = stats.kendalltau(groups["x"], groups["y"], alternative=side, method="asymptotic")
        assert result.p_value == pytest.approx(float(oracle.pvalue), rel=1e-8)
    if test == "pearson":
        ends = oracle.confidence_interval(0.95)
        assert result.confidence_interval == pytest.approx((ends.low, ends.high))


@pytest.mark.parametrize("x", [[1.0, 2, 3, 4, 5, 6], [1.0, 1, 2, 3, 3, 4]])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.slow
def test_exact_spearman_counts_every_order(x: list[float], side: Any) -> None:
    y = [2.0, 1, 4, 3, 6, 6]
    observed = stats.spearmanr(x, y).statistic
    every = [stats.spearmanr(x, order).statistic for order in itertools.permutations(y)]
    tails = np.mean(np.array(every) >= observed - 1e-9), np.mean(np.array(every) <= observed + 1e-9)
    expected = {"greater": tails[0], "less": tails[1], "two-sided": min(1, 2 * min(tails))}[side]
    assert run_test("spearman", {"x": x, "y": y}, alternative=side).p_value == pytest.approx(float(expected))


@pytest.mark.parametrize("test", ["spearman", "kendall"])
@pytest.mark.parametrize(("n", "wanted"), [(8, 2 / 8), (12, 1 / 6), (40, 2 / 40)])
def test_one_value_that_differs_falls_on_the_other_one_in_one_order_of_n(test: str, n: int, wanted: float) -> None:
    # Of all orders, the odd value of one meets that of the other in 1 of n; two-sided, twice the smaller tail.
    result = run_test(test, {"a": [1] + [0] * (n - 1), "b": [1] + [0] * (n - 1)})
    assert result.p_value == pytest.approx(wanted, abs=4 * math.sqrt(wanted / 2 / 10_000) * 2 if n > 8 else 1e-12)
    assert any("given the ties" in note for note in result.notes)
    assert result == run_test(test, {"a": [1] + [0] * (n - 1), "b": [1] + [0] * (n - 1)})


@pytest.mark.parametrize("test", ["spearman", "kendall"])
def test_random_orders_are_the_same_for_measurements_of_the_other_sign(test: str) -> None:
    x, y = np.array([1.0] + [0.0] * 11), np.array([1.0, 3.0] + [0.0] * 9 + [1.0])
    plain = {side: run_test(test, {"x": x, "y": y}, alternative=side).p_value for side in SIDES}  # type: ignore[arg-type]
    assert len(set(plain.values())) == 3
    opposite = {"greater": "less", "less": "greater", "two-sided": "two-sided"}
    for side in SIDES:
        p_value = plain[opposite[side]]
        assert run_test(test, {"x": x, "y": -y}, alternative=side).p_value == p_value  # type: ignore[arg-type]
        assert run_test(test, {"y": y[::-1], "x": -x[::-1]}, alternative=side).p_value == p_value  # type: ignore[arg-type]
        assert run_test(test, {"x": -x, "y": -y}, alternative=side).p_value == plain[side]  # type: ignore[arg-type]


@pytest.mark.parametrize("side", SIDES)
def test_few_tied_pairs_count_every_order_of_kendalls_tau(side: Any) -> None:
    x, y = [1.0, 1.0, 2.0, 3.0, 3.0, 5.0], [2.0, 1.0, 1.0, 4.0, 4.0, 4.0]
    every = [sum(np.sign(x[i] - x[j]) * np.sign(z[i] - z[j]) for i in range(6) for j in range(i))
             for z in itertools.permutations(y)]  # fmt: skip
    observed = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i in range(6) for j in range(i))
    above, below = np.mean(np.array(every) >= observed), np.mean(np.array(every) <= observed)
    expected = {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[side]
    assert run_test("kendall", {"x": x, "y": y}, alternative=side).p_value == pytest.approx(float(expected))


@pytest.mark.slow
@pytest.mark.parametrize("test", ["spearman", "kendall"])
@pytest.mark.parametrize("shares", [(0.9, 0.1), (0.6, 0.2, 0.1, 0.1)])
def test_tied_ranks_keep_their_level(test: str, shares: tuple[float, ...]) -> None:
    rng, runs, rejected = np.random.default_rng(7), 400, 0
    for _ in range(runs):
        x, y = rng.choice(len(shares), (2, 25), p=shares)
        if np.ptp(x) and np.ptp(y):
            rejected += run_test(test, {"x": x, "y": y}, resamples=999).significant
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


def test_exact_kendall_counts_every_order() -> None:
    y = [2.0, 1, 4, 3, 6, 5]
    every = np.array([stats.kendalltau(range(6), order).statistic for order in itertools.permutations(y)])
    observed = stats.kendalltau(range(6), y).statistic
    assert run_test("kendall", {"x": range(6), "y": y}, alternative="greater").p_value == pytest.approx(
        float(np.mean(every >= observed - 1e-9))
    )


def test_nists_straight_line_has_its_certified_share_explained() -> None:
    # NIST StRD, linear regression, Norris: R-squared 0.999993745883712
    y = [
        *(0.1, 338.8, 118.1, 888.0, 9.2, 228.1, 668.5, 998.5, 449.1, 778.9, 559.2, 0.3, 0.1, 778.1, 668.8, 339.3),
        *(448.9, 10.8, 557.7, 228.3, 998.0, 888.8, 119.6, 0.3, 0.6, 557.6, 339.3, 888.0, 998.5, 778.9, 10.2, 117.6),
        *(228.9, 668.4, 449.2, 0.2),
    ]
    x = [
        *(0.2, 337.4, 118.2, 884.6, 10.1, 226.5, 666.3, 996.3, 448.6, 777.0, 558.2, 0.4, 0.6, 775.5, 666.9, 338.0),
        *(447.5, 11.6, 556.0, 228.1, 995.8, 887.6, 120.2, 0.3, 0.3, 556.8, 339.1, 887.2, 999.0, 779.0, 11.1, 118.3),
        *(229.2, 669.1, 448.9, 0.5),
    ]
    r = run_test("pearson", {"x": x, "y": y}).estimate
    assert r * r == pytest.approx(0.999993745883712, abs=1e-14)
    # The same with an offset of 1e9, whose squares alone would take every digit
    assert run_test("pearson", {"x": np.array(x) + 2.0**30, "y": y}).estimate == pytest.approx(r, abs=1e-12)


numbers = st.lists(st.integers(-50, 50).map(float), min_size=5, max_size=20)


@pytest.mark.parametrize("test", CORRELATIONS)
@given(x=numbers, y=numbers, factor=st.sampled_from([-4.0, 0.5, 2.0**900, 2.0**-900]), data=st.data())
@settings(max_examples=15, deadline=None)
def test_units_signs_places_and_order_do_not_matter(
    test: str, x: list[float], y: list[float], factor: float, data: st.DataObject
) -> None:
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    plain = run_test(test, {"x": x, "y": y})
    order = data.draw(st.permutations(range(n)))
    moved = run_test(test, {"y": [y[i] * factor for i in order], "x": [x[i] for i in order]})
    assert moved.estimate == pytest.approx(plain.estimate * math.copysign(1.0, factor), abs=1e-12)
    assert moved.p_value == pytest.approx(plain.p_value, rel=1e-6, abs=1e-12)
    low, high = plain.confidence_interval
    assert -1 <= low <= plain.estimate <= high <= 1


@pytest.mark.parametrize(
    ("test", "truth"),
    [
        ("pearson", 0.6),
        ("spearman", 6 / math.pi * math.asin(0.3)),  # of the bivariate normal (Kruskal 1958)
        ("kendall", 2 / math.pi * math.asin(0.6)),
    ],
)
@pytest.mark.slow
def test_intervals_cover_the_truth(test: str, truth: float) -> None:
    rng, runs, covered = np.random.default_rng(3), 600, 0
    for _ in range(runs):
        x = rng.normal(size=25)
        y = 0.6 * x + 0.8 * rng.normal(size=25)
        low, high = run_test(test, {"x": x, "y": y}).confidence_interval
        covered += low <= truth <= high
    assert abs(covered / runs - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / runs)


@pytest.mark.parametrize("test", CORRELATIONS)
def test_perfect_correlations_are_one_and_not_a_division_by_zero(test: str) -> None:
    x = np.array([1.0, 4.0, 9.0, 11.0, 30.0, 31.0])
    result = run_test(test, {"x": x, "y": 0.1 * x})
    assert result.estimate == result.confidence_interval[1] == 1.0
    if test != "pearson":
        assert result.p_value == pytest.approx(2 / math.factorial(6))
        assert 0 < result.confidence_interval[0] < 1
    assert run_test("spearman", {"x": range(30), "y": range(30)}).p_value > 0


@pytest.mark.parametrize("test", CORRELATIONS)
@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1.0, 2.0], [3.0, 5.0], "at least 3"),
        ([1.0], [3.0], "1 pair"),
        ([1.0, 2.0, 3.0], [3.0, 5.0], "needs pairs"),
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], "'y' is constant"),
        ([1.0, 2.0, math.nan], [5.0, 5.0, 5.0], "missing"),
        ([True, False, True], [5.0, 5.0, 5.0], "booleans"),
    ],
)
def test_pairs_without_a_correlation_are_refused(test: str, x: Any, y: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        run_test(test, {"x": x, "y": y})


@pytest.mark.parametrize("test", CORRELATIONS)
def test_three_and_four_pairs_have_no_narrow_interval(test: str) -> None:
    result = run_test(test, {"x": [1.0, 2.0, 3.0], "y": [2.0, 1.0, 3.0]})
    assert result.confidence_interval == (-1.0, 1.0)
    assert any("too few for an interval" in note for note in result.notes)


def test_a_million_pairs_take_seconds() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1_000_000)
    y = 0.6 * x + 0.8 * rng.normal(size=1_000_000)
    assert run_test("kendall", {"x": x, "y": y}).estimate == pytest.approx(2 / math.pi * math.asin(0.6), abs=3e-3)
    assert run_test("pearson", {"x": x, "y": y}).estimate == pytest.approx(0.6, abs=3e-3)
