"""Families of comparisons: against scipy and statsmodels, published examples, enumeration and simulation."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.multicomp import pairwise_tukeyhsd
from statsmodels.stats.multitest import multipletests

from crucible_bench import CannotTestError, run_test
from crucible_bench.data.sample import read_groups
from crucible_bench.distributions.studentized import many_one_quantile, many_one_tail, range_quantile, range_tail
from crucible_bench.multiple.corrections import adjust_p_values
from crucible_bench.multiple.dunn_nemenyi import block_ranks, dunn, nemenyi
from crucible_bench.multiple.families import FamilyName, FamilyResult, pairwise_tests
from crucible_bench.multiple.tukey_dunnett import dunnett, games_howell, tukey_hsd

PLANT_GROWTH = {
    "ctrl": [4.17, 5.58, 5.18, 6.11, 4.50, 4.61, 5.17, 4.53, 5.33, 5.14],
    "trt1": [4.81, 4.17, 4.41, 3.59, 5.87, 3.83, 6.03, 4.89, 4.32, 4.69],
    "trt2": [6.31, 5.12, 5.54, 5.50, 5.37, 5.29, 4.92, 6.15, 5.80, 5.26],
}
UNEVEN = {
    "a": [1.0, 2.5, 2.0, 3.7, 1.9, 2.2],
    "b": [2.0, 4.5, 6.0, 3.0],
    "c": [7.5, 5.0, 6.1, 5.9, 5.2, 8.0, 6.6],
    "d": [2.0, 2.5, 3.0, 9.0, 4.0],
}
BLOOD = {  # blood counts of Dunnett (1955), the example of scipy.stats.dunnett
    "control": [7.40, 8.50, 7.20, 8.24, 9.84, 8.32],
    "drug a": [9.76, 8.80, 7.68, 9.36],
    "drug b": [12.80, 9.68, 12.16, 9.20, 10.55],
}


def adjusted(family: FamilyResult) -> list[float]:
    return [row.p_adjusted for row in family.comparisons]


def names(family: FamilyResult) -> list[tuple[str, str]]:
    return [(row.first, row.second) for row in family.comparisons]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("benjamini_yekutieli", "fdr_by"),
        ("bonferroni", "bonferroni"),
        ("fdr", "fdr_bh"),
        ("hochberg", "simes-hochberg"),
        ("holm", "holm"),
        ("holm_sidak", "holm-sidak"),
        ("sidak", "sidak"),
    ],
)
@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=12))  # statsmodels warns at 1
@settings(deadline=None, max_examples=25)  # it collects garbage at every call
def test_corrections_equal_those_of_statsmodels(ours: Any, theirs: str, p_values: list[float]) -> None:
    expected = multipletests(p_values, method=theirs)[1]
    assert adjust_p_values(p_values, ours) == pytest.approx(expected, rel=1e-9, abs=1e-14)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_corrections_are_ordered_by_their_power(p_values: list[float]) -> None:
    def of(method: Any) -> np.ndarray:
        return np.array(adjust_p_values(p_values, method))

    slack = 1e-12
    assert (of("hochberg") <= of("holm") + slack).all()
    assert (of("holm") <= of("bonferroni") + slack).all()
    assert (of("sidak") <= of("bonferroni") + slack).all()
    assert (of("holm_sidak") <= of("holm") + slack).all()
    assert (of("fdr") <= of("hochberg") + slack).all()
    assert (of("fdr") <= of("benjamini_yekutieli") + slack).all()


def test_sidaks_correction_keeps_the_digits_of_tiny_p_values() -> None:
    assert adjust_p_values([1e-30, 0.5], "sidak")[0] == pytest.approx(2e-30, rel=1e-12)


@pytest.mark.parametrize("groups", [2, 3, 6, 20])
@pytest.mark.parametrize("df", [2, 5, 20, 120, math.inf])
def test_the_studentized_range_equals_scipys(groups: int, df: float) -> None:
    for q in (0.3, 1.0, 2.5, 4.0, 8.0):
        assert range_tail(q, groups, df) == pytest.approx(stats.studentized_range.sf(q, groups, df), abs=2e-8)


@pytest.mark.parametrize("df", [1, 3, 10, 1000])
@pytest.mark.parametrize("q", [1.0, 10.0, 1e3, 1e6])
def test_with_two_groups_both_distributions_are_students_to_the_last_tail(q: float, df: float) -> None:
    # A range of two is sqrt(2) |t|; a maximum over one comparison is |t|.
    assert range_tail(q, 2, df) == pytest.approx(2 * special.stdtr(df, -q / math.sqrt(2)), rel=1e-9, abs=1e-300)
    assert many_one_tail(q, (0.7,), df) == pytest.approx(2 * special.stdtr(df, -q), rel=1e-9, abs=1e-300)


def test_critical_values_are_those_of_demsars_table() -> None:
    # Demsar (2006), table 5a: studentized range at infinite df over sqrt(2), for 2 to 10 classifiers
    five = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    ten = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]
    for alpha, table in ((0.05, five), (0.1, ten)):
        ours = [range_quantile(alpha, k, math.inf) / math.sqrt(2) for k in range(2, 11)]
        assert ours == pytest.approx(table, abs=1.1e-3)  # the table was made from rounded ranges


@pytest.mark.parametrize(("loadings", "df"), [((0.3, 0.8, 0.6), 7), ((0.99, 0.9, 0.2), 12), ((0.707,) * 5, 30)])
@pytest.mark.slow
def test_the_many_one_maximum_is_a_multivariate_t(loadings: tuple[float, ...], df: int) -> None:
    # scipy integrates the same probability over a multivariate t by quasi-Monte Carlo.
    correlation = np.outer(loadings, loadings)
    np.fill_diagonal(correlation, 1.0)
    d = np.full(len(loadings), 2.3)
    within = stats.multivariate_t(shape=correlation, df=df, seed=1).cdf(d, lower_limit=-d, maxpts=200_000)
    assert many_one_tail(2.3, loadings, df) == pytest.approx(1.0 - within, abs=1e-4)
    assert many_one_tail(many_one_quantile(0.05, loadings, df), loadings, df) == pytest.approx(0.05, rel=1e-9)


def test_tukey_agrees_with_r_on_plant_growth() -> None:
    # R, TukeyHSD(aov(weight ~ group, PlantGrowth)): 0.3908711, 0.1979960, 0.0120064 with these differences and ends
    family = tukey_hsd(PLANT_GROWTH)
    assert names(family) == [("ctrl", "trt1"), ("ctrl", "trt2"), ("trt1", "trt2")]
    assert adjusted(family) == pytest.approx([0.3908711, 0.1979960, 0.0120064], abs=5e-8)
    assert [row.estimate for row in family.comparisons] == pytest.approx([0.371, -0.494, -0.865])
    assert family.comparisons[0].confidence_interval == pytest.approx((-0.3202161, 1.0622161), abs=5e-7)
    assert family.comparisons[2].confidence_interval == pytest.approx((-1.5562161, -0.1737839), abs=5e-7)
    assert (family.size, family.control, family.n) == (3, None, (10, 10, 10))


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.slow
def test_tukey_kramer_and_games_howell_agree_with_scipy_and_statsmodels(equal: bool) -> None:
    family = tukey_hsd(UNEVEN, alpha=0.1) if equal else games_howell(UNEVEN, alpha=0.1)
    theirs = stats.tukey_hsd(*UNEVEN.values(), equal_var=equal)
    bounds = theirs.confidence_interval(0.9)
    labels = [name for name, values in UNEVEN.items() for _ in values]
    third = pairwise_tukeyhsd(
        [x for values in UNEVEN.values() for x in values], labels, alpha=0.1, use_var="equal" if equal else "unequal"
    )
    for row, (i, j), p, ends in zip(
        family.comparisons, itertools.combinations(range(4), 2), third.pvalues, third.confint, strict=True
    ):
        assert row.estimate == pytest.approx(theirs.statistic[i, j])
        assert row.p_adjusted == pytest.approx(theirs.pvalue[i, j], abs=1e-7)
        assert row.p_adjusted == pytest.approx(p, abs=1e-5)
        assert row.confidence_interval == pytest.approx((bounds.low[i, j], bounds.high[i, j]), abs=1e-6)
        assert row.confidence_interval == pytest.approx((-ends[1], -ends[0]), abs=1e-4)
        plain = stats.ttest_ind(*(list(UNEVEN.values())[place] for place in (i, j)), equal_var=False)
        if not equal:
            assert row.p_value == pytest.approx(plain.pvalue)
            assert row.df == pytest.approx((plain.df,))


def test_dunnett_agrees_with_scipy_on_dunnetts_own_example() -> None:
    # scipy's documentation prints 0.62004941 and 0.0059035 for these data, from quasi-Monte Carlo.
    family = dunnett(BLOOD, "control")
    assert names(family) == [("drug a", "control"), ("drug b", "control")]
    assert adjusted(family) == pytest.approx([0.62004941, 0.0059035], abs=2e-4)
    theirs = stats.dunnett(BLOOD["drug a"], BLOOD["drug b"], control=BLOOD["control"], random_state=3)
    assert [row.statistic for row in family.comparisons] == pytest.approx(theirs.statistic)
    low, high = theirs.confidence_interval()
    for row, ends in zip(family.comparisons, zip(low, high, strict=True), strict=True):
        assert row.confidence_interval == pytest.approx(ends, abs=5e-3)
    assert family.control == "control"
    assert family.size == 2


def test_dunnett_with_one_treatment_is_students_pooled_t() -> None:
    two = {"x": UNEVEN["a"], "y": UNEVEN["c"]}
    row = dunnett(two, "y").comparisons[0]
    student = stats.ttest_ind(two["x"], two["y"])
    assert row.p_adjusted == pytest.approx(student.pvalue, rel=1e-9)
    assert row.p_value == pytest.approx(student.pvalue, rel=1e-9)
    assert row.confidence_interval == pytest.approx(tuple(student.confidence_interval()))


def test_dunns_variance_is_that_of_every_permutation_ties_included() -> None:
    # Oracle: all 11!/(4! 4! 3!) = 11550 ways to deal out these values.
    groups = {"a": [1.0, 2.0, 2.0, 3.0], "b": [3.0, 3.0, 5.0, 7.0], "c": [2.0, 9.0, 7.0]}
    row = dunn(groups, correction="none").comparisons[0]
    ranks = stats.rankdata([*groups["a"], *groups["b"], *groups["c"]])
    spread = []
    for first in itertools.combinations(range(11), 4):
        rest = [i for i in range(11) if i not in first]
        spread += [ranks[list(first)].mean() - ranks[list(second)].mean() for second in itertools.combinations(rest, 4)]
    assert np.mean(spread) == pytest.approx(0.0, abs=1e-12)
    assert row.statistic == pytest.approx(row.estimate / np.std(spread))
    assert row.p_value == pytest.approx(2 * stats.norm.sf(abs(row.statistic)))


def test_two_groups_make_dunns_z_the_root_of_kruskal_and_wallis_h() -> None:
    two = {"x": UNEVEN["a"], "y": UNEVEN["d"]}
    assert dunn(two).comparisons[0].statistic ** 2 == pytest.approx(stats.kruskal(*two.values()).statistic)


def test_dunns_adjustment_and_intervals_count_the_family() -> None:
    family = dunn(UNEVEN, correction="sidak", alpha=0.05)
    raw = [row.p_value for row in family.comparisons]
    assert adjusted(family) == pytest.approx(multipletests(raw, method="sidak")[1])
    for row in family.comparisons:
        assert (row.p_adjusted > 0.05) == (row.confidence_interval[0] <= 0 <= row.confidence_interval[1])
    against = dunn(UNEVEN, control="b", correction="sidak")
    assert against.size == 3
    assert all(row.second == "b" for row in against.comparisons)


def test_nemenyis_variance_is_that_of_every_order_within_blocks() -> None:
    # Oracle: all 6**2 orders of three groups in two blocks; the mean rank difference's standard deviation.
    orders = list(itertools.permutations([1, 2, 3]))
    differences = [(x[0] + y[0]) / 2 - (x[1] + y[1]) / 2 for x in orders for y in orders]
    family = nemenyi({"a": [1.0, 5.0], "b": [2.0, 7.0], "c": [3.0, 6.0]})
    row = family.comparisons[0]
    assert row.estimate == -1.5
    assert row.statistic == pytest.approx(-1.5 / np.std(differences))
    assert row.p_adjusted == pytest.approx(
        stats.studentized_range.sf(abs(row.statistic) * math.sqrt(2), 3, np.inf), abs=1e-8
    )


def test_nemenyi_against_a_control_is_sharper_than_bonferroni_dunn() -> None:
    rng = np.random.default_rng(5)
    groups = {name: rng.normal(shift, 1.0, 25) for name, shift in zip("abcd", (0, 0.3, 0.6, 0.9), strict=True)}
    family = nemenyi(groups, control="a")
    for row in family.comparisons:
        assert row.p_value <= row.p_adjusted <= min(1.0, 3 * row.p_value)
    correlation = np.full((3, 3), 0.5) + np.eye(3) / 2
    z = np.full(3, abs(family.comparisons[0].statistic))
    within = stats.multivariate_normal(cov=correlation, seed=2).cdf(z, lower_limit=-z)
    assert family.comparisons[0].p_adjusted == pytest.approx(1 - within, abs=1e-4)


def test_pairwise_tests_are_the_tests_corrected() -> None:
    family = pairwise_tests("ttest", UNEVEN, correction="holm")
    raw = [stats.ttest_ind(x, y, equal_var=False).pvalue for x, y in itertools.combinations(UNEVEN.values(), 2)]
    assert [row.p_value for row in family.comparisons] == pytest.approx(raw)
    assert adjusted(family) == pytest.approx(multipletests(raw, method="holm")[1])
    wide = stats.ttest_ind(UNEVEN["a"], UNEVEN["b"], equal_var=False).confidence_interval(1 - 0.05 / 6)
    assert family.comparisons[0].confidence_interval == pytest.approx(tuple(wide))
    alone = pairwise_tests("ttest", UNEVEN, correction="none").comparisons[0]
    plain = stats.ttest_ind(UNEVEN["a"], UNEVEN["b"], equal_var=False).confidence_interval()
    assert alone.confidence_interval == pytest.approx(tuple(plain))


FAMILIES = {
    "tukey_hsd": tukey_hsd,
    "games_howell": games_howell,
    "dunnett": lambda groups: dunnett(groups, "a"),
    "dunn": dunn,
    "nemenyi": lambda groups: nemenyi({name: values[:4] for name, values in groups.items()}),
    "pairwise": lambda groups: pairwise_tests("mann_whitney", groups),
}


def test_every_procedure_of_the_vocabulary_is_there() -> None:
    assert set(FAMILIES) == set(get_args(FamilyName))


@pytest.mark.parametrize("procedure", sorted(FAMILIES))
def test_a_family_is_complete_and_plain_json(procedure: str) -> None:
    family = FAMILIES[procedure](UNEVEN)  # type: ignore[operator]
    plain = json.loads(json.dumps(family.to_dict(), allow_nan=False))
    assert plain == family.to_dict()
    assert plain["procedure"] == procedure
    assert plain["size"] == len(plain["comparisons"]) == (3 if family.control else 6)
    assert plain["correction"]
    assert plain["assumptions"]
    assert plain["decisions"]
    for row in family.comparisons:
        assert row.p_value <= row.p_adjusted <= 1.0
        assert row.significant == (row.p_adjusted <= family.alpha)
        assert row.confidence_interval[0] <= row.estimate <= row.confidence_interval[1]
        assert isinstance(row.significant, bool)


@pytest.mark.parametrize("procedure", ["tukey_hsd", "games_howell", "dunnett", "dunn", "nemenyi"])
@pytest.mark.parametrize(("factor", "origin"), [(4.0, 0.0), (1.0, 1e6), (2.0**900, 0.0), (2.0**-900, 0.0)])
def test_units_and_origin_do_not_matter_to_a_family(procedure: str, factor: float, origin: float) -> None:
    run: Any = FAMILIES[procedure]
    before = run(UNEVEN)
    after = run({name: [factor * value + origin for value in values] for name, values in UNEVEN.items()})
    assert adjusted(after) == pytest.approx(adjusted(before), rel=1e-6)


@pytest.mark.parametrize("procedure", sorted(FAMILIES))
def test_groups_that_cannot_be_compared_are_refused(procedure: str) -> None:
    run: Any = FAMILIES[procedure]
    for groups in (
        {"a": [1.0, math.nan, 2.0, 3.0], "b": [1.0, 2.0, 3.0, 4.0]},
        {"a": [2.0] * 4, "b": [2.0] * 4, "c": [2.0] * 4},
        {"a": [1.0, 2.0, 3.0]},
        {"a": [], "b": [1.0, 2.0]},
        {},
    ):
        with pytest.raises(CannotTestError):
            run(groups)


def test_what_a_family_lacks_is_said() -> None:
    with pytest.raises(CannotTestError, match=r"'contrl' is not among the groups .* did you mean 'control'"):
        dunnett(BLOOD, "contrl")
    with pytest.raises(CannotTestError, match="their lengths are"):
        nemenyi(UNEVEN)
    with pytest.raises(CannotTestError, match="no group has 2 values"):
        tukey_hsd({"a": [1.0], "b": [2.0]})
    with pytest.raises(CannotTestError, match="'b' has 1 value"):
        games_howell({"a": [1.0, 2.0], "b": [2.0]})
    (pair,) = games_howell({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 3.0]}).untested
    assert pair.groups == ("a", "b")
    assert "neither 'a' (always 1) nor 'b' (always 2) varies" in pair.reason
    with pytest.raises(ValueError, match="alpha must lie between"):
        tukey_hsd(BLOOD, alpha=0.0)
    with pytest.raises(CannotTestError, match="nothing to rank"):
        block_ranks("nemenyi", read_groups("nemenyi", {"a": [1.0, 2.0], "b": [1.0, 2.0]}))


RUNS = 20_000
ERROR = 3.5 * math.sqrt(0.05 * 0.95 / RUNS)


def drawn(sizes: list[int], sds: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances, shape (RUNS, groups), of normal groups without a difference."""
    rng = np.random.default_rng(11)
    groups = [rng.normal(0.0, sd, (RUNS, n)) for n, sd in zip(sizes, sds, strict=True)]
    return np.stack([x.mean(axis=1) for x in groups], axis=1), np.stack([x.var(axis=1, ddof=1) for x in groups], axis=1)


