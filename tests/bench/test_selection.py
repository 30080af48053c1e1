"""The rules of `auto`: one per design, every name real, data and checks without a say."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from typing import Any, get_args

import numpy as np
import pytest

import crucible_bench
from crucible_bench import OTHER_TESTS, CannotTestError, run_test
from crucible_bench.hypothesis_tests.choose_test import RULES, choose_test
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.result import Choice
from crucible_bench.vocabulary import Design, Outcome, TestName

SIZES = {"one": (12,), "two": (12, 12), "more": (12, 12, 12)}


def test_the_table_in_the_docstring_is_the_table_of_rules() -> None:
    rows = re.findall(r"\| (\w+) \| (\w+) \| (one|two|more) \| (\w+) \|", inspect.getdoc(choose_test) or "")
    rules = [(rule.outcome, rule.design, rule.groups, rule.test) for rule in RULES]
    assert sorted(rows) == sorted(rules)


def test_every_test_that_a_rule_can_choose_is_implemented() -> None:
    for name in {name for rule in RULES for name in (rule.test, *rule.alternatives)}:
        assert name in DEFINITIONS or callable(getattr(crucible_bench, OTHER_TESTS[name]))  # type: ignore[index]


def test_the_tests_that_need_more_than_groups_have_functions_and_say_which() -> None:
    assert set(OTHER_TESTS) == set(get_args(TestName)) - set(DEFINITIONS)
    for name, function in OTHER_TESTS.items():
        assert callable(getattr(crucible_bench, function))
        with pytest.raises(CannotTestError, match=rf"call crucible_bench\.{function}"):
            run_test(name, {"a": [1.0, 2.0], "b": [2.0, 1.0]})


def test_every_design_has_one_rule_at_most_and_every_rule_names_real_tests_with_a_source() -> None:
    designs = [(rule.outcome, rule.design, rule.groups) for rule in RULES]
    assert len(designs) == len(set(designs))
    for rule in RULES:
        assert {rule.test, *rule.alternatives} <= set(get_args(TestName))
        assert rule.test not in rule.alternatives
        assert rule.reason
        assert re.search(r"\b(19|20)\d\d\b", rule.source)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.outcome}-{rule.design}-{rule.groups}")
def test_every_rule_is_reached_by_its_design(rule: Any) -> None:
    chosen = choose_test(rule.outcome, SIZES[rule.groups], design=rule.design)
    assert (chosen.test, chosen.alternatives, chosen.source) == (rule.test, rule.alternatives, rule.source)
    assert chosen.choice() == Choice(rule.test, f"{rule.reason} ({rule.source})", rule.alternatives)
    assert json.loads(json.dumps(chosen.to_dict())) == chosen.to_dict()


def test_the_designs_without_a_rule_say_what_to_do() -> None:
    covered = {(rule.outcome, rule.design, rule.groups) for rule in RULES}
    for outcome, design, groups in itertools.product(get_args(Outcome), get_args(Design), SIZES):
        if (outcome, design, groups) in covered:
            continue
        said = (
            r"compare them two by two|take one value per cluster|one sample is compared|at least two groups|"
            r"take the design clustered"
        )
        with pytest.raises(CannotTestError, match=said):
            choose_test(outcome, SIZES[groups], design=design)


def test_assumption_checks_are_repeated_and_change_nothing() -> None:
    plain = choose_test("continuous", (8, 30))
    told = choose_test("continuous", (8, 30), checks=["Shapiro-Wilk p = 1e-9", "Levene p = 1e-9"])
    assert plain.test == told.test == "ttest"
    assert told.information == ("Shapiro-Wilk p = 1e-9", "Levene p = 1e-9")
    assert plain.information == ()
    assert "values" not in inspect.signature(choose_test).parameters  # it never sees the data


def test_notes_about_sizes_say_by_how_much_a_test_may_err() -> None:
    def figures(outcome: Outcome, *sizes: int, design: Design = "independent") -> list[str]:
        notes = " ".join(choose_test(outcome, sizes, design=design).notes)
        return re.findall(r"in up to (\d+) % where 5 % are promised", notes)

    assert figures("continuous", 19, 100) == figures("continuous", 19, 19, design="paired") == ["20"]
    assert figures("continuous", 20, 100) == figures("continuous", 20, 20, design="paired") == []
    assert figures("ordinal", 8, 100) == ["28"]
    assert figures("ordinal", 8, 8) == figures("ordinal", 9, 100) == []


def test_small_groups_are_noted_and_sizes_that_cannot_work_are_refused() -> None:
    assert any("neither show nor rule out" in note for note in choose_test("continuous", (4, 50)).notes)
    assert choose_test("continuous", (40, 50)).notes == ()
    for outcome, sizes, design, said in (
        ("continuous", (1, 5), "independent", "at least 2 in every group"),
        ("binary", (0, 5), "independent", "at least 1 in every group"),
        ("continuous", (5, 6), "paired", "one length"),
        ("continuous", (5,), "independent", "at least two groups"),
        ("count", (5, 5), "independent", "outcomes: binary, continuous, ordinal"),
        ("binary", (5, 5), "nested", "designs: clustered, independent, one_sample, paired, resampled"),
    ):
        with pytest.raises(CannotTestError, match=said):
            choose_test(outcome, sizes, design=design)  # type: ignore[arg-type]


@pytest.mark.parametrize(("outcome", "n"), [("ordinal", 6), ("binary", 5)])
def test_the_notes_on_the_fewest_pairs_are_true(outcome: Any, n: int) -> None:
    for pairs, significant in ((n - 1, False), (n, True)):
        chosen = choose_test(outcome, (pairs, pairs), design="paired")
        groups = {"a": [1.0] * pairs, "b": [0.0] * pairs}
        assert run_test(chosen.test, groups).significant == significant
        assert any("unanimous" in note for note in chosen.notes) == (not significant)


def test_the_tie_corrected_friedman_statistic_of_zeros_and_ones_is_cochrans_q() -> None:
    # Cochran (1950): (k - 1) (k sum C**2 - T**2) / (k T - sum R**2), from the column sums C and the row sums R
    data = (np.random.default_rng(6).random((20, 4)) < [0.2, 0.5, 0.6, 0.8]).astype(float)
    columns, rows, total, k = data.sum(axis=0), data.sum(axis=1), data.sum(), 4
    q = (k - 1) * (k * (columns**2).sum() - total**2) / (k * total - (rows**2).sum())
    chosen = choose_test("binary", (20,) * 4, design="paired")
    result = run_test(chosen.test, {str(i): column for i, column in enumerate(data.T)})
    assert result.statistic == pytest.approx(q)
