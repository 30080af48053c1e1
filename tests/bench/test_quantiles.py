"""Differences of quantiles, against scipy, exact distributions of order statistics, and their own promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, Comparison, compare, compare_quantiles, foresee, quantile_interval
from crucible_bench.declaration import Declaration
from crucible_bench.wording import percentile

RANDOM = np.random.default_rng(7)
SLOW = {"hedged": RANDOM.lognormal(2.0, 0.5, 200), "plain": RANDOM.lognormal(2.0, 1.2, 160)}
BASE = RANDOM.lognormal(2.0, 1.0, 120)
PAIRS = {"new": BASE * RANDOM.uniform(0.6, 1.1, 120), "old": BASE}


def difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.quantile(x, 0.9, axis=axis) - np.quantile(y, 0.9, axis=axis)


@pytest.mark.parametrize(("groups", "paired"), [(SLOW, False), (PAIRS, True)])
def test_the_interval_is_the_percentile_bootstrap_of_scipy(groups: dict[str, np.ndarray], paired: bool) -> None:
    found = compare_quantiles(groups, 0.9, paired=paired, resamples=5_000)
    theirs = stats.bootstrap(
        tuple(groups.values()), difference, paired=paired, method="percentile", n_resamples=5_000, batch=500, rng=1
    ).confidence_interval
    low, high = found.confidence_interval
    assert found.estimate == pytest.approx(difference(*groups.values()))
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.06 * (high - low))


@pytest.mark.parametrize(("n", "quantile"), [(101, 0.95), (21, 0.5), (161, 0.05)])
def test_a_resampled_quantile_has_the_exact_distribution_of_an_order_statistic(n: int, quantile: float) -> None:
    values = np.arange(1.0, n + 1.0)
    found = compare_quantiles({"a": values, "zero": np.zeros(200)}, quantile, resamples=200_000)
    # The k-th smallest of n values drawn with replacement is at most the i-th where at least k of them are.
    k = round((n - 1) * quantile) + 1
    exact = stats.binom.sf(k - 1, n, np.arange(1, n + 1) / n)
    ends = [np.searchsorted(exact, tail) + 1.0 for tail in (0.025, 0.975)]
    assert [abs(exact - tail).min() > 0.001 for tail in (0.025, 0.975)] == [
        True,
        True,
    ]  # so that chance does not decide
    assert list(found.confidence_interval) == ends


@pytest.mark.parametrize("quantile", [0.05, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("n", [6, 40, 71, 72, 200])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_of_one_group_is_that_of_scipy_s_quantile_test(quantile: float, n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(size=n)
    theirs = stats.quantile_test(values, p=quantile).confidence_interval(level)
    expected = [
        -math.inf if math.isnan(theirs.low) else theirs.low,
        math.inf if math.isnan(theirs.high) else theirs.high,
    ]
    assert list(quantile_interval(values, quantile, confidence_level=level)) == expected


def test_too_few_values_for_a_quantile_are_refused_with_the_number_that_would_do() -> None:
    values = RANDOM.normal(size=72)
    assert compare_quantiles({"a": values, "b": values}, 0.95, resamples=500).p_value == 1.0
    with pytest.raises(CannotTestError, match=r"'b' has 71 values, and even the largest of them lies below the 95th "):
        compare_quantiles({"a": values, "b": values[:71]}, 0.95)
    with pytest.raises(CannotTestError, match=r"smallest of them lies above the 1st percentile .* at least 368 values"):
        compare_quantiles({"a": values, "b": values}, 0.01)
    # The reason: the interval of one group by itself has no upper end either.
    assert quantile_interval(values[:71], 0.95)[1] == math.inf > quantile_interval(values, 0.95)[1]


@pytest.mark.parametrize("paired", [False, True])
def test_the_test_and_its_interval_never_disagree_about_zero(paired: bool) -> None:
    rng = np.random.default_rng(11)
    significant = 0
    for seed in range(60):
        groups = {"a": np.round(rng.exponential(1.0, 80), 1), "b": np.round(rng.exponential(1.6, 80), 1)}
        found = compare_quantiles(groups, 0.9, paired=paired, resamples=400, seed=seed)
        low, high = found.confidence_interval
        assert found.significant == (low > 0.0 or high < 0.0)
        significant += found.significant
    assert 5 < significant < 55


@pytest.mark.parametrize(("groups", "paired"), [(SLOW, False), (PAIRS, True)])
def test_exchanging_the_groups_or_reordering_the_values_changes_the_sign_only(groups: Any, paired: bool) -> None:
    (one, x), (other, y) = groups.items()
    order = RANDOM.permutation(x.size)
    shuffled = {one: x[order], other: y[order] if paired else y[::-1]}
    found = compare_quantiles(groups, 0.75, paired=paired, resamples=1_000)
    assert compare_quantiles(shuffled, 0.75, paired=paired, resamples=1_000) == found
    turned = compare_quantiles({other: y, one: x}, 0.75, paired=paired, resamples=1_000)
    low, high = found.confidence_interval
    assert (turned.estimate, turned.confidence_interval) == (-found.estimate, (-high, -low))
    assert turned.p_value == found.p_value
    larger = compare_quantiles({one: x * 1e300, other: y * 1e300}, 0.75, paired=paired, resamples=1_000)
    assert larger.confidence_interval == pytest.approx((low * 1e300, high * 1e300))


def test_pairs_that_move_together_have_the_narrower_interval() -> None:
    apart, together = (compare_quantiles(PAIRS, 0.9, paired=paired) for paired in (False, True))
    assert apart.estimate == together.estimate
    lengths = [high - low for low, high in (apart.confidence_interval, together.confidence_interval)]
    assert lengths[1] < 0.5 * lengths[0]


def test_the_finding_names_the_percentile_and_how_much_lower_it_is() -> None:
    result = compare(SLOW, quantile=0.9, higher_is_better=False, measure="latency in ms")
    (test,) = result.tests
    assert result.headline == ("hedged beats plain in the 90th percentile of latency in ms by 19, 95% CI 9 to 33.")
    low, high = test.confidence_interval
    assert (round(-test.estimate), round(-high), round(-low)) == (19, 9, 33)
    assert result.sentence.startswith(
        "hedged is lower than plain in the 90th percentile of latency in ms: difference of 90th percentiles "
        "(hedged - plain) −"
    )
    assert "n = 200 and 160" in result.sentence
    assert Comparison.from_json(result.to_json()) == result
    assert result.quantiles["plain"].value == pytest.approx(np.quantile(SLOW["plain"], 0.9))
    assert result.quantiles["plain"].interval == quantile_interval(SLOW["plain"], 0.9)


def test_several_groups_are_a_family_of_pairs_and_their_number_asks_for_more_values() -> None:
    three = {**PAIRS, "other": BASE * 2.0}
    result = compare(three, quantile=0.9, design="paired", compare="baseline", baseline="old", measure="loss")
    assert result.comparisons is not None
    assert [pair.second for pair in result.comparisons.comparisons] == ["old", "old"]
    assert "comparisons with old in the 90th percentile of loss show" in result.sentence
    everything = compare(three, quantile=0.5)
    assert everything.comparisons is not None
    assert everything.comparisons.size == 3
    with pytest.raises(CannotTestError, match="at least 94 values"):  # 0.95**94 < 0.05 / 2 / 3
        compare({name: values[:93] for name, values in three.items()}, quantile=0.95)


def test_on_the_logarithmic_scale_a_difference_of_quantiles_is_their_ratio() -> None:
    from crucible_bench.log_scale import as_ratios, logarithms

    ratios = as_ratios(compare(logarithms(SLOW), quantile=0.9))
    (test,) = ratios.tests
    assert test.estimate_name == "ratio of 90th percentiles (hedged / plain)"
    expected = np.quantile(SLOW["hedged"], 0.9) / np.quantile(SLOW["plain"], 0.9)
    assert test.estimate == pytest.approx(expected, rel=0.01)
    assert ratios.quantiles["plain"].value == pytest.approx(np.quantile(SLOW["plain"], 0.9), rel=0.01)
    assert ratios.headline.startswith("hedged is lower than plain in the 90th percentile: ratio of 90th percentiles")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"quantile": 1.0}, "quantile: it lies between 0 and 1"),
        ({"quantile": 0.9, "leaderboard": True}, "leaderboard: it ranks groups by their means"),
        ({"quantile": 0.9, "rope": 1.0, "design": "paired"}, "rope: it judges means, not quantiles"),
        ({"quantile": 0.9, "tests": ("ttest",)}, "ttest would not be about the quantile"),
        ({"tests": ("quantile",)}, "quantile needs to know which one, such as 0.95"),
        ({"quantile": 0.9, "design": "resampled", "folds": 80}, "for the designs independent and paired"),
        ({"quantile": 0.9, "study": "sweep"}, "sweep compares means"),
        ({"quantile": 0.9, "outcome": "binary"}, "binary values have no distances"),
        ({"quantile": 0.9, "effect_size": "cohens_d"}, "a difference of quantiles has none"),
        ({"quantile": 0.9, "family": "tukey_hsd", "compare": "all_pairs"}, "quantiles are compared by pairwise"),
    ],
)
def test_what_would_not_be_about_the_quantile_is_refused(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        compare(PAIRS, **declared)


def test_right_and_wrong_answers_have_no_quantiles_but_zeros_and_ones_do() -> None:
    with pytest.raises(CannotTestError, match="compare their shares"):
        compare({"a": [True, False] * 10, "b": [True] * 20}, quantile=0.5)
    result = compare({"a": [0.0] * 20, "b": [1.0] * 20}, quantile=0.5)
    assert (result.outcome, result.tests[0].confidence_interval) == ("continuous", (-1.0, -1.0))
    assert "all equal" in " ".join(result.tests[0].notes)


def test_a_quantile_is_written_as_people_say_it() -> None:
    said = [percentile(q) for q in (0.5, 0.01, 0.02, 0.03, 0.11, 0.12, 0.21, 0.95, 0.999, 0.9999)]
    assert said == [
        "median", "1st percentile", "2nd percentile", "3rd percentile", "11th percentile", "12th percentile",
        "21st percentile", "95th percentile", "99.9th percentile", "99.99th percentile",
    ]  # fmt: skip


def test_a_planned_comparison_of_quantiles_says_that_its_power_is_not_known() -> None:
    (said,) = foresee(Declaration(quantile=0.95), 2, 100, 0.5)
    assert "the power of quantile cannot be computed before there are data" in said


@pytest.mark.parametrize("paired", [False, True])
def test_a_margin_judges_the_difference_of_quantiles_by_the_interval_of_the_test(paired: bool) -> None:
    declared: dict[str, Any] = {"quantile": 0.9, "design": "paired" if paired else "independent"}
    (low, high) = compare(PAIRS, **declared).tests[0].confidence_interval
    if paired:
        verdicts = {abs(high) / 2: "better", -2 * low: "equivalent"}
    else:
        verdicts = {abs(low) / 10: "inconclusive", 2 * max(-low, abs(high)): "equivalent"}
    for margin, verdict in verdicts.items():
        result = compare(PAIRS, margin=margin, higher_is_better=False, **declared)
        (judged,) = result.verdicts
        assert (judged.verdict, judged.confidence_interval) == (verdict, (low, high))
        assert judged.p_difference == result.tests[0].p_value
        assert (judged.p_equivalence <= 0.05) == (verdict == "equivalent")
        assert bool(judged.more_replicates) == (verdict == "inconclusive")
        assert Comparison.from_json(result.to_json()) == result
        word = {"better": "more than the margin of", "equivalent": "equivalent within", "inconclusive": "inconclusive"}
        assert word[verdict] in result.headline
    with pytest.raises(CannotTestError, match="at least 29 values"):
        compare({name: values[:28] for name, values in PAIRS.items()}, margin=1.0, **{**declared, "alpha": 0.1})