def pooled_t(sizes: list[int], pairs: list[tuple[int, int]]) -> np.ndarray:
    means, variances = drawn(sizes, [1.0] * len(sizes))
    n = np.array(sizes)
    pooled = variances @ (n - 1) / (n.sum() - len(sizes))
    return np.stack(
        [np.abs(means[:, i] - means[:, j]) / np.sqrt(pooled * (1 / n[i] + 1 / n[j])) for i, j in pairs], axis=1
    )


@pytest.mark.parametrize(("sizes", "least"), [([6, 6, 6], 0.05), ([4, 8, 12], 0.04), ([3, 3, 3, 3, 3], 0.05)])
def test_the_chance_of_any_false_difference_by_tukey_is_alpha_or_less(sizes: list[int], least: float) -> None:
    k, df = len(sizes), sum(sizes) - len(sizes)
    largest = pooled_t(sizes, list(itertools.combinations(range(k), 2))).max(axis=1)
    rate = (largest * math.sqrt(2) > range_quantile(0.05, k, df)).mean()
    assert least - ERROR <= rate <= 0.05 + ERROR


@pytest.mark.parametrize("sizes", [[12, 6, 6], [5, 9, 14, 3], [4, 4]])
def test_the_chance_of_any_false_difference_by_dunnett_is_alpha(sizes: list[int]) -> None:
    largest = pooled_t(sizes, [(i, 0) for i in range(1, len(sizes))]).max(axis=1)
    loadings = tuple(math.sqrt(n / (n + sizes[0])) for n in sizes[1:])
    rate = (largest > many_one_quantile(0.05, loadings, sum(sizes) - len(sizes))).mean()
    assert rate == pytest.approx(0.05, abs=ERROR)


