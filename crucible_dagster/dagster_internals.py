"""The only place that touches what Dagster does not promise to keep; a test pins each name."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from dagster import DagsterInstance
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.plan.state import KnownExecutionState, PastExecutionState
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.tags import RESUME_RETRY_TAG, SCHEDULED_EXECUTION_TIME_TAG
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
    "DagsterUserCodeProcessError",
    "ExecutionPlan",
    "InMemoryJob",
    "InstigatorState",
    "InstigatorTick",
    "KnownExecutionState",
    "PastExecutionState",
    "ReconstructableJob",
    "RegisteredCodeLocationOrigin",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "create_execution_plan",
    "execute_run",
    "has_out_of_range_cron_interval",
    "in_this_process",
    "is_valid_cron_schedule",
    "schedule_execution_time_iterator",
]

# What each step's process would otherwise import itself: most of the second and a half that a step costs then.
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

_configuring, _capturing = threading.RLock(), threading.RLock()


@contextlib.contextmanager
def in_this_process(instance: DagsterInstance) -> Iterator[None]:
    """Around a run in this process, beside which there may be others in threads.

    Dagster configures Python's `logging` when a run begins, even if its settings name no handlers. `logging` then takes
    its own lock and waits for those of all handlers; a handler of another run, which holds one, waits for `logging`.
    Without handlers in the settings there is nothing to configure; with them, runs are one after another.

    Standard output belongs to the process. Two runs that redirect it in turn would leave it redirected, so one of them
    does, and its log has what the others print.
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
