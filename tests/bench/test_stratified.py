"""Interquartile means and the probability of improvement over tasks and seeds: rliable's numbers, level, coverage.

The recorded values are of rliable 1.2.0 with arch 7.2.0, numpy 2.4.6 and scipy 1.17.1, made by this program:

    x, y = np.array(X), np.array(Y)  # runs by tasks
    def iqm(scores):
        return np.array([metrics.aggregate_iqm(scores)])
    def improvement(x, y):
        return np.array([metrics.probability_of_improvement(x, y)])
    def difference(x, y):
        return iqm(x) - iqm(y)
    np.random.seed(3)
    print(library.get_interval_estimates({"x": x}, iqm, reps=500))
    np.random.seed(4)
    print(library.get_interval_estimates({"xy": (x, y)}, improvement, reps=500))
    np.random.seed(5)
    print(library.get_interval_estimates({"xy": (x, y)}, difference, reps=500, confidence_interval_size=0.9))

rliable draws with numpy's global RandomState: for each resample an array of runs by tasks, of x and then of y.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crucible_bench import (
    CannotTestError,
    Comparison,
    compare,
    compare_iqm,
    iqm_interval,
    probability_of_improvement,
)
from crucible_bench.hypothesis_tests.stratified import _codes, _improvement, _iqm, _percentiles
from crucible_core import Context, Experiment, InvalidOptionsError, builtin_registry, run_experiment
from crucible_core.metrics import comparisons
from crucible_core.plan import plan_experiment
from crucible_core.report import render_report
from crucible_core.stages.bench import Bench, PlannedComparison

X = [
    [0.5, 1.14, 0.48, 0.61, 0.72, 0.63],
    [0.36, 1.64, 0.39, 0.75, 0.9, 0.7],
    [0.57, 1.84, 0.58, 0.44, 0.64, 0.54],
    [0.5, 1.36, 0.46, 0.4, 0.88, 0.37],
    [0.71, 1.35, 0.43, 0.34, 0.7, 0.52],
]
Y = [
    [0.55, 1.25, 0.46, 0.68, 0.73, 0.43],
    [0.67, 1.39, 0.52, 0.5, 0.59, 0.31],
    [0.48, 1.64, 0.41, 0.48, 0.84, 0.44],
    [0.72, 2.15, 0.58, 0.58, 0.86, 0.88],
    [0.55, 1.43, 0.52, 0.35, 0.44, 0.4],
    [0.58, 1.61, 0.3, 0.27, 0.61, 0.48],
    [0.52, 1.69, 0.61, 0.46, 0.76, 0.38],
]
IQM_X, IQM_Y = 0.600625, 0.5740909090909091
INTERVAL_X = (0.55151562, 0.64973437)
IMPROVEMENT, INTERVAL_OF_IMPROVEMENT = 0.4976190476190476, (0.36190476, 0.64047619)
INTERVAL_OF_DIFFERENCE = (-0.03474432, 0.08659091)


def rows(**matrices: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Groups and the task of each value, from matrices of runs by tasks."""
    groups = {name: np.ravel(matrix).tolist() for name, matrix in matrices.items()}
    strata = {name: [f"task {t}" for _ in matrix for t in range(len(matrix[0]))] for name, matrix in matrices.items()}
    return groups, strata


GROUPS, STRATA = rows(x=X, y=Y)


def drawn(seed: int, *matrices: Any) -> list[np.ndarray]:
    """500 resamples of each matrix, drawn as rliable draws them."""
    stream = np.random.RandomState(seed)
    found: list[list[np.ndarray]] = [[] for _ in matrices]
    for _ in range(500):
        for of, matrix in zip(found, map(np.array, matrices), strict=True):
            kept = stream.choice(matrix.shape[0], matrix.shape, replace=True)
            of.append(matrix[kept, np.arange(matrix.shape[1])])
    return [np.array(of) for of in found]


def test_point_estimates_are_rliables() -> None:
    assert iqm_interval(GROUPS["x"], STRATA["x"]).value == pytest.approx(IQM_X, rel=1e-15)
    assert iqm_interval(GROUPS["y"], STRATA["y"]).value == pytest.approx(IQM_Y, rel=1e-15)
    assert probability_of_improvement(GROUPS, STRATA).value == IMPROVEMENT
    result = compare_iqm(GROUPS, STRATA)
    assert result.estimate == pytest.approx(IQM_X - IQM_Y, rel=1e-13)
    assert (result.effect_size_name, result.effect_size) == ("common_language", IMPROVEMENT)