def test_the_chance_of_any_false_difference_by_games_and_howell_is_near_alpha() -> None:
    sizes, runs = np.array([8, 12, 20]), 300
    means, variances = (values[:runs] for values in drawn(list(sizes), [3.0, 1.0, 2.0]))
    missed = 0
    for mean, parts in zip(means, variances / sizes, strict=True):
        for i, j in itertools.combinations(range(3), 2):
            df = (parts[i] + parts[j]) ** 2 / (parts[i] ** 2 / (sizes[i] - 1) + parts[j] ** 2 / (sizes[j] - 1))
            q = abs(mean[i] - mean[j]) / math.sqrt((parts[i] + parts[j]) / 2)
            if q > 2.8 and range_tail(q, 3, df) <= 0.05:  # 3.3 is the least that can reach it
                missed += 1
                break
    assert missed / runs == pytest.approx(0.05, abs=0.01 + 3.5 * math.sqrt(0.05 * 0.95 / runs))


@pytest.mark.parametrize("run", [dunn, nemenyi])
@pytest.mark.slow
def test_the_chance_of_any_false_difference_of_ranks_is_at_most_alpha(run: Any) -> None:
    rng, runs = np.random.default_rng(11), 300
    missed = sum(
        any(row.significant for row in run({name: rng.normal(size=15) for name in "abc"}).comparisons)
        for _ in range(runs)
    )
    assert 0.01 <= missed / runs <= 0.055 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


