"""Groups that do not vary, and pairs that cannot be tested: the rest is reported, and they are told with the reason."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import (
    CannotTestError,
    Comparison,
    compare,
    games_howell,
    indistinguishable_from_best,
    one_sample_test,
    pairwise_tests,
    run_test,
)
from crucible_bench.named_effect_size import effect_size
from crucible_core import Experiment, StageFailedError, run_experiment
from crucible_core.report import RENDERERS, render_report
from crucible_core.report.comparison_section import comparison_section
from crucible_core.report.document import Table

FULL, WORSE = [0.8, 0.9, 0.7, 0.85, 0.77], [0.5, 0.6, 0.4, 0.55, 0.51]
ABLATION = {"full": FULL, "no_cache": FULL, "no_retrieval": WORSE}
RIGHT = [True] * 30 + [False] * 10


def bench(data: Any, **options: Any) -> Any:
    file = {"id": "x", "pipeline": [{"name": "bench", "module": "bench", "options": options}]}
    return run_experiment(Experiment.model_validate(file), assigns={"bench_data": data})


@pytest.mark.parametrize(
    "data",
    [
        ABLATION,
        {
            "full": [True] * 30 + [False] * 10,
            "no_cache": [True] * 30 + [False] * 10,
            "no_retrieval": [True] * 15 + [False] * 25,
        },
    ],
)
def test_an_ablation_without_any_effect_leaves_the_other_one_reported(data: Any) -> None:
    context = bench(data, study="ablation", baseline="full", paired=True)
    comparison = Comparison.from_dict(json.loads(json.dumps(context.metrics["bench"])))
    family = comparison.comparisons
    assert family is not None
    no_op, retrieval = family.comparisons
    assert (no_op.first, no_op.estimate, no_op.p_adjusted, no_op.significant) == ("no_cache", 0.0, 1.0, False)
    assert retrieval.significant
    assert family.size == 2
    assert comparison == Comparison.from_json(comparison.to_json())


def test_a_pair_without_spread_has_no_interval_and_its_row_says_why_in_every_format() -> None:
    context = bench(ABLATION, study="ablation", baseline="full", paired=True)
    (pair, _) = compare(ABLATION, study="ablation", baseline="full", design="paired").comparisons.comparisons  # type: ignore[union-attr]
    assert pair.confidence_interval == (-math.inf, math.inf)
    assert (pair.effect_size, pair.effect_size_name, pair.note) == (None, None, "all 5 differences are 0")
    for kind in RENDERERS:
        text = str(render_report(context, kind)).replace("\\n", " ")
        if kind != "csv":
            assert "all 5 differences are 0" in text, kind
    sentence = Comparison.from_dict(context.metrics["bench"]).sentence
    assert "no_cache and full could not be told apart (mean difference 0, no interval (all 5 differences" in sentence


def test_the_others_are_corrected_for_as_many_as_were_declared() -> None:
    alone = run_test("paired_ttest", {"no_retrieval": WORSE, "full": FULL})
    family = pairwise_tests("paired_ttest", ABLATION, control="full")
    assert family.comparisons[1].p_adjusted == pytest.approx(2 * alone.p_value)
    single = pairwise_tests("ttest", {"a": FULL, "b": WORSE, "c": [0.5]})
    assert [(one.groups, one.n) for one in single.untested] == [(("a", "c"), (5, 1)), (("b", "c"), (5, 1))]
    assert "has 1 value" in single.untested[0].reason
    assert single.size == 3
    assert single.comparisons[0].p_adjusted == pytest.approx(3 * single.comparisons[0].p_value)


def test_what_no_pair_allows_is_refused() -> None:
    with pytest.raises(CannotTestError, match="of 'a' and 'b': group 'a' has 1 value"):
        pairwise_tests("ttest", {"a": [1.0], "b": [2.0], "c": [3.0]})
    with pytest.raises(CannotTestError, match="varies"):
        games_howell({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [2.0, 2.0]})


def test_two_constant_groups_leave_the_family_of_all_pairs() -> None:
    groups = {"a": [1.0] * 5, "b": [1.0] * 5, "c": FULL, "d": WORSE}
    result = compare(groups, compare="all_pairs", family="games_howell")
    family = result.comparisons
    assert family is not None
    assert [(pair.first, pair.second) for pair in family.comparisons] == [
        ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
    assert family.size == 6
    assert [one.groups for one in family.untested] == [("a", "b")]
    assert "Not tested: a – b by games_howell (neither 'a' (always 1) nor 'b' (always 1) varies" in result.sentence
    assert [one.test for one in result.untested] == ["welch_anova"]
    assert "Not tested: a – b – c – d by welch_anova (group 'a' is constant" in result.sentence
    assert Comparison.from_json(result.to_json()) == result


def test_a_test_of_all_groups_that_is_refused_alone_is_refused() -> None:
    with pytest.raises(CannotTestError, match="group 'a' is constant"):
        compare({"a": [1.0] * 5, "b": FULL, "c": WORSE})


def test_lengths_that_a_paired_design_does_not_allow_are_refused_and_not_left_out() -> None:
    with pytest.raises(CannotTestError, match=r"paired groups have one length.*`missing: drop`"):
        compare({**ABLATION, "short": FULL[:3]}, design="paired", compare="all_pairs")


# --- exact answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (5, 5)])
def test_constant_groups_have_the_exact_permutation_p(n: int, m: int, side: Any) -> None:
    groups = {"a": [1.0] * n, "b": [0.5] * m}
    result = run_test("ttest", groups, alternative=side)
    oracle = stats.permutation_test(
        (groups["a"], groups["b"]), lambda x, y: np.mean(x) - np.mean(y), alternative=side, n_resamples=np.inf
    )
    if side == "two-sided":  # scipy doubles the smaller tail, here the arrangements as far out are counted
        ways = math.comb(n + m, n)
        assert result.p_value == pytest.approx((2 if n == m else 1) / ways)
    else:
        assert result.p_value == pytest.approx(oracle.pvalue)
    assert (result.estimate, result.confidence_interval) == (0.5, (-math.inf, math.inf))
    assert result.method.startswith("exact permutation test")
    assert result.to_dict()["confidence_interval"] == [None, None]


@pytest.mark.parametrize("n", [2, 6, 30])
def test_equal_differences_have_the_exact_p_of_their_signs(n: int) -> None:
    ours = np.arange(n) / 8.0
    assert run_test("paired_ttest", {"a": ours + 0.25, "b": ours}).p_value == pytest.approx(2.0 ** (1 - n))
    assert run_test("paired_ttest", {"a": ours, "b": ours}).p_value == 1.0
    assert one_sample_test([0.25] * n, 0.5).p_value == pytest.approx(2.0 ** (1 - n))
    assert run_test("sign", {"a": ours, "b": ours}).p_value == 1.0


@pytest.mark.parametrize(
    ("groups", "design"),
    [
        ({name: [True] * 10 for name in "abc"}, "independent"),
        ({name: [True, False] * 5 for name in "ab"}, "paired"),
        ({name: [True, False] * 5 for name in "abc"}, "paired"),
        ({name: [0.1, 0.2, 0.3] for name in "ab"}, "paired"),
        ({name: [0.5] * 4 for name in "ab"}, "independent"),
    ],
)
def test_nothing_speaks_against_groups_that_are_alike(groups: Any, design: Any) -> None:
    result = compare(groups, design=design)
    assert result.tests[0].p_value == 1.0
    assert "could not be told apart" in result.sentence


def test_an_effect_size_of_groups_without_spread_is_refused_and_a_margin_is_not_judged() -> None:
    with pytest.raises(CannotTestError, match="not defined here: both are always 1"):
        effect_size("hedges_gav", {"a": [1.0, 1.0], "b": [1.0, 1.0, 1.0]})
    result = compare({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3]}, design="paired", margin=0.05)
    assert result.verdicts == ()
    assert [one.test for one in result.untested] == ["margin"]
    for said in (result.sentence, result.method):
        assert "Not tested: a – b by margin (all 3 differences" in said
    assert result.headline == "a and b could not be told apart: mean difference (a - b) 0, no interval."


def test_a_pair_that_was_not_tested_has_its_row_beside_the_verdicts_of_the_others() -> None:
    result = compare({"a": FULL, "b": WORSE, "c": [0.5]}, tests=["ttest"], compare="all_pairs", margin=0.1)
    tables = [block for block in comparison_section("bench", result).blocks if isinstance(block, Table)]
    (pairs,) = [table for table in tables if table.columns[0] == "first – second"]
    assert pairs.columns[-1] == "against the margin of 0.1"
    assert [(row[0], row[-1]) for row in pairs.rows] == [("a – b", "better"), ("a – c", "–"), ("b – c", "–")]
    assert "has 1 value" in pairs.rows[1][6]
    assert result.headline.endswith("; 2 not tested.")


def test_a_sweep_with_two_perfect_configurations_keeps_both() -> None:
    best = indistinguishable_from_best({"a": [1.0] * 5, "b": [1.0] * 5, "c": FULL})
    assert best.kept == ("a", "b")
    two = indistinguishable_from_best({"a": [1.0] * 5, "d": [0.2] * 5})
    assert two.contenders[1].p_value == pytest.approx(1 / math.comb(10, 5))
    single = indistinguishable_from_best({"a": FULL, "b": WORSE, "c": [0.1]})
    assert single.kept == ("a", "c")
    assert "has 1 value" in single.notes[0]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_missing_values_are_refused_in_one_sentence_that_says_where_and_what_to_do() -> None:
    with pytest.raises(StageFailedError) as caught:
        bench({"a": [1.0, math.nan, 2.0, None], "b": [1.0, 2.0, 3.0, 4.0]})
    event = caught.value.context.trace.endings["bench"]
    assert event.traceback == ""  # type: ignore[union-attr]
    assert event.message == (  # type: ignore[union-attr]
        "the groups cannot be compared: group 'a' lacks 2 of 4 values (position 1, 3, counted from 0): `missing: "
        "drop` leaves them out and lists them"
    )


def test_a_test_that_could_not_be_run_counts_in_the_correction_of_the_others() -> None:
    groups = {"a": [1.0] * 5, "b": FULL, "c": WORSE}
    both = compare(groups, tests=("welch_anova", "kruskal_wallis"))
    alone = compare(groups, tests=("kruskal_wallis",)).tests[0]
    assert [one.test for one in both.untested] == ["welch_anova"]
    assert both.p_adjusted == (pytest.approx(2 * alone.p_value),)
    assert both.to_dict()["family_size"] == 2
    assert Comparison.from_json(both.to_json()) == both
