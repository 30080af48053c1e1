"""An observer that writes what a stage does to Dagster's event log of the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic

from dagster import OpExecutionContext

from crucible_bench.numbers import format_number
from crucible_core import Decision, Event, Experiment, Observer, ProgressUpdate, StageRetried
from crucible_core.values.jsonable import visible_text
from crucible_core.values.messages import cut
from crucible_dagster.execute.captured_logs import MAX_TEXT
from crucible_dagster.execute.compiled import RunSettings
from crucible_dagster.execute.metadata import observation

INTERVAL = 5.0
"""Seconds between two lines about one progress bar."""


FREE_LINES = 20


MAX_NAMED_METRICS = 20


class EventLogObserver(Observer):
    """The observer of a step: its decisions, retries, progress and metrics become entries of the run's event log."""

    interval = INTERVAL

    def __init__(
        self,
        context: OpExecutionContext,
        experiment: Experiment,
        settings: RunSettings,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._dagster = context
        self._experiment = experiment
        self._tracing = settings.tracing
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._free = FREE_LINES

    def on_event(self, event: Event) -> None:
        if isinstance(event, Decision):
            if self._tracing:
                self._dagster.log_event(observation(self._experiment, event))
        elif isinstance(event, StageRetried):
            said = f"attempt {event.attempt} failed: {event.reason}; again in {event.delay:.1f} s"
            self._dagster.log.warning(said)

    def on_progress(self, update: ProgressUpdate) -> None:
        with self._lock:
            due = self._is_due(update, self._clock())
        if due:
            self._dagster.log.info(cut(visible_text(update.describe()), MAX_TEXT))

    def _is_due(self, update: ProgressUpdate, now: float) -> bool:
        # The first and the last update are logged at once, unless there are many bars, as with nested loops.
        last = self._last.get(update.description)
        at_once = (update.ended or update.count == 0) and self._free > 0
        if not at_once and (last is None or now - last < INTERVAL):
            self._last.setdefault(update.description, now)
            return False
        self._free -= at_once
        self._last[update.description] = now
        return True

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002  # the line is the step's
        if self._tracing:
            shown = [f"{name} = {format_number(value)}" for name, value in list(metrics.items())[:MAX_NAMED_METRICS]]
            more = f", and {len(metrics) - len(shown):,} more" if len(metrics) > len(shown) else ""
            self._dagster.log.info(cut(visible_text(f"metrics so far: {', '.join(shown)}{more}"), MAX_TEXT))
