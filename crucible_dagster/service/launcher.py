"""Starts runs on code servers as Dagster does, and knows when the process of one is lost, with its machine or not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dagster import DagsterRun, DefaultRunLauncher

from crucible_dagster.dagster_internals import CheckRunHealthResult, WorkerStatus
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store

__all__ = ["SILENCE", "HeartbeatRunLauncher"]

SILENCE = 35.0
"""Seconds without a beat after which a run is dead: seven beats."""
STEP = 15.0
"""The most that the time between two looks counts for: the store, or this process, may have been away meanwhile."""
FORGET = 3_600.0


@dataclass
class _Heard:
    beats: int
    at: float
    silent: float = 0.0


class HeartbeatRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, with a health check for its run monitoring, by the heartbeats in the context store.

    No clock of two machines is compared: a run is dead if its heartbeat does not change while this process looks. A run
    without a heartbeat, for instance of a code location without experiments, is taken for alive.
    """

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._heard: dict[str, _Heard] = {}
        self._store: ContextStore | None = None

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """NOT_FOUND if nothing was heard of the run's process for SILENCE seconds, else RUNNING."""
        now = time.monotonic()
        self._heard = {key: one for key, one in self._heard.items() if now - one.at < FORGET}
        try:
            self._store = self._store or open_store(self._instance)
            beats = self._store.beats(run.run_id)
        except Exception as error:  # noqa: BLE001  # whatever a file system raises: nothing is known of the run
            self._heard.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"its heartbeat cannot be read: {error}")
        if beats is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it has no heartbeat")
        heard = self._heard.get(run.run_id)
        if heard is None or heard.beats != beats:
            self._heard[run.run_id] = _Heard(beats, now)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        heard.silent += min(now - heard.at, STEP)
        heard.at = now
        if heard.silent < SILENCE:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        said = f"nothing was heard of its process for {heard.silent:.0f} seconds"
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, said)
