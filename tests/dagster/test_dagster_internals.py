"""Each name that Dagster does not promise to keep is still there and does what is relied on."""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import importlib
import inspect
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    DagsterInstance,
    DagsterRun,
    GraphDefinition,
    OpDefinition,
    OpExecutionContext,
    Output,
    build_reconstructable_job,
    in_process_executor,
)
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.auto_run_reexecution import auto_run_reexecution, event_log_consumer
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster._daemon.types import DaemonHeartbeat
from dagster._grpc.server import DagsterApiServer
from dagster._grpc.types import ExecuteExternalJobArgs
from dagster._time import get_current_timestamp
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster_shared.error import SerializableErrorInfo
from postgres import Storage
from sqlalchemy.exc import SQLAlchemyError
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


def test_the_origin_of_a_run_is_a_name_and_its_label_is_the_tag_that_the_ui_asks_for() -> None:
    location = dagster_internals.RegisteredCodeLocationOrigin("lab")
    origin = dagster_internals.RemoteJobOrigin(dagster_internals.RemoteRepositoryOrigin(location, "shelf"), "tried")
    run = DagsterRun("tried", remote_job_origin=origin)
    assert run.tags_for_storage()[".dagster/repository"] == "shelf@lab"
    assert location.get_display_metadata() == {}


def test_a_job_in_memory_is_run_and_a_plan_has_the_steps_that_are_left() -> None:
    def work(context: OpExecutionContext, inputs: object) -> Iterator[Output[int]]:
        yield Output(1)

    ops = [OpDefinition(work, name) for name in ("first", "second")]
    graph = GraphDefinition(name="tried", node_defs=ops)
    job = dagster_internals.InMemoryJob(graph.to_job(executor_def=in_process_executor))
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(job_def=job.get_definition())
        assert execute_run(job, run, instance).success
        known = dagster_internals.KnownExecutionState.build_for_reexecution(instance, run)
        known = known.update_for_step_selection({"second"})
    plan = dagster_internals.create_execution_plan(job, step_keys_to_execute=["second"], known_state=known)
    assert isinstance(plan, dagster_internals.ExecutionPlan)
    assert plan.step_keys_to_execute == ["second"]


def test_what_is_left_of_a_failed_run() -> None:
    def fail(context: OpExecutionContext, inputs: object) -> None:
        raise ValueError

    graph = GraphDefinition(name="tried", node_defs=[OpDefinition(fail, "one")])
    job = dagster_internals.InMemoryJob(graph.to_job(executor_def=in_process_executor))
    with DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(job_def=job.get_definition())
        execute_run(job, run, instance)
        failed = instance.get_run_by_id(run.run_id)
        steps, _ = dagster_internals.KnownExecutionState.build_resume_retry_reexecution(instance, failed)
    assert list(steps) == ["one"]


def test_an_error_that_another_process_told_is_shown_as_it_was_told() -> None:
    told = SerializableErrorInfo("the rate is negative", [], "ValueError")
    try:
        raise dagster_internals.DagsterUserCodeProcessError("x", user_code_process_error_infos=[told])
    except dagster_internals.DagsterUserCodeProcessError:
        assert serializable_error_info_from_exc_info(sys.exc_info()) is told  # type: ignore[arg-type]


def test_the_results_of_an_earlier_run_are_named_by_step_and_output() -> None:
    state = dagster_internals.PastExecutionState("r", set(), None)
    assert state._fields == ("run_id", "produced_outputs", "parent_state")


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


@pytest.mark.parametrize("name", dagster_internals.ROLES)
def test_what_dagster_starts_a_process_with_is_there(name: str) -> None:
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_process_of_a_run_is_given_the_run_first() -> None:
    from dagster._grpc.impl import start_run_in_subprocess

    assert next(iter(inspect.signature(start_run_in_subprocess).parameters)) == "serialized_execute_run_args"
    assert {"run_id", "instance_ref"} <= ExecuteExternalJobArgs.__annotations__.keys()


