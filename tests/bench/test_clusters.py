"""Clustered means and differences: statsmodels' cluster covariance, the paired t-test, levels, refusals."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from crucible_bench import CannotTestError, clustered_mean, clustered_ttest, run_test
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval

SIDES = ["greater", "less", "two-sided"]
RNG = np.random.default_rng(12)
LABELS = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 3, 1])
A = RNG.normal(size=12)[LABELS] + RNG.normal(0.4, 1, LABELS.size)
B = RNG.normal(size=LABELS.size)


def oracle(values: Any, labels: Any) -> Any:
    model = sm.OLS(values, np.ones(len(values)))
    return model.fit(cov_type="cluster", cov_kwds={"groups": labels, "df_correction": True}, use_t=True)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e200, 1e-200])
def test_mean_and_difference_agree_with_statsmodels(scale: float) -> None:
    fit, difference = oracle(A, LABELS), oracle(A - B, LABELS)
    mean = clustered_mean(scale * A, LABELS)
    assert (mean.n, mean.clusters, mean.df) == (LABELS.size, 12, 11)
    assert mean.value == pytest.approx(scale * fit.params[0], rel=1e-9)
    assert mean.standard_error == pytest.approx(scale * fit.bse[0], rel=1e-9)
    assert mean.interval == pytest.approx(scale * fit.conf_int()[0], rel=1e-9)
    assert mean.design_effect == pytest.approx((fit.bse[0] / (A.std(ddof=1) / math.sqrt(A.size))) ** 2)
    assert json.loads(json.dumps(mean.to_dict()))["interval"] == list(mean.interval)
    result = clustered_ttest({"a": scale * A, "b": scale * B}, LABELS)
    assert result.statistic == pytest.approx(difference.tvalues[0])
    assert result.p_value == pytest.approx(difference.pvalues[0])
    assert result.df == (11.0,)
    assert result.confidence_interval == pytest.approx(scale * difference.conf_int()[0], rel=1e-9)
    assert result.estimate == pytest.approx(scale * (A - B).mean(), rel=1e-9)
    assert result.effect_size == pytest.approx((A - B).mean() / (A - B).std(ddof=1))
    low, high = result.effect_size_interval
    assert low < result.effect_size < high


@pytest.mark.parametrize("side", SIDES)
def test_one_item_per_cluster_is_the_paired_ttest(side: Any) -> None:
    groups = {"a": A[:20], "b": B[:20]}
    result = clustered_ttest(groups, [f"item {i}" for i in range(20)], alternative=side)
    paired = run_test("paired_ttest", groups, alternative=side)
    for field in ("statistic", "p_value", "df", "estimate", "confidence_interval", "effect_size_interval"):
        assert getattr(result, field) == pytest.approx(getattr(paired, field), rel=1e-12)


def test_copies_of_every_item_in_its_cluster_add_nothing() -> None:
    once = clustered_ttest({"a": A, "b": B}, range(A.size))
    thrice = clustered_ttest({"a": np.repeat(A, 3), "b": np.repeat(B, 3)}, np.repeat(np.arange(A.size), 3))
    assert thrice.p_value == pytest.approx(once.p_value)
    assert thrice.confidence_interval == pytest.approx(once.confidence_interval)
    # sqrt(3) but for the degrees of freedom: sqrt((132 - 1) / (44 - 1))
    assert "1.75 times that of independent items" in thrice.notes[0]


def test_neither_labels_nor_order_matter_and_exchanging_the_groups_changes_the_sign() -> None:
    order = RNG.permutation(A.size)
    there = clustered_ttest({"a": A, "b": B}, LABELS, alternative="greater")
    moved = clustered_ttest({"a": A[order], "b": B[order]}, [f"c{i}" for i in LABELS[order]], alternative="greater")
    back = clustered_ttest({"b": B, "a": A}, LABELS, alternative="less")
    assert moved.p_value == pytest.approx(there.p_value, rel=1e-10)
    assert back.p_value == pytest.approx(there.p_value, rel=1e-12)
    assert back.statistic == -there.statistic


@pytest.mark.slow
def test_it_keeps_its_level_on_clusters_where_the_paired_ttest_does_not() -> None:
    rng, runs, clusters, size = np.random.default_rng(8), 1500, 20, 5
    labels = np.repeat(np.arange(clusters), size)
    rejected = np.zeros((runs, 2))
    for run in range(runs):
        values = rng.normal(size=clusters)[labels] + rng.normal(size=labels.size)
        groups = {"a": values, "b": np.zeros(labels.size)}
        rejected[run] = clustered_ttest(groups, labels).significant, run_test("paired_ttest", groups).significant
    assert rejected[:, 0].mean() == pytest.approx(0.05, abs=3.5 * math.sqrt(0.05 * 0.95 / runs))
    assert rejected[:, 1].mean() > 0.15


def test_few_clusters_are_noted() -> None:
    assert any("12 clusters are few" in note for note in clustered_mean(A, LABELS).notes)
    assert not any("few" in note for note in clustered_mean(A, range(A.size)).notes)


@pytest.mark.parametrize(
    ("values", "labels", "said"),
    [
        ([1.0, 2.0, 3.0], ["x", "x", "x"], "one cluster, 'x'.*at least two"),
        ([1.0], ["x"], "at least two"),
        ([1.0, 2.0, 3.0], ["x", "y"], "3 values but 2 cluster labels"),
        ([1.0, 2.0], [["x"], ["y"]], "position 0 is a list"),
        ([1.0, 2.0], np.array([["x"], ["y"]]), "position 0 is a list"),
        ([1.0, 2.0], ["x", None], "position 1 is missing"),
        ([1.0, 2.0], ["x", " "], "position 1 is missing"),
        ([1.0, 2.0], [1.0, math.nan], "position 1 is missing"),
        ([1.0, 2.0, 3.0], [1, "1", 2], "spell them one way"),
        ([1.0, 2.0], "xy", "one label per value, not str"),
        ([1.0, 2.0], {"x", "y"}, "one label per value, not set"),
        ([1.0, 2.0], 7, "one label per value, not int"),
        ([1.0, 2.0], np.array(7), "no cluster labels"),
        ([2.0, 2.0, 2.0], ["x", "x", "y"], "all 3 values are equal"),
        ([0.1, 0.7, 0.3, 0.5], ["x", "x", "y", "y"], "averages are all equal up to rounding"),
        ([1.0, math.nan], ["x", "y"], r"missing \(NaN\)"),
        ([True, False], ["x", "y"], "pass the numbers 0 and 1 to"),
    ],
)
def test_what_has_no_clustered_standard_error_is_refused(values: Any, labels: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        clustered_mean(values, labels)


def test_groups_that_do_not_share_their_items_are_refused() -> None:
    with pytest.raises(CannotTestError, match=r"same items.*averages of the clusters"):
        clustered_ttest({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}, [1, 2])
    with pytest.raises(CannotTestError, match="at least two groups"):
        clustered_ttest({"a": [1.0, 2.0]}, [1, 2])
    with pytest.raises(CannotTestError, match="all 2 differences are equal up to rounding"):
        clustered_ttest({"a": [0.81, 0.41], "b": [0.80, 0.40]}, [1, 2])


def mean(values: Any) -> float:
    return float(values.mean())


def test_the_cluster_bootstrap_of_a_mean_agrees_with_every_resample_of_its_clusters() -> None:
    values, labels = np.array([1.0, 4.0, 2.0, 8.0, 9.0, 3.0, 5.0, 0.5]), ["x", "y", "x", "z", "z", "z", "w", "y"]
    parts = [values[[label == name for label in labels]] for name in "xyzw"]
    every = [np.concatenate([parts[i] for i in drawn]).mean() for drawn in itertools.product(range(4), repeat=4)]
    result = bootstrap_interval(mean, values, clusters=labels, method="percentile", confidence_level=0.9)
    assert result.value == values.mean()
    assert result.standard_error == pytest.approx(np.std(every), rel=0.03)
    assert result.interval == pytest.approx(np.quantile(every, [0.05, 0.95]), abs=0.15)
    assert any("4 clusters resampled whole; 4 are few" in note for note in result.notes)


def test_the_cluster_bootstrap_is_seeded_and_near_the_robust_standard_error() -> None:
    labels = np.repeat(np.arange(60), 4)
    x = np.random.default_rng(2).normal(size=60)[labels] + np.random.default_rng(3).normal(size=240)
    y = np.random.default_rng(4).normal(size=240)
    first, again, other = (
        bootstrap_interval(mean, x, clusters=labels, resamples=2000, seed=seed) for seed in (5, 5, 6)
    )
    assert first == again != other
    robust = clustered_mean(x, labels)
    assert first.standard_error == pytest.approx(robust.standard_error, rel=0.08)
    assert first.interval == pytest.approx(robust.interval, abs=0.25 * robust.standard_error)

    def difference(a: Any, b: Any) -> float:
        return mean(a - b)

    paired = bootstrap_interval(difference, x, y, paired=True, clusters=labels, resamples=2000)
    assert paired.interval == bootstrap_interval(mean, x - y, clusters=labels, resamples=2000).interval


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_bootstrap_of_clusters_of_one_is_that_of_values(method: Any) -> None:
    clustered = bootstrap_interval(mean, A, clusters=range(A.size), method=method, resamples=500)
    plain = bootstrap_interval(mean, A, method=method, resamples=500)
    assert clustered.interval == plain.interval


def test_clusters_of_samples_that_are_not_paired_are_refused() -> None:
    with pytest.raises(CannotTestError, match="pass paired=True if they do"):
        bootstrap_interval(lambda x, y: mean(x) - mean(y), A, B, clusters=LABELS)
    with pytest.raises(CannotTestError, match="of one cluster"):
        bootstrap_interval(mean, [1.0, 2.0], clusters=["x", "x"])
