"""The asset is materialized from its own page, or by automation: the same ops as the job's, the same result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    evaluate_automation_conditions,
)

from crucible_core import Experiment, InvalidExperimentError, load_experiment, run_experiment
from crucible_core.ir import vocabulary
from crucible_dagster import build_definitions, execute_experiment
from crucible_dagster.compile.conditions import AUTOMATION
from crucible_dagster.history.history import History
from crucible_dagster.rerun.resume import resume_run

KEY = AssetKey(["crucible", "small"])
SMALL = """
id: small
pipeline:
  - {name: measure, module: "stages_for_tests:measure", options: {name: count, value: 3}}
  - {name: choose, module: "stages_for_tests:choose"}
variants: {more: {measure: {value: 5}}}
"""
GATES = """
gates:
  - {name: enough, metric: count, at_least: 3, blocking: true}
  - {name: few, metric: count, below: 4}
"""


def definitions(folder: Path, text: str, **others: str) -> Definitions:
    for name, content in {"small": text, **others}.items():
        (folder / f"{name}.yaml").write_text(content)
    return build_definitions(folder)


def materialize(
    defs: Definitions, instance: DagsterInstance, *keys: AssetKey, config: Mapping[str, Any] | None = None
) -> ExecuteInProcessResult:
    """As the button of the asset's page does, which selects the checks too."""
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=list(keys or [KEY]), run_config=config or {}, raise_on_error=False
    )


def evaluations(instance: DagsterInstance, run_id: str) -> list[tuple[str, bool]]:
    found = instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [entry.dagster_event.asset_check_evaluation_data for entry in found if entry.dagster_event]
    return [(one.check_name, one.passed) for one in checks]


@pytest.mark.parametrize("gates", ["", GATES])
def test_a_run_of_the_asset_is_one_materialization_with_what_the_job_s_run_shows(
    instance: DagsterInstance, tmp_path: Path, gates: str
) -> None:
    defs = definitions(tmp_path, SMALL + gates)
    experiment = load_experiment(tmp_path / "small.yaml")
    of_job = execute_experiment(experiment, instance=instance)
    ran = materialize(defs, instance)
    assert ran.success
    by_job, by_asset = instance.fetch_materializations(KEY, limit=5).records[::-1]
    assert (by_job.run_id, by_asset.run_id) == (of_job.run_id, ran.run_id)
    shown, expected = (one.asset_materialization.metadata for one in (by_asset, by_job))
    assert set(shown) == {*expected, "manifest"}
    assert shown["headline"] == expected["headline"]
    assert shown["count"].value == 3
    assert "| gate |" in shown["report"].value or not gates
    history = History(instance)
    context = history.context(ran.run_id)
    assert context.differences(of_job) == ()
    assert context.differences(run_experiment(experiment)) == ()
    assert [one.run_id for one in history.runs("small")] == [ran.run_id, of_job.run_id]
    found = history.run(ran.run_id)
    assert [one.name for one in found.stages] == ["measure", "choose"]
    assert found.metrics["count"] == 3
    if gates:
        assert [(one.gate, one.status) for one in found.gates] == [("enough", "passed"), ("few", "passed")]
        # Once, although the button selects the checks too.
        assert evaluations(instance, ran.run_id) == [("enough", True), ("few", True)]


def test_options_and_settings_are_typed_for_a_run_of_the_asset(instance: DagsterInstance, tmp_path: Path) -> None:
    defs = definitions(tmp_path, SMALL)
    config = {"ops": {"small": {"ops": {"measure": {"config": {"value": 4.0}}}}}}
    ran = materialize(defs, instance, config=config)
    assert History(instance).context(ran.run_id).metrics["count"] == 4
    ran = materialize(defs, instance, config={"resources": {"crucible_run": {"config": {"variant": "more"}}}})
    assert History(instance).context(ran.run_id).metrics["count"] == 5
    assert next(iter(History(instance).runs("small"))).variant == "more"
    ran = materialize(defs, instance, config={"resources": {"crucible_run": {"config": {"variant": "mroe"}}}})
    assert not ran.success
    said = next(event for event in ran.all_events if event.is_step_failure).step_failure_data.error.message
    assert "no variant 'mroe'" in said


def test_a_blocking_gate_that_fails_materializes_nothing(instance: DagsterInstance, tmp_path: Path) -> None:
    defs = definitions(tmp_path, SMALL + GATES)
    ran = materialize(defs, instance, config={"ops": {"small": {"ops": {"measure": {"config": {"value": 2.0}}}}}})
    assert not ran.success
    assert instance.fetch_materializations(KEY, limit=5).records == []
    assert evaluations(instance, ran.run_id) == [("enough", False), ("few", True)]


