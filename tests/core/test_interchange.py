"""JSON experiments as the Elixir crucible_ir 0.2 and 0.3 write them: every field of every struct, atoms as texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from stages_for_tests import HERE, nothing

from crucible_core import (
    Experiment,
    InvalidExperimentError,
    InvalidOptionsError,
    Registry,
    StageFailedError,
    UnknownStageError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
)
from crucible_core.plan import advice

FILES = sorted((HERE / "interchange").glob("*.json"))
files = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

EXPERIMENT_FIELDS = [
    "id", "backend", "pipeline", "description", "owner", "tags", "metadata", "dataset", "reliability", "outputs",
    "created_at", "updated_at", "experiment_type", "model_version", "training_config", "baseline",
]  # fmt: skip


@files
def test_each_file_holds_every_field_of_the_struct(file: Path) -> None:
    data = json.loads(file.read_text())
    assert sorted(data) == sorted(EXPERIMENT_FIELDS)
    for stage in data["pipeline"]:
        assert sorted(stage) == ["enabled", "module", "name", "options"]
    for output in data["outputs"] or ():
        assert sorted(output) == ["formats", "name", "options", "sink"]


@files
def test_a_file_survives_loading_and_writing_without_loss(file: Path) -> None:
    data = json.loads(file.read_text())
    experiment = load_experiment(file)
    assert experiment.to_dict() == data
    assert json.loads(experiment.to_json()) == data
    # Not only equal: 1 stays 1 and 1.0 stays 1.0, which Elixir tells apart.
    assert json.dumps(json.loads(experiment.to_json()), sort_keys=True) == json.dumps(data, sort_keys=True)
    Path("again.json").write_text(experiment.to_json())
    assert load_experiment("again.json") == experiment
    Path("compact.json").write_text(experiment.to_json(indent=None))
    assert load_experiment("compact.json").to_dict() == data


@files
def test_a_file_means_the_same_to_a_yaml_reader(file: Path) -> None:
    Path("same.yaml").write_text(file.read_text())
    assert load_experiment("same.yaml") == load_experiment(file)


def test_what_this_package_reads_is_understood() -> None:
    experiment = load_experiment(HERE / "interchange/reliability.json")
    assert experiment.stats.tests == ("ttest", "bootstrap", "mannwhitney", "wilcoxon", "anova", "kruskal")
    assert (experiment.stats.alpha, experiment.stats.multiple_testing_correction) == (0.01, "bonferroni")
    assert [output.sink for output in experiment.outputs] == ["file", "stdout"]
    training = load_experiment(HERE / "interchange/training.json")
    assert training.pipeline[3].enabled is False
    assert training.pipeline[2].options["lr"] == 0.001
    assert training.outputs[0].path == "mnist/report"


def test_what_this_package_does_not_read_is_there_for_the_stages_that_do() -> None:
    experiment = load_experiment(HERE / "interchange/reliability.json")
    assert experiment.reliability.ensemble["weights"]["gpt4"] == 0.5
    assert experiment.reliability.hedging["max_hedges"] == 2
    assert experiment.reliability.fairness["group_by"] == "gender"
    assert experiment.reliability.guardrails["profiles"] == ["strict"]
    assert experiment.reliability.feedback["sampling_rate"] == 0.1
    assert experiment.backend["fallback"]["id"] == "local_llama"
    assert load_experiment(HERE / "interchange/training.json").training_config["early_stopping"]["patience"] == 3


@pytest.mark.parametrize(
    ("name", "unresolved"),
    [
        ("training", ["validate", "data_load", "train", "evaluate", "report"]),
        ("reliability", ["ensemble", "hedging", "fairness", "guardrails", "report"]),
        ("minimal", ["inference"]),
    ],
)
def test_planning_says_which_stages_cannot_be_resolved_here_and_what_to_do(name: str, unresolved: list[str]) -> None:
    file = HERE / f"interchange/{name}.json"
    with pytest.raises(UnknownStageError) as caught:
        plan_experiment(load_experiment(file), builtin_registry())
    every = caught.value.each()
    # The original runs whatever tests are listed; here one comparison cannot be of pairs and of independent groups.
    told = [one for one in every if one.stage != "bench"]
    assert all("wilcoxon is for the design paired" in one.message for one in every if one.stage == "bench")
    assert [one.stage for one in told] == unresolved
    lines = file.read_text().splitlines()
    modules = {entry["name"]: entry["module"] for entry in json.loads(file.read_text())["pipeline"]}
    for one in told:
        module = modules[one.stage]
        assert f"{file}:{one.line}:{one.column}: stage {one.stage!r}: unknown stage " in str(one)
        assert (f'"{module}"' if module else f'"{one.stage}"') in lines[one.line - 1]
        if module:
            assert (
                f"this is an Elixir module: register its Python successor as {module!r}, or change `module:`"
                in one.message
            )
        else:
            assert "registered: bench, data_checks, load_inspect, load_lm_eval, report, validate" in one.message


def test_the_python_successors_can_be_registered_under_the_names_of_elixir() -> None:
    experiment = load_experiment(HERE / "interchange/training.json")
    successors = {definition.module: nothing for definition in experiment.pipeline}
    experiment = Experiment.model_validate(
        {**experiment.to_dict(), "pipeline": [{**stage, "options": None} for stage in experiment.to_dict()["pipeline"]]}
    )
    ctx = run_experiment(experiment, registry=Registry(successors))
    assert ctx.completed_stages == ("validate", "data_load", "train", "report")
    assert ctx.trace.endings["evaluate"].kind == "stage_skipped"


def test_an_experiment_of_stages_that_exist_here_runs() -> None:
    ctx = run_experiment(load_experiment(HERE / "interchange/config_0_2.json"))
    assert ctx.completed_stages == ("validate", "report")
    assert set(ctx.artifacts) == {"results.markdown"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"outputs": [{"name": "r", "formats": ["jupyter"], "sink": "file", "options": None}]}, "'jupyter'"),
        ({"outputs": [{"name": "r", "formats": ["markdown"], "sink": "gcs", "options": None}]}, "'gcs'"),
        (
            {"reliability": {"stats": {"options": {"bootstrap_iterations": "many"}}}},
            "a whole number of at least 1, not 'many'",
        ),
        ({"reliability": {"stats": {"options": {"bootstrap_iterations": 0}}}}, "a whole number of at least 1, not 0"),
        ({"reliability": {"stats": {"tests": ["fishers_guess"]}}}, "'fishers_guess'"),
        ({"reliability": {"stats": {"multiple_testing_correction": "scheffe"}}}, "'scheffe'"),
        ({"pipeline": []}, "the pipeline is empty"),
        ({"id": None}, "id"),
    ],
)
def test_what_cannot_be_done_here_is_refused_and_not_dropped(change: dict[str, Any], part: str) -> None:
    data = json.loads((HERE / "interchange/minimal.json").read_text())
    Path("changed.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment("changed.json")
    assert part in str(caught.value)


def test_sinks_of_the_original_load_and_only_the_report_that_is_not_written_fails() -> None:
    data = json.loads((HERE / "interchange/config_0_2.json").read_text())
    outputs = [
        {"name": "metrics", "formats": ["csv"], "sink": "postgres", "options": {"table": "experiment_metrics"}},
        {"name": "archive", "formats": ["json"], "sink": "s3", "options": None},
        {"name": "results", "formats": ["jsonl"], "sink": "file", "options": {"path": "results"}},
    ]
    Path("changed.json").write_text(json.dumps({**data, "outputs": outputs}))
    experiment = load_experiment("changed.json")
    assert experiment.to_dict()["outputs"] == outputs
    said = (
        "output 'metrics': reports are not written to PostgreSQL; use `sink: file`, `s3` or `stdout`",
        "output 'archive': `sink: s3` needs the name of a bucket: `options: {bucket: NAME}`",
    )
    assert advice(plan_experiment(experiment, builtin_registry())) == [
        f"stage 'report': the report will fail: {one}" for one in said
    ]
    with pytest.raises(StageFailedError, match="; ".join(map(re.escape, said))):
        run_experiment(experiment)
    assert Path("reports/results.jsonl").is_file()


@pytest.mark.parametrize(
    ("stage", "options", "part"),
    [
        ("data_checks", {"check_types": True}, "types are checked by a stage of your own"),
        ("data_checks", {"check_lengths": True}, "lengths are checked by a stage of your own"),
        ("data_checks", {"checker": "Elixir.MyApp.Checker"}, "put a stage of your own into the pipeline"),
        ("report", {"sink": "file"}, "write it into the experiment's `outputs: [{name: report, sink: file}]`"),
        ("report", {"formats": ["markdown"]}, "`outputs: [{name: report, formats: [markdown, json]}]`"),
        ("report", {"include_visualizations": True}, "a report in html has its charts"),
        ("bench", {"data_source": "outputs"}, "write `data: outputs` with `group_by` and `value`"),
        ("bench", {"options": {"bootstrap_iterations": 500}}, "write `resamples`"),
    ],
)
def test_an_option_that_only_the_original_has_is_refused_with_what_to_write(
    stage: str, options: dict[str, Any], part: str
) -> None:
    experiment = Experiment.model_validate({"id": "a", "pipeline": [{"name": stage, "options": options}]})
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(experiment, builtin_registry())
    said = str(caught.value)
    assert said.startswith(f"stage {stage!r} has no option {next(iter(options))!r}: ")
    assert part in said


def test_tests_of_several_designs_are_refused_with_the_stage_to_write() -> None:
    first = {"name": "bench", "options": {"tests": ["bootstrap", "wilcoxon", "mannwhitney"]}}
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(Experiment.model_validate({"id": "a", "pipeline": [first]}), builtin_registry())
    said = str(caught.value)
    assert "tests: wilcoxon: another design is another comparison" in said
    second = said.split("`")[1]
    assert second == "{name: other, module: bench, options: {tests: [wilcoxon], metric: other}}"
    # As the sentence says, it can be run.
    text = f"id: a\npipeline:\n- {{name: bench, options: {{tests: [bootstrap, mannwhitney]}}}}\n- {second}\n"
    Path("a.yaml").write_text(text)
    groups = {"a": [1.0, 2.0, 3.0, 4.5, 5.0, 6.5], "b": [2.0, 3.5, 4.0, 6.0, 7.0, 7.5]}
    ctx = run_experiment(load_experiment("a.yaml"), assigns={"bench_data": groups})
    assert set(ctx.metrics) == {"bench", "other"}
