"""Each name that Dagster does not promise to keep is still there and does what is relied on."""

from __future__ import annotations

import importlib
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dagster import AssetCheckEvaluation, AssetKey, DagsterInstance, build_reconstructable_job
from stages_for_tests import experiment_of, registry

from crucible_dagster import dagster_internals, execute_experiment
from crucible_dagster.dagster_internals import (
    PRELOADED_MODULES,
    RESUME_RETRY_TAG,
    AssetCheckEvaluationTargetMaterializationData,
    ReconstructableJob,
    execute_run,
    has_out_of_range_cron_interval,
    is_valid_cron_schedule,
)

PACKAGE = Path(dagster_internals.__file__).parent


@pytest.mark.parametrize("name", PRELOADED_MODULES)
def test_a_preloaded_module_is_there(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_execute_run_takes_a_job_a_run_and_an_instance() -> None:
    assert list(inspect.signature(execute_run).parameters)[:3] == ["job", "dagster_run", "instance"]


def test_a_reconstructable_job_is_what_dagster_s_own_function_makes() -> None:
    described = {"experiment": '{"id": "x", "pipeline": [{"name": "validate"}]}', "path": None, "importable": None}
    made = build_reconstructable_job(
        "crucible_dagster.execution",
        "rebuild_job",
        reconstructable_kwargs={
            **described,
            "stages": {"validate": "crucible_core.stages:Validate"},
            "importable": None,
        },
    )
    assert isinstance(made, ReconstructableJob)
    assert made.get_definition().name == "x"


def test_dagsters_own_check_of_a_cron_schedule() -> None:
    assert is_valid_cron_schedule("*/90 * * * *")
    assert has_out_of_range_cron_interval("*/90 * * * *")
    assert not is_valid_cron_schedule("61 * * * *")
    assert not has_out_of_range_cron_interval("@daily")


def test_the_tag_of_a_run_that_goes_on_from_a_failure() -> None:
    assert RESUME_RETRY_TAG == "dagster/is_resume_retry"


def test_an_evaluation_says_which_materialization_it_is_about() -> None:
    target = AssetCheckEvaluationTargetMaterializationData(storage_id=1, run_id="r", timestamp=2.0)
    told = AssetCheckEvaluation(AssetKey("a"), "c", True, target_materialization_data=target)
    assert told.target_materialization_data == target


def test_the_tag_of_a_run_s_tick_and_what_is_kept_of_schedules() -> None:
    assert dagster_internals.SCHEDULED_EXECUTION_TIME_TAG == ".dagster/scheduled_execution_time"
    state, tick = dagster_internals.InstigatorState, dagster_internals.InstigatorTick
    assert all(
        hasattr(state, name) for name in ("instigator_name", "instigator_origin_id", "selector_id", "is_running")
    )
    assert all(hasattr(tick, name) for name in ("tick_id", "timestamp", "status", "skip_reason", "error"))


def test_the_times_of_a_schedule_go_both_ways() -> None:
    times = dagster_internals.schedule_execution_time_iterator
    assert [next(times(90.0, "* * * * *", "UTC", ascending)).timestamp() for ascending in (True, False)] == [120, 60]


def test_nothing_else_imports_from_an_underscore_module() -> None:
    offenders = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if path.name != "dagster_internals.py" and "dagster._" in path.read_text()
    ]
    assert offenders == []


def test_a_run_waits_for_no_log_handler_of_another_thread(tmp_path: Path) -> None:
    # Dagster's own way takes the lock of every handler while it holds that of `logging`: two runs in threads of one
    # process, one of which logs, then wait for each other forever.
    handler = logging.StreamHandler()
    settings = {"telemetry": {"enabled": False}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance, ThreadPoolExecutor(1) as pool:
        handler.acquire()
        try:
            ran = pool.submit(execute_experiment, experiment_of("nothing"), registry=registry(), instance=instance)
            assert ran.result(timeout=60).completed_stages == ("nothing",)
        finally:
            handler.release()


@pytest.mark.filterwarnings("ignore:Handling yaml-defined logging configuration")
def test_handlers_in_the_settings_of_the_instance_hear_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = {"told": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "level": "DEBUG"}}
    overrides = {"python_logs": {"dagster_handler_config": {"handlers": handlers}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        execute_experiment(experiment_of("nothing"), registry=registry(), instance=instance)
    assert "RUN_SUCCESS" in capsys.readouterr().err