def test_this_process_has_no_role() -> None:
    assert dagster_internals.role_of_this_process() is None
    assert dagster_internals.run_of_this_process() is None


def test_a_worker_of_celery_has_no_role_though_its_target_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __call__(self) -> None: ...

    monkeypatch.setattr(multiprocessing.current_process(), "_target", Worker(), raising=False)
    assert dagster_internals.role_of_this_process() is None


def test_the_daemon_s_command_takes_a_workspace() -> None:
    command = dagster_internals.daemon_command()
    assert command.name == "run"
    assert "-w" in {option for parameter in command.params for option in parameter.opts}


def test_daemons_that_never_ran_are_not_well_and_those_that_have_just_said_so_are(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert not dagster_internals.daemons_are_well(instance)
        for kind in instance.get_required_daemon_types():
            instance.add_daemon_heartbeat(DaemonHeartbeat(get_current_timestamp(), kind, "daemon", []))
        assert dagster_internals.daemons_are_well(instance)


def test_the_thread_that_notices_killed_runs_calls_what_is_replaced() -> None:
    assert "self._check_for_orphaned_runs()" in inspect.getsource(DagsterApiServer._cleanup_thread)
    assert list(inspect.signature(DagsterApiServer._check_for_orphaned_runs).parameters) == ["self"]


@pytest.mark.fault("the code server's thread that notices killed runs")
def test_a_code_server_that_is_to_end_does_not_wait_for_ever_for_a_database_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DagsterApiServer, "_check_for_orphaned_runs", DagsterApiServer._check_for_orphaned_runs)
    monkeypatch.setattr(DagsterApiServer, dagster_internals._PATCHED, None, raising=False)
    monkeypatch.delattr(DagsterApiServer, dagster_internals._PATCHED)
    dagster_internals.notice_killed_runs()
    clock = SimpleNamespace(now=1_000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(dagster_internals, "time", clock)
    gone = dagster_internals.InstanceRef.from_dir(str(tmp_path))
    (tmp_path / "history").touch()  # where the database was
    ended, in_flight = SimpleNamespace(is_alive=lambda: False), SimpleNamespace(is_alive=lambda: True)
    server: Any = DagsterApiServer.__new__(DagsterApiServer)
    server._execution_lock, server._executions = threading.Lock(), {"one": (ended, gone), "two": (in_flight, gone)}
    server._shutdown_once_executions_finish_event = threading.Event()
    server._server_termination_event = threading.Event()

    def ends() -> bool:
        server._check_for_orphaned_runs()
        return bool(server._server_termination_event.is_set())

    assert not ends()
    server._shutdown_once_executions_finish_event.set()
    assert not ends()
    clock.now += dagster_internals.RECORD_WITHIN + 1.0
    assert not ends()
    server._executions["two"] = (ended, gone)
    assert ends()


def test_the_daemon_retries_failed_runs_by_what_is_replaced() -> None:
    source = inspect.getsource(auto_run_reexecution.consume_new_runs_for_automatic_reexecution)
    assert "retry_run(run, workspace_process_context)" in source
    assert list(inspect.signature(auto_run_reexecution.retry_run).parameters) == ["failed_run", "workspace_context"]
    iteration = inspect.signature(event_log_consumer.EventLogConsumerDaemon.run_iteration)
    assert list(iteration.parameters) == ["self", "workspace_process_context"]


@pytest.mark.fault("the machine is lost")
@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # Dagster's
def test_a_run_waits_an_hour_for_its_code_server_before_its_retry_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = event_log_consumer.EventLogConsumerDaemon

    def unreachable(*_: Any) -> None:
        raise DagsterUserCodeUnreachableError("connection refused")

    monkeypatch.setattr(auto_run_reexecution, "retry_run", unreachable)
    monkeypatch.setattr(consumer, "run_iteration", consumer.run_iteration)
    dagster_internals.retry_when_code_is_back()
    monkeypatch.delattr(consumer, dagster_internals._PATCHED)
    settings = {"telemetry": {"enabled": False}, "run_retries": {"enabled": True, "max_retries": 1}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance:
        looks, workspace = consumer(), SimpleNamespace(instance=instance)
        run = create_run_for_test(instance)
        instance.report_run_failed(run)
        waits = []
        for hours in (0.0, 0.1, 0.9, 1.1):
            monkeypatch.setattr(
                dagster_internals, "time", SimpleNamespace(time=lambda h=hours: time.time() + 3_600 * h)
            )
            assert not any(looks.run_iteration(workspace))
            now = instance.get_run_by_id(run.run_id)
            assert now is not None
            waits.append(now.tags["dagster/will_retry"])
        assert waits == ["true", "true", "true", "false"]


def test_run_monitoring_takes_a_run_for_dead_unless_it_is_running_or_succeeded() -> None:
    assert "not in [WorkerStatus.RUNNING, WorkerStatus.SUCCESS]" in inspect.getsource(monitor_started_run)
    assert {"RUNNING", "NOT_FOUND"} <= {one.name for one in dagster_internals.WorkerStatus}
    assert dagster_internals.CheckRunHealthResult._fields[:2] == ("status", "msg")


def test_only_an_instance_on_postgresql_has_its_address(instance: DagsterInstance, storage: Storage) -> None:
    url = dagster_internals.postgres_url(instance)
    assert url is None if storage == "sqlite" else str(url).startswith("postgresql")
    assert dagster_internals.is_on_sqlite(instance.root_directory) == (storage == "sqlite")
    folders = dagster_internals.sqlite_folders(instance.root_directory)
    assert (folders is None) == (storage == "postgres")
    assert folders is None or ((folders.runs / "runs.db").exists() and (folders.schedules / "schedules.db").exists())
    assert folders is None or (folders.events / "index.db").exists()


def test_dagster_s_postgresql_storage_has_an_error_of_its_own_for_a_database_that_is_away() -> None:
    from dagster_postgres.utils import DagsterPostgresException

    assert not issubclass(DagsterPostgresException, SQLAlchemyError)  # or nothing needs to be added to that
    assert dagster_internals.database_errors() == (SQLAlchemyError, DagsterPostgresException)


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


def test_runs_in_threads_leave_standard_output_where_it_was(tmp_path: Path) -> None:
    # Dagster redirects it for each run: the second to begin and last to end would put back the first one's redirection.
    program = f"""
import threading
from concurrent.futures import ThreadPoolExecutor
from dagster import DagsterInstance
from crucible_core import Context, Registry, stage
from crucible_dagster import execute_experiment
from stages_for_tests import experiment_of

first, second = threading.Event(), threading.Event()

@stage
def one(ctx: Context) -> Context:
    first.set()
    assert second.wait(60)
    return ctx

@stage
def two(ctx: Context) -> Context:
    second.set()
    one_ended.wait(60)
    return ctx

registry, one_ended = Registry({{"one": one, "two": two}}), threading.Event()
with DagsterInstance.local_temp({str(tmp_path)!r}, overrides={{"telemetry": {{"enabled": False}}}}) as instance:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(execute_experiment, experiment_of("one"), registry=registry, instance=instance)
        running.add_done_callback(lambda _: one_ended.set())
        assert first.wait(60)
        pool.submit(execute_experiment, experiment_of("two"), registry=registry, instance=instance).result()
        running.result()
print("still here")
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr


@pytest.mark.filterwarnings("ignore:Handling yaml-defined logging configuration")
def test_handlers_in_the_settings_of_the_instance_hear_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = {"told": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "level": "DEBUG"}}
    overrides = {"python_logs": {"dagster_handler_config": {"handlers": handlers}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        execute_experiment(experiment_of("nothing"), registry=registry(), instance=instance)
    assert "RUN_SUCCESS" in capsys.readouterr().err


def test_dagster_celery_hands_out_a_step_by_this_function() -> None:
    from dagster_celery.executor import _submit_task

    assert list(inspect.signature(_submit_task).parameters) == [
        "app",
        "plan_context",
        "step",
        "queue",
        "priority",
        "known_state",
    ]
