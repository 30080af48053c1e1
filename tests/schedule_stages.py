"""What schedules and triggers run in tests, and the process in which a scheduler is killed."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from pathlib import Path

import fault_stages
from scheduler import scheduler_at, workspace_of

from crucible_core import Context, stage

__all__ = ["fail", "serve", "work"]


@stage
def work(ctx: Context, *, folder: str, seconds: float = 0.0) -> Context:
    """Notes which run did it."""
    fault_stages.mark(folder, ctx.run_id)
    time.sleep(seconds)
    return ctx.put_metric("worked", 1)


@stage
def fail(ctx: Context, *, folder: str) -> Context:
    """Fails until there is a file that says that it shall not."""
    fault_stages.mark(folder, ctx.run_id)
    if not (Path(folder) / "mended").exists():
        raise ValueError("it does not work yet")
    return ctx.put_metric("worked", 1)


def schedule(*, home: str, definitions: str, now: str, schedule: str, crash: str | None, ready: str | None) -> None:
    """One iteration of the scheduler, which is killed at a named point; with `ready`, at the same time as another."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(home) as instance, workspace_of(instance, Path(definitions)) as workspace:
        if ready is not None:
            workspace.create_request_context()
            (Path(ready) / f"ready {os.getpid()}").touch()
            fault_stages.wait_for(Path(ready) / "go")
        flags = {schedule: {crash: signal.SIGKILL}} if crash else None
        scheduler_at(workspace, datetime.fromisoformat(now), flags)


def serve() -> None:
    fault_stages.FUNCTIONS["schedule"] = schedule
    fault_stages.serve()
