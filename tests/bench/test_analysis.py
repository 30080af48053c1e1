"""A comparison as declared: which tests run, which pairs, what is refused; the numbers are those of the functions."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest

from crucible_bench import (
    CannotTestError,
    Comparison,
    clustered_ttest,
    corrected_resampled_ttest,
    dunn,
    dunnett,
    fisher_exact_test,
    games_howell,
    indistinguishable_from_best,
    judge_margin,
    one_sample_test,
    pairwise_tests,
    proportion_test,
    rank_over_blocks,
    run_test,
    tukey_hsd,
)
from crucible_bench.analysis import RUNNABLE, analyse, choose_family
from crucible_bench.declaration import FAMILY_COMPARES, STUDY_COMPARES, Declaration
from crucible_bench.power.planned_power import foresee, power_as_planned
from crucible_bench.power.power import power_of, sample_size
from crucible_bench.vocabulary import Design, FamilyName, Outcome, StudyName, TestName

RANDOM = np.random.default_rng(11)
BASE = RANDOM.normal(0.9, 0.02, 12)
THREE = {
    "a": (BASE + 0.03 + RANDOM.normal(0, 0.005, 12)).tolist(),
    "b": (BASE + 0.02 + RANDOM.normal(0, 0.006, 12)).tolist(),
    "c": BASE.tolist(),
}
TWO = {"a": THREE["a"], "b": THREE["b"]}
OUTCOMES = {"a": [True] * 9 + [False] * 3, "b": [True, False] * 6}


def of(groups: Any = None, /, *, clusters: Any = None, **declared: Any) -> Comparison:
    analysis = analyse(THREE if groups is None else groups, Declaration(**declared), clusters=clusters)
    assert json.loads(json.dumps(analysis.to_dict(), allow_nan=False)) == analysis.to_dict()
    return analysis


def chosen(analysis: Comparison) -> list[str]:
    return [result.test for result in analysis.tests]


# --- what is advertised ---------------------------------------------------------------------------------------------


def test_every_test_of_the_vocabulary_can_be_declared_and_run() -> None:
    assert set(get_args(TestName)) == RUNNABLE


@pytest.mark.parametrize("test", get_args(TestName))
def test_a_declared_test_gives_a_result_under_its_own_name(test: Any) -> None:
    from crucible_bench.vocabulary import QUANTILE_TESTS, TESTS_OF_DESIGN

    design = next(one for one, tests in TESTS_OF_DESIGN.items() if test in tests)
    binary = test in {"mcnemar", "mcnemar_midp", "two_proportions", "chi_square", "fisher_exact", "proportion"}
    groups: dict[str, Any] = dict(OUTCOMES if binary else TWO)
    more: dict[str, Any] = {}
    if design == "one_sample":
        groups, more = {"a": groups["a"]}, {"reference": 0.5}
    if design == "resampled":
        more = {"folds": 12}
    if test in QUANTILE_TESTS.values():
        more = {"quantile": 0.5}
    if design in ("clustered", "stratified"):
        more = {"clusters": list("aabbccddeeff")}
    analysis = of(groups, tests=(test,), design=design, resamples=300, **more)
    assert chosen(analysis) == [test]
    assert analysis.tests[0].groups == tuple(groups)


@pytest.mark.parametrize("family", get_args(FamilyName))
def test_every_family_can_be_declared_and_is_the_one_that_was(family: Any) -> None:
    design = "paired" if family == "nemenyi" else "independent"
    compare = FAMILY_COMPARES.get(family, "all_pairs")
    analysis = of(family=family, design=design, compare=compare, baseline="c" if compare == "baseline" else None)
    assert analysis.comparisons is not None
    assert analysis.comparisons.procedure == family


@pytest.mark.parametrize("study", get_args(StudyName))
def test_every_shape_of_a_study_compares_something_of_its_own(study: Any) -> None:
    analysis = of(study=study, design="paired", baseline="c" if study == "ablation" else None)
    family = analysis.comparisons
    assert (analysis.best is not None) == (study == "sweep")
    assert (analysis.ranking is not None) == (study == "multiple_datasets")
    assert (family is not None and family.control is not None) == (study in STUDY_COMPARES)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_two_groups_have_the_numbers_of_the_test_and_no_family() -> None:
    analysis = of(TWO)
    assert analysis.tests == (run_test("ttest", TWO),)
    assert (analysis.comparisons, analysis.p_adjusted, analysis.verdicts) == (None, None, ())


def test_the_baseline_is_what_the_difference_is_from() -> None:
    analysis = of({"control": THREE["c"], "treatment": THREE["a"]}, study="ab_test")
    assert analysis.tests[0].groups == ("treatment", "control")
    assert analysis.tests[0].estimate == pytest.approx(np.mean(THREE["a"]) - np.mean(THREE["c"]))
    assert analysis.to_dict()["baseline"] == "control"


@pytest.mark.parametrize(
    ("declared", "computed"),
    [
        ({"compare": "all_pairs"}, lambda: games_howell(THREE)),
        ({"family": "tukey_hsd"}, lambda: tukey_hsd(THREE)),
        ({"family": "dunnett", "baseline": "c"}, lambda: dunnett(THREE, "c")),
        (
            {"compare": "all_pairs", "outcome": "ordinal", "correction": "bonferroni"},
            lambda: dunn(THREE, correction="bonferroni"),
        ),
        (
            {"compare": "baseline", "baseline": "c"},
            lambda: pairwise_tests("ttest", THREE, control="c", correction="holm"),
        ),
        (
            {"compare": "all_pairs", "design": "paired", "tests": ("wilcoxon",), "correction": "fdr"},
            lambda: pairwise_tests("wilcoxon", THREE, correction="fdr"),
        ),
        (
            {"compare": "baseline", "baseline": "c", "alternative": "greater", "design": "paired"},
            lambda: pairwise_tests("paired_ttest", THREE, control="c", alternative="greater"),
        ),
    ],
    ids=["auto", "tukey", "dunnett", "dunn", "against", "wilcoxon", "one-sided"],
)
def test_a_family_has_the_numbers_of_its_function(declared: dict[str, Any], computed: Any) -> None:
    found = of(**declared).comparisons
    assert found is not None
    assert found.comparisons == computed().comparisons


def test_folds_are_compared_by_the_corrected_test_and_clusters_by_the_robust_one() -> None:
    folds = of(TWO, design="resampled", test_share=0.25).tests[0]
    assert folds == corrected_resampled_ttest(TWO, test_share=0.25)
    clusters = list("aaabbbcccddd")
    robust = of(TWO, design="clustered", clusters=clusters).tests[0]
    assert robust == clustered_ttest(TWO, clusters)


def test_more_than_two_models_over_folds_are_a_family_because_no_test_takes_them_all() -> None:
    analysis = of(design="resampled", folds=12)
    assert analysis.tests == ()
    assert analysis.comparisons is not None
    first = analysis.comparisons.comparisons[0]
    alone = corrected_resampled_ttest(TWO, test_share=1 / 11, confidence_level=1 - 0.05 / 3)
    assert (first.p_value, first.confidence_interval) == (alone.p_value, alone.confidence_interval)
    assert first.p_adjusted >= first.p_value


def test_one_sample_is_held_against_its_reference() -> None:
    found = of({"a": THREE["a"]}, design="one_sample", reference=0.9).tests[0]
    expected = one_sample_test(THREE["a"], 0.9)
    assert (found.p_value, found.estimate, found.groups) == (expected.p_value, expected.estimate, ("a",))
    counts = of({"a": {"successes": 45, "n": 50}}, design="one_sample", reference=0.8).tests[0]
    assert counts.test == "proportion"
    assert counts.p_value == proportion_test(45, 50, reference=0.8).p_value


def test_counts_are_the_outcomes_that_they_count() -> None:
    counts = of({"a": {"successes": 9, "n": 12}, "b": {"successes": 6, "n": 12}}, tests=("fisher_exact",))
    assert counts.outcome == "binary"
    assert counts.tests[0] == of(OUTCOMES, tests=("fisher_exact",)).tests[0]
    assert counts.tests[0].p_value == fisher_exact_test({"a": [9, 3], "b": [6, 6]}).p_value
    assert counts.groups["a"].mean == 0.75


def test_booleans_are_outcomes_and_summed_up_as_shares() -> None:
    analysis = of(OUTCOMES)
    assert (analysis.outcome, chosen(analysis)) == ("binary", ["two_proportions"])
    assert chosen(of(OUTCOMES, design="paired")) == ["mcnemar_midp"]


def test_a_sweep_and_a_ranking_are_those_of_their_functions() -> None:
    assert of(study="sweep", design="paired").best == indistinguishable_from_best(THREE, paired=True)
    lower = {"higher_is_better": False, "design": "paired"}
    assert of(study="multiple_datasets", **lower).ranking == rank_over_blocks(THREE, higher_is_better=False)
    found = of(study="multiple_datasets", design="paired", family="pairwise").ranking
    assert found == rank_over_blocks(THREE, procedure="wilcoxon_holm")


def test_every_pair_is_judged_against_the_margin_at_its_share_of_alpha() -> None:
    analysis = of(compare="baseline", baseline="c", design="paired", margin=0.01)
    expected = [
        judge_margin({name: THREE[name], "c": THREE["c"]}, 0.01, paired=True, alpha=0.025) for name in ("a", "b")
    ]
    assert list(analysis.verdicts) == expected


def test_the_margin_of_folds_and_clusters_rests_on_their_own_standard_errors() -> None:
    for design, more in (("resampled", {"folds": 12}), ("clustered", {"clusters": list("aaabbbcccddd")})):
        analysis = of(TWO, design=design, margin=0.01, **more)
        test, verdict = analysis.tests[0], analysis.verdicts[0]
        assert verdict.confidence_interval == pytest.approx(test.confidence_interval)
        assert verdict.p_difference == pytest.approx(test.p_value)


def test_no_number_of_folds_decides_what_their_shared_training_data_hide() -> None:
    noisy = {"a": [0.9, 0.8, 0.95, 0.7, 0.85], "b": [0.8, 0.85, 0.9, 0.75, 0.8]}
    (verdict,) = of(noisy, design="resampled", folds=5, margin=0.001).verdicts
    assert (verdict.verdict, verdict.more_replicates) == ("inconclusive", None)
    (independent,) = of(noisy, design="paired", margin=0.001).verdicts
    assert independent.more_replicates is not None


def test_several_tests_are_corrected_and_never_picked_from() -> None:
    analysis = of(TWO, tests=("ttest", "mann_whitney"))
    assert chosen(analysis) == ["ttest", "mann_whitney"]
    p = [result.p_value for result in analysis.tests]
    assert analysis.p_adjusted == pytest.approx(
        [min(1, 2 * min(p)) if one == min(p) else max(2 * min(p), one) for one in p]
    )


def test_checks_of_assumptions_inform_and_change_nothing() -> None:
    skewed = {"a": [1.0, 1.1, 1.2, 1.3, 90.0], "b": [1.0, 1.2, 1.1, 1.4, 1.3]}
    analysis = of(skewed)
    assert chosen(analysis) == ["ttest"]
    assert any("Shapiro-Wilk" in line and "group a" in line for line in analysis.checks)
    assert any("Brown-Forsythe" in line for line in analysis.checks)


def test_each_choice_says_why_and_what_else_there_was() -> None:
    decided = dict(of(compare="all_pairs").decisions)
    assert decided["test"].alternatives == ("anova", "kruskal_wallis")
    assert "Delacre" in decided["test"].reasoning
    assert any("Games" in choice.reasoning for about, choice in of(compare="all_pairs").decisions if about == "family")


@pytest.mark.parametrize("compare", ["all_pairs", "baseline"])
@pytest.mark.parametrize("outcome", get_args(Outcome))
@pytest.mark.parametrize("design", get_args(Design))
def test_a_family_is_chosen_for_every_design_with_its_source(design: Any, outcome: Any, compare: Any) -> None:
    family = choose_family(outcome, design, compare)
    assert family.family in get_args(FamilyName)
    assert family.family not in family.alternatives
    assert any(char.isdigit() for char in family.source)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "n"), [(10, 3), (4, 5), (5, 10)])
def test_all_pairs_of_small_groups_keep_the_level_of_their_family(k: int, n: int) -> None:
    rng, runs = np.random.default_rng(2), 150
    rejected = 0
    for _ in range(runs):
        family = of({str(i): rng.normal(0, 1 + i % 2, n) for i in range(k)}, compare="all_pairs").comparisons
        assert family is not None
        assert family.procedure == ("pairwise" if n < 10 else "games_howell")
        rejected += any(pair.significant for pair in family.comparisons)
    assert rejected / runs <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / runs)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"tests": ()}, "there is none"),
        ({"tests": ("ttest",), "design": "paired"}, "would ignore the pairing"),
        ({"tests": ("paired_ttest",)}, "paired_ttest is for the design paired"),
        ({"tests": ("ttest",), "effect_size": "kendall_tau"}, "defines kendall_tau"),
        ({"design": "one_sample"}, "needs the number"),
        ({"design": "one_sample", "reference": 1.0, "margin": 1.0}, "verdicts are about two groups"),
        ({"reference": 1.0}, "for the design one_sample"),
        ({"test_share": 0.5}, "for the design resampled"),
        ({"folds": 10}, "folds: it is for the design resampled"),
        ({"design": "resampled"}, "such as 10, and `repeats` if it was repeated"),
        ({"design": "resampled", "folds": 10, "test_share": 0.1}, "declare one of the two"),
        ({"design": "resampled", "repeats": 10, "test_share": 0.1}, "needs its `folds`"),
        ({"design": "resampled", "folds": 1}, "at least 2, not 1"),
        ({"design": "resampled", "folds": 5, "repeats": 0}, "at least once"),
        ({"non_inferiority": True}, "the largest loss"),
        ({"compare": "baseline"}, "needs its name"),
        ({"study": "ablation"}, "the full system"),
        ({"study": "ab_test", "compare": "all_pairs"}, "compares with the baseline"),
        ({"study": "sweep", "compare": "all_pairs"}, "comparisons of its own"),
        ({"study": "sweep", "design": "one_sample", "reference": 1.0}, "several groups"),
        ({"study": "multiple_datasets"}, "for the design paired"),
        ({"study": "multiple_datasets", "design": "paired", "family": "dunn"}, "takes nemenyi or pairwise"),
        ({"family": "nemenyi"}, "for the design paired"),
        ({"family": "dunnett"}, "needs its name"),
        ({"family": "tukey_hsd", "compare": "baseline", "baseline": "a"}, "compares all_pairs"),
        ({"family": "tukey_hsd", "alternative": "less"}, "is two-sided"),
    ],
)
def test_a_declaration_that_contradicts_itself_says_so_before_any_data(declared: dict[str, Any], said: str) -> None:
    problems = Declaration(**declared).problems()
    assert any(said in problem for problem in problems), problems
    with pytest.raises(CannotTestError, match=said):
        analyse(THREE, Declaration(**declared))


@pytest.mark.parametrize(
    ("groups", "declared", "said"),
    [
        (THREE, {"tests": ("ttest",)}, "declare `compare: all_pairs`"),
        (THREE, {"tests": ("ttest", "mann_whitney"), "compare": "all_pairs"}, "declare one of them"),
        (THREE, {"baseline": "d"}, "no group 'd' to be the baseline"),
        (THREE, {"margin": 0.1}, "which pairs are judged"),
        (THREE, {"design": "one_sample", "reference": 1.0}, "3 groups"),
        (TWO, {"design": "clustered"}, "the cluster of each item"),
        ({"a": {"successes": 3}, "b": [True]}, {}, "successes: k, n: n"),
        ({"a": {"successes": 3, "n": 2}, "b": [True]}, {}, "successes cannot exceed n"),
        ({"a": {"successes": 1, "n": 10**8}, "b": [True]}, {}, "more than the 10,000,000"),
        ({"a": [True, False], "b": [0.5, 0.7]}, {}, "booleans"),
        ({"a": [0.5, 1.0], "b": [0.0, 1.0]}, {"tests": ("chi_square",)}, "an outcome is True or"),
    ],
)
def test_data_that_do_not_fit_the_declaration_are_refused_with_what_to_do(
    groups: Any, declared: dict[str, Any], said: str
) -> None:
    with pytest.raises(CannotTestError, match=said):
        analyse(groups, Declaration(**declared))


# --- before the data ------------------------------------------------------------------------------------------------


def test_too_few_replicates_for_the_effect_of_interest_are_warned_of_with_what_would_do() -> None:
    (warning,) = foresee(Declaration(design="paired"), 2, 10, 0.5)
    plan = power_of("paired_ttest", 0.5, 10)
    needed = sample_size("paired_ttest", 0.5)
    assert f"with a power of only {plan.power:.0%}" in warning
    assert f"n = {max(needed.n)} would do" in warning
    assert foresee(Declaration(design="paired"), 2, max(needed.n), 0.5) == []
    assert foresee(Declaration(design="paired"), 2, max(needed.n) - 1, 0.5)


def test_a_family_leaves_each_pair_its_share_of_alpha_when_it_is_planned() -> None:
    alone = max(sample_size("ttest", 0.8, alpha=0.05).n)
    assert foresee(Declaration(), 2, alone, 0.8) == []
    assert foresee(Declaration(compare="all_pairs"), 4, alone, 0.8)
    together = max(sample_size("ttest", 0.8, alpha=0.05 / 6).n)
    assert foresee(Declaration(compare="all_pairs"), 4, together, 0.8) == []


def test_what_cannot_be_planned_says_so() -> None:
    assert "cannot be computed" in foresee(Declaration(tests=("kendall",), design="paired"), 2, 10, 0.5)[0]
    assert power_as_planned(Declaration(tests=("kendall",), design="paired"), 2, 10, 0.5) is None


def test_the_power_curve_rises_through_the_planned_n() -> None:
    planned = power_as_planned(Declaration(design="paired"), 2, 16, 0.5)
    assert planned is not None
    powers = [power for _, power in planned.curve]
    assert powers == sorted(powers)
    assert (16, planned.power) in planned.curve


def test_a_plan_of_a_sweep_is_one_of_its_own_comparisons() -> None:
    (said,) = foresee(Declaration(study="sweep"), 5, 20, 0.5)
    plan = power_of("ttest", 0.5, 20, alpha=0.05 / 4, alternative="greater")
    assert f"the ttest at alpha 0.0125 sees an effect of 0.5 ({plan.effect_size_name}) with a power of" in said
    assert f"power of only {plan.power:.0%}" in said


def test_a_plan_over_folds_uses_the_declared_share_of_the_test_set() -> None:
    (half,) = foresee(Declaration(design="resampled", test_share=1.0), 2, 10, 0.8)
    (tenth,) = foresee(Declaration(design="resampled", folds=10), 2, 10, 0.8)
    assert "power of only 11%" in half
    assert "power of only 34%" in tenth


def test_outcomes_can_be_planned_and_the_warning_says_what_is_assumed() -> None:
    independent = Declaration(outcome="binary")
    (said,) = foresee(independent, 2, 100, 0.1)
    # Cohen (1988) and statsmodels: 0.45 against 0.55 needs 391 per group by the normal approximation
    assert "(shares around one half are assumed; say `baseline` for two_proportions)" in said
    assert "n = 393 would do" in said
    assert foresee(independent, 2, 250, 0.1, baseline=0.85) == []
    (paired,) = foresee(Declaration(outcome="binary", design="paired"), 2, 100, 0.1)
    assert "it is assumed that 50% of the pairs differ" in paired
    assert foresee(Declaration(outcome="binary", design="paired"), 2, 120, 0.1, discordant=0.12) == []
    plan = power_as_planned(independent, 2, 100, 0.1, baseline=0.85)
    assert plan is not None
    assert plan.power == pytest.approx(power_of("two_proportions", 0.1, 100, baseline=0.85).power)
    assert "sees an effect of 0.2" in foresee(Declaration(outcome="binary", study="sweep"), 4, 20, 0.2)[0]
    (one,) = foresee(Declaration(outcome="binary", design="one_sample", reference=0.5), 1, 20, 0.1)
    assert "the proportion at alpha 0.05" in one
    (too_far,) = foresee(independent, 2, 100, 0.1, baseline=0.95)
    assert "the difference cannot be 0.1" in too_far
