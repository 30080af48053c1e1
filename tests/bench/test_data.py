"""What the tests accept, what they refuse, and that nothing in between yields a number that is none."""

from __future__ import annotations

import array
import math
import pickle
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from crucible_bench import CannotTestError, run_test, summarize
from crucible_bench.data.sample import read_groups
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.vocabulary import TESTS_OF_MANY_GROUPS

MEASURED = sorted(test for test, definition in DEFINITIONS.items() if definition.read is read_groups)
"""The tests of numbers; those of outcomes read booleans."""
PAIRWISE = sorted(set(MEASURED) - TESTS_OF_MANY_GROUPS)
IN_UNITS = {
    *("bootstrap", "corrected_resampled_ttest", "mann_whitney", "paired_permutation", "paired_ttest", "permutation"),
    *("sign", "student_ttest", "ttest", "wilcoxon"),
}
"""The tests whose estimate has the unit of the data."""
GOOD = [1.0, 2.5, 3.0, 7.0]


class Column:
    """The part of a data frame's column that is read here."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype)

    def __getitem__(self, index: int) -> float:
        return self.values[index]


def refusal(test: str, groups: Mapping[str, Any], **options: Any) -> str:
    with pytest.raises(CannotTestError) as caught:
        run_test(test, groups, **options)
    assert caught.value.test == test
    assert caught.value.reason in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("test", MEASURED)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            [1.0, math.nan, 3.0, math.nan],
            "2 of 4 values that are not finite; the first, at position 1, is missing",
        ),
        ([1.0, 2.0, math.inf, 3.0], "at position 2, is infinite"),
        (np.array([1.0, -np.inf, 2.0, 3.0]), "infinite"),
        ([1.0, None, 3.0, 4.0], "None at position 1, a missing value"),
        ([1.0, "2", 3.0, 4.0], "'2' at position 1, a str"),
        (np.array(["1", "2", "3", "4"]), "a str"),
        ("1234", "must be a sequence of numbers, not str"),
        ({1.0: 2.0}, "must be a sequence of numbers, not dict"),
        (iter([1.0, 2.0]), "must be a sequence of numbers"),
        ({1.0, 2.0, 3.0, 4.0}, "must be a sequence of numbers, not set"),
        (3.0, "must be a sequence of numbers, not float"),
        ([True, False, True, True], "holds booleans"),
        ([1.0, 0.0, True, 2.0], "holds booleans"),
        (np.array([True, False, True, True]), "holds booleans"),
        ([1 + 2j, 1.0, 2.0, 3.0], "a complex"),
        (np.array([1 + 2j, 1.0, 2.0, 3.0]), "a complex"),
        ([[1.0, 2.0], [3.0, 4.0]], "nested"),
        (np.ones((2, 2)), r"shape \(2, 2\)"),
        (np.array(4.0), r"shape \(\)"),
        ([], "is empty"),
        (np.array([]), "is empty"),
        ([10**400, 1, 2, 3], "beyond the range of a double"),
        (np.ma.masked_array(GOOD, mask=[0, 1, 0, 0]), r"1 masked \(missing\) value"),
        (np.array(["2020-01-01"] * 4, dtype="datetime64[D]"), "date"),
    ],
)
def test_data_that_are_not_numbers_are_refused_with_the_place(test: str, values: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said) as caught:
        run_test(test, {"good": GOOD, "bad": values})
    assert "'bad'" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        (1, 2, 5, 7),
        range(1, 9, 2),
        [Fraction(1, 2), 2, np.float32(3.5), np.int8(4)],
        np.array([1, 2, 5, 7], dtype=np.uint8),
        np.array([1, 2, 5, 7], dtype=np.float16),
        np.array([1, 2, 5, 7], dtype=object),
        np.arange(8.0)[::2],
        array.array("d", [1, 2, 5, 7]),
        Column([1, 2, 5, 7]),
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_of_any_kind_are_read_and_left_alone(values: Any) -> None:
    before = list(values)
    for test in MEASURED:
        assert run_test(test, {"a": values, "b": [2.0, 9.0, 4.0, 1.0]}).n == (4, 4)
    assert list(values) == before


@pytest.mark.parametrize("names", [("", "b"), ("  ", "b"), (1, "b"), (None, "b"), ("a", " a")])
def test_groups_without_a_name_of_their_own_are_refused(names: tuple[Any, Any]) -> None:
    message = refusal("ttest", {names[0]: GOOD, names[1]: GOOD})
    assert "name" in message or "two groups are called 'a'" in message


def test_groups_that_are_no_mapping_are_refused() -> None:
    assert "must be a mapping" in refusal("anova", [GOOD, GOOD])  # type: ignore[arg-type]


@pytest.mark.parametrize("test", MEASURED)
def test_fewer_than_two_groups_are_refused(test: str) -> None:
    assert "at least two groups; given: none" in refusal(test, {})
    assert "at least two groups; given: 'a'" in refusal(test, {"a": GOOD})


@pytest.mark.parametrize("test", PAIRWISE)
def test_three_groups_are_sent_to_the_tests_that_take_them(test: str) -> None:
    message = refusal(test, {"a": GOOD, "b": GOOD, "c": GOOD})
    assert "3 were given ('a', 'b', 'c')" in message
    assert "anova or kruskal_wallis" in message


@pytest.mark.parametrize("test", ["paired_ttest", "wilcoxon"])
def test_pairs_of_unequal_length_are_refused_with_both_lengths(test: str) -> None:
    message = refusal(test, {"a": GOOD, "b": GOOD[:3]})
    assert "'a' has 4 values and 'b' has 3" in message


@pytest.mark.parametrize("test", ["ttest", "bootstrap"])
def test_means_need_two_values_per_group(test: str) -> None:
    assert "group 'b' has 1 value" in refusal(test, {"a": GOOD, "b": [1.0]})


def test_one_pair_is_refused_by_the_t_test_and_tested_by_the_signed_ranks() -> None:
    assert "one pair" in refusal("paired_ttest", {"a": [1.0], "b": [2.0]})
    result = run_test("wilcoxon", {"a": [1.0], "b": [2.0]})
    assert result.p_value == 1.0
    assert result.effect_size_interval == (-1.0, 1.0)


def test_one_value_in_a_group_is_enough_for_ranks_but_not_for_the_spread_of_the_effect() -> None:
    result = run_test("mann_whitney", {"a": [100.0], "b": list(range(40))})
    assert result.p_value == pytest.approx(2 / 41)
    assert result.effect_size_interval == (-1.0, 1.0)


@pytest.mark.parametrize("test", ["anova", "kruskal_wallis"])
def test_groups_of_one_value_each_are_refused(test: str) -> None:
    assert "3 groups of 1 value each" in refusal(test, {"a": [1.0], "b": [2.0], "c": [3.0]})


@pytest.mark.parametrize("test", ["bootstrap", "anova"])  # the t-tests have an exact answer
@pytest.mark.parametrize("second", [5.0, 6.0])
def test_groups_without_variation_are_refused(test: str, second: float) -> None:
    message = refusal(test, {"a": [5.0] * 4, "b": [second] * 4})
    assert "undefined" in message


@pytest.mark.parametrize("test", ["ttest", "bootstrap", "anova", "paired_ttest"])
def test_variation_that_is_rounding_error_is_no_variation(test: str) -> None:
    groups = {"a": [0.1 + 0.2, 0.3, 0.3], "b": [0.7, 0.6 + 0.1, 0.7]}
    if test.endswith("ttest"):
        assert "without any spread there is no t" in run_test(test, groups).notes[1]
    else:
        assert "zero" in refusal(test, groups)


@pytest.mark.parametrize("test", ["ttest", "bootstrap", "anova"])
def test_one_constant_group_is_no_obstacle_and_is_noted(test: str) -> None:
    result = run_test(test, {"a": [5.0] * 4, "b": GOOD})
    assert math.isfinite(result.statistic)
    if test != "bootstrap":
        assert any("'a' is constant" in note for note in result.notes)


@pytest.mark.parametrize("test", ["mann_whitney", "kruskal_wallis"])
def test_values_that_are_all_equal_cannot_be_ranked(test: str) -> None:
    assert "5.0: there is nothing to rank" in refusal(test, {"a": [5.0] * 3, "b": [5.0] * 4})


def test_pairs_that_never_differ_are_refused() -> None:
    assert "none of 4 differences is other than zero" in refusal("wilcoxon", {"a": GOOD, "b": GOOD})
    assert run_test("paired_ttest", {"a": GOOD, "b": GOOD}).notes[0] == "all 4 differences are 0"


def test_pairs_that_always_differ_by_the_same_have_an_exact_p() -> None:
    result = run_test("paired_ttest", {"a": GOOD, "b": [value + 0.1 for value in GOOD]})
    assert result.notes[0] == "all 4 differences are -0.1"
    assert result.p_value == pytest.approx(2 / 2**4)


@pytest.mark.parametrize("test", MEASURED)
@pytest.mark.parametrize("exponent", [-1050, -900, -60, 60, 900, 1018])
def test_a_change_of_unit_by_any_power_of_two_changes_only_the_unit(test: str, exponent: int) -> None:
    # 2**-1050 makes the values subnormal, 2**1018 brings them next to the largest double.
    x, y = np.array([3.0, 7.0, 4.0, 9.0, 12.0, 5.5]), np.array([8.0, 9.5, 15.0, 11.0, 13.0, 6.0])
    plain = run_test(test, {"x": x, "y": y}, resamples=500)
    moved = run_test(test, {"x": np.ldexp(x, exponent), "y": np.ldexp(y, exponent)}, resamples=500)
    assert moved.p_value == plain.p_value
    assert moved.effect_size_interval == pytest.approx(plain.effect_size_interval, rel=1e-12)
    has_unit = test in IN_UNITS
    estimate = math.ldexp(plain.estimate, exponent) if has_unit else plain.estimate
    assert moved.estimate == pytest.approx(estimate, rel=1e-7)
    if plain.statistic_name == plain.estimate_name:
        assert moved.statistic == moved.estimate
    else:
        assert moved.statistic == pytest.approx(plain.statistic, rel=1e-12)


@pytest.mark.parametrize("test", MEASURED)
def test_results_beyond_the_largest_double_are_refused_not_infinite(test: str) -> None:
    groups = {"x": [1.7e308, 1.6e308, 1.5e308, 1.2e308], "y": [-1.7e308, -1.6e308, -1.1e308, -1.3e308]}
    if test in IN_UNITS:
        assert "larger than the largest double" in refusal(test, groups)
    else:
        assert math.isfinite(run_test(test, groups).statistic)


@pytest.mark.parametrize("test", sorted(set(MEASURED) - {"variance_ratio", "welch_anova"}))
def test_groups_of_wildly_different_size_give_finite_numbers(test: str) -> None:
    groups = {"x": [1e300, 2e300, 3e300, 2.5e300], "y": [1e-300, 3e-300, 2e-300, 5e-300]}
    result = run_test(test, groups)
    assert math.isfinite(result.statistic)
    assert 0.0 < result.p_value <= 1.0


def test_groups_of_wildly_different_size_are_refused_where_the_numbers_leave_the_doubles() -> None:
    groups = {"x": [1e300, 2e300, 3e300, 2.5e300], "y": [1e-300, 3e-300, 2e-300, 5e-300]}
    assert "rescale" in refusal("welch_anova", groups)
    assert "double" in refusal("variance_ratio", groups)


def test_a_p_value_below_the_smallest_double_is_zero_and_noted() -> None:
    rng = np.random.default_rng(0)
    result = run_test("ttest", {"a": rng.normal(size=2000), "b": rng.normal(100, 1, size=2000)})
    assert result.p_value == 0.0
    assert any("smallest double" in note for note in result.notes)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_alpha_and_confidence_level_outside_zero_and_one_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        run_test("ttest", {"a": GOOD, "b": GOOD}, alpha=alpha)
    with pytest.raises(ValueError, match="confidence_level must lie between 0 and 1"):
        run_test("ttest", {"a": GOOD, "b": GOOD}, confidence_level=alpha)


def test_a_confidence_level_next_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="double precision cannot resolve"):
        run_test("ttest", {"a": GOOD, "b": GOOD}, confidence_level=1.0 - 1e-15)


@pytest.mark.parametrize("test", sorted(set(MEASURED) - {"bootstrap"}))
def test_very_high_confidence_levels_still_end(test: str) -> None:
    groups = {"a": GOOD, "b": [2.0, 9.0, 4.5, 11.0]}
    low, high = run_test(test, groups, confidence_level=1.0 - 1e-11).effect_size_interval
    assert low < high


@pytest.mark.parametrize("resamples", [-1, 0, 99])
def test_too_few_resamples_are_refused(resamples: int) -> None:
    with pytest.raises(ValueError, match="resamples must be at least 100"):
        run_test("bootstrap", {"a": GOOD, "b": GOOD}, resamples=resamples)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must not be negative"):
        run_test("bootstrap", {"a": GOOD, "b": GOOD}, seed=-1)


def test_the_refusal_is_a_value_error_that_survives_pickling() -> None:
    error = CannotTestError("ttest", "group 'a' is empty")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, CannotTestError)
    assert isinstance(again, ValueError)
    assert (str(again), again.test, again.reason) == (str(error), "ttest", "group 'a' is empty")


def test_a_summary_describes_a_group() -> None:
    summary = summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert summary.to_dict() == pytest.approx({"n": 8, "mean": 5.0, "sd": math.sqrt(32 / 7), "median": 4.5})


def test_the_sd_of_one_value_is_unknown() -> None:
    assert summarize([3]).to_dict() == {"n": 1, "mean": 3.0, "sd": None, "median": 3.0}


def test_a_summary_holds_at_any_scale_and_offset() -> None:
    assert summarize([1e308, 1.2e308, 1.7e308]).mean == pytest.approx(1.3e308)
    assert summarize([1e-310, 3e-310]).sd == pytest.approx(math.sqrt(2) * 1e-310)
    assert summarize([1e9 + 1, 1e9 + 2, 1e9 + 3]).sd == 1.0
    with pytest.raises(CannotTestError, match="group 'values' is empty"):
        summarize([])
    with pytest.raises(CannotTestError, match="larger than the largest double"):
        summarize([1.7e308, -1.7e308])
