"""The ticks of a schedule and what happened to each. Dagster itself knows only ticks that a daemon evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, Schedule
from crucible_core.values.messages import closest
from crucible_dagster.dagster_internals import (
    SCHEDULED_EXECUTION_TIME_TAG,
    InstigatorState,
    InstigatorTick,
    has_out_of_range_cron_interval,
    is_valid_cron_schedule,
    schedule_execution_time_iterator,
)
from crucible_dagster.execute.run_claims import claim_key
from crucible_dagster.history.summaries import STATUSES, RunStatus
from crucible_dagster.names import root_of
from crucible_dagster.origins import location_of
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import CRON_TAG, SCHEDULE_NAME_TAG, SUPERSEDED_TAG, TICK_TAG

__all__ = [
    "CRON_TAG",
    "Outcome",
    "Tick",
    "Ticks",
    "check_times",
    "cron_of",
    "find_state",
    "state_of_tick",
    "ticks_of",
    "times_before",
    "what_became_of",
]


Outcome = Literal["run", "skipped", "missed", "due"]
"""`due`: the tick came within the last two minutes, and nothing is known about it yet."""

DUE_SECONDS = 120.0
NOT_STARTED = DagsterRunStatus.NOT_STARTED


@dataclass(frozen=True, slots=True)
class Tick:
    """One time of the schedule, and what happened to it."""

    time: datetime
    """In the schedule's time zone."""
    outcome: Outcome
    run_id: str | None = None
    """The run that did its work, or the newest of those that executed it again."""
    run_status: RunStatus | None = None
    note: str | None = None
    """Why it was skipped or missed."""
    never_submitted: tuple[str, ...] = ()
    """Runs that were created for it and never submitted."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """The newest ticks of a schedule, oldest first."""

    schedule: str
    location: str
    """Code location and repository, as `location:repository`."""
    on: bool
    """Whether the schedule is switched on."""
    since: datetime | None
    """When ticks are expected from: when it was switched on, or its times were changed; None if not known."""
    ticks: tuple[Tick, ...]

    @property
    def missed(self) -> tuple[Tick, ...]:
        return tuple(tick for tick in self.ticks if tick.outcome == "missed")


# --- the times --------------------------------------------------------------------------------------------------------


def check_times(experiment: Experiment) -> None:
    """Raise InvalidExperimentError if the schedule or automation has times that Dagster cannot run."""
    for key, one in (("schedule", experiment.schedule), ("automation", experiment.automation)):
        cron = one and one.cron
        # For a step larger than its field, Dagster only warns, and then runs more often than the file says.
        if cron and (not is_valid_cron_schedule(cron) or has_out_of_range_cron_interval(cron)):
            raise InvalidExperimentError(
                f"{key}.cron: {cron!r} is not a cron schedule that Dagster can run: one of its fields (minute, "
                "hour, day of month, month, day of week) is out of range, or the day never comes",
                location=experiment.location(key, "cron"),
            )


def times_before(schedule: Schedule, until: datetime, *, since: datetime, limit: int) -> list[datetime]:
    """The last `limit` times from `since` on and before `until`, oldest first."""
    backwards = schedule_execution_time_iterator(until.timestamp(), schedule.cron, schedule.timezone, ascending=False)
    # Timestamps: within one zone Python compares local times, and when clocks go back, an hour occurs twice.
    before = (time for time in backwards if time.timestamp() < until.timestamp())
    newest = itertools.islice(before, limit)
    return list(itertools.takewhile(lambda time: time.timestamp() >= since.timestamp(), newest))[::-1]


def cron_of(schedule: Schedule) -> str:
    return f"{schedule.cron} {schedule.timezone}"


# --- what happened to them --------------------------------------------------------------------------------------------


def ticks_of(
    instance: DagsterInstance,
    schedule: Schedule,
    state: InstigatorState,
    *,
    until: datetime,
    limit: int,
    since: datetime | None = None,
    now: datetime | None = None,
) -> Ticks:
    """The last `limit` ticks before `until`, since the schedule was switched on unless `since` says otherwise.

    With `now`, a tick of the last two minutes is due and not missed; without it, none is due.
    """
    name, location = state.instigator_name, f"{state.selector.location_name}:{state.selector.repository_name}"
    # Several runs may belong to one tick: of two daemons, of retries, of re-executions.
    runs = _runs_of(instance, name, location, limit=8 * limit + 20)
    begin = since or _since(schedule, state, runs)
    if begin is None:
        return Ticks(name, location, state.is_running, None, ())
    times = times_before(schedule, until, since=begin, limit=limit)
    earliest = (times[0] if times else until).timestamp()
    looked_at: dict[float, InstigatorTick] = {}
    for tick in instance.get_ticks(
        state.instigator_origin_id, state.selector_id, after=earliest - 1, before=until.timestamp() + 1
    ):
        if tick.timestamp not in looked_at or tick.status.value == "SKIPPED":  # two daemons make two ticks for one time
            looked_at[tick.timestamp] = tick
    found = []
    for time in times:
        of_tick = runs.get(time.timestamp(), [])
        seen = looked_at.get(time.timestamp())
        found.append(what_became_of(time, of_tick, seen, owner=_owner(instance, of_tick), now=now))
    return Ticks(name, location, state.is_running, begin, tuple(found))


def what_became_of(
    time: datetime,
    runs: Sequence[DagsterRun],
    tick: InstigatorTick | None,
    *,
    owner: str | None = None,
    now: datetime | None = None,
) -> Tick:
    """What happened to a tick, judged by the runs launched for it (oldest first) and by Dagster's record of it.

    `owner` is the run that claimed it; None if no run did.
    """
    # The run that claimed the tick counts, even if it was cancelled right before it was submitted.
    own = [run for run in runs if SUPERSEDED_TAG not in run.tags or root_of(run) == owner]
    waiting = tuple(run.run_id for run in own if run.status is NOT_STARTED)
    launched = [run for run in own if run.status is not NOT_STARTED]
    if launched:
        roots = [root_of(run) for run in launched]
        root = owner if owner in roots else roots[0]
        newest = [run for run in launched if root_of(run) == root][-1]
        return Tick(time, "run", newest.run_id, _status_of(newest), never_submitted=waiting)
    outcome, note = _without_run(time, runs, tick, now)
    return Tick(time, outcome, note=note, never_submitted=waiting)


def _without_run(
    time: datetime, runs: Sequence[DagsterRun], tick: InstigatorTick | None, now: datetime | None
) -> tuple[Outcome, str | None]:
    status = None if tick is None else tick.status.value
    if tick is not None and status == "SKIPPED":
        return "skipped", tick.skip_reason
    if now is not None and now.timestamp() - time.timestamp() < DUE_SECONDS:
        return "due", None
    if runs:
        return "missed", f"run {runs[-1].run_id} was created for it and never submitted"
    if tick is not None and status == "FAILURE":
        said = tick.error.message.strip() if tick.error else "no cause is recorded"
        return "missed", f"its evaluation failed: {said}"
    return "missed", "no daemon looked at it" if tick is None else "its evaluation was interrupted"


def _status_of(run: DagsterRun) -> RunStatus:
    return next(name for name, statuses in STATUSES.items() if run.status in statuses)


def _owner(instance: DagsterInstance, runs: Sequence[DagsterRun]) -> str | None:
    """The run that claimed the tick, if there are several."""
    launched = [run for run in runs if run.status is not NOT_STARTED]
    if len({root_of(run) for run in launched}) < 2 and not any(SUPERSEDED_TAG in run.tags for run in launched):
        return None
    key = claim_key(runs[0])
    return None if key is None else open_store(instance).claimed_by(key)


def _runs_of(instance: DagsterInstance, name: str, location: str, *, limit: int) -> Mapping[float, list[DagsterRun]]:
    """Tick -> the runs that were launched for it, oldest first."""
    found: dict[float, list[DagsterRun]] = {}
    for run in instance.get_runs(RunsFilter(tags={SCHEDULE_NAME_TAG: name}), limit=limit):
        time = _tick_of(run)
        if time is not None and location_of(run) in {location, ""}:
            found.setdefault(time, []).insert(0, run)
    return found


def _tick_of(run: DagsterRun) -> float | None:
    # Runs of earlier versions have only Dagster's tag, not ours.
    said = run.tags.get(TICK_TAG) or run.tags.get(SCHEDULED_EXECUTION_TIME_TAG) or ""
    with suppress(ValueError):
        return datetime.fromisoformat(said).timestamp()
    return None


def _since(schedule: Schedule, state: InstigatorState, runs: Mapping[float, Sequence[DagsterRun]]) -> datetime | None:
    """Since when ticks have followed the schedule as it is now.

    Dagster records when a schedule was switched on, but not when its times were changed; the runs' tags show that.
    """
    data: Any = state.instigator_data
    start = data.start_timestamp if data else None
    if start is None:
        return None
    by_this = None
    for time in sorted((one for one in runs if one >= start), reverse=True):
        if any(run.tags.get(CRON_TAG) == cron_of(schedule) for run in runs[time]):
            by_this = time
        else:
            return datetime.fromtimestamp(by_this, UTC) if by_this is not None else None
    if by_this is None and data.cron_schedule != schedule.cron:
        return None
    return datetime.fromtimestamp(start, UTC)


# --- the schedule's state ---------------------------------------------------------------------------------------------


def find_state(instance: DagsterInstance, name: str, location: str | None = None) -> InstigatorState:
    """What Dagster has stored about the schedule of that name.

    Raises CrucibleError if there is no such schedule, or if several code locations have one and none is given.
    """
    known = _states(instance)
    found = [state for state in known if state.instigator_name == name]
    if location is not None:
        found = [state for state in found if location == state.selector.location_name]
    if len(found) == 1:
        return found[0]
    if found:
        where = ", ".join(sorted(state.selector.location_name for state in found))
        raise CrucibleError(f"several code locations have a schedule {name!r}: {where}; choose one with --location")
    names = sorted({state.instigator_name for state in known})
    raise CrucibleError(
        f"the schedule {name!r}{f' of code location {location!r}' if location else ''} was never switched on in "
        f"this Dagster instance{closest(name, names)}; it knows {', '.join(names) or 'no schedule'}"
    )


def state_of_tick(instance: DagsterInstance, name: str, tick_id: str | None) -> InstigatorState | None:
    """The state of the schedule that is being evaluated for a tick; None if it is not known."""
    found = [state for state in _states(instance) if state.instigator_name == name]
    if len(found) > 1:
        # Several code locations have it, and Dagster gives an evaluation the id of its tick but not its location.
        found = [
            state
            for state in found
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
            if str(tick.tick_id) == tick_id
        ]
    return found[0] if len(found) == 1 else None


def _states(instance: DagsterInstance) -> Sequence[InstigatorState]:
    return [state for state in instance.all_instigator_state() if state.instigator_type.value == "SCHEDULE"]
