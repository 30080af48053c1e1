"""What must not matter does not: order, names' places, units, origin."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crucible_bench import CannotTestError, TestResult, run_test
from crucible_bench.data.sample import read_groups
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.vocabulary import TESTS_OF_DESIGN

MEASURED = sorted(test for test, definition in DEFINITIONS.items() if definition.read is read_groups)
DIFFERENCES = [
    *("bootstrap", "corrected_resampled_ttest", "mann_whitney", "paired_permutation", "paired_ttest", "permutation"),
    *("sign", "student_ttest", "ttest", "wilcoxon"),
]
DRAWN = {"bootstrap", "paired_permutation", "permutation"}
OF_ONE_LENGTH = TESTS_OF_DESIGN["paired"] | TESTS_OF_DESIGN["resampled"]
# Quarters: their sums, differences and doubles are exact, so that no tie is made or broken by rounding.
values = st.lists(st.integers(-400, 400).map(lambda i: i / 4), min_size=3, max_size=14)


def run(test: str, x: list[float], y: list[float], order: str = "xy") -> TestResult:
    if test in OF_ONE_LENGTH:
        x, y = x[: len(y)], y[: len(x)]
    groups = {"x": x, "y": y}
    try:
        result = run_test(test, {name: groups[name] for name in order}, resamples=199)
    except CannotTestError:
        assume(False)
        raise
    assume(result.effect_size is not None)  # groups without spread have none
    return result


def close(a: float, b: float) -> bool:
    return a == b or math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-9)


@pytest.mark.parametrize("test", DIFFERENCES)
@given(x=values, y=values)
@settings(max_examples=25, deadline=None)
def test_exchanging_the_groups_turns_the_sign_and_keeps_p(test: str, x: list[float], y: list[float]) -> None:
    there, back = run(test, x, y), run(test, x, y, order="yx")
    assert close(there.p_value, back.p_value)
    assert close(there.estimate, -back.estimate)
    assert close(there.effect_size, -back.effect_size)
    for interval, mirrored in (
        (there.confidence_interval, back.confidence_interval),
        (there.effect_size_interval, back.effect_size_interval),
    ):
        if test != "bootstrap":  # its quantiles turn with the sign only up to one replicate
            assert close(interval[0], -mirrored[1])
            assert close(interval[1], -mirrored[0])


@pytest.mark.parametrize("test", MEASURED)
@given(x=values, y=values, origin=st.sampled_from([-1024.0, 0.25, 4096.0]))
@settings(max_examples=15, deadline=None)
def test_moving_the_origin_moves_nothing_else(test: str, x: list[float], y: list[float], origin: float) -> None:
    plain = run(test, x, y)
    moved = run(test, [value + origin for value in x], [value + origin for value in y])
    assert close(plain.statistic, moved.statistic)
    assert close(plain.p_value, moved.p_value)
    assert close(plain.estimate, moved.estimate)
    assert close(plain.effect_size, moved.effect_size)


@pytest.mark.parametrize("test", MEASURED)
@given(x=values, y=values, factor=st.sampled_from([-2.0, 0.5, 3.0, 1000.0]))
@settings(max_examples=15, deadline=None)
def test_changing_the_unit_changes_only_what_has_a_unit(
    test: str, x: list[float], y: list[float], factor: float
) -> None:
    assume(factor > 0 or test not in DRAWN)  # turned round, the same draws pick other values
    plain = run(test, x, y)
    moved = run(test, [value * factor for value in x], [value * factor for value in y])
    drawn = factor < 0 and any("random divisions" in note for note in plain.notes)
    assert drawn or close(plain.p_value, moved.p_value)
    sign = math.copysign(1.0, factor) if test in DIFFERENCES or test == "brunner_munzel" else 1.0
    assert close(plain.effect_size * sign, moved.effect_size)
    if test in DIFFERENCES:
        assert close(plain.estimate * factor, moved.estimate)


@pytest.mark.parametrize("test", MEASURED)
@given(x=values, y=values, data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_values_does_not_matter(
    test: str, x: list[float], y: list[float], data: st.DataObject
) -> None:
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    order = data.draw(st.permutations(range(n)))
    plain, shuffled = run(test, x, y), run(test, [x[i] for i in order], [y[i] for i in order])
    assert close(plain.statistic, shuffled.statistic)
    assert close(plain.p_value, shuffled.p_value)
    assert close(plain.estimate, shuffled.estimate)
    assert close(plain.effect_size_interval[0], shuffled.effect_size_interval[0])


@given(x=values, y=values)
@settings(max_examples=25, deadline=None)
def test_two_groups_make_f_the_square_of_the_pooled_t(x: list[float], y: list[float]) -> None:
    anova = run("anova", x, y)
    n, m = len(x), len(y)
    d = run_test("ttest", {"x": x, "y": y}, effect_size="cohens_d").effect_size
    assert close(anova.statistic, d * d * n * m / (n + m))


@pytest.mark.parametrize("test", MEASURED)
@given(
    x=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    y=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_any_doubles_give_finite_numbers_or_a_refusal(test: str, x: list[float], y: list[float]) -> None:
    try:
        result = run_test(test, {"x": x, "y": y}, resamples=100, alpha=0.05, confidence_level=0.9)
    except CannotTestError:
        return
    effect = () if result.effect_size is None else (result.effect_size, *result.effect_size_interval)
    numbers = (result.statistic, result.p_value, result.estimate, *effect, *result.df)
    assert all(math.isfinite(number) for number in numbers)
    assert not any(math.isnan(end) for end in result.confidence_interval)
    assert result.confidence_interval[0] <= result.confidence_interval[1]
