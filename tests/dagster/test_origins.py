"""Runs that a process launches are on their job's pages: Dagster's UI finds them there by the code location."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRun, RunsFilter
from stages_for_tests import experiment_of, registry

from crucible_core import StageFailedError
from crucible_dagster import execute_experiment
from crucible_dagster.origins import LOCATION, is_launched_here, location_of, origin_of
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.tags import LOCATION_TAG

HERE = f"{LOCATION}:__repository__"


def runs_of_the_job(instance: DagsterInstance, label: str) -> list[str]:
    """Those that the UI lists on the job's page: it asks for this tag."""
    found = instance.get_runs(RunsFilter(job_name="tried", tags={".dagster/repository": label}))
    return [run.run_id for run in found]


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_run_is_listed_with_its_job(instance: DagsterInstance, executor: str) -> None:
    ran = execute_experiment(experiment_of("measure"), registry=registry(), instance=instance, executor=executor)
    assert runs_of_the_job(instance, "__repository__@crucible") == [ran.run_id]
    run = instance.get_run_by_id(ran.run_id)
    assert run is not None
    assert location_of(run) == HERE
    assert is_launched_here(run)


def test_a_resumed_run_is_listed_with_its_job(instance: DagsterInstance, tmp_path: Path) -> None:
    experiment = experiment_of({"name": "fail_until", "options": {"counter": str(tmp_path / "n"), "succeed_at": 2}})
    with pytest.raises(StageFailedError) as caught:
        execute_experiment(experiment, registry=registry(), instance=instance)
    resumed = resume_run(instance, caught.value.context.run_id, registry=registry())
    assert runs_of_the_job(instance, "__repository__@crucible") == [resumed.run_id, caught.value.context.run_id]


def test_a_run_stands_beside_those_that_the_project_s_own_code_location_launched(instance: DagsterInstance) -> None:
    instance.add_run(
        DagsterRun("tried", remote_job_origin=origin_of(instance, "tried", "lab:shelf"), tags={"from": "the UI"})
    )
    ran = execute_experiment(experiment_of("measure"), registry=registry(), instance=instance)
    assert ran.run_id in runs_of_the_job(instance, "shelf@lab")


def test_a_run_for_a_tick_is_that_of_the_schedule_s_location(instance: DagsterInstance) -> None:
    tags = {LOCATION_TAG: "lab:shelf"}
    ran = execute_experiment(experiment_of("measure"), registry=registry(), instance=instance, tags=tags)
    assert runs_of_the_job(instance, "shelf@lab") == [ran.run_id]
