"""One sample against a reference: scipy's one-sample tests, invariance, refusals."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from crucible_bench import CannotTestError, one_sample_test, run_test
from crucible_bench.hypothesis_tests.one_sample import OneSampleTest

TESTS = get_args(OneSampleTest)
SIDES = ["greater", "less", "two-sided"]
VALUES = np.random.default_rng(31).gamma(3.0, 2.0, 24)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("reference", [-3.0, 4.0, 5.25, 8.5])
def test_the_ttest_agrees_with_scipy(reference: float, side: Any) -> None:
    expected = stats.ttest_1samp(VALUES, reference, alternative=side)
    result = one_sample_test(VALUES, reference, alternative=side, confidence_level=0.9)
    assert result.statistic == pytest.approx(float(expected.statistic))
    assert result.p_value == pytest.approx(float(expected.pvalue))
    assert result.confidence_interval == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert result.estimate == pytest.approx(VALUES.mean())
    n = VALUES.size  # Hedges' (1981) exact factor
    unbiased = math.exp(math.lgamma((n - 1) / 2) - math.lgamma(n / 2 - 1)) / math.sqrt((n - 1) / 2)
    assert result.effect_size == pytest.approx(unbiased * (VALUES.mean() - reference) / VALUES.std(ddof=1))
    assert (result.groups, result.n, result.df) == (("values",), (24,), (23.0,))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("reference", [4.0, 5.25, 8.5])
def test_the_signed_rank_test_agrees_with_scipy(reference: float, side: Any) -> None:
    expected = stats.wilcoxon(VALUES - reference, alternative=side, method="exact")
    result = one_sample_test(VALUES, reference, test="wilcoxon", alternative=side)
    assert result.p_value == pytest.approx(float(expected.pvalue))
    walsh = [(x + y) / 2 for i, x in enumerate(VALUES) for y in VALUES[i:]]
    assert result.estimate == pytest.approx(np.median(walsh))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("reference", [4, 5, 7])
def test_the_sign_test_agrees_with_the_binomial_one(reference: int, side: Any) -> None:
    values = np.round(VALUES)  # some of which are the reference
    above, below = int((values > reference).sum()), int((values < reference).sum())
    assert above + below < values.size
    expected = stats.binomtest(above, above + below, 0.5, alternative=side)
    result = one_sample_test(values, reference, test="sign", alternative=side)
    assert result.p_value == pytest.approx(float(expected.pvalue))
    assert result.estimate == pytest.approx(np.median(values))
    assert result.effect_size == pytest.approx(above / (above + below) - 0.5)


@pytest.mark.parametrize("test", TESTS)
def test_a_result_speaks_of_values_and_is_plain_json(test: Any) -> None:
    result = one_sample_test(VALUES[:4], 5.0, test=test)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["test"] == f"one_sample_{test}"
    assert "against 5, two-sided" in plain["method"]
    assert "pair" not in json.dumps([plain["notes"], plain["assumptions"], plain["estimate_name"]])
    low, high = result.confidence_interval
    assert low <= result.estimate <= high


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_holds_the_references_that_are_not_rejected(test: Any, level: float) -> None:
    low, high = one_sample_test(VALUES, 0.0, test=test, confidence_level=level).confidence_interval
    for reference in (low - 1e-6, low + 1e-6, high - 1e-6, high + 1e-6):
        rejected = one_sample_test(VALUES, reference, test=test, alpha=1 - level).significant
        assert rejected == (not low < reference < high)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("side", SIDES)
def test_shifting_values_and_reference_changes_nothing_but_the_location(test: Any, side: Any) -> None:
    here = one_sample_test(VALUES, 5.0, test=test, alternative=side)
    there = one_sample_test(VALUES + 1000, 1005.0, test=test, alternative=side)
    assert there.p_value == pytest.approx(here.p_value)
    assert there.estimate == pytest.approx(here.estimate + 1000)
    assert there.confidence_interval == pytest.approx([end + 1000 for end in here.confidence_interval])


@pytest.mark.parametrize(
    ("values", "reference", "test", "said"),
    [
        ([1.0], 0.0, "ttest", "one value has no spread"),
        ([2.0, 2.0], 2.0, "wilcoxon", "none of 2 values differs from the reference 2"),
        ([0.1 + 0.2], 0.3, "sign", "none of 1 value differs"),
        ([], 0.0, "sign", "'values' is empty"),
        ([1.0, math.nan], 0.0, "ttest", r"missing \(NaN\)"),
        ([1.7e308, 1.6e308], -1.7e308, "ttest", "rescale"),
    ],
)
def test_what_cannot_be_tested_is_refused(values: Any, reference: float, test: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said) as caught:
        one_sample_test(values, reference, test=test)
    assert caught.value.test == f"one_sample_{test}"


def test_a_reference_or_a_test_that_is_none_is_refused() -> None:
    for reference in (math.nan, math.inf, True):
        with pytest.raises(ValueError, match="reference must be a finite number"):
            one_sample_test([1.0, 2.0], reference)
    with pytest.raises(ValueError, match="unknown one-sample test 'z'; known: sign, ttest, wilcoxon"):
        one_sample_test([1.0, 2.0], 0.0, test="z")  # type: ignore[arg-type]
    with pytest.raises(CannotTestError, match=r"call crucible_bench\.one_sample_test"):
        run_test("one_sample_ttest", {"a": [1.0, 2.0], "b": [2.0, 1.0]})
