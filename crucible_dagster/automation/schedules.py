"""The schedule of an experiment: which runs a tick launches, also if it is late or was missed.

Dagster's daemon evaluates a schedule once for the newest tick that has passed, and again if that was interrupted; it
ignores older ticks. Every run that is launched for a tick is tagged with it, and `crucible_dagster.execute.run_claims`
ensures that one run does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    JobDefinition,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
)

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, Schedule, builtin_registry
from crucible_core.ir.vocabulary import MissedTicks, ScheduleStatus
from crucible_dagster.automation.ticks import Tick, Ticks, check_times, cron_of, state_of_tick, ticks_of
from crucible_dagster.compile.run_settings import config_of_variant, tags_of_variant
from crucible_dagster.dagster_internals import SCHEDULED_EXECUTION_TIME_TAG
from crucible_dagster.execute.run_claims import supersede
from crucible_dagster.execution import execute_experiment
from crucible_dagster.names import dagster_name
from crucible_dagster.tags import CRON_TAG, LOCATION_TAG, SCHEDULE_NAME_TAG, TICK_TAG

__all__ = [
    "MAX_CATCH_UP",
    "MAX_LATE",
    "MISSED",
    "SCHEDULE_STATUS",
    "run_missed",
    "schedule_for",
    "schedule_name",
    "tick_tags",
]

MAX_CATCH_UP = 10
MAX_LATE = 300.0

SCHEDULE_STATUS: Mapping[ScheduleStatus, DefaultScheduleStatus] = {
    "running": DefaultScheduleStatus.RUNNING,
    "stopped": DefaultScheduleStatus.STOPPED,
}

Requests = Iterator[RunRequest | SkipReason]


def schedule_name(experiment: Experiment) -> str:
    return f"{dagster_name(experiment.id)}_schedule"


def schedule_for(experiment: Experiment, job: JobDefinition) -> ScheduleDefinition | None:
    """The schedule that the experiment asks for.

    Raises InvalidExperimentError for a cron schedule or time zone that Dagster refuses.
    """
    schedule = experiment.schedule
    if schedule is None:
        return None
    check_times(experiment)
    name = schedule_name(experiment)

    def evaluate(context: ScheduleEvaluationContext) -> Requests:
        yield from MISSED[schedule.missed](_Evaluation(name, schedule, context))

    try:
        return ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=schedule.cron,
            execution_timezone=schedule.timezone,
            execution_fn=evaluate,
            default_status=SCHEDULE_STATUS[schedule.default_status],
            description=f"Runs the experiment {experiment.id}; missed ticks: {schedule.missed}.",
        )
    except Exception as error:
        raise InvalidExperimentError(
            f"Dagster refuses the schedule: {error}", location=experiment.location("schedule")
        ) from error


def tick_tags(schedule: Schedule, tick: datetime) -> dict[str, str]:
    """The tags of a run that is launched for a tick."""
    return {TICK_TAG: tick.astimezone(UTC).isoformat(), CRON_TAG: cron_of(schedule)}


class _Evaluation:
    """The evaluation of a schedule for one tick."""

    def __init__(self, name: str, schedule: Schedule, context: ScheduleEvaluationContext) -> None:
        self.name = name
        self.schedule = schedule
        self.tick = context.scheduled_execution_time.astimezone(UTC)
        self._context = context

    def request(self, tick: datetime) -> RunRequest:
        tags = {**tick_tags(self.schedule, tick), **tags_of_variant(self.schedule.variant)}
        # With this key, Dagster finds the run that it had created before it was interrupted.
        return RunRequest(run_key=tags[TICK_TAG], run_config=config_of_variant(self.schedule.variant), tags=tags)

    @property
    def instance(self) -> DagsterInstance:
        return self._context.instance

    def of_earlier_ones(self, run_ids: Iterable[str]) -> Iterator[str]:
        """The runs that the evaluation of another tick created.

        This tick's own evaluation may have created a run before it was interrupted, or in another daemon. Dagster finds
        it by its key and submits it. If it were cancelled here, Dagster would still find it and create no other.
        """
        for run_id in run_ids:
            run = self.instance.get_run_by_id(run_id)
            if run is not None and run.tags.get(SCHEDULED_EXECUTION_TIME_TAG) != self.tick.isoformat():
                yield run_id

    def ticks(self, until: datetime, limit: int) -> Ticks | None:
        """The last ticks before `until`; None if it is not known since when ticks are expected."""
        log_key = self._context.log_key
        state = state_of_tick(self.instance, self.name, log_key[-1] if log_key else None)
        return None if state is None else ticks_of(self.instance, self.schedule, state, until=until, limit=limit)


def _latest(evaluation: _Evaluation) -> Requests:
    yield evaluation.request(evaluation.tick)


def _skip(evaluation: _Evaluation) -> Requests:
    most = MAX_LATE if evaluation.schedule.max_late is None else evaluation.schedule.max_late
    late = (datetime.now(UTC) - evaluation.tick).total_seconds()
    if late > most and not _is_launched(evaluation):
        yield SkipReason(f"The tick is evaluated {late:.0f} s late, and at most {most:.0f} s are allowed (max_late).")
    else:
        yield evaluation.request(evaluation.tick)


def _is_launched(evaluation: _Evaluation) -> bool:
    """Whether the tick's run was submitted before an interruption. A run that was not submitted is cancelled."""
    ticks = evaluation.ticks(evaluation.tick + timedelta(seconds=1), 1)
    if ticks is None or not ticks.ticks:
        return False
    (tick,) = ticks.ticks
    supersede(evaluation.instance, tick.never_submitted, "Never submitted, and now too late.")
    return tick.outcome == "run"


def _all(evaluation: _Evaluation) -> Requests:
    ticks = evaluation.ticks(evaluation.tick, evaluation.schedule.max_catch_up or MAX_CATCH_UP)
    for tick in ticks.ticks if ticks else ():
        again = tick.outcome == "missed"
        said = f"Never submitted; tick {tick.time.isoformat()} {'is launched again' if again else 'has another run'}."
        supersede(evaluation.instance, evaluation.of_earlier_ones(tick.never_submitted), said)
        if again:
            yield evaluation.request(tick.time)
    yield evaluation.request(evaluation.tick)


MISSED: Mapping[MissedTicks, Callable[[_Evaluation], Requests]] = {"all": _all, "latest": _latest, "skip": _skip}


def run_missed(instance: DagsterInstance, experiment: Experiment, tick: Tick, location: str) -> str | None:
    """Run the experiment in this process for a missed tick. Returns what failed, or None."""
    assert experiment.schedule is not None
    supersede(instance, tick.never_submitted, "Never submitted; its tick is run from the command line.")
    tags = {
        SCHEDULE_NAME_TAG: schedule_name(experiment),
        LOCATION_TAG: location,
        **tick_tags(experiment.schedule, tick.time),
    }
    variant = experiment.schedule.variant
    try:
        run = experiment if variant is None else experiment.with_variant(variant, builtin_registry())
        execute_experiment(run, instance=instance, launched_by="cli", tags=tags)
    except CrucibleError as error:
        return str(error)
    return None
