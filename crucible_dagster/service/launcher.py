"""Starts runs on code servers like Dagster, and notices when a run's process is lost, even with its machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dagster import DagsterRun, DefaultRunLauncher, Field

from crucible_core.errors import CrucibleError
from crucible_dagster.dagster_internals import CheckRunHealthResult, WorkerStatus
from crucible_dagster.execute.heartbeat import INTERVAL, TICK
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store

__all__ = ["SILENCE", "HeartbeatRunLauncher"]

BEATS = 7
"""How many beats must be missing before a run counts as dead."""
SILENCE = BEATS * INTERVAL
"""Seconds without a beat after which a run counts as dead; the default of `silence_seconds`."""
LOOK = 3 / BEATS
"""The largest time between two checks that counts as silence, as a share of the allowed silence: a longer gap may mean
that the store or this process was away."""
FORGET = 3_600.0


@dataclass
class _Heard:
    beats: int
    at: float
    silent: float = 0.0


class HeartbeatRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, with a health check for run monitoring that uses the heartbeats in the context store.

    Clocks of different machines are not compared: a run is dead if its heartbeat does not change while this process
    watches. A run without a heartbeat, such as one of a code location without experiments, counts as alive.

    `silence_seconds` is the setting for how many seconds without a beat mean that a run is dead; in that time, a run
    beats seven times. Raises CrucibleError if the setting is too small for that.
    """

    def __init__(self, inst_data: Any = None, silence_seconds: float = SILENCE) -> None:
        super().__init__(inst_data)
        if silence_seconds < BEATS * TICK:
            raise CrucibleError(
                f"silence_seconds of the run launcher is {silence_seconds:g}; it must be at least {BEATS * TICK:g}: "
                f"a run's process beats {BEATS} times in it, and at most once every {TICK:g} seconds."
            )
        self.silence = silence_seconds
        self._heard: dict[str, _Heard] = {}
        self._store: ContextStore | None = None

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return {"silence_seconds": Field(float, is_required=False, default_value=SILENCE)}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data, **config_value)

    @property
    def beat_seconds(self) -> float:
        """Seconds between two beats of a run's process."""
        return self.silence / BEATS

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """NOT_FOUND if the run's process was silent for `silence` seconds, else RUNNING."""
        now = time.monotonic()
        self._heard = {key: one for key, one in self._heard.items() if now - one.at < FORGET}
        try:
            self._store = self._store or open_store(self._instance)
            beats = self._store.beats(run.run_id)
        except Exception as error:  # noqa: BLE001  # a file system may raise anything: nothing is known about the run
            self._heard.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"its heartbeat cannot be read: {error}")
        if beats is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it has no heartbeat")
        heard = self._heard.get(run.run_id)
        if heard is None or heard.beats != beats:
            self._heard[run.run_id] = _Heard(beats, now)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        heard.silent += min(now - heard.at, LOOK * self.silence)
        heard.at = now
        if heard.silent < self.silence:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        said = f"nothing was heard of its process for {heard.silent:.0f} seconds"
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, said)
