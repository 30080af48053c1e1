"""The corrected resampled t-test: the formula written out, its level under the model, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, compare, corrected_resampled_ttest, pairwise_tests, run_test

SIDES = ["greater", "less", "two-sided"]
GROUPS = {
    "a": [0.81, 0.84, 0.79, 0.86, 0.83, 0.80, 0.85, 0.82, 0.88, 0.81],
    "b": [0.79, 0.83, 0.80, 0.82, 0.81, 0.77, 0.83, 0.82, 0.84, 0.80],
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("share", [None, 1 / 9, 0.25, 2.0])
def test_the_statistic_is_nadeau_and_bengios(share: Any, side: Any) -> None:
    d = np.subtract(GROUPS["a"], GROUPS["b"])
    error = math.sqrt((1 / 10 + (1 / 9 if share is None else share)) * d.var(ddof=1))
    t = stats.t(9)
    result = corrected_resampled_ttest(GROUPS, test_share=share, alternative=side)
    assert result.statistic == pytest.approx(d.mean() / error)
    assert result.df == (9.0,)
    expected = {"greater": t.sf(result.statistic), "less": t.cdf(result.statistic)}
    assert result.p_value == pytest.approx(expected.get(side, 2 * min(expected.values())))
    assert result.estimate == pytest.approx(d.mean())
    # Hedges (1981), table 2: the exact factor for 9 degrees of freedom
    assert result.effect_size == pytest.approx(0.9139 * d.mean() / d.std(ddof=1), rel=1e-4)
    dz = corrected_resampled_ttest(GROUPS, test_share=share, effect_size="cohens_dz")
    assert dz.effect_size == pytest.approx(d.mean() / d.std(ddof=1))
    if side == "two-sided":
        assert result.confidence_interval == pytest.approx(d.mean() + error * t.ppf([0.025, 0.975]))
        # the ends of d_z's interval are those under which t is at its 2.5 % and 97.5 % points
        low, high = np.array(result.effect_size_interval) * d.std(ddof=1) / error
        assert stats.nct(9, low).sf(result.statistic) == pytest.approx(0.025, rel=1e-6)
        assert stats.nct(9, high).cdf(result.statistic) == pytest.approx(0.025, rel=1e-6)


def test_a_vanishing_share_is_the_paired_ttest_and_a_larger_one_is_less_certain() -> None:
    paired = run_test("paired_ttest", GROUPS)
    almost = corrected_resampled_ttest(GROUPS, test_share=1e-15)
    assert almost.p_value == pytest.approx(paired.p_value)
    assert almost.confidence_interval == pytest.approx(paired.confidence_interval)
    assert almost.effect_size_interval == pytest.approx(paired.effect_size_interval)
    p_values = [corrected_resampled_ttest(GROUPS, test_share=share).p_value for share in (0.01, 0.1, 0.5, 1.0)]
    assert p_values == sorted(p_values)
    assert p_values[0] > paired.p_value


def test_by_name_it_takes_the_folds_of_one_cross_validation_and_says_so() -> None:
    by_name = run_test("corrected_resampled_ttest", GROUPS)
    assert by_name == corrected_resampled_ttest(GROUPS)
    assert "repeated cross-validation and random splits need test_share" in by_name.decisions[0].reasoning
    assert corrected_resampled_ttest(GROUPS, test_share=0.25).decisions[0].reasoning == "given by the caller"
    assert any("compare it only with that of the same folds" in note for note in by_name.notes)
    assert "10 scores are taken as the folds of one cross-validation; a repeated one needs test_share" in by_name.notes
    family = pairwise_tests("corrected_resampled_ttest", {**GROUPS, "c": GROUPS["b"][::-1]})
    assert len(family.comparisons) == 3


def test_repeated_cross_validation_is_declared_or_refused() -> None:
    """Ten times ten folds: the share is 1/9 (Bouckaert & Frank 2004), not 1/99, with 0.41 times the standard error."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.8, 0.05, 100)
    groups = {"a": base + rng.normal(0.004, 0.02, 100), "b": base}
    with pytest.raises(CannotTestError, match="folds: declare the number of folds"):
        compare(groups, design="resampled")
    with pytest.raises(CannotTestError, match="100 scores per group, but folds: 10 and repeats: 1 make 10"):
        compare(groups, design="resampled", folds=10)
    repeated = compare(groups, design="resampled", folds=10, repeats=10, margin=0.01)
    assert repeated.tests[0] == corrected_resampled_ttest(groups, test_share=1 / 9)
    assert repeated.verdicts[0].confidence_interval == pytest.approx(repeated.tests[0].confidence_interval)
    fewer = compare({name: values[:99] for name, values in groups.items()}, design="resampled", folds=10, repeats=10)
    assert fewer.tests[0].n == (99, 99)  # one was dropped


@pytest.mark.slow
def test_repeated_cross_validation_of_two_equal_learners_keeps_its_level() -> None:
    """Real cross-validation, 5 times 2 folds: nearest means on one of two equal features. With 1/9 for share: 31 %."""
    rng, runs, rejected = np.random.default_rng(4), 300, 0
    for _ in range(runs):
        features, y = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
        features += y[:, None]
        scores: dict[str, list[float]] = {"a": [], "b": []}
        for _ in range(5):
            order = rng.permutation(60)
            for test, train in ((order[:30], order[30:]), (order[30:], order[:30])):
                for place, name in enumerate("ab"):
                    x, labels = features[train, place], y[train]
                    border = (x[labels == 0].mean() + x[labels == 1].mean()) / 2
                    scores[name].append(float(np.mean((features[test, place] > border) == y[test])))
        rejected += compare(scores, design="resampled", folds=2, repeats=5).tests[0].significant
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.slow
def test_under_the_model_it_keeps_its_level_where_the_paired_ttest_does_not() -> None:
    rng, runs, k, share = np.random.default_rng(3), 2000, 10, 1 / 9
    rho = share / (1 + share)
    shared, own = rng.normal(size=(runs, 1)), rng.normal(size=(runs, k))
    differences = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own
    groups = [{"a": row, "b": np.zeros(k)} for row in differences]
    rejected = np.mean([corrected_resampled_ttest(group).significant for group in groups])
    assert rejected == pytest.approx(0.05, abs=3.5 * math.sqrt(0.05 * 0.95 / runs))
    assert np.mean([run_test("paired_ttest", group).significant for group in groups]) > 0.1


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": [1.0], "b": [2.0]}, "at least two folds"),
        ({"a": [0.81, 0.41], "b": [0.80, 0.40]}, "equal up to rounding.*copies of one another"),
        ({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0]}, "groups of one length"),
        ({"a": [1.0, math.nan], "b": [1.0, 2.0]}, r"missing \(NaN\)"),
        ({"a": [1.0, 2.0]}, "at least two groups"),
        ({"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [2.0, 2.0]}, "compares two groups, but 3"),
    ],
)
def test_what_cannot_be_tested_is_refused(groups: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        corrected_resampled_ttest(groups)


@pytest.mark.parametrize("share", [0.0, -0.1, math.inf, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="size of a test set over that of its training set"):
        corrected_resampled_ttest(GROUPS, test_share=share)
