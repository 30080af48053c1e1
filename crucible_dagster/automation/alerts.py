"""Telling people that a run or a gate failed: a sensor that calls a function of yours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    EventLogRecord,
    RunStatusChangeRecordsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
)

from crucible_core.errors import CrucibleError
from crucible_core.ir.vocabulary import ScheduleStatus
from crucible_core.values.jsonable import safe_text
from crucible_core.values.messages import shorten
from crucible_dagster.automation.triggers import SENSOR_STATUS
from crucible_dagster.history.gate_results import gates_of_run
from crucible_dagster.history.history import History
from crucible_dagster.origins import is_launched_here, location_of
from crucible_dagster.tags import EXPERIMENT_TAG, SCHEDULE_NAME_TAG, SENSOR_NAME_TAG, TICK_TAG, UPDATED_TAG, VARIANT_TAG

__all__ = ["Alert", "AlertKind", "failure_sensor"]

AlertKind = Literal["run_failed", "gate_failed"]
Notify = Callable[["Alert"], None]

ATTEMPTS = 5
"""How many times a notifier that raises is called for one alert."""
PATIENCE = 30.0
"""Seconds after which the rest waits for the next evaluation: Dagster stops an evaluation after 60."""
SETTLES = 60.0
"""Seconds by which an event may be visible before the run's status and tags agree with it, or before an event with a
lower id is visible: Dagster stores the event first, and the database gives out ids before the rows can be seen."""
EVENTS = 100
MAX_SENTENCE = 1_000

_WILL_RETRY_TAG = "dagster/will_retry"
_End = Literal[DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_SUCCESS]
_Kind = Literal["failed", "succeeded"]
_EVENTS: Mapping[_Kind, _End] = {
    "failed": DagsterEventType.RUN_FAILURE,
    "succeeded": DagsterEventType.RUN_SUCCESS,
}
_FACTS: Mapping[str, str] = {
    "variant": VARIANT_TAG,
    "schedule": SCHEDULE_NAME_TAG,
    "tick": TICK_TAG,
    "sensor": SENSOR_NAME_TAG,
    "updated": UPDATED_TAG,
}


@dataclass(frozen=True, slots=True)
class Alert:
    """A failure that somebody should know about."""

    kind: AlertKind
    experiment: str
    """Its id."""
    run_id: str
    sentence: str
    """For people: what failed, and why."""
    stage: str | None = None
    """The stage that failed; None if the failure was outside the stages."""
    gate: str | None = None
    link: str | None = None
    """The run's page, if `ui` was given."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else is known: `job`; and `variant`, `schedule`, `tick`, `sensor` and `updated`, if the run has them."""

    @property
    def key(self) -> str:
        """A text that is the same for the same failure, so that a repeated notification can be recognized."""
        return f"{self.run_id} {self.kind} {self.gate or ''}".rstrip()


def failure_sensor(
    notify: Notify,
    *,
    experiments: Iterable[str] | None = None,
    gates: bool = True,
    name: str = "crucible_failures",
    ui: str | None = None,
    default_status: ScheduleStatus = "running",
    minimum_interval_seconds: int | None = None,
) -> SensorDefinition:
    """A sensor that calls `notify` once for each failed run, and for each failed gate of severity `error`.

    Add it to your Definitions, with the experiments. `experiments` are ids; by default, all experiments of this code
    location, and runs launched from a command line. With `gates`, a run that failed because of a gate is reported once
    for each such gate, not as a failed run. A run that Dagster is about to retry is not reported. `ui` is the address
    of the webserver, for links. `minimum_interval_seconds` is Dagster's setting, by default 30.

    Each failure is reported at least once: if `notify` raises, it is called again, up to five times in all, and if the
    process is killed during an evaluation, everything since the last one is reported again. If Dagster is still
    recording the end of a run, it is looked at again, for a minute. An alert that cannot be sent never hides another.
    """
    wanted = None if experiments is None else frozenset(experiments)

    def evaluate(context: SensorEvaluationContext) -> Iterator[SkipReason]:
        look = _Evaluation(context, notify, wanted, gates=gates, ui=ui)
        look.take()
        context.update_cursor(look.cursor)
        yield SkipReason(look.said)

    return SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        default_status=SENSOR_STATUS[default_status],
        minimum_interval_seconds=minimum_interval_seconds,
        description="Reports failed runs and gates of experiments.",
    )


