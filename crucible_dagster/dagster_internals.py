"""The only module that uses Dagster's internals, which may change; a test pins each name."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from click import Command
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState, PastExecutionState
from dagster._core.instance import InstanceRef
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    RESUME_RETRY_TAG,
    SCHEDULED_EXECUTION_TIME_TAG,
    WILL_RETRY_TAG,
)
from dagster._serdes import deserialize_value
from dagster._utils.schedules import (
    has_out_of_range_cron_interval,
    is_valid_cron_schedule,
    schedule_execution_time_iterator,
)

__all__ = [
    "PRELOADED_MODULES",
    "RESUME_RETRY_TAG",
    "SCHEDULED_EXECUTION_TIME_TAG",
    "AssetCheckEvaluationTargetMaterializationData",
    "CheckRunHealthResult",
    "DagsterUserCodeProcessError",
    "ExecutionPlan",
    "InMemoryJob",
    "InstanceRef",
    "InstigatorState",
    "InstigatorTick",
    "KnownExecutionState",
    "PastExecutionState",
    "ReconstructableJob",
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "SqliteFolders",
    "WorkerStatus",
    "code_servers_of",
    "create_execution_plan",
    "daemon_command",
    "daemons_are_well",
    "database_errors",
    "execute_run",
    "has_out_of_range_cron_interval",
    "in_this_process",
    "is_on_sqlite",
    "is_valid_cron_schedule",
    "notice_killed_runs",
    "open_as_it_is",
    "postgres_url",
    "retry_when_code_is_back",
    "role_of_this_process",
    "run_of_this_process",
    "schedule_execution_time_iterator",
    "sqlite_folders",
]

# Otherwise each step's process would import these itself: most of the 1.5 seconds that a step would then cost.
PRELOADED_MODULES = (
    "dagster",
    "dagster._core.execution.api",
    "dagster._core.executor.child_process_executor",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "dagster._core.storage.local_compute_log_manager",
    "crucible_dagster.execution",
    "crucible_core.stages",
    "crucible_dagster.compile.preload",
)

ROLES: dict[str, Literal["run", "step"]] = {
    "dagster._grpc.impl.start_run_in_subprocess": "run",
    "dagster._core.executor.child_process_executor._execute_command_in_child_process": "step",
}


def role_of_this_process() -> Literal["run", "step"] | None:
    """Why Dagster started this process: `run`, by a code server; `step`, by the process of a run; else None.

    Both have a parent in `multiprocessing`, but only the parent of a step is the process that executes the run.
    """
    target = getattr(multiprocessing.current_process(), "_target", None)
    # The target may be any callable: in a Celery worker it is an object of billiard, without a name.
    return ROLES.get(f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}")


def run_of_this_process() -> tuple[str, InstanceRef | None] | None:
    """The run that a code server started this process for, and its instance; None in any other process."""
    if role_of_this_process() != "run":
        return None
    process: Any = multiprocessing.current_process()
    launched: Any = deserialize_value(process._args[0])
    return launched.run_id, launched.instance_ref


def notice_killed_runs() -> None:
    """In a code server: keep alive the thread that notices killed runs, also while the database is not available.

    An unhandled error would end the thread, and killed runs of this code server would no longer be noticed. A code
    server that is told to end and has no run in flight tries for RECORD_WITHIN seconds only: its database may be gone
    for good, and the run monitoring of the instance notices killed runs too.
    """
    server: Any = sys.modules.get("dagster._grpc.server")
    if server is None or hasattr(server.DagsterApiServer, _PATCHED):
        return
    check = server.DagsterApiServer._check_for_orphaned_runs

    def check_again_later(self: Any) -> None:
        try:
            check(self)
        except Exception as error:  # noqa: BLE001  # of any database
            _log.warning("cannot record yet whether runs were killed, and will try again: %s", error)
            if not self._shutdown_once_executions_finish_event.is_set():
                return
            gives_up = vars(self).setdefault(_GIVES_UP, time.monotonic() + RECORD_WITHIN)
            if time.monotonic() > gives_up and not any(process.is_alive() for process, _ in self._executions.values()):
                self._server_termination_event.set()

    server.DagsterApiServer._check_for_orphaned_runs = check_again_later
    setattr(server.DagsterApiServer, _PATCHED, True)


def daemon_command() -> Command:
    """Dagster's own command `dagster-daemon run`."""
    from dagster._daemon.cli import run_command  # noqa: PLC0415  # everything that a daemon needs

    return run_command


