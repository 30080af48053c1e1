"""Dagster's own scheduler and sensors, at an instant that a test chooses, in this process or in one to be killed.

What is submitted waits in the queue, as it is deployed, until `launch_queued` has it run in the test's process.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._scheduler.scheduler import launch_scheduled_runs

__all__ = [
    "LOCATION",
    "SETTINGS",
    "add_settings",
    "launch_queued",
    "scheduler_at",
    "switch_off",
    "switch_on",
    "switch_sensor_on",
    "workspace_of",
]

LOCATION = "here"
SETTINGS: Mapping[str, Any] = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "schedules": {"use_threads": False},
}


def add_settings(home: Path, settings: Mapping[str, Any] = SETTINGS) -> None:
    file = home / "dagster.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **settings}))


@contextlib.contextmanager
def workspace_of(instance: DagsterInstance, definitions: Path) -> Iterator[WorkspaceProcessContext]:
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(definitions), attribute="defs", working_directory=str(definitions.parent)),
        location_name=LOCATION,
    )
    with create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget([origin]), instance) as workspace:
        yield workspace


def switch_on(workspace: WorkspaceProcessContext, schedule: str, since: datetime) -> None:
    """Switch a schedule on, as of an instant in the past."""
    found = _repository(workspace).get_schedule(schedule)
    data = ScheduleInstigatorData(found.cron_schedule, since.timestamp())
    state = InstigatorState(found.get_remote_origin(), InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
    instance = workspace.instance
    if instance.get_instigator_state(state.instigator_origin_id, state.selector_id):
        instance.update_instigator_state(state)
    else:
        instance.add_instigator_state(state)


def switch_off(workspace: WorkspaceProcessContext, schedule: str) -> None:
    found = _repository(workspace).get_schedule(schedule)
    state = workspace.instance.get_instigator_state(found.get_remote_origin_id(), found.selector_id)
    assert state is not None
    workspace.instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))


def switch_sensor_on(workspace: WorkspaceProcessContext, sensor: str, since: datetime) -> None:
    found = _repository(workspace).get_sensor(sensor)
    data = SensorInstigatorData(last_sensor_start_timestamp=since.timestamp(), sensor_type=found.sensor_type)
    workspace.instance.add_instigator_state(
        InstigatorState(found.get_remote_origin(), InstigatorType.SENSOR, InstigatorStatus.RUNNING, data)
    )


def scheduler_at(
    workspace: WorkspaceProcessContext, now: datetime, crash: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """One iteration of the daemon's scheduler, as if it were `now`; `crash`: schedule -> named point -> signal."""
    errors = [
        found
        for found in launch_scheduled_runs(
            workspace,
            logging.getLogger("scheduler"),
            end_datetime_utc=now.astimezone(UTC),
            iteration_times={},
            debug_crash_flags=crash,
        )
        if found is not None
    ]
    assert errors == [], errors


def launch_queued(workspace: WorkspaceProcessContext) -> None:
    """Run what is in the queue, oldest first."""
    instance = workspace.instance
    for run in reversed(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))):
        instance.launch_run(run.run_id, workspace.create_request_context())


def _repository(workspace: WorkspaceProcessContext) -> Any:
    (entry,) = workspace.create_request_context().get_code_location_entries().values()
    assert entry.code_location, entry.load_error
    (repository,) = entry.code_location.get_repositories().values()
    return repository
