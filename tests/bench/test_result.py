"""The vocabularies, the shape of a result, and the corrections."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crucible_bench
from crucible_bench import (
    OTHER_TESTS,
    TEST_ALIASES,
    TEST_NAMES,
    CannotTestError,
    CorrectionName,
    EffectSizeName,
    TestName,
    adjust_p_values,
    canonical_test_name,
    chi_square_test,
    run_test,
)
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.multiple.corrections import CORRECTIONS
from crucible_bench.vocabulary import EFFECT_SIZES, TESTS_OF_DESIGN, Design

GROUPS = {"control": [3.0, 7.0, 4.0, 9.0, 12.0, 5.5], "treatment": [8.0, 9.5, 15.0, 11.0, 13.0, 6.0]}
STEPWISE: list[CorrectionName] = ["bonferroni", "fdr", "holm", "none"]
PUBLISHED = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719),
    *(0.6528, 0.7590, 1.0),
]


OUTCOMES = {"control": [0, 1, 0, 1, 1, 0], "treatment": [1, 1, 0, 1, 1, 1]}


def groups_for(test: str) -> dict[str, Any]:
    return OUTCOMES if test in {"mcnemar", "mcnemar_midp", "two_proportions"} else GROUPS


def test_advertised_and_implemented_tests_are_the_same_set() -> None:
    assert set(get_args(TestName)) == set(TEST_NAMES) == set(DEFINITIONS) | set(OTHER_TESTS)
    assert not set(DEFINITIONS) & set(OTHER_TESTS)
    assert set(EFFECT_SIZES) == set(TEST_NAMES)
    assert sorted(name for tests in TESTS_OF_DESIGN.values() for name in tests) == sorted(TEST_NAMES)
    assert set(TESTS_OF_DESIGN) == set(get_args(Design))


def test_advertised_and_implemented_corrections_are_the_same_set() -> None:
    assert set(CORRECTIONS) == set(get_args(CorrectionName))


def test_every_effect_size_is_defined_by_a_test_and_computed_under_its_name() -> None:
    computed = {
        run_test(test, groups_for(test), effect_size=name, resamples=200).effect_size_name
        for test in DEFINITIONS
        for name in EFFECT_SIZES[test]
    }
    others = {name for test in OTHER_TESTS for name in EFFECT_SIZES[test]}
    assert computed | others == set(get_args(EffectSizeName))
    assert others - computed == {"cramers_v"}
    assert chi_square_test({"a": [3, 5], "b": [6, 2]}).effect_size_name == "cramers_v"


def test_the_table_of_effect_sizes_in_the_documentation_is_true() -> None:
    rows = [line.strip().strip("|").split("|") for line in (run_test.__doc__ or "").splitlines() if "|" in line]
    documented = {row[0].strip(): tuple(name.strip() for name in row[2].split(",")) for row in rows[2:]}
    assert documented == {test: EFFECT_SIZES[test] for test in DEFINITIONS}


@pytest.mark.parametrize("test", sorted(DEFINITIONS))
def test_an_effect_size_the_test_does_not_define_is_refused_with_those_it_does(test: str) -> None:
    own = EFFECT_SIZES[canonical_test_name(test)]
    with pytest.raises(CannotTestError, match=f"'cramers_v'; it defines {own[0]}"):
        run_test(test, groups_for(test), effect_size="cramers_v")


def test_aliases_run_the_test_they_stand_for() -> None:
    for alias, name in TEST_ALIASES.items():
        assert run_test(alias, GROUPS) == run_test(name, GROUPS)
        assert canonical_test_name(alias) == canonical_test_name(name) == name


def test_an_unknown_test_is_refused_with_the_known_and_the_closest_name() -> None:
    with pytest.raises(CannotTestError, match="did you mean 'wilcoxon'") as caught:
        run_test("wilcoxn", GROUPS)
    assert all(name in str(caught.value) for name in TEST_NAMES)
    with pytest.raises(CannotTestError, match="did you mean 'kruskal_wallis'"):
        canonical_test_name("kruskall")


@pytest.mark.parametrize("test", sorted(DEFINITIONS))
def test_a_result_is_complete_frozen_and_plain_json(test: str) -> None:
    result = run_test(test, groups_for(test), alpha=0.1, resamples=500)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain == result.to_dict()
    assert list(plain) == [field.name for field in dataclasses.fields(result)]
    assert plain["test"] == test
    assert plain["groups"] == ["control", "treatment"]
    assert plain["n"] == [6, 6]
    assert plain["confidence_level"] == pytest.approx(0.9)
    assert plain["significant"] == (plain["p_value"] <= 0.1)
    assert plain["assumptions"]
    assert plain["decisions"]
    assert all(choice["decision"] and choice["reasoning"] for choice in plain["decisions"])
    low, high = result.effect_size_interval
    assert low <= result.effect_size <= high
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.p_value = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("test", sorted(DEFINITIONS))
def test_a_wider_confidence_level_gives_a_wider_interval(test: str) -> None:
    narrow, wide = (run_test(test, groups_for(test), confidence_level=level) for level in (0.5, 0.9))
    assert wide.effect_size_interval[0] <= narrow.effect_size_interval[0]
    assert narrow.effect_size_interval[1] <= wide.effect_size_interval[1]
    assert wide.confidence_interval[0] <= narrow.confidence_interval[0]
    assert narrow.confidence_interval[1] <= wide.confidence_interval[1]
    assert wide.alpha == 0.05


def test_a_p_value_equal_to_alpha_is_significant() -> None:
    groups = {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}  # exact p = 2 / 20
    assert run_test("mann_whitney", groups, alpha=0.1).significant
    assert not run_test("mann_whitney", groups, alpha=0.099).significant


def test_test_and_interval_that_disagree_about_zero_are_noted() -> None:
    # Tied at zero so heavily that the median difference is 0, yet one group is higher.
    groups = {"a": [0.0] * 60 + [1.0] * 20, "b": [0.0] * 75 + [1.0] * 5}
    result = run_test("mann_whitney", groups)
    assert result.significant
    assert result.confidence_interval == (0.0, 0.0)
    assert any("disagree about zero" in note for note in result.notes)


def test_the_public_names_are_sorted_and_exist() -> None:
    names = crucible_bench.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(crucible_bench, name) for name in names)


@pytest.mark.slow
def test_importing_crucible_core_does_not_import_scipy() -> None:
    code = "import sys, crucible_core; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_corrections_reject_what_benjamini_and_hochberg_report() -> None:
    # Benjamini & Hochberg (1995), section 3.2: of 15 hypotheses at 0.05, Bonferroni rejects the 3 smallest
    # p-values and the new procedure the 4 smallest.
    rejected = {m: sum(p <= 0.05 for p in adjust_p_values(PUBLISHED, m)) for m in STEPWISE}
    assert rejected == {"bonferroni": 3, "fdr": 4, "holm": 3, "none": 9}


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.5), st.sampled_from(STEPWISE))
def test_comparing_adjusted_values_with_alpha_is_the_stepwise_procedure(
    p_values: list[float], alpha: float, method: Any
) -> None:
    m, order = len(p_values), sorted(range(len(p_values)), key=lambda i: p_values[i])
    if method == "holm":  # step down: stop at the first that fails
        count = next((k for k, i in enumerate(order) if p_values[i] * (m - k) > alpha), m)
    elif method == "fdr":  # step up: the last that passes takes all before it along
        count = max((k + 1 for k, i in enumerate(order) if p_values[i] * (m / (k + 1)) <= alpha), default=0)
    else:
        count = sum(p * (m if method == "bonferroni" else 1) <= alpha for p in p_values)
    adjusted = adjust_p_values(p_values, method)
    assert {i for i in range(m) if adjusted[i] <= alpha} == set(order[:count])
    assert all(p <= q <= 1.0 for p, q in zip(p_values, adjusted, strict=True))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_numbers_that_are_no_probabilities_cannot_be_adjusted(wrong: float) -> None:
    with pytest.raises(ValueError, match="at position 1 is not a probability"):
        adjust_p_values([0.1, wrong], "holm")


def test_an_unknown_correction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: benjamini_yekutieli, bonferroni, fdr"):
        adjust_p_values([0.1], "bh")  # type: ignore[arg-type]


def test_arrays_of_p_values_are_taken_too() -> None:
    assert adjust_p_values(np.array([0.01, 0.02]), "bonferroni") == (0.02, 0.04)  # type: ignore[arg-type]