def test_intervals_are_rliables_with_the_same_resamples() -> None:
    (x,) = drawn(3, X)
    assert _percentiles(_iqm(x), 0.025) == pytest.approx(INTERVAL_X, abs=5.1e-9)
    x, y = drawn(4, X, Y)
    improvements = [float(_improvement(*_codes(*each))) for each in zip(x, y, strict=True)]
    assert _percentiles(np.array(improvements), 0.025) == pytest.approx(INTERVAL_OF_IMPROVEMENT, abs=5.1e-9)
    x, y = drawn(5, X, Y)
    assert _percentiles(_iqm(x) - _iqm(y), 0.05) == pytest.approx(INTERVAL_OF_DIFFERENCE, abs=5.1e-9)


def test_intervals_of_other_resamples_are_near() -> None:
    own = iqm_interval(GROUPS["x"], STRATA["x"])
    assert own.interval == pytest.approx(INTERVAL_X, abs=0.02)
    improvement = probability_of_improvement(GROUPS, STRATA)
    assert improvement.interval == pytest.approx(INTERVAL_OF_IMPROVEMENT, abs=0.03)
    result = compare_iqm(GROUPS, STRATA, confidence_level=0.9)
    assert result.confidence_interval == pytest.approx(INTERVAL_OF_DIFFERENCE, abs=0.02)
    assert result.effect_size_interval == pytest.approx(
        probability_of_improvement(GROUPS, STRATA, confidence_level=0.9).interval, abs=1e-12
    )


@pytest.mark.parametrize(("seeds", "tasks"), [(2, 3), (3, 1), (5, 7), (10, 4)])
def test_the_statistics_are_scipys(seeds: int, tasks: int) -> None:
    rng = np.random.default_rng(seeds)
    x, y = np.round(rng.normal(size=(2, seeds, tasks)), 1)
    groups, strata = rows(x=x, y=y)
    expected = stats.trim_mean(x, 0.25, axis=None) - stats.trim_mean(y, 0.25, axis=None)
    u = [stats.mannwhitneyu(x[:, t], y[:, t]).statistic / seeds**2 for t in range(tasks)]
    result = compare_iqm(groups, strata, resamples=200)
    assert result.estimate == pytest.approx(expected, abs=1e-14)
    assert result.effect_size == pytest.approx(np.mean(u), abs=1e-14)


def test_what_must_not_matter_does_not() -> None:
    result = compare_iqm(GROUPS, STRATA, resamples=500)
    turned = compare_iqm({"y": GROUPS["y"], "x": GROUPS["x"]}, STRATA, resamples=500)
    assert turned.estimate == pytest.approx(-result.estimate)
    assert turned.p_value == result.p_value
    assert turned.confidence_interval == pytest.approx(tuple(-end for end in result.confidence_interval[::-1]))
    order = np.random.default_rng(0).permutation(30)
    groups = {**GROUPS, "x": [GROUPS["x"][i] for i in order]}
    mixed = compare_iqm(groups, {**STRATA, "x": [STRATA["x"][i] for i in order]}, resamples=500)
    assert mixed == result
    huge = {name: [value * 2.0**1020 for value in values] for name, values in GROUPS.items()}
    assert compare_iqm(huge, STRATA, resamples=500).estimate == pytest.approx(result.estimate * 2.0**1020)
    greater = compare_iqm(GROUPS, STRATA, resamples=500, alternative="greater")
    less = compare_iqm(GROUPS, STRATA, resamples=500, alternative="less")
    assert greater.confidence_interval[1] == math.inf
    assert less.confidence_interval[0] == -math.inf
    assert greater.p_value + less.p_value == pytest.approx(1.0, abs=0.02)


def test_few_seeds_are_said_with_what_their_interval_covers() -> None:
    notes = compare_iqm(GROUPS, STRATA, resamples=200).notes
    said = "5 seeds per task: drawing so few anew makes bootstrap intervals too short, by a factor of about 0.89"
    assert any(note.startswith(said) and note.endswith("covers about 92%") for note in notes)
    many, labels = rows(x=np.arange(40.0).reshape(10, 4), y=np.arange(40.0).reshape(10, 4))
    assert not any("too short" in note for note in compare_iqm(many, labels, resamples=200).notes)
    equal, labels = rows(x=[[1.0, 2.0]] * 10, y=[[1.0, 2.0]] * 10)
    same = compare_iqm(equal, labels, resamples=200)
    assert (same.estimate, same.p_value, same.effect_size) == (0.0, 1.0, 0.5)
    assert any("the interval has no width" in note for note in same.notes)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_test_keeps_its_level_with_few_seeds(seeds: int) -> None:
    rng, runs, rejected = np.random.default_rng(8), 400, 0
    difficulty = rng.lognormal(0.0, 1.0, 6)
    for _ in range(runs):
        groups, strata = rows(
            x=difficulty * rng.lognormal(0.0, 0.4, (seeds, 6)), y=difficulty * rng.lognormal(0.0, 0.4, (seeds, 6))
        )
        rejected += compare_iqm(groups, strata, resamples=199).significant
    assert rejected / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.slow
