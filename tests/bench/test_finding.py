"""The sentences that a report says of a comparison: which way, how sure, and of what family."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from crucible_bench import Comparison, choose_test, clustered_ttest, compare, proportion_interval, run_test
from crucible_bench.finding import finding
from crucible_bench.plots import Picture
from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidOptionsError,
    builtin_registry,
    run_experiment,
)
from crucible_core.metrics import comparisons
from crucible_core.plan import plan_experiment
from crucible_core.report import headline, named_values, render_report
from crucible_core.report.comparison_section import comparison_section

_DRAW = np.random.default_rng(7)
LOW, HIGH, MIDDLE = (list(map(float, _DRAW.normal(mean, 1.0, 20))) for mean in (0.0, 2.0, 1.0))
SELDOM, OFTEN, HALF = (list(map(bool, np.arange(40) < wins)) for wins in (6, 33, 20))


def bench(data: Mapping[str, Any], stats: Mapping[str, Any] | None = None, **options: Any) -> Context:
    file: dict[str, Any] = {"id": "x", "pipeline": [{"name": "bench", "options": options}]}
    if stats is not None:
        file["reliability"] = {"stats": stats}
    return run_experiment(
        Experiment.model_validate(file), registry=builtin_registry(), assigns={"bench_data": dict(data)}
    )


def told(data: Mapping[str, Any], **options: Any) -> str:
    return finding(comparisons(bench(data, **options))["bench"])


@pytest.mark.parametrize(
    ("test", "groups"),
    [
        ("anova", {"a": LOW, "b": HIGH}),
        ("welch_anova", {"a": LOW, "b": HIGH}),
        ("kruskal_wallis", {"a": LOW, "b": HIGH}),
        ("friedman", {"a": LOW, "b": HIGH}),
        ("repeated_measures_anova", {"a": LOW, "b": HIGH}),
        ("chi_square", {"a": SELDOM, "b": OFTEN}),
    ],
)
def test_a_test_without_direction_says_that_two_groups_differ_and_not_which_is_higher(
    test: str, groups: dict[str, Any]
) -> None:
    assert told(groups, tests=[test]).startswith("a and b differ: ")


@pytest.mark.parametrize(
    ("test", "groups"),
    [
        ("brunner_munzel", {"a": LOW, "b": HIGH, "c": MIDDLE}),
        ("mann_whitney", {"a": LOW, "b": HIGH, "c": MIDDLE}),
        ("permutation", {"a": LOW, "b": HIGH, "c": MIDDLE}),
        ("sign", {"a": LOW, "b": HIGH, "c": MIDDLE}),
        ("fisher_exact", {"a": SELDOM, "b": OFTEN, "c": HALF}),
        ("two_proportions", {"a": SELDOM, "b": OFTEN, "c": HALF}),
    ],
)
def test_a_family_says_that_the_lower_group_is_lower_whatever_value_of_the_estimate_means_no_difference(
    test: str, groups: dict[str, Any]
) -> None:
    sentence = told(groups, tests=[test], compare="all_pairs")
    assert "a is lower than b (" in sentence
    assert "a is higher than" not in sentence
    swapped = told(dict(reversed(groups.items())), tests=[test], compare="all_pairs")
    assert "b is higher than a (" in swapped


def test_many_tied_values_have_a_shift_of_zero_and_still_a_direction() -> None:
    few, many = [0.0] * 25 + [1.0] * 5, [0.0] * 15 + [1.0] * 15
    sentence = told({"a": few, "b": many, "c": many}, tests=["mann_whitney"], compare="all_pairs", correction="none")
    assert "a is lower than b (Hodges-Lehmann shift 0, " in sentence


def test_the_estimate_of_a_family_is_not_called_after_its_first_pair() -> None:
    groups = {"a": LOW, "b": HIGH, "c": MIDDLE}
    assert "P(a > b)" not in told(groups, tests=["brunner_munzel"], compare="all_pairs")
    related = told(groups, tests=["pearson"], compare="all_pairs")
    assert " of a and b" not in related
    assert "0 of 3 comparisons show an association" in related
    assert "told apart" not in related


def test_a_one_sided_test_that_finds_nothing_does_not_say_that_the_groups_are_alike() -> None:
    assert told({"a": LOW, "b": HIGH}, tests=["ttest"], alternative="greater").startswith(
        "a was not shown to be higher than b: "
    )
    family = told({"a": LOW, "b": HIGH, "c": MIDDLE}, alternative="greater", compare="all_pairs")
    assert "a was not shown to be higher than b (" in family
    assert "told apart" not in family


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tests": ["anova"]}, "anova compares groups all at once, which has no direction"),
        ({"study": "sweep"}, "the study sweep has questions of its own"),
        ({}, "3 groups at once have no direction"),
    ],
)
def test_a_direction_that_nothing_would_ask_about_is_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(CrucibleError, match=part):
        bench({"a": LOW, "b": HIGH, "c": MIDDLE}, alternative="greater", **options)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"family": "pairwise"}, "the family pairwise needs to know what is compared"),
        ({"family": "dunn"}, "the family dunn needs to know what is compared"),
        ({"baseline": "a"}, "nothing is compared with 'a'"),
        ({"study": "sweep", "baseline": "a"}, "none with a baseline"),
        ({"study": "sweep", "family": "tukey_hsd"}, "the study sweep has comparisons of its own, not tukey_hsd"),
        ({"study": "sweep", "margin": 1.0}, "the study sweep has no pairs to judge"),
    ],
)
def test_a_declaration_that_would_change_nothing_is_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(CrucibleError, match=part):
        bench({"a": LOW, "b": HIGH, "c": MIDDLE}, **options)


def test_a_family_without_correction_has_no_intervals_that_hold_together() -> None:
    sentence = told({"a": LOW, "b": HIGH, "c": MIDDLE}, tests=["ttest"], compare="all_pairs", correction="none")
    assert "not adjusted for their number, 95% CIs one by one" in sentence
    assert "simultaneous" not in sentence


def test_an_effect_size_that_is_the_estimate_is_told_once() -> None:
    sentence = told({"a": LOW, "b": HIGH, "c": MIDDLE}, tests=["anova"])
    assert sentence.count("η²") == 1
    assert "eta" not in sentence


def test_a_one_sample_test_names_the_number_that_it_holds_the_group_against() -> None:
    assert told({"a": HIGH}, design="one_sample", reference=0.25).startswith("a is higher than the reference 0.25: ")


def test_counts_have_no_pairs() -> None:
    counts = {"a": {"successes": 30, "n": 100}, "b": {"successes": 50, "n": 100}}
    assert told(counts).startswith("a is lower than b: difference of proportions")
    with pytest.raises(CrucibleError, match="do not say which outcomes belong together"):
        bench(counts, paired=True)


def test_the_effect_size_asked_for_is_reported_by_chosen_tests_and_by_families() -> None:
    two = bench({"a": LOW, "b": HIGH}, stats={"effect_size_type": "cohens_d"})
    assert two.metrics["bench"]["tests"]["ttest"]["effect_size_name"] == "cohens_d"
    many = bench({"a": LOW, "b": HIGH, "c": MIDDLE}, compare="all_pairs", effect_size="glass_delta")
    pairs = many.metrics["bench"]["comparisons"]["comparisons"]
    assert {pair["effect_size_name"] for pair in pairs} == {"glass_delta"}
    other = bench({"a": LOW, "b": HIGH}, effect_size="cramers_v")
    decisions = [event for event in other.trace.events if event.kind == "decision"]
    assert any(event.decision == "effect_size: hedges_gav" for event in decisions)


def test_a_sweep_keeps_two_configurations_that_gave_the_same_numbers() -> None:
    best = bench({"a": LOW, "same": list(LOW), "c": HIGH}, study="sweep", paired=True, higher_is_better=False)
    assert best.metrics["bench"]["best"]["kept"] == ["a", "same"]


def test_verdicts_say_at_which_level_they_are_judged() -> None:
    ctx = bench({"a": LOW, "b": HIGH, "c": MIDDLE}, compare="all_pairs", margin=0.5)
    assert [verdict["alpha"] for verdict in ctx.metrics["bench"]["verdicts"]] == pytest.approx([0.05 / 3] * 3)


def test_the_answer_gives_the_value_of_the_margin_once() -> None:
    said = headline(bench({"a": LOW, "b": HIGH, "c": MIDDLE}, compare="all_pairs", margin=0.5))
    assert said.count("the margin") == 3
    assert said.count("0.5") == said.count("the margin of 0.5") == 1
    assert said.index("the margin of 0.5") == said.index("the margin")


@pytest.mark.parametrize(
    ("margin", "said"),
    [
        (0.1, "a is worse than b by more than the margin of 0.1."),
        (2.0, "a is worse than b, though perhaps by less than the margin of 2."),
    ],
)
def test_better_and_worse_say_whether_the_difference_is_shown_to_be_larger_than_the_margin(
    margin: float, said: str
) -> None:
    assert told({"a": LOW, "b": HIGH}, margin=margin).endswith(said)
    turned = told({"b": HIGH, "a": LOW}, margin=margin)
    assert turned.endswith(said.replace("a is worse than b", "b is better than a"))


def test_notes_that_are_the_same_for_all_pairs_are_told_once() -> None:
    folds = {name: values[:10] for name, values in {"a": LOW, "b": HIGH, "c": MIDDLE}.items()}
    family = bench(folds, design="resampled", folds=10).metrics["bench"]["comparisons"]
    assert sum("the standard error is 1.45 times" in note for note in family["notes"]) == 1
    assert any(note.startswith("each pair: the standard error is 1.45 times") for note in family["notes"])


def test_no_planning_number_is_explained_where_there_is_none() -> None:
    folds = {"a": LOW[:10], "b": [value + 0.01 * (-1.0) ** place for place, value in enumerate(LOW[:10])]}
    (verdict,) = bench(folds, design="resampled", folds=10, margin=0.001).metrics["bench"]["verdicts"]
    assert (verdict["verdict"], verdict["more_replicates"], verdict["notes"]) == ("inconclusive", None, [])


def test_dependent_values_have_no_test_of_normality() -> None:
    folds = {"a": LOW[:10], "b": HIGH[:10]}
    (check,) = bench(folds, design="resampled", folds=10).metrics["bench"]["checks"]
    assert "Shapiro" not in check
    assert "skewness" in check
    assert "Shapiro" in bench(folds, paired=True).metrics["bench"]["checks"][0]


def test_a_share_has_an_interval_of_shares_at_the_declared_level() -> None:
    ctx = bench({"a": [True] * 20, "b": [True] * 10 + [False] * 10}, confidence_level=0.9)
    groups = ctx.metrics["bench"]["groups"]
    expected = proportion_interval(20, 20, method="clopper_pearson", confidence_level=0.9)
    assert groups["a"]["mean_interval"] == pytest.approx(expected)
    assert comparisons(ctx)["bench"].confidence_level == 0.9


def test_underscores_in_the_names_of_groups_are_left_alone() -> None:
    assert "difference of means (my_model - its_rival) " in told({"my_model": LOW, "its_rival": HIGH})
    related = told({"my_model": LOW, "its_rival": HIGH}, tests=["pearson"])
    assert "my model" not in related
    assert "pearson_r " not in related.partition("Pearson's correlation")[0]


def test_pictures_tell_pairs_of_long_names_apart() -> None:
    names = [f"a_method_of_a_very_long_name_{word}" for word in ("one", "two", "three")]
    section = comparison_section(
        "bench", comparisons(bench(dict(zip(names, (LOW, HIGH, MIDDLE), strict=True)), compare="all_pairs"))["bench"]
    )
    forest = next(block for block in section.blocks if isinstance(block, Picture))
    for pair in ("…one – …two", "…one – …three", "…two – …three"):
        assert pair in forest.svg


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"groups": ["a", "b", "a"]}, "groups: 'a' is named twice"),
        ({"groups": ["a", "b"], "baseline": "aa"}, "baseline: 'aa' is not among the groups a, b"),
    ],
)
def test_groups_that_cannot_be_are_refused_before_there_are_data(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidOptionsError, match=part):
        bench({"a": LOW, "b": HIGH}, **options)


@pytest.mark.parametrize("kind", [list, np.array])
def test_clusters_of_dropped_items_are_dropped_with_them(kind: Any) -> None:
    values: list[float | None] = [*LOW]
    values[4] = None
    experiment = Experiment.model_validate(
        {
            "id": "x",
            "pipeline": [
                {
                    "name": "bench",
                    "options": {"design": "clustered", "clusters": "assigns.documents", "missing": "drop"},
                }
            ],
        }
    )
    documents = [place // 2 for place in range(20)]
    ctx = run_experiment(
        experiment,
        registry=builtin_registry(),
        assigns={"bench_data": {"a": values, "b": HIGH}, "documents": kind(documents)},
    )
    kept = [place for place in range(20) if place != 4]
    expected = clustered_ttest(
        {"a": [LOW[place] for place in kept], "b": [HIGH[place] for place in kept]},
        [documents[place] for place in kept],
    )
    assert ctx.metrics["bench"]["tests"]["clustered_ttest"]["p_value"] == expected.p_value


def test_every_item_answered_by_each_arm_is_one_declaration_with_other_numbers_of_answers_too() -> None:
    rng = np.random.default_rng(3)
    level, outputs = rng.random(15), []
    for model, times in (("new", 5), ("old", 3)):
        outputs += [
            {"model": model, "question": question, "right": bool(rng.random() < level[question])}
            for question in rng.permutation(np.repeat(np.arange(15), times)).tolist()
        ]
    outputs[4]["right"] = None
    options = {"data": "outputs", "group_by": "model", "value": "right", "design": "clustered", "clusters": "question"}
    experiment = Experiment.model_validate(
        {"id": "x", "pipeline": [{"name": "bench", "options": {**options, "missing": "drop", "margin": 0.1}}]}
    )
    answered = Context(experiment_id="x", run_id="r", experiment=experiment).add_outputs(outputs)
    ctx = plan_experiment(experiment, builtin_registry())[0].stage.run(answered)
    kept = [one for one in outputs if one["right"] is not None]
    values = {name: [float(one["right"]) for one in kept if one["model"] == name] for name in ("new", "old")}
    questions = {name: [one["question"] for one in kept if one["model"] == name] for name in ("new", "old")}
    expected = clustered_ttest(values, questions)
    found = Comparison.from_dict(ctx.metrics["bench"])
    assert found.tests[0].p_value == expected.p_value
    assert found.verdicts[0].estimate == pytest.approx(expected.estimate)
    assert found.tests[0] == compare(values, design="clustered", clusters=questions, outcome="binary").tests[0]
    assert "n = 74 and 45, in clusters" in found.sentence


def test_dropped_answers_are_in_the_finding() -> None:
    answers = {"a": [True] * 30 + [None] * 20, "b": [True] * 30 + [False] * 20}
    said = told(answers, missing="drop")
    assert said.endswith("Left out because of missing values: 20 of 50 values of a.")
    pairs = told({"a": [*LOW[:19], None], "b": [None, *HIGH[1:]]}, missing="drop", paired=True)
    assert pairs.endswith("Left out because of missing values: 2 of 20 values of each group.")
    assert "Left out" not in told({"a": LOW, "b": HIGH}, missing="drop")
    found = Comparison.from_dict(bench(answers, missing="drop").metrics["bench"])
    assert (found.left_out, found.groups["a"].n) == ({"a": 20}, 30)
    assert found.method.endswith("n = 30 and 50. Left out because of missing values: 20 of 50 values of a.")


def test_the_notes_about_sizes_reach_who_lets_auto_choose() -> None:
    ratings = {"a": [5, 4, 5, 4, 5], "b": [1, 2, 1, 2, 1]}
    (note,) = choose_test("ordinal", [5, 5], design="paired").notes
    assert "not even a unanimous sign test reaches 0.05" in note
    assert note in bench(ratings, paired=True, outcome="ordinal").metrics["bench"]["checks"]
    three = bench({"a": LOW[:6], "b": HIGH[:6], "c": MIDDLE[:6]}, compare="all_pairs").metrics["bench"]["checks"]
    assert sum("the smallest group has 6 values" in check for check in three) == 1
    declared = bench(ratings, paired=True, outcome="ordinal", tests=["sign"]).metrics["bench"]["checks"]
    assert note not in declared


def test_skewed_values_are_noted_where_a_test_of_means_is_not_made_for_them() -> None:
    rng = np.random.default_rng(11)
    skewed = list(rng.lognormal(size=30))
    zeros = [0.0] * 30

    def noted(groups: Mapping[str, Any], **options: Any) -> bool:
        return any("Cochran 1977" in check for check in bench(groups, **options).metrics["bench"]["checks"])

    assert noted({"a": skewed, "b": zeros}, paired=True)
    assert noted({"a": [1e300 * value for value in skewed], "b": zeros}, paired=True)
    assert not noted({"a": skewed, "b": zeros}, paired=True, tests=["sign"])
    assert not noted({"a": LOW, "b": HIGH}, paired=True)
    assert noted({"a": [10.0 * value for value in skewed], "b": HIGH})
    # The skewness of two groups of one shape and size cancels in their difference.
    assert not noted({"a": skewed, "b": [value + 1 for value in skewed]})
    assert noted({"a": skewed}, design="one_sample", reference=1.6)


def test_a_sweep_says_where_the_interval_of_the_best_mean_may_not_hold() -> None:
    rng = np.random.default_rng(13)
    few, many = ({str(i): list(rng.lognormal(size=n)) for i in range(3)} for n in (19, 40))
    normal = {str(i): list(np.linspace(-1.0, 1.0 + i, 20)) for i in range(3)}
    for groups, figure in ((few, "50 %"), (many, "40 %"), (normal, None)):
        for design in ("independent", "paired"):
            checks = bench(groups, study="sweep", design=design).metrics["bench"]["checks"]
            said = " ".join(check for check in checks if "best mean" in check)
            assert figure in said if figure else not said


@pytest.mark.slow
def test_the_figure_about_lognormal_differences_is_true() -> None:
    rng, runs = np.random.default_rng(12), 1500
    draws = rng.lognormal(size=(runs, 10)) - np.exp(0.5)
    rejected = np.mean([run_test("paired_ttest", {"a": row, "b": np.zeros(10)}).significant for row in draws])
    assert rejected == pytest.approx(0.16, abs=3.5 * (0.16 * 0.84 / runs) ** 0.5)


def test_the_numbers_of_each_pair_have_names_in_csv_and_for_gates() -> None:
    ctx = bench({"a": LOW, "b": HIGH, "c": MIDDLE}, compare="all_pairs")
    pair = ctx.metrics["bench"]["comparisons"]["comparisons"][1]
    expected = {
        "bench.a_vs_c.estimate": pair["estimate"],
        "bench.a_vs_c.p_adjusted": pair["p_adjusted"],
        "bench.a_vs_c.interval_low": pair["confidence_interval"][0],
        "bench.a_vs_c.effect_size_high": pair["effect_size_interval"][1],
    }
    rows = {row["metric"]: row["value"] for row in csv.DictReader(io.StringIO(render_report(ctx, "csv")))}
    assert {name: float(rows[name]) for name in expected} == expected
    assert {name: named_values(ctx)[name] for name in expected} == expected


def test_pairs_after_a_declared_test_of_ranks_are_compared_by_ranks() -> None:
    groups = {"a": LOW, "b": HIGH, "c": MIDDLE}
    two_sided = bench(groups, tests=["kruskal_wallis"], compare="all_pairs").metrics["bench"]["comparisons"]
    assert two_sided["procedure"] == "dunn"
    higher = bench(groups, tests=["kruskal_wallis"], compare="all_pairs", alternative="greater").metrics["bench"]
    assert higher["comparisons"]["method"].startswith("Brunner-Munzel test, one-sided (greater)")


def test_a_pair_without_any_difference_is_named_among_the_others() -> None:
    sentence = told({"a": LOW, "b": HIGH, "same": list(LOW)}, compare="all_pairs", paired=True)
    assert sentence.startswith("2 of 3 comparisons show a difference")
    assert (
        "a and same could not be told apart (mean difference 0, no interval (all 20 differences are 0), p = "
        in sentence
    )