def test_a_check_is_executed_alone_and_judges_the_run_of_the_asset(instance: DagsterInstance, tmp_path: Path) -> None:
    defs = definitions(tmp_path, SMALL + GATES)
    ran = materialize(defs, instance)
    (check,) = (one for one in defs.asset_checks if {key.name for key in one.check_keys} == {"few"})
    judged = Definitions(asset_checks=[check]).resolve_implicit_global_asset_job_def()
    again = judged.execute_in_process(instance=instance)
    assert again.success
    (evaluation,) = again.get_asset_check_evaluations()
    assert evaluation.passed
    assert ran.run_id in str(evaluation.description)


def test_a_failed_run_of_the_asset_is_resumed_where_it_stopped(instance: DagsterInstance, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    defs = definitions(
        tmp_path,
        "id: small\npipeline:\n"
        '  - {name: measure, module: "stages_for_tests:measure", options: {name: count, value: 3}}\n'
        f'  - {{name: fail_until, module: "stages_for_tests:fail_until", options: {{counter: "{counter}"}}}}\n',
    )
    config = {
        "ops": {
            "small": {"ops": {"measure": {"config": {"value": 4.0}}, "fail_until": {"config": {"succeed_at": 2}}}},
        }
    }
    failed = materialize(defs, instance, config=config)
    assert not failed.success
    assert History(instance).run(failed.run_id).failure.stage == "fail_until"
    resumed = resume_run(instance, failed.run_id)
    assert (resumed.metrics["count"], resumed.metrics["attempt"]) == (4, 2)
    steps = {entry.step_key for entry in instance.all_logs(resumed.run_id) if entry.step_key}
    assert "fail_until" in steps
    assert "measure" not in steps


def test_a_run_of_several_experiments_says_that_each_is_materialized_by_itself(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    defs = definitions(tmp_path, SMALL, other=SMALL.replace("id: small", "id: other"))
    ran = materialize(defs, instance, KEY, AssetKey(["crucible", "other"]))
    assert not ran.success
    said = [event.step_failure_data.error.message for event in ran.all_events if event.is_step_failure]
    assert len(said) == 2
    assert all("materialize each of them by itself" in one for one in said)


# --- automation -------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # of what asks the conditions here


def test_what_is_advertised_is_implemented() -> None:
    assert set(AUTOMATION) == set(get_args(vocabulary.AutomationWhen))


def test_an_experiment_is_materialized_when_an_asset_that_it_depends_on_was(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    defs = definitions(
        tmp_path,
        SMALL + "deps: [crucible/prices]\nautomation: eager\n",
        prices=SMALL.replace("id: small", "id: prices"),
    )
    (sensor,) = defs.sensors
    assert sensor.name == "small_automation"
    begun = evaluate_automation_conditions(defs=defs, instance=instance)
    assert begun.get_num_requested(KEY) == 0  # what it depends on is missing
    materialize(defs, instance, AssetKey(["crucible", "prices"]))
    after = evaluate_automation_conditions(defs=defs, instance=instance, cursor=begun.cursor)
    assert after.get_num_requested(KEY) == 1
    materialize(defs, instance)
    assert evaluate_automation_conditions(defs=defs, instance=instance, cursor=after.cursor).get_num_requested(KEY) == 0


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("eeager", "automation.when"),
        ("on_cron", "on_cron needs `cron`"),
        ("{when: eager, cron: '@daily'}", "cron needs `when: on_cron`"),
        ("{when: on_cron, cron: daily}", "'daily' is not a cron schedule"),
        ("{when: on_cron, cron: '@daily', timezone: Mars}", "'Mars' is not an IANA time zone"),
        ("{when: on_cron, cron: '61 * * * *'}", "61"),
    ],
)
def test_a_wrong_automation_is_refused(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "small.yaml").write_text(f"{SMALL}automation: {written}\n")
    with pytest.raises(InvalidExperimentError, match="automation") as caught:
        build_definitions(tmp_path, strict=True)
    assert said in str(caught.value)


def test_an_automation_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    definitions(tmp_path, f"{SMALL}automation: eager\n")
    experiment = load_experiment(tmp_path / "small.yaml")
    assert Experiment.model_validate_json(experiment.to_json()) == experiment