def test_the_interval_covers_as_often_as_its_note_says() -> None:
    rng, runs, covered, tasks = np.random.default_rng(9), 600, 0, 12
    centres = np.linspace(0.0, 2.0, tasks)
    everything = np.sort((centres + rng.normal(0.0, 0.5, (200_000, tasks))).ravel())
    true = everything[everything.size // 4 : -(everything.size // 4)].mean()
    for _ in range(runs):
        groups, strata = rows(x=centres + rng.normal(0.0, 0.5, (5, tasks)))
        low, high = iqm_interval(groups["x"], strata["x"], resamples=1000).interval
        covered += low <= true <= high
    assert covered / runs == pytest.approx(0.92, abs=0.005 + 3.5 * math.sqrt(0.92 * 0.08 / runs))


@pytest.mark.parametrize(
    ("groups", "strata", "said"),
    [
        ({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}, ["t", "t"], "compares two groups, but 3 were given"),
        ({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]}, ["t", "t", "u"], "has 1 value in 'u' but 2 in 't'"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, ["t", "u"], "one value in each task.*run at least two seeds"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, {"a": ["t"] * 2}, "no strata of group 'b'"),
        (
            {"a": [1.0, 2.0], "b": [1.0, 2.0]},
            {"a": ["t"] * 2, "b": ["u"] * 2},
            "'b' has no value in 't', which 'a' has",
        ),
        (
            {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0, 4.0]},
            {"a": ["t"] * 2, "b": ["t", "t", "u", "u"]},
            "'a' has no value in 'u', which 'b' has",
        ),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, ["t"], "there are 2 values but 1 stratum labels"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, ["t", None], "the stratum label at position 1 is missing"),
        ({"a": [1.0, math.nan], "b": [1.0, 2.0]}, ["t", "t"], "missing"),
    ],
)
def test_what_cannot_be_compared_is_refused(groups: Any, strata: Any, said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        compare_iqm(groups, strata)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="seed must not be negative"):
        iqm_interval(GROUPS["x"], STRATA["x"], seed=-1)
    with pytest.raises(CannotTestError, match="20 resamples cannot resolve a tail"):
        probability_of_improvement(GROUPS, STRATA, resamples=20)


def test_a_comparison_has_the_difference_and_each_groups_mean() -> None:
    result = compare(GROUPS, design="stratified", strata=STRATA, measure="score", resamples=2000)
    assert result.tests == (compare_iqm(GROUPS, STRATA, resamples=2000),)
    assert result.iqm["x"].value == pytest.approx(IQM_X)
    assert result.iqm["x"].interval == iqm_interval(GROUPS["x"], STRATA["x"], resamples=2000).interval
    assert result.sentence.startswith(
        "x and y could not be told apart in score: difference of interquartile means (x - y) 0.02653, 95% CI ["
    )
    assert result.sentence.endswith("n = 30 and 42, in strata.")
    assert Comparison.from_json(result.to_json()) == result
    assert not result.paired
    better = compare({**GROUPS, "x": [v + 1 for v in GROUPS["x"]]}, design="stratified", strata=STRATA, resamples=2000)
    assert better.headline.startswith("x is higher than y by 1.0")