# --- effect sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "test"),
    [
        (tukey_hsd, "ttest"),
        (games_howell, "ttest"),
        (lambda groups: dunnett(groups, "a"), "ttest"),
        (dunn, "mann_whitney"),
        (nemenyi, "wilcoxon"),
        (lambda groups: pairwise_tests("brunner_munzel", groups, correction="none"), "brunner_munzel"),
    ],
)
def test_every_comparison_of_a_family_has_the_effect_size_of_its_two_groups(family, test):
    groups = {"a": [1.0, 2.5, 3.0, 4.5, 6.0], "b": [2.0, 3.5, 4.0, 5.5, 7.5], "c": [5.0, 6.5, 6.0, 8.5, 9.0]}
    for row in family(groups).comparisons:
        alone = run_test(test, {row.first: groups[row.first], row.second: groups[row.second]})
        assert row.effect_size_name == alone.effect_size_name
        assert row.effect_size == pytest.approx(alone.effect_size)
        assert row.effect_size_interval == pytest.approx(alone.effect_size_interval)


def test_a_comparison_whose_groups_allow_no_effect_size_says_none():
    groups = {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0], "c": [1.0, 2.0, 4.0]}
    first = tukey_hsd(groups).comparisons[0]
    assert (first.effect_size, first.effect_size_name, first.effect_size_interval) == (None, None, None)