def daemons_are_well(instance: DagsterInstance) -> bool:
    """Whether each daemon that the instance needs is alive, as `dagster-daemon liveness-check` would say."""
    from dagster._daemon.controller import all_daemons_live  # noqa: PLC0415  # what a daemon needs

    return all_daemons_live(instance)


def is_on_sqlite(home: str) -> bool:
    """Whether the instance of a DAGSTER_HOME keeps its runs in SQLite. Opens nothing.

    Raises what Dagster raises for settings that it refuses.
    """
    storage = InstanceRef.from_dir(home).run_storage_data
    return storage is not None and storage.class_name == "SqliteRunStorage"


def postgres_url(instance: DagsterInstance) -> str | None:
    """The address of the PostgreSQL database that has the instance's runs; None if they are in another database."""
    url = getattr(instance.run_storage, "postgres_url", None)
    return url if isinstance(url, str) else None


def retry_when_code_is_back() -> None:
    """In a daemon: if the code server of a failed run cannot be reached, retry the run when it can be reached again.

    Dagster tries once and then gives up. A lost machine takes its code server with it, so Dagster would give up most of
    its runs. No state is kept beyond Dagster's own: a failed run that is to be retried and has no retry yet. After
    RETRY_WITHIN seconds, Dagster gives up as usual.
    """
    from dagster._core.errors import (  # noqa: PLC0415  # with gRPC
        DagsterCodeLocationLoadError,
        DagsterUserCodeUnreachableError,
    )
    from dagster._daemon.auto_run_reexecution import auto_run_reexecution, event_log_consumer  # noqa: PLC0415

    consumer = event_log_consumer.EventLogConsumerDaemon
    if hasattr(consumer, _PATCHED):
        return
    retry, iterate = auto_run_reexecution.retry_run, consumer.run_iteration
    looks = [True]  # an earlier daemon may have left runs to retry

    def retry_or_wait(failed_run: DagsterRun, workspace_context: Any) -> None:
        try:
            retry(failed_run, workspace_context)
        except (DagsterCodeLocationLoadError, DagsterUserCodeUnreachableError) as error:
            record = workspace_context.instance.get_run_record_by_id(failed_run.run_id)
            if record is None or time.time() - (record.end_time or 0.0) > RETRY_WITHIN:
                raise
            looks[0] = True
            said = str(error).strip().partition("\n")[0]
            _log.warning("run %s is retried when its code server is back: %s", failed_run.run_id, said)

    def run_iteration(self: Any, workspace_process_context: Any) -> Iterator[Any]:
        if looks[0]:
            looks[0] = False
            left = _left_to_be_retried(workspace_process_context.instance)
            consume = auto_run_reexecution.consume_new_runs_for_automatic_reexecution
            yield from consume(workspace_process_context, left, self._logger)
        yield from iterate(self, workspace_process_context)

    auto_run_reexecution.retry_run = retry_or_wait
    consumer.run_iteration = run_iteration  # type: ignore[method-assign]
    setattr(consumer, _PATCHED, True)


def _left_to_be_retried(instance: DagsterInstance) -> list[RunRecord]:
    since = datetime.fromtimestamp(time.time() - LOOK_BACK, UTC)
    tags = {WILL_RETRY_TAG: "true"}
    wanted = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags=tags, updated_after=since)
    return [one for one in instance.get_run_records(wanted) if AUTO_RETRY_RUN_ID_TAG not in one.dagster_run.tags]


RECORD_WITHIN = 60.0
"""How many seconds a code server that is told to end tries to record which of its runs were killed."""
RETRY_WITHIN = 3_600.0
"""How many seconds a failed run waits for its code server before it is given up."""
LOOK_BACK = 24 * RETRY_WITHIN
"""Seconds; older failures are ignored. By then each of them has been retried or given up."""


@dataclass(frozen=True, slots=True)
class SqliteFolders:
    """The folders with an SQLite instance's databases: `runs.db`, those of the event log, and `schedules.db`."""

    runs: Path
    events: Path
    schedules: Path


