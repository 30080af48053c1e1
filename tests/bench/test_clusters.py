"""Clustered means and differences: CR2 from whole matrices, statsmodels, Miller 2024, the paired t-test, refusals."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from crucible_bench import CannotTestError, clustered_mean, clustered_ttest, judge_margin, run_test
from crucible_bench.decisions.differences import Differences
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval

SIDES = ["greater", "less", "two-sided"]
RNG = np.random.default_rng(12)
LABELS = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 3, 1])
A = RNG.normal(size=12)[LABELS] + RNG.normal(0.4, 1, LABELS.size)
B = RNG.normal(size=LABELS.size)


def cr2(y: Any, x: Any, labels: Any) -> tuple[float, float, float]:
    """Coefficient, CR2 standard error and Satterthwaite's df of the last column, from whole matrices.

    Bell & McCaffrey 2002, Pustejovsky & Tipton 2018 (equations 5 and 11, identity as the working model). In R:
    coef_test(lm(y ~ x), vcov = "CR2", cluster = labels), package clubSandwich.
    """
    x = np.asarray(x, dtype=float)
    bread = np.linalg.inv(x.T @ x)
    kept = np.eye(len(y)) - x @ bread @ x.T
    residuals = kept @ y
    variance, columns = 0.0, []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        values, vectors = np.linalg.eigh(kept[np.ix_(own, own)])
        roots = np.where(values > 1e-9, 1 / np.sqrt(np.where(values > 1e-9, values, 1)), 0)
        score = (vectors * roots) @ vectors.T @ x[own] @ bread[:, -1]
        variance += float(score @ residuals[own]) ** 2
        columns.append(kept[:, own] @ score)
    products = np.array(columns) @ np.array(columns).T
    return float((bread @ x.T @ y)[-1]), math.sqrt(variance), products.trace() ** 2 / float(np.square(products).sum())


def t_interval(estimate: float, error: float, df: float) -> tuple[float, float]:
    return stats.t.interval(0.95, df, estimate, error)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e200, 1e-200])
def test_mean_and_difference_are_those_of_cr2_with_satterthwaites_degrees_of_freedom(scale: float) -> None:
    value, error, df = cr2(A, np.ones((A.size, 1)), LABELS)
    mean = clustered_mean(scale * A, LABELS)
    assert (mean.n, mean.clusters) == (LABELS.size, 12)
    assert mean.df == pytest.approx(df)
    assert mean.value == pytest.approx(scale * value, rel=1e-9)
    assert mean.standard_error == pytest.approx(scale * error, rel=1e-9)
    assert mean.interval == pytest.approx(scale * np.array(t_interval(value, error, df)), rel=1e-9)
    assert mean.design_effect == pytest.approx((error / (A.std(ddof=1) / math.sqrt(A.size))) ** 2)
    assert json.loads(json.dumps(mean.to_dict()))["interval"] == list(mean.interval)
    result = clustered_ttest({"a": scale * A, "b": scale * B}, LABELS)
    value, error, df = cr2(A - B, np.ones((A.size, 1)), LABELS)
    assert result.statistic == pytest.approx(value / error)
    assert result.df == pytest.approx((df,))
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(value / error), df))
    assert result.confidence_interval == pytest.approx(scale * np.array(t_interval(value, error, df)), rel=1e-9)
    assert result.estimate == pytest.approx(scale * (A - B).mean(), rel=1e-9)
    dz = clustered_ttest({"a": scale * A, "b": scale * B}, LABELS, effect_size="cohens_dz")
    assert dz.effect_size == pytest.approx((A - B).mean() / (A - B).std(ddof=1))
    assert dz.effect_size_interval == result.effect_size_interval
    assert abs(result.effect_size) < abs(dz.effect_size)
    low, high = result.effect_size_interval
    assert low < result.effect_size < high


def test_clusters_of_one_size_have_the_classical_standard_error_of_statsmodels() -> None:
    labels = np.repeat(np.arange(11), 4)
    fit = sm.OLS(A - B, np.ones(44)).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "df_correction": True}, use_t=True
    )
    result = clustered_ttest({"a": A, "b": B}, labels)
    assert result.df == pytest.approx((10.0,))
    assert (result.statistic, result.p_value) == pytest.approx((fit.tvalues[0], fit.pvalues[0]))
    assert result.confidence_interval == pytest.approx(fit.conf_int()[0])


# --- answers to the same questions, several of each arm -------------------------------------------------------------


def answers(counts_a: Any, counts_b: Any, seed: int = 4) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and their questions; question i is answered counts_a[i] and counts_b[i] times."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=len(counts_a))
    of = {"a": np.repeat(np.arange(len(counts_a)), counts_a), "b": np.repeat(np.arange(len(counts_b)), counts_b)}
    order = rng.permutation(of["b"].size)
    of["b"] = of["b"][order]
    shift = rng.normal(0.3, 0.4, len(counts_a))
    groups = {name: level[items] + (shift[items] if name == "a" else 0) for name, items in of.items()}
    return {name: one + rng.normal(0, 0.8, one.size) for name, one in groups.items()}, of


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(
    ("counts_a", "counts_b"), [([3] * 8, [5] * 8), ([1, 2, 3, 9, 1, 1, 4], [2, 2, 1, 1, 3, 3, 8]), ([1] * 5, [4] * 5)]
)
def test_arms_with_other_numbers_of_answers_are_the_regression_with_an_effect_of_each_item(
    counts_a: Any, counts_b: Any, offset: float
) -> None:
    groups, items = answers(counts_a, counts_b)
    y, labels = np.concatenate([groups["a"], groups["b"]]), np.concatenate([items["a"], items["b"]])
    arm = np.repeat([1.0, 0.0], [groups["a"].size, groups["b"].size])
    value, error, df = cr2(y, np.column_stack([labels[:, None] == np.unique(labels), arm]), labels)
    result = clustered_ttest({name: one + offset for name, one in groups.items()}, items)
    assert result.n == (groups["a"].size, groups["b"].size)
    assert result.estimate == pytest.approx(value, abs=1e-8)
    assert result.df == pytest.approx((df,))
    assert result.statistic == pytest.approx(value / error, rel=1e-7)
    assert result.confidence_interval == pytest.approx(t_interval(value, error, df), abs=1e-8)
    margin = judge_margin(groups, 0.1, difference=Differences("clustered", items))
    assert margin.estimate == pytest.approx(value)
    assert margin.confidence_interval == pytest.approx(t_interval(value, error, df))


def test_the_standard_errors_are_those_of_adding_error_bars_to_evals() -> None:
    """Miller 2024: the paired standard error of section 4.2 on question averages, the clustered one of 2.2 (with its
    small-sample factor G / (G - 1)), and the within-question share by the law of total variance of section 3.
    """
    groups, items = answers([4] * 12, [2] * 12)
    averages = {name: np.array([groups[name][items[name] == i].mean() for i in range(12)]) for name in groups}
    within = {name: np.mean([groups[name][items[name] == i].var(ddof=1) for i in range(12)]) for name in groups}
    difference = averages["a"] - averages["b"]
    paired = difference.std(ddof=1) / math.sqrt(12)
    result = clustered_ttest(groups, items)
    assert result.df == pytest.approx((11.0,))
    assert result.estimate / result.statistic == pytest.approx(paired)
    share = (within["a"] / 4 + within["b"] / 2) / 12 / paired**2
    assert f"about {share:.0%} of the squared standard error is from variation within clusters" in result.notes[1]
    # one answer of each arm to a question: omega**2 + sigma_A**2 + sigma_B**2
    single = difference.var(ddof=1) + within["a"] * (1 - 1 / 4) + within["b"] * (1 - 1 / 2)
    dz = clustered_ttest(groups, items, effect_size="cohens_dz").effect_size
    assert dz == pytest.approx(difference.mean() / math.sqrt(single))
    low, high = result.effect_size_interval
    assert low < result.effect_size < high

    n, clusters, values = 44, np.repeat(np.arange(11), 4), A - B
    from_mean = values - values.mean()
    cross = np.square(np.bincount(clusters, weights=from_mean)).sum() - np.square(from_mean).sum()
    clustered = math.sqrt(values.var(ddof=1) / n + cross / n**2)
    plain = clustered**2 - np.square(from_mean).sum() / (n**2 * (n - 1))  # his first term divides by n - 1
    result = clustered_ttest({"a": A, "b": B}, clusters)
    assert (result.estimate / result.statistic) ** 2 == pytest.approx(plain * 11 / 10)
    assert result.estimate / result.statistic == pytest.approx(clustered, rel=0.06)


def test_equal_answers_are_the_paired_ttest_of_item_averages_and_positions_give_the_same() -> None:
    groups, items = answers([3] * 9, [3] * 9)
    averages = {name: [groups[name][items[name] == i].mean() for i in range(9)] for name in groups}
    result, paired = clustered_ttest(groups, items), run_test("paired_ttest", averages)
    for field in ("statistic", "p_value", "df", "estimate", "confidence_interval"):
        assert getattr(result, field) == pytest.approx(getattr(paired, field))
    ordered = {name: groups[name][np.argsort(items[name], kind="stable")] for name in groups}
    by_position = clustered_ttest(ordered, np.repeat(np.arange(9), 3))
    assert (by_position.p_value, by_position.estimate) == pytest.approx((result.p_value, result.estimate))


def test_items_of_one_arm_only_are_left_out_and_said() -> None:
    groups, items = answers([2] * 6, [3] * 6)
    more = {**groups, "b": [*groups["b"], 99.0]}
    result = clustered_ttest(more, {**items, "b": [*items["b"], 7]})
    assert result.estimate == clustered_ttest(groups, items).estimate
    assert "1 cluster left out, which only one of the groups has" in result.notes
    assert result.n == (12, 18)


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ({"a": ["x", "y"]}, "no clusters of group 'b', only of a"),
        ({"a": ["x", "y"], "b": ["z", "z", "w"]}, "share 0 clusters; at least two"),
        ({"a": ["x", "y"], "b": ["x", "x", "x"]}, "share 1 cluster; at least two"),
        ({"a": ["x"], "b": ["x", "x", "y"]}, "2 values but 1 cluster labels"),
        ({"a": [1, 2], "b": ["1", 1, 2]}, "spell them one way"),
        ({"a": ["x", "y"], "b": ["x", "y", "y"]}, "averages are all equal up to rounding"),
    ],
)
def test_arms_that_do_not_share_their_items_are_refused(clusters: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        clustered_ttest({"a": [1.0, 2.0], "b": [0.5, 1.5, 1.5]}, clusters)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "most"),
    [([10] * 10, 0.06), ([100] + [5] * 9, 0.06), ([100] + [5] * 39, 0.06), ([30] * 3 + [2] * 30, 0.09)],
)
def test_unequal_clusters_keep_the_level_or_the_figure_is_told(sizes: list[int], most: float) -> None:
    rng, runs = np.random.default_rng(5), 600
    labels = np.repeat(np.arange(len(sizes)), sizes)
    notes: tuple[str, ...] = ()
    rejected = 0
    for _ in range(runs):  # half of the variance is between clusters
        values = rng.normal(size=len(sizes))[labels] + rng.normal(size=labels.size)
        result = clustered_ttest({"a": values, "b": 0 * values}, labels)
        rejected, notes = rejected + result.significant, result.notes
    assert rejected / runs <= most + 3 * math.sqrt(most * (1 - most) / runs)
    assert any("up to 9 % where 5 % were promised" in note for note in notes) == (len(set(sizes)) > 1)


@pytest.mark.slow
def test_arms_with_other_numbers_of_answers_keep_the_level() -> None:
    rng, runs = np.random.default_rng(6), 1000
    rejected = 0
    for _ in range(runs):
        level = rng.random(12)
        counts = rng.integers(1, 5, (2, 12))
        items = {name: np.repeat(np.arange(12), row) for name, row in zip("ab", counts, strict=True)}
        groups = {name: (rng.random(of.size) < level[of]) * 1.0 for name, of in items.items()}
        rejected += clustered_ttest(groups, items).significant
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


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


@pytest.mark.slow
@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)])
def test_the_effect_size_of_clusters_has_no_bias(between: float, within: float) -> None:
    """Differences of mean 1 and standard deviation 1, from six clusters of five; d_z is biased by up to 18 %."""
    rng, runs, labels = np.random.default_rng(9), 3000, np.repeat(np.arange(6), 5)
    found = []
    for _ in range(runs):
        noise = math.sqrt(between) * rng.normal(size=6)[labels] + math.sqrt(within) * rng.normal(size=30)
        effect = clustered_ttest({"a": 1.0 + noise + 1e-9 * rng.normal(size=30), "b": np.zeros(30)}, labels).effect_size
        assert effect is not None
        found.append(effect)
    # Values of one cluster are alike, so the variance of all of them is a little smaller than that of one.
    expected = 1.0 / math.sqrt(1.0 - between * (5 - 1) / (30 - 1))
    assert np.mean(found) == pytest.approx(expected, abs=0.02 + 3.5 * np.std(found) / math.sqrt(runs))


def test_few_clusters_are_noted() -> None:
    normal = np.random.default_rng(6).normal(size=60)

    def noted(count: int, values: np.ndarray = normal) -> list[str]:
        notes = clustered_mean(values[: 3 * count], np.repeat(np.arange(count), 3)).notes
        return [note for note in notes if "5 % are promised" in note]

    assert "19 clusters are few" in noted(19)[0]
    assert noted(20) == []
    assert "so skewed" in noted(20, np.exp(2.0 * normal))[0]


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
    with pytest.raises(CannotTestError, match=r"on item i.*clusters of each group's own values"):
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