def test_more_than_two_groups_are_a_family_of_pairs() -> None:
    groups, strata = {**GROUPS, "z": GROUPS["y"]}, {**STRATA, "z": STRATA["y"]}
    result = compare(groups, design="stratified", strata=strata, resamples=1000)
    assert result.comparisons is not None
    assert [(p.first, p.second) for p in result.comparisons.comparisons] == [("x", "y"), ("x", "z"), ("y", "z")]
    last = result.comparisons.comparisons[-1]
    assert (last.estimate, last.p_value, last.effect_size) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"design": "stratified"}, "strata: only for the design stratified"),
        ({"strata": STRATA}, "strata: only for the design stratified"),
        ({"design": "stratified", "strata": STRATA, "margin": 0.1}, "margin: the design stratified has no verdicts"),
        ({"design": "stratified", "strata": STRATA, "outcome": "ordinal"}, "interquartile means need measurements"),
        ({"design": "stratified", "strata": STRATA, "study": "sweep"}, "study: sweep compares one mean per group"),
        ({"design": "stratified", "strata": STRATA, "tests": "ttest"}, "ttest is for the design independent"),
        ({"design": "stratified", "strata": STRATA, "rope": 0.1}, "rope: its Bayesian tests are for pairs and folds"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        compare(GROUPS, **options)


def test_right_and_wrong_answers_are_refused_with_the_design_for_them() -> None:
    answers = {"a": [1, 0, 1, 1], "b": [0, 0, 1, 1]}
    with pytest.raises(CannotTestError, match="take the design clustered, with the task as the cluster"):
        compare(answers, design="stratified", strata=["t", "t", "u", "u"])


# --- in an experiment file --------------------------------------------------------------------------------------------


def outputs() -> list[dict[str, Any]]:
    return [
        {"arm": arm, "task": f"task {task}", "seed": seed, "score": score}
        for arm, matrix in (("x", X), ("y", Y))
        for seed, row in enumerate(matrix)
        for task, score in enumerate(row)
    ]


def of_outputs(rows: list[dict[str, Any]], **options: Any) -> Context:
    """The context after a bench stage that compared the outputs."""
    asked = {
        "data": "outputs",
        "group_by": "arm",
        "value": "score",
        "design": "stratified",
        "strata": "task",
        **options,
    }
    experiment = Experiment.model_validate({"id": "x", "pipeline": [{"name": "bench", "options": asked}]})
    (planned,) = plan_experiment(experiment, builtin_registry())
    return planned.stage.run(Context(experiment_id="x", run_id="r", experiment=experiment).add_outputs(rows))


def test_a_bench_stage_reads_arm_task_and_score_from_the_outputs() -> None:
    ctx = of_outputs(outputs(), resamples=1000)
    result = comparisons(ctx)["bench"]
    assert result.tests == (compare_iqm(GROUPS, STRATA, resamples=1000),)
    assert result.measure == "score"
    html = render_report(ctx, "html")
    assert "interquartile mean [95% CI]" in html
    assert "0.601" in html
    mixed = [outputs()[place] for place in np.random.default_rng(1).permutation(72)]
    (other,) = comparisons(of_outputs(mixed, resamples=1000, groups=["x", "y"]))["bench"].tests
    assert other == result.tests[0]


def test_labels_may_be_beside_the_groups() -> None:
    both = {"x": GROUPS["x"], "y": GROUPS["y"][:30]}
    experiment = Experiment.model_validate(
        {"id": "x", "pipeline": [{"name": "bench", "options": {"design": "stratified", "strata": "assigns.tasks"}}]}
    )
    assigns = {"bench_data": both, "tasks": STRATA["x"]}
    ctx = run_experiment(experiment, registry=builtin_registry(), assigns=assigns)
    expected = compare_iqm(both, STRATA["x"])
    assert comparisons(ctx)["bench"].tests == (expected,)


def test_missing_scores_are_dropped_and_then_leave_unequal_tasks() -> None:
    broken = [{**one, "score": None} if one["seed"] == 4 else one for one in outputs()]
    with pytest.raises(CannotTestError, match="missing: drop"):
        of_outputs(broken)
    dropped = comparisons(of_outputs(broken, missing="drop", resamples=1000))["bench"]
    assert dropped.tests[0].n == (24, 36)
    assert dropped.left_out == {"x": 6, "y": 6}
    one = outputs()
    one[4 * 6 + 2]["score"] = None
    with pytest.raises(CannotTestError, match=r"'x' has 4 values in 'task 2' but 5 in 'task 0'; .* same number"):
        of_outputs(one, missing="drop")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strata": None}, "strata: goes with design: stratified, and names the place of each score's task"),
        ({"design": "independent"}, "strata: goes with design: stratified"),
        ({"pair_by": "seed"}, "pair_by: only for data: outputs with paired: true"),
        ({"scale": "log"}, "scale: log has no ratios of interquartile means"),
        ({"data": "assigns.bench_data"}, "strata: 'task' is neither assigns.NAME nor metrics.NAME"),
        ({"margin": 0.1}, "margin: the design stratified has no verdicts"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_there_are_data(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOptionsError, match=said):
        of_outputs([], **options)


def test_a_plan_says_that_its_power_cannot_be_known() -> None:
    experiment = Experiment.model_validate({"id": "x", "pipeline": [{"name": "bench"}]})
    stage = Bench(design="stratified", strata="assigns.tasks", planned=PlannedComparison(n=5, smallest_effect=0.5))
    assert list(stage.advise(experiment)) == [
        "planned: the power of iqm cannot be computed before there are data, so it is not checked for n = 5"
    ]