def sqlite_folders(home: str) -> SqliteFolders | None:
    """Where the instance of a DAGSTER_HOME has its databases; None unless all of them are SQLite. Opens nothing.

    Raises what Dagster raises for settings that it refuses.
    """
    ref = InstanceRef.from_dir(home)
    found = []
    for data, name in (
        (ref.run_storage_data, "SqliteRunStorage"),
        (ref.event_storage_data, "SqliteEventLogStorage"),
        (ref.schedule_storage_data, "SqliteScheduleStorage"),
    ):
        folder = None if data is None or data.class_name != name else data.config_dict.get("base_dir")
        if not isinstance(folder, str):
            return None
        found.append(Path(folder))
    return SqliteFolders(*found)


def open_as_it_is(home: str) -> DagsterInstance:
    """The instance of a DAGSTER_HOME, without creating tables that are missing in PostgreSQL.

    It connects to PostgreSQL only when it is first queried. Missing SQLite files are created, so check for them
    first. Raises what Dagster raises for settings that it refuses, and ModuleNotFoundError for a missing driver.
    """
    ref = InstanceRef.from_dir(home)
    kinds = ("storage_data", "run_storage_data", "event_storage_data", "schedule_storage_data")
    changed = {}
    for kind in kinds:
        data = getattr(ref, kind)
        if data is not None and data.module_name.startswith("dagster_postgres"):
            config = {**data.config_dict, "should_autocreate_tables": False}
            changed[kind] = data._replace(config_yaml=json.dumps(config))
    return DagsterInstance.from_ref(ref._replace(**changed))


def code_servers_of(workspace: Path) -> list[tuple[str, str, int]]:
    """Name, host and port of each code server that a workspace file names. Raises what Dagster raises for the file."""
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin  # noqa: PLC0415
    from dagster._core.workspace.load_target import WorkspaceFileTarget  # noqa: PLC0415

    origins = WorkspaceFileTarget([str(workspace)]).create_origins()
    return [
        (one.location_name, one.host, one.port)
        for one in origins
        if isinstance(one, GrpcServerCodeLocationOrigin) and one.port is not None
    ]


def database_errors() -> tuple[type[Exception], ...]:
    """The exceptions that are raised when the instance's database refuses something, or cannot be reached."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  # which Dagster imports with its storage

    postgres = sys.modules.get("dagster_postgres.utils")  # imported only if an instance is on PostgreSQL
    return (SQLAlchemyError,) if postgres is None else (SQLAlchemyError, postgres.DagsterPostgresException)


_PATCHED = "_crucible_replaced"
_GIVES_UP = "_crucible_gives_up"
_log = logging.getLogger("crucible")
_configuring, _capturing = threading.RLock(), threading.RLock()


@contextlib.contextmanager
def in_this_process(instance: DagsterInstance) -> Iterator[None]:
    """Wrap a run in this process; other threads may execute runs at the same time.

    Dagster configures Python's `logging` when a run begins, even if its settings name no handlers. This can deadlock:
    `logging` takes its own lock and waits for the locks of all handlers, while a handler of another run holds its lock
    and waits for `logging`. So without handlers in the settings nothing is configured; with them, runs take turns.

    Standard output belongs to the process. If two runs redirected it, it could stay redirected. So only one of them
    redirects it, and its log also has what the others print.
    """
    logs = instance.compute_log_manager
    if "capture_logs" not in vars(logs):
        logs.capture_logs = functools.partial(_capture_alone, logs.capture_logs)  # type: ignore[method-assign]
    if instance.get_python_log_dagster_handler_config():
        with _configuring:
            yield
    else:
        instance.get_yaml_python_handlers = list  # type: ignore[method-assign]
        yield


@contextlib.contextmanager
def _capture_alone(
    capture: Callable[[Sequence[str]], AbstractContextManager[CapturedLogContext]], log_key: Sequence[str]
) -> Iterator[CapturedLogContext]:
    if not _capturing.acquire(blocking=False):
        yield CapturedLogContext(log_key)
        return
    try:
        with capture(log_key) as captured:
            yield captured
    finally:
        _capturing.release()