class _Evaluation:
    """One evaluation: what happened since the last one."""

    def __init__(
        self,
        context: SensorEvaluationContext,
        notify: Notify,
        experiments: Collection[str] | None,
        *,
        gates: bool,
        ui: str | None,
    ) -> None:
        self._context = context
        self._instance: DagsterInstance = context.instance
        self._notify = notify
        self._experiments = experiments
        self._gates = gates
        self._ui = ui
        self._until = time.monotonic() + PATIENCE
        known: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
        self._start = context.last_sensor_start_time
        self._seen: dict[str, int] = known.get("seen", {})
        """Kind of event -> the storage id up to which everything is done."""
        self._recent: dict[str, dict[str, tuple[float, bool]]] = known.get("recent", {})
        """Kind -> storage id of a later event -> when it was first seen, and whether it is done."""
        if not known or known.get("start") != self._start:
            self._skip_what_was_before()
        self._again: dict[str, int] = known.get("again", {})
        """Key of an alert -> how often `notify` raised for it."""
        self._reported = 0
        self._abandoned = 0
        self._unsettled = 0

    @property
    def cursor(self) -> str:
        return json.dumps({"start": self._start, "seen": self._seen, "recent": self._recent, "again": self._again})

    @property
    def said(self) -> str:
        counted = [f"{self._reported} reported"]
        counted += [f"{len(self._again)} to be tried again, because the notifier raised"] if self._again else []
        counted += [f"{self._abandoned} given up"] if self._abandoned else []
        counted += [f"{self._unsettled} not yet, because Dagster is still recording the end"] if self._unsettled else []
        return ", ".join(counted)

    def take(self) -> None:
        for run_id in dict.fromkeys(key.split(" ")[0] for key in self._again):
            if not self._is_late():
                self._report_again(run_id)
        for kind, event_type in _EVENTS.items():
            if kind == "succeeded" and not self._gates:
                continue
            for record in self._since(event_type, self._seen[kind]):
                if self._is_late():
                    break
                self._look_at(kind, record)
            self._pass_settled(kind)

    def _look_at(self, kind: _Kind, record: EventLogRecord) -> None:
        now, recent = time.time(), self._recent.setdefault(kind, {})
        first, done = recent.get(str(record.storage_id), (now, False))
        if not done:
            # A process that dies right after storing the event never sets the status, but the run has still ended.
            done = self._is_settled(record.run_id) or now - first >= SETTLES
            if done:
                self._report(record.run_id, kind)
            else:
                self._unsettled += 1
        recent[str(record.storage_id)] = (first, done)

    def _is_settled(self, run_id: str) -> bool:
        """Whether the run's status and tags say how it ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None:
            return True
        decided = not (run.is_failure and self._instance.run_retries_enabled) or _WILL_RETRY_TAG in run.tags
        return run.is_finished and decided

    def _pass_settled(self, kind: _Kind) -> None:
        recent = self._recent.get(kind, {})
        for number in sorted(map(int, recent)):
            first, done = recent[str(number)]
            if not done or time.time() - first < SETTLES:
                return
            self._seen[kind] = number
            del recent[str(number)]

    def _skip_what_was_before(self) -> None:
        """Do not report what happened before the sensor was switched on, or while it was off."""
        for kind, event_type in _EVENTS.items():
            filtered = RunStatusChangeRecordsFilter(event_type, before_timestamp=self._start)
            found = self._instance.fetch_run_status_changes(filtered, limit=1).records
            self._seen[kind] = max(found[0].storage_id if found else 0, self._seen.get(kind, 0))
            recent = self._recent.get(kind, {})
            self._recent[kind] = {number: one for number, one in recent.items() if int(number) > self._seen[kind]}

    def _since(self, event_type: _End, last: int) -> Iterator[EventLogRecord]:
        while True:
            filtered = RunStatusChangeRecordsFilter(event_type, after_storage_id=last)
            found = self._instance.fetch_run_status_changes(filtered, limit=EVENTS, ascending=True).records
            yield from found
            if len(found) < EVENTS:
                return
            last = found[-1].storage_id

    def _is_late(self) -> bool:
        return time.monotonic() > self._until

    def _report_again(self, run_id: str) -> None:
        waiting = frozenset(key for key in self._again if key.split(" ")[0] == run_id)
        kind: _Kind = "failed" if any(key.endswith(" run_failed") for key in waiting) else "succeeded"
        reported = self._report(run_id, kind, only=waiting)
        for key in waiting - reported:  # the run was deleted, or is being retried
            del self._again[key]

    def _report(self, run_id: str, kind: _Kind, *, only: Collection[str] | None = None) -> set[str]:
        """Report all alerts of the run, or `only` these; returns the keys of those that the run has."""
        found = set()
        for alert in self._alerts(run_id, kind):
            if only is not None and alert.key not in only:
                continue
            found.add(alert.key)
            try:
                self._notify(alert)
            except Exception as error:  # noqa: BLE001  # an error of the notifier must not hide the next failure
                self._fail(alert, error)
            else:
                self._reported += 1
                self._again.pop(alert.key, None)
        return found

    def _fail(self, alert: Alert, error: Exception) -> None:
        attempts = self._again.get(alert.key, 0) + 1
        said = f"the notifier raised {type(error).__name__}: {error}, for {alert.key} ({alert.sentence})"
        if attempts < ATTEMPTS:
            self._again[alert.key] = attempts
            self._context.log.warning(f"{said}; it is called again at the next evaluation")
        else:
            self._again.pop(alert.key, None)
            self._abandoned += 1
            self._context.log.error(f"{said}; not tried again after {attempts} attempts")

    def _alerts(self, run_id: str, kind: _Kind) -> Iterator[Alert]:
        run = self._instance.get_run_by_id(run_id)
        if run is None or not self._is_ours(run) or run.tags.get(_WILL_RETRY_TAG) == "true":
            return
        experiment = run.tags[EXPERIMENT_TAG]
        common: dict[str, Any] = {
            "experiment": experiment,
            "run_id": run_id,
            "link": f"{self._ui.rstrip('/')}/runs/{run_id}" if self._ui else None,
            "facts": {"job": run.job_name, **{name: run.tags[tag] for name, tag in _FACTS.items() if tag in run.tags}},
        }
        failed = [one for one in gates_of_run(self._instance, run_id) if one.fails] if self._gates else []
        for one in failed:
            said = f"Gate {one.gate} of {experiment} {one.status}: {one.sentence}"
            yield Alert("gate_failed", gate=one.gate, sentence=_one_sentence(said), **common)
        if not failed and (run.is_failure or (kind == "failed" and not run.is_finished)):
            stage, reason = _why(self._instance, run_id)
            where = f" at stage {stage}" if stage else ""
            yield Alert(
                "run_failed",
                stage=stage,
                sentence=_one_sentence(f"Run of {experiment} failed{where}: {reason}"),
                **common,
            )

    def _is_ours(self, run: DagsterRun) -> bool:
        if EXPERIMENT_TAG not in run.tags:
            return False
        if self._experiments is not None and run.tags[EXPERIMENT_TAG] not in self._experiments:
            return False
        origin = self._context.code_location_origin
        here = None if origin is None else f"{origin.location_name}:{self._context.repository_name}"
        return here is None or is_launched_here(run) or location_of(run) == here


def _why(instance: DagsterInstance, run_id: str) -> tuple[str | None, str]:
    try:
        failure = History(instance).run(run_id).failure
    except CrucibleError as error:  # what the run left cannot be read, but somebody should still know about it
        return None, str(error)
    return (failure.stage, failure.reason) if failure else (None, "no cause is recorded")


def _one_sentence(text: str) -> str:
    return shorten(safe_text(" ".join(text.split())), MAX_SENTENCE)
