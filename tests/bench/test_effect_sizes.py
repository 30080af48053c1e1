"""Effect sizes by themselves, and the words that conventions have for them."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.proportion import proportion_effectsize

from crucible_bench import (
    CannotTestError,
    EffectSize,
    chi_square_test,
    effect_size,
    interpret,
    one_sample_test,
    run_test,
)
from crucible_bench.effect_sizes.interpretation import CONVENTIONS
from crucible_bench.hypothesis_tests.bootstrap_interval import bootstrap_interval
from crucible_bench.named_effect_size import EFFECT_SIZE_HOMES
from crucible_bench.vocabulary import EffectSizeName

NAMES = sorted(get_args(EffectSizeName))
NUMBERS = {"a": [3.0, 7.0, 4.0, 9.0, 12.0, 5.5], "b": [8.0, 9.5, 15.0, 11.0, 13.0, 6.0]}
OUTCOMES = {"a": [True] * 7 + [False] * 3, "b": [True] * 3 + [False] * 6 + [True]}
TABLE = {"a": [12, 5, 7], "b": [4, 9, 11]}


def groups_for(name: str) -> dict[str, Any]:
    if name == "cramers_v":
        return TABLE
    return OUTCOMES if name in {"cohens_h", "odds_ratio", "risk_difference", "risk_ratio"} else NUMBERS


def test_every_effect_size_of_the_vocabulary_is_implemented_and_documented() -> None:
    assert sorted(EFFECT_SIZE_HOMES) == NAMES
    rows = [line.split("|")[1].strip() for line in (effect_size.__doc__ or "").splitlines() if "|" in line]
    assert rows[2:] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_effect_size_alone_is_the_one_that_its_test_reports(name: Any) -> None:
    found = effect_size(name, groups_for(name), confidence_level=0.9)
    assert isinstance(found, EffectSize)
    if found.test == "chi_square":
        result = chi_square_test(TABLE, confidence_level=0.9)
    else:
        result = run_test(found.test, groups_for(name), effect_size=name, confidence_level=0.9)
    assert (found.name, found.value, found.interval) == (name, result.effect_size, result.effect_size_interval)
    assert found.interval[0] <= found.value <= found.interval[1]
    assert found.decisions == result.decisions[-1:]
    assert found.n == result.n
    assert found.interpretation == interpret(name, found.value)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["name"] == name


def test_the_independent_version_is_the_default_where_there_are_two() -> None:
    assert effect_size("rank_biserial", NUMBERS).test == "mann_whitney"
    assert effect_size("rank_biserial", NUMBERS, paired=True).test == "wilcoxon"
    assert effect_size("odds_ratio", OUTCOMES, paired=True).test == "mcnemar"
    assert effect_size("cohens_dz", NUMBERS).test == "paired_ttest"
    assert effect_size("epsilon_squared", NUMBERS).test == "kruskal_wallis"
    assert effect_size("epsilon_squared", NUMBERS, test="anova").test == "anova"
    assert effect_size("cramers_v", TABLE, test="chi_square").test == "chi_square"


def test_the_effect_size_of_pairs_is_without_bias_by_default() -> None:
    # R: effectsize::hedges_g(extra ~ group, data = sleep, paired = TRUE): -1.17, where d_z is -1.28 (effsize, issue 32)
    sleep = {
        "1": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
        "2": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
    }
    result = run_test("paired_ttest", sleep)
    assert (result.effect_size_name, round(result.effect_size or 0.0, 2)) == ("hedges_gz", -1.17)
    plain = run_test("paired_ttest", sleep, effect_size="cohens_dz")
    assert round(plain.effect_size or 0.0, 2) == -1.28
    assert plain.effect_size_interval == result.effect_size_interval
    assert effect_size("hedges_g", sleep, paired=True) == effect_size("hedges_gz", sleep)
    assert one_sample_test([1.0, 2.0, 4.0], 0.0).effect_size_name == "hedges_gz"
    two = run_test("paired_ttest", {"a": [1.0, 2.0], "b": [0.0, 0.5]})
    assert two.effect_size_name == "cohens_dz"
    assert "two values have no effect size without bias" in two.notes


def test_the_effect_size_of_few_pairs_is_right_on_average() -> None:
    # Hedges (1981): for five pairs d_z is too large by 1 / J(4) = 1.25.
    rng = np.random.default_rng(5)
    found = [
        run_test("paired_ttest", {"a": 1 + rng.normal(size=5), "b": np.zeros(5)}, confidence_level=0.5).effect_size
        for _ in range(600)
    ]
    assert np.mean(found) == pytest.approx(1.0, abs=3.5 * np.std(found) / 600**0.5)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cohens_d", {"paired": True}, "not defined for paired groups"),
        ("cohens_dz", {"paired": False}, "not defined for independent groups"),
        ("cohens_d", {"test": "anova"}, "anova does not define it for groups; tests that do: .*student_ttest"),
        ("cohens_q", {}, "no effect size of that name; known: cliffs_delta"),
    ],
)
def test_an_effect_size_that_does_not_fit_is_refused_under_its_own_name(name: Any, options: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said) as caught:
        effect_size(name, NUMBERS, **options)
    assert caught.value.test == name


def test_data_that_leave_an_effect_size_undefined_are_refused_under_its_name() -> None:
    with pytest.raises(CannotTestError, match="a is always 1, b always 2") as caught:
        effect_size("hedges_g", {"a": [1.0, 1.0], "b": [2.0, 2.0]})
    assert caught.value.test == "hedges_g"
    assert effect_size("cliffs_delta", {"a": [1.0, 1.0], "b": [2.0, 2.0]}).value == -1.0
    assert math.isinf(effect_size("odds_ratio", {"a": [True, True], "b": [True, False]}).value)


def test_standardized_differences_agree_with_statsmodels() -> None:
    # statsmodels uses Hedges' approximation of the bias factor, 1 - 3 / (4 df - 1); ours is the exact one
    x, y = (np.array(values) for values in NUMBERS.values())
    oracle = effectsize_smd(x.mean(), x.std(ddof=1), x.size, y.mean(), y.std(ddof=1), y.size)[0]
    assert effect_size("hedges_g", NUMBERS).value == pytest.approx(float(oracle), rel=1e-3)
    assert effect_size("cohens_d", NUMBERS).value == pytest.approx(float(oracle) / (1 - 3 / 39), rel=1e-12)


def test_ratios_and_h_agree_with_statsmodels() -> None:
    table = Table2x2(np.array([[7, 3], [4, 6]]))
    assert effect_size("odds_ratio", OUTCOMES).value == pytest.approx(float(table.oddsratio))
    assert effect_size("risk_ratio", OUTCOMES).value == pytest.approx(float(table.riskratio))
    assert effect_size("cohens_h", OUTCOMES).value == pytest.approx(float(proportion_effectsize(0.7, 0.4)))


def test_the_matched_rank_biserial_is_the_simple_difference_of_rank_sums() -> None:
    # Kerby (2014): favorable minus unfavorable evidence, over all of it
    d = np.array([1.0, 2.0, -3.0, 4.0, 5.0, 6.0])
    found = effect_size("rank_biserial", {"d": d, "zero": np.zeros(6)}, paired=True)
    assert found.value == pytest.approx((18 - 3) / 21)


def test_an_exact_interval_and_a_bootstrap_of_the_same_effect_size_are_alike() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(0.8, 1, 60), rng.normal(0, 1, 60)

    def d(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.mean() - b.mean()) / math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))

    exact = effect_size("cohens_d", {"x": x, "y": y})
    assert exact.value == pytest.approx(d(x, y))
    assert bootstrap_interval(d, x, y, resamples=2000).interval == pytest.approx(exact.interval, abs=0.12)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "word", "source"),
    [
        ("cohens_d", 0.19, "smaller than small", "Cohen 1988"),
        ("cohens_d", -0.2, "small", "Cohen 1988"),
        ("hedges_g", 0.5, "medium", "Cohen 1988"),
        ("glass_delta", -3.0, "large", "Cohen 1988"),
        ("cliffs_delta", 0.1469, "negligible", "Romano"),
        ("cliffs_delta", -0.147, "small", "Romano"),
        ("cliffs_delta", 0.33, "medium", "Romano"),
        ("cliffs_delta", 0.474, "large", "Romano"),
        ("common_language", 0.56, "small", "Vargha"),
        ("common_language", 0.36, "medium", "Vargha"),
        ("common_language", 0.29, "large", "Vargha"),
        ("eta_squared", 0.0588, "medium", "Cohen 1988"),
        ("omega_squared", 0.138, "large", "Kirk 1996"),
        ("pearson_r", -0.31, "medium", "Cohen 1988"),
        ("cohens_h", math.inf, "large", "Cohen 1988"),
        ("cohens_g", 0.05, "small", "Cohen 1988"),
    ],
)
def test_words_are_those_of_the_published_conventions(name: Any, value: float, word: str, source: str) -> None:
    found = interpret(name, value)
    assert found is not None
    assert found.word == word
    assert found.source.startswith(source)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(CONVENTIONS)))
def test_an_effect_size_without_an_accepted_convention_has_no_word(name: Any) -> None:
    assert interpret(name, 0.5) is None
    assert effect_size(name, groups_for(name)).to_dict()["interpretation"] is None


def test_shares_of_ranks_and_distances_have_no_word() -> None:
    assert effect_size("eta_squared", NUMBERS).interpretation is not None
    assert effect_size("eta_squared", NUMBERS, test="kruskal_wallis").interpretation is None
    assert effect_size("eta_squared", NUMBERS, test="levene").interpretation is None


def test_what_is_no_number_has_no_word() -> None:
    with pytest.raises(ValueError, match="must be a number"):
        interpret("cohens_d", math.nan)
