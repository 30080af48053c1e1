"""The stages that come with the product: validate, data_checks, bench and report, run as a pipeline runs them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from stages_for_tests import experiment_of, registry
from upath import UPath

from crucible_bench import adjust_p_values, run_test
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_core import (
    Context,
    InvalidOptionsError,
    OutputSpec,
    Registry,
    StageFailedError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)
from crucible_core.stages.report import Report


def run(*pipeline: str | dict[str, Any], assigns: dict[str, Any] | None = None, **fields: Any) -> Context:
    return run_experiment(experiment_of(*pipeline, **fields), registry=registry(), assigns=assigns)


def failure(*pipeline: str | dict[str, Any], assigns: dict[str, Any] | None = None, **fields: Any) -> str:
    with pytest.raises(StageFailedError) as caught:
        run(*pipeline, assigns=assigns, **fields)
    return caught.value.context.trace.endings[caught.value.stage].message


def refusal(*pipeline: str | dict[str, Any], **fields: Any) -> str:
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(experiment_of(*pipeline, **fields), registry())
    return str(caught.value)


# --- validate -------------------------------------------------------------------------------------------------------


def test_validate_records_what_stands_behind_each_name() -> None:
    ctx = run(
        "validate", {"name": "fit", "module": "train", "options": {"epochs": 1}}, {"name": "fail", "enabled": False}
    )
    assert ctx.get_metric("validate") == {
        "stages": {
            "validate": "crucible_core.stages.validate:Validate",
            "fit": "stages_for_tests:Train",
            "fail": "stages_for_tests:fail",
        },
        "skipped": ["fail"],
        "warnings": [],
    }


def test_validate_uses_the_registry_of_the_run() -> None:
    assert "nothing" not in builtin_registry()
    assert run("validate", "nothing").stage_completed("validate")


# --- data_checks ----------------------------------------------------------------------------------------------------

EXAMPLES = [
    {"input": "a", "output": "b"},
    {"input": "a"},
    {"input": "", "output": "b"},
    {"input": None, "output": math.nan},
    {"input": 0, "output": False, "more": 1},
]


def test_data_checks_counts_examples_that_lack_a_required_field() -> None:
    ctx = run("data_checks", assigns={"examples": EXAMPLES})
    checked = ctx.get_metric("data_checks")
    assert (checked["total"], checked["missing_required"]) == (5, 3)
    assert checked["required_fields"] == ["input", "output"]
    assert ctx.assigns["data_issues"] == [
        {"index": 1, "missing": ["output"]},
        {"index": 2, "missing": ["input"]},
        {"index": 3, "missing": ["input", "output"]},
    ]


def test_data_checks_looks_for_the_fields_that_it_is_told() -> None:
    stage = {"name": "data_checks", "options": {"required_fields": ["more"]}}
    assert run(stage, assigns={"examples": EXAMPLES}).get_metric("data_checks")["missing_required"] == 4


def test_data_checks_that_fail_fast_name_the_first_issue() -> None:
    stage = {"name": "data_checks", "options": {"fail_fast": True}}
    shown = failure(stage, assigns={"examples": EXAMPLES})
    assert shown == ("3 of 5 examples lack a required field; the first is example 1, which lacks output")
    assert run(stage, assigns={"examples": EXAMPLES[:1]}).get_metric("data_checks")["missing_required"] == 0


@pytest.mark.parametrize(
    "examples",
    [tuple(EXAMPLES), pd.DataFrame(EXAMPLES), np.array(EXAMPLES, dtype=object)],
    ids=lambda e: type(e).__name__,
)
def test_data_checks_reads_any_sequence_and_data_frames(examples: Any) -> None:
    checked = run("data_checks", assigns={"examples": examples}).get_metric("data_checks")
    assert (checked["total"], checked["missing_required"]) == (5, 3)


def test_data_checks_of_no_examples_counts_none() -> None:
    checked = run("data_checks", assigns={"examples": []}).get_metric("data_checks")
    assert (checked["total"], checked["missing_required"]) == (0, 0)


@pytest.mark.parametrize(
    "value",
    [None, math.nan, "", np.float32("nan"), np.float64("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.str_("")],
)
def test_a_field_without_a_value_is_missing(value: Any) -> None:
    examples = [{"input": value, "output": 1}]
    assert run("data_checks", assigns={"examples": examples}).get_metric("data_checks")["missing_required"] == 1


@pytest.mark.parametrize(
    "value",
    [0, False, " ", [], np.zeros(0), np.zeros((2, 2)), pd.Series([math.nan, 1]), {"a": None}, b"", np.array("")],
)
def test_a_field_with_any_value_is_there(value: Any) -> None:
    examples = [{"input": value, "output": 1}]
    assert run("data_checks", assigns={"examples": examples}).get_metric("data_checks")["missing_required"] == 0


@pytest.mark.parametrize(
    ("examples", "part"),
    [
        (None, 'no stage before this one put assigns["examples"]'),
        ("text", "must be a sequence of mappings; it is 'text'"),
        ({"input": 1}, "must be a sequence of mappings; it is"),
        (5, "must be a sequence of mappings; it is 5"),
        ([{"input": 1, "output": 1}, 7], "example 1 must be a mapping of field to value; it is 7"),
        ([["input", "output"]], "example 0 must be a mapping"),
        ({"input": [1], "output": [2]}.items(), "example 0 must be a mapping"),
    ],
)
def test_data_checks_says_what_is_wrong_with_the_examples(examples: Any, part: str) -> None:
    assert part in failure("data_checks", assigns={"examples": examples})


def test_data_checks_without_examples_says_so() -> None:
    assert 'no stage before this one put assigns["examples"]' in failure("data_checks")


def test_data_checks_does_not_use_up_the_examples_of_the_next_stage() -> None:
    examples = (one for one in EXAMPLES)
    with contextlib.suppress(StageFailedError):
        run("data_checks", assigns={"examples": examples})
    assert len(list(examples)) == 5


# --- bench: the contract --------------------------------------------------------------------------------------------

CONTROL = [0.71, 0.74, 0.69, 0.73, 0.72, 0.75, 0.70, 0.74]
TREATMENT = [0.75, 0.79, 0.74, 0.77, 0.78, 0.80, 0.73, 0.79]
THIRD = [0.61, 0.64, 0.59, 0.63, 0.62, 0.65, 0.60, 0.64]
TWO = {"control": CONTROL, "treatment": TREATMENT}
THREE = {**TWO, "third": THIRD}


def bench(groups: Any = TWO, /, *, fields: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    stage = {"name": "bench", "options": options}
    result = run(stage, assigns={"bench_data": groups}, **(fields or {})).get_metric(options.get("metric", "bench"))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return result


def test_bench_finds_its_groups_and_puts_its_result_where_the_contract_says() -> None:
    result = bench()
    assert result["alpha"] == 0.05
    control = result["groups"]["control"]
    assert (control.pop("values"), control.pop("sampled")) == (CONTROL, False)
    margin = stats.t.ppf(0.975, 7) * np.std(CONTROL, ddof=1) / math.sqrt(8)
    assert control.pop("mean_interval") == pytest.approx([np.mean(CONTROL) - margin, np.mean(CONTROL) + margin])
    assert control == pytest.approx(
        {"n": 8, "mean": np.mean(CONTROL), "sd": np.std(CONTROL, ddof=1), "median": np.median(CONTROL)}
    )
    assert set(result["groups"]) == {"control", "treatment"}
    assert list(result["tests"]) == ["ttest"]
    test = result["tests"]["ttest"]
    assert {"statistic", "p_value", "significant", "effect_size", "confidence_interval"} <= set(test)
    assert test["significant"] is True
    assert test["n"] == [8, 8]
    assert test["groups"] == ["control", "treatment"]


@pytest.mark.parametrize("name", sorted(set(DEFINITIONS) - {"mcnemar", "mcnemar_midp", "two_proportions"}))
def test_each_test_gives_the_numbers_of_the_statistics_module(name: str) -> None:
    folds = {"folds": 8} if name == "corrected_resampled_ttest" else {}
    result = bench(tests=[name], seed=3, **folds)["tests"][name]
    computed = run_test(name, TWO, seed=3).to_dict()
    for key in ("statistic", "p_value", "significant", "estimate", "confidence_interval", "effect_size", "method", "n"):
        assert result[key] == computed[key]
    low, high = result["confidence_interval"]
    assert low <= high
    assert 0 <= result["p_value"] <= 1


@pytest.mark.parametrize(("spelling", "name"), [("mannwhitney", "mann_whitney"), ("kruskal", "kruskal_wallis")])
def test_the_spellings_of_elixir_are_understood(spelling: str, name: str) -> None:
    assert list(bench(tests=[spelling])["tests"]) == [name]
    assert list(bench(tests=[spelling, name])["tests"]) == [name]
    assert list(bench(fields={"reliability": {"stats": {"tests": [spelling]}}})["tests"]) == [name]


def test_several_tests_are_a_family_whose_p_values_are_adjusted() -> None:
    result = bench(tests=["ttest", "mann_whitney", "bootstrap"])
    raw = [test["p_value"] for test in result["tests"].values()]
    adjusted = [test["p_adjusted"] for test in result["tests"].values()]
    assert adjusted == pytest.approx(list(adjust_p_values(raw, "holm")))
    assert (result["correction"], result["family_size"]) == ("holm", 3)
    for test in result["tests"].values():
        assert test["significant"] == (test["p_adjusted"] <= 0.05)


def test_one_test_is_no_family() -> None:
    result = bench(tests=["ttest"], correction="bonferroni")
    assert "p_adjusted" not in result["tests"]["ttest"]
    assert (result["correction"], result["family_size"]) == (None, 1)


@pytest.mark.parametrize("correction", ["bonferroni", "fdr", "holm", "none"])
def test_the_correction_is_the_one_asked_for_and_named(correction: Any) -> None:
    tests = ["ttest", "mann_whitney"]
    for result in (
        bench(tests=tests, correction=correction),
        bench(fields={"reliability": {"stats": {"tests": tests, "multiple_testing_correction": correction}}}),
    ):
        raw = [test["p_value"] for test in result["tests"].values()]
        assert result["correction"] == correction
        assert [test["p_adjusted"] for test in result["tests"].values()] == list(adjust_p_values(raw, correction))


def test_what_a_bench_leaves_open_is_taken_from_the_experiment() -> None:
    stats = {"tests": ["bootstrap"], "alpha": 0.01, "confidence_level": 0.9, "effect_size_type": "cohens_d"}
    result = bench(fields={"reliability": {"stats": {**stats, "bootstrap_iterations": 500}}})
    test = result["tests"]["bootstrap"]
    assert (result["alpha"], test["confidence_level"], test["effect_size_name"]) == (0.01, 0.9, "cohens_d")
    own = bench(tests=["ttest"], alpha=0.1, fields={"reliability": {"stats": stats}})
    assert (list(own["tests"]), own["alpha"]) == (["ttest"], 0.1)


def test_a_bench_of_quantiles_takes_no_test_of_means_from_the_experiment() -> None:
    told = {"reliability": {"stats": {"tests": ["ttest"], "effect_size_type": "cohens_d", "alpha": 0.1}}}
    result = bench(quantile=0.5, fields=told)
    assert (list(result["tests"]), result["alpha"], result["quantile"]) == (["quantile"], 0.1, 0.5)
    assert list(bench(quantile=0.5, paired=True)["tests"]) == ["paired_quantile"]
    assert "needs to know which one" in refusal({"name": "bench", "options": {"tests": ["quantile"]}})
    assert bench(quantile=0.5, margin=0.01)["verdicts"][0]["verdict"] == "worse"


def test_benjamini_hochberg_is_another_name_of_fdr() -> None:
    tests = ["ttest", "mann_whitney"]
    named = {"tests": tests, "multiple_testing_correction": "benjamini_hochberg"}
    expected = bench(tests=tests, correction="fdr")
    assert expected["correction"] == "fdr"
    assert bench(tests=tests, correction="benjamini_hochberg") == expected
    assert bench(fields={"reliability": {"stats": named}}) == expected


def test_the_iterations_may_stand_in_the_options_of_the_statistics() -> None:
    def interval(stats: dict[str, Any]) -> Any:
        return bench(fields={"reliability": {"stats": {"tests": ["bootstrap"], **stats}}})["tests"]["bootstrap"]

    few = interval({"options": {"bootstrap_iterations": 200, "other": 1}})
    assert few == interval({"bootstrap_iterations": 200}) != interval({})
    assert few == interval({"bootstrap_iterations": 200, "options": {"bootstrap_iterations": 5000}})
    told = {"stats": {"tests": ["bootstrap"], "options": {"bootstrap_iterations": 10}}}
    assert "reliability.stats.options.bootstrap_iterations: 10 is fewer than 100" in refusal("bench", reliability=told)


def test_the_interval_follows_alpha_unless_said() -> None:
    assert bench(alpha=0.001)["tests"]["ttest"]["confidence_level"] == 0.999
    assert bench(alpha=0.001, confidence_level=0.5)["tests"]["ttest"]["confidence_level"] == 0.5


def test_the_seed_decides_what_is_drawn() -> None:
    uneven = {"a": [math.sqrt(n) for n in range(20)], "b": [math.log(n + 2) for n in range(20)]}
    options = {"tests": ["bootstrap"], "resamples": 100}
    first, again, other = (bench(uneven, seed=seed, **options)["tests"]["bootstrap"] for seed in (1, 1, 2))
    assert first == again
    assert first["confidence_interval"] != other["confidence_interval"]


def test_without_a_test_asked_for_the_groups_decide_and_it_is_recorded_why() -> None:
    def chosen(groups: Any, **options: Any) -> tuple[list[str], str]:
        ctx = run({"name": "bench", "options": options}, assigns={"bench_data": groups})
        decision = next(one for one in ctx.trace.decisions if one.decision.startswith("test: "))
        assert "by rule, for" in decision.reasoning
        assert decision.alternatives
        assert decision.stage == "bench"
        return list(ctx.get_metric("bench")["tests"]), decision.decision

    assert chosen(TWO) == (["ttest"], "test: ttest")
    assert chosen(TWO, paired=True) == (["paired_ttest"], "test: paired_ttest")
    assert chosen(THREE) == (["welch_anova"], "test: welch_anova")
    assert chosen(THREE, paired=True) == (["repeated_measures_anova"], "test: repeated_measures_anova")
    assert chosen({"a": [True, False, True], "b": [False, False, True]}) == (
        ["two_proportions"],
        "test: two_proportions",
    )


def test_each_choice_that_was_not_asked_for_is_a_decision() -> None:
    ctx = run({"name": "bench", "options": {"tests": ["ttest", "mann_whitney"]}}, assigns={"bench_data": TWO})
    told = [one.decision for one in ctx.trace.decisions]
    assert "alpha: 0.05" in told
    assert "correction: holm" in told
    assert all(one.reasoning for one in ctx.trace.decisions)


def test_groups_are_chosen_and_ordered() -> None:
    result = bench(THREE, groups=["third", "control"])
    assert list(result["groups"]) == ["third", "control"]
    assert result["tests"]["ttest"]["groups"] == ["third", "control"]
    assert result["tests"]["ttest"]["estimate"] < 0


def test_groups_may_be_metrics_or_outputs() -> None:
    outputs = [
        {"model": name, "fold": i, "score": score} for name, scores in TWO.items() for i, score in enumerate(scores)
    ]
    options = {"data": "outputs", "group_by": "model", "value": "score"}
    from_outputs = run({"name": "record", "options": {"outputs": outputs}}, {"name": "bench", "options": options})
    assert from_outputs.get_metric("bench")["tests"] == bench()["tests"]
    assert from_outputs.get_metric("bench")["measure"] == "score"
    from_metrics = run(
        {"name": "bench", "options": {"metric": "first"}},
        {"name": "again", "module": "bench", "options": {"data": "assigns.folds"}},
        assigns={"bench_data": TWO, "folds": TWO},
    )
    assert from_metrics.get_metric("bench")["tests"] == from_metrics.get_metric("first")["tests"]


def test_outputs_are_paired_by_a_field_whatever_their_order() -> None:
    outputs = [{"m": "a", "fold": i, "v": v} for i, v in enumerate(CONTROL)]
    outputs += [{"m": "b", "fold": i, "v": v} for i, v in reversed(list(enumerate(TREATMENT)))]
    options = {"data": "outputs", "group_by": "m", "value": "v", "pair_by": "fold", "paired": True}
    record = {"name": "record", "options": {"outputs": outputs}}
    test = run(record, {"name": "bench", "options": options}).get_metric("bench")["tests"]["paired_ttest"]
    assert test["p_value"] == pytest.approx(run_test("paired_ttest", {"a": CONTROL, "b": TREATMENT}).p_value)
    assert "has no output with fold 0" in failure(
        {"name": "record", "options": {"outputs": outputs[1:]}}, {"name": "bench", "options": options}
    )
    assert "two outputs of group 'a' have fold 0" in failure(
        {"name": "record", "options": {"outputs": [outputs[0], *outputs]}}, {"name": "bench", "options": options}
    )


def test_two_benches_in_one_pipeline_have_a_metric_each() -> None:
    second = {"name": "second", "module": "bench"}
    assert "metrics['bench'] exists already" in failure("bench", second, assigns={"bench_data": TWO})
    ctx = run("bench", second | {"options": {"metric": "second"}}, assigns={"bench_data": TWO})
    assert ctx.get_metric("second") == ctx.get_metric("bench")


@pytest.mark.parametrize("values", [np.array(CONTROL), tuple(CONTROL), pd.Series(CONTROL), np.float32(CONTROL)])
def test_a_group_may_be_any_row_of_numbers(values: Any) -> None:
    assert bench({"a": values, "b": TREATMENT})["groups"]["a"]["n"] == 8


@pytest.mark.parametrize(
    ("groups", "options", "part"),
    [
        ({}, {}, "at least two groups"),
        ({"a": CONTROL}, {}, "at least two groups"),
        (THREE, {"tests": ["ttest"]}, "it compares two groups, but there are 3"),
        ({"a": [], "b": CONTROL}, {}, "group 'a' is empty"),
        ({"a": [1.0], "b": [2.0]}, {}, "ttest"),
        (
            {"a": [1, math.nan], "b": [1, 2]},
            {},
            "lacks 1 of 2 values (position 1, counted from 0): `missing: drop` leaves",
        ),
        ({"a": [1, math.inf], "b": [1, 2]}, {}, "infinite"),
        (
            {"a": [1, None], "b": [1, 2]},
            {},
            "lacks 1 of 2 values (position 1, counted from 0): `missing: drop` leaves",
        ),
        ({"a": ["x", "y"], "b": [1, 2]}, {}, "holds real numbers only"),
        ({"a": [True, False], "b": [1, 2]}, {}, "booleans"),
        ({"a": "12", "b": [1, 2]}, {}, "sequence of numbers"),
        ({"a": 5, "b": [1, 2]}, {}, "sequence of numbers"),
        ({"a": [[1], [2]], "b": [1, 2]}, {}, "nested"),
        ({"a": CONTROL, "b": CONTROL[:-1]}, {"paired": True}, "paired groups have one length"),
        ([1, 2], {}, "must be a mapping of group name to numbers; it is"),
        (None, {}, "must be a mapping of group name to numbers; it is"),
        (TWO, {"groups": ["control", "treatmnt"]}, "did you mean 'treatment'?"),
        (TWO, {"data": "assigns.bench_dta"}, "did you mean 'bench_data'?"),
        (TWO, {"data": "metrics.bench_data"}, "no stage before this one put metrics['bench_data']"),
        ({1: CONTROL, "1": TREATMENT}, {}, "have the same name as text: 1 and '1'"),
    ],
)
def test_what_cannot_be_compared_fails_with_the_reason_and_gives_no_result(
    groups: Any, options: Any, part: str
) -> None:
    with pytest.raises(StageFailedError) as caught:
        run({"name": "bench", "options": options}, assigns={"bench_data": groups})
    assert part in str(caught.value), str(caught.value)
    assert not caught.value.context.has_metric("bench")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"data": "outputs"}, "data: outputs needs group_by and value"),
        ({"data": "nowhere.x"}, "'nowhere.x' is not one of assigns.NAME, metrics.NAME or outputs"),
        ({"data": "assigns"}, "is not one of"),
        ({"data": "assigns."}, "is not one of"),
        ({"data": "outputs.x", "group_by": "a", "value": "b"}, "is not one of"),
        ({"paired": True, "tests": ["ttest", "wilcoxon"]}, "and would ignore the pairing"),
        ({"pair_by": "fold"}, "pair_by"),
        ({"tests": []}, "at least 1 item"),
        ({"tests": ["t-test"]}, "'ttest'"),
        ({"groups": []}, "at least 1 item"),
        ({"groups": ["control", "control"]}, "named twice"),
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": 1}, "less than 1"),
        ({"alpha": "0.05"}, "valid number"),
        ({"resamples": 10}, "greater than or equal to 100"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"tests": ["ttest"], "effect_size": "eta_squared"}, "eta_squared"),
    ],
)
def test_a_comparison_that_can_never_be_made_is_refused_before_the_run(options: dict[str, Any], part: str) -> None:
    assert part in refusal({"name": "bench", "options": options})


def test_too_few_resamples_for_the_whole_experiment_are_refused_before_the_run() -> None:
    stats = {"tests": ["bootstrap"], "bootstrap_iterations": 10}
    assert "100" in refusal("bench", reliability={"stats": stats})


def test_pairing_that_the_tests_of_the_experiment_ignore_is_refused_before_the_run() -> None:
    stage = {"name": "bench", "options": {"paired": True}}
    assert "would ignore the pairing" in refusal(stage, reliability={"stats": {"tests": ["ttest"]}})


@pytest.mark.slow
def test_without_scipy_a_bench_is_refused_before_the_run_with_the_extra_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['scipy'] = None\n"
        "from crucible_core import Experiment, builtin_registry, plan_experiment\n"
        "plan_experiment(Experiment.model_validate({'id': 'a', 'pipeline': [{'name': 'bench'}]}), builtin_registry())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "comparing needs the extra 'stats': pip install 'crucible-dagster[stats]'" in done.stderr


# --- report ---------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_without_outputs_one_report_in_markdown_and_html_is_written() -> None:
    ctx = run("measure", "report")
    place = Path("reports").absolute() / "tried" / ctx.run_id
    assert dict(ctx.artifacts) == {
        "report.markdown": str(place / "report.md"),
        "report.html": str(place / "report.html"),
    }
    assert sorted(file.name for file in place.iterdir()) == ["report.html", "report.md"]
    assert "accuracy" in (place / "report.md").read_text()


def test_each_output_is_written_in_each_of_its_formats() -> None:
    outputs = [{"name": "all", "formats": ["csv", "html", "json", "jsonl", "latex", "markdown"]}, {"name": "short"}]
    ctx = run("measure", "report", outputs=outputs)
    names = [f"all.{suffix}" for suffix in ("csv", "html", "json", "jsonl", "md", "tex")]
    assert sorted(Path(path).name for path in ctx.artifacts.values()) == sorted([*names, "short.md"])
    for path in ctx.artifacts.values():
        assert Path(path).stat().st_size > 0


def test_json_lines_hold_each_metric_each_output_and_what_happened() -> None:
    @stage
    def answer(ctx: Context) -> Context:
        ctx = ctx.put_metric("score", {"mean": math.inf, "n": 2}).add_output({"item": 1, "text": "a\u2028b\nc"})
        return ctx.decide("first", "it was there")

    experiment = experiment_of("answer", "report", outputs=[{"name": "r", "formats": ["jsonl"]}])
    ctx = run_experiment(experiment, registry=Registry({"answer": answer, "report": Report}))
    text = Path(ctx.get_artifact("r.jsonl")).read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.removesuffix("\n").split("\n")]
    assert {(line.pop("experiment"), line.pop("run")) for line in lines} == {("tried", ctx.run_id)}
    assert lines[:3] == [
        {"kind": "metric", "name": "score.mean", "value": "Infinity"},
        {"kind": "metric", "name": "score.n", "value": 2},
        {"kind": "output", "value": {"item": 1, "text": "a\u2028b\nc"}},
    ]
    kinds = ["stage_started", "decision", "stage_succeeded", "stage_started"]
    assert [line["kind"] for line in lines[3:]][: len(kinds)] == kinds
    assert lines[4]["decision"] == "first"


def test_a_report_goes_into_a_bucket(s3: str) -> None:
    bucket = s3.removeprefix("s3://")
    options = {"bucket": bucket, "prefix": "runs/", "region": "us-east-1"}
    outputs = [
        {"name": "archive", "formats": ["json", "markdown"], "sink": "s3", "options": options},
        {"name": "latest", "sink": "s3", "options": {"bucket": bucket, "path": "latest.md", "title": "Latest"}},
    ]
    ctx = run("measure", "report", outputs=outputs)
    place = f"{s3}/runs/tried/{ctx.run_id}/archive"
    assert dict(ctx.artifacts) == {
        "archive.json": f"{place}.json",
        "archive.markdown": f"{place}.md",
        "latest.markdown": f"{s3}/latest.md",
    }
    assert json.loads(UPath(f"{place}.json").read_text())["run_id"] == ctx.run_id
    assert UPath(f"{s3}/latest.md").read_text().startswith("# Latest\n")
    assert not Path("reports").exists()

    said = failure("measure", "report", outputs=[{**outputs[0], "options": {"bucket": "no-such-bucket"}}])
    assert re.match(r"cannot write s3://no-such-bucket/tried/.*/archive.json: \w+: ", said)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"bucket": "b", "path": "/tmp/results"}, "'/tmp/results' is not relative to the bucket"),
        ({"bucket": "b", "path": "../x"}, "'../x' leaves the bucket"),
        ({"bucket": 1}, "bucket must be a text, not 1"),
        ({"bukcet": "b"}, "unknown option 'bukcet'; known: bucket, path, prefix, region, title"),
    ],
)
def test_a_wrong_place_in_a_bucket_is_refused_before_the_run(options: dict[str, Any], part: str) -> None:
    assert part in refusal("report", outputs=[{"name": "r", "sink": "s3", "options": options}])


@pytest.mark.parametrize(
    ("path", "written"),
    [("final", "final.md"), ("a/b/final", "a/b/final.md"), ("final.md", "final.md"), ("final.html", "final.md"),
     ("v1.2", "v1.2.md"), ("a b", "a b.md"), ("ünï", "ünï.md"), ("%2e%2e/x", "%2e%2e/x.md"), ("a/./b", "a/b.md"),
     ("...", "....md")],
)  # fmt: skip
def test_an_output_may_name_its_place_under_the_root(path: str, written: str) -> None:
    ctx = run("measure", "report", outputs=[{"name": "r", "options": {"path": path}}])
    assert set(tree(Path("reports"))) == {written}
    assert Path(ctx.get_artifact("r.markdown")).is_file()


def test_the_title_of_an_output_is_the_heading() -> None:
    run("measure", "report", outputs=[{"name": "r", "options": {"title": "Which one?", "path": "r"}}])
    assert Path("reports/r.md").read_text().startswith("# Which one?\n")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "../../etc/x",
        "/etc/x",
        "a/../../x",
        "..",
        "~/x",
        "~root/x",
        "",
        " ",
        "a/..",
        "a\\..\\x",
        "C:\\x",
        "x" * 300,
        "../reports/x",
    ],
)
def test_a_path_that_leaves_the_root_is_refused_before_the_run(path: str) -> None:
    shown = refusal("measure", "report", outputs=[{"name": "r", "options": {"path": path}}])
    assert shown.startswith("stage 'report': output 'r': the path ")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"paht": "x"}, "unknown option 'paht'; known: path, title"),
        ({"path": ["x"]}, "path"),
        ({"path": True}, "path"),
        ({"title": {"a": 1}}, "title"),
    ],
)
def test_a_wrong_option_of_an_output_is_refused_before_the_run(options: dict[str, Any], part: str) -> None:
    assert part in refusal("report", outputs=[{"name": "r", "options": options}])


@pytest.mark.parametrize(
    "outputs",
    [
        [{"name": "a", "options": {"path": "same"}}, {"name": "b", "options": {"path": "same"}}],
        [{"name": "a", "options": {"path": "same.md"}}, {"name": "b", "options": {"path": "same"}}],
        [{"name": "a", "options": {"path": "x/same"}}, {"name": "b", "options": {"path": "x/./same"}}],
    ],
)
def test_two_outputs_that_would_overwrite_each_other_are_refused_before_the_run(outputs: list[dict[str, Any]]) -> None:
    shown = refusal("report", outputs=outputs)
    assert "'a'" in shown
    assert "'b'" in shown


@pytest.mark.parametrize("path", ["folder/", ".", "folder/.", ".md", "folder/.html"])
def test_a_path_without_a_file_name_is_refused_or_names_a_visible_file(path: str) -> None:
    try:
        run("measure", "report", outputs=[{"name": "r", "options": {"path": path}}])
    except InvalidOptionsError:
        return
    assert all(not Path(name).name.startswith(".") for name in tree(Path("reports")))


def test_a_report_for_standard_output_is_printed_and_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    ctx = run("measure", "report", outputs=[{"name": "r", "sink": "stdout"}])
    assert capsys.readouterr().out.startswith("# tried\n")
    assert dict(ctx.artifacts) == {}
    assert not Path("reports").exists()


def test_the_root_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", "elsewhere/deep")
    run("measure", "report", outputs=[{"name": "r", "options": {"path": "r"}}])
    assert Path("elsewhere/deep/r.md").is_file()
    assert not Path("reports").exists()


def test_a_link_out_of_the_root_is_not_followed_and_nothing_is_made_behind_it() -> None:
    Path("outside").mkdir()
    Path("reports").mkdir()
    Path("reports/link").symlink_to(Path("outside").absolute())
    for path in ("link/x", "link/new/deep/x"):
        shown = failure("measure", "report", outputs=[{"name": "r", "options": {"path": path}}])
        assert "leaves the output root" in shown
        assert "symbolic link" in shown
    assert list(Path("outside").rglob("*")) == []


def test_a_link_in_place_of_the_file_is_replaced_and_not_written_through() -> None:
    Path("outside.md").write_text("precious")
    Path("reports").mkdir()
    Path("reports/r.md").symlink_to(Path("outside.md").absolute())
    run("measure", "report", outputs=[{"name": "r", "options": {"path": "r"}}])
    assert Path("outside.md").read_text() == "precious"
    assert not Path("reports/r.md").is_symlink()


def test_the_root_itself_may_be_a_link() -> None:
    Path("disk").mkdir()
    Path("reports").symlink_to("disk")
    run("measure", "report", outputs=[{"name": "r", "options": {"path": "a/r"}}])
    assert Path("disk/a/r.md").is_file()


@pytest.mark.parametrize("root", ["a-file", "a-file/below", "/proc/self/nothing"])
def test_a_root_that_cannot_be_written_fails_the_stage_with_the_reason(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a-file").touch()
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", root)
    shown = failure("measure", "report")
    assert shown.startswith("cannot write ")
    assert root in shown


def test_a_folder_in_place_of_the_file_fails_the_stage_and_leaves_no_half_file() -> None:
    Path("reports/r.md").mkdir(parents=True)
    assert "cannot write" in failure("measure", "report", outputs=[{"name": "r", "options": {"path": "r"}}])
    assert [file.name for file in Path("reports").iterdir()] == ["r.md"]


def test_a_report_that_exists_is_replaced_as_a_whole() -> None:
    Path("reports").mkdir()
    Path("reports/r.md").write_text("x" * 1_000_000)
    run("measure", "report", outputs=[{"name": "r", "options": {"path": "r"}}])
    assert "xxx" not in Path("reports/r.md").read_text()
    assert [file.name for file in Path("reports").iterdir()] == ["r.md"]


def test_a_report_can_be_read_by_those_whom_the_umask_allows() -> None:
    before = os.umask(0o027)
    try:
        run("measure", "report", outputs=[{"name": "r", "options": {"path": "r"}}])
    finally:
        os.umask(before)
    assert Path("reports/r.md").stat().st_mode & 0o777 == 0o640


def test_two_reports_in_one_pipeline_do_not_meet() -> None:
    ctx = run("report", "measure", {"name": "again", "module": "report"})
    assert ctx.completed_stages == ("report", "measure", "again")


def test_an_output_spec_says_where_and_under_which_title() -> None:
    spec = OutputSpec(name="r", options={"path": "a", "title": "b"})
    assert (spec.path, spec.title) == ("a", "b")
    assert (OutputSpec(name="r").path, OutputSpec(name="r", options={"path": None}).path) == (None, None)


def test_a_bad_path_is_shown_with_its_line_in_the_file() -> None:
    Path("a.yaml").write_text(
        "id: a\npipeline:\n  - name: report\noutputs:\n  - name: r\n    options:\n      path: ../../etc/x\n"
    )
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(load_experiment("a.yaml"), builtin_registry())
    assert caught.value.line is not None
    assert "'../../etc/x' leaves the output root" in str(caught.value)
