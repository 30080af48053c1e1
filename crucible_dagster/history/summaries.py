"""What History returns: runs, their details, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from dagster import (
    DagsterRun,
    DagsterRunStatus,
    FloatMetadataValue,
    IntMetadataValue,
    TextMetadataValue,
)
from dagster import (
    RunRecord as StoredRun,
)

from crucible_core import (
    Context,
    CrucibleError,
    Decision,
    GateResult,
    StageFailed,
    StageSkipped,
    StageStarted,
    StageSucceeded,
)
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.messages import closest, listing
from crucible_dagster.history.gate_results import GatesVerdict, verdict_of_run
from crucible_dagster.history.record_diff import Change
from crucible_dagster.history.run_record import Launch, RunRecord, launch_of
from crucible_dagster.tags import EXPERIMENT_TAG, VARIANT_TAG

if TYPE_CHECKING:  # it imports `bench`, which most processes do not need
    from crucible_dagster.history.group_changes import GroupChange

RunStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]


_STATUS_OF: Mapping[str, RunStatus] = {
    "NOT_STARTED": "queued",
    "MANAGED": "queued",
    "QUEUED": "queued",
    "SUSPENDED": "running",
    "STARTING": "running",
    "STARTED": "running",
    "CANCELING": "running",
    "SUCCESS": "succeeded",
    "FAILURE": "failed",
    "CANCELED": "canceled",
}


STATUSES: Mapping[RunStatus, tuple[DagsterRunStatus, ...]] = {
    name: tuple(one for one in DagsterRunStatus if _STATUS_OF.get(one.value) == name) for name in get_args(RunStatus)
}
"""Mapped by name, because new versions of Dagster add some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of the history."""

    run_id: str
    experiment: str
    status: RunStatus
    created: datetime
    started: datetime | None
    """None if the run is still queued."""
    ended: datetime | None
    seconds: float | None
    """From start to end; None while the run is running."""
    launched: Launch
    parent: str | None
    """The run that this one executes again."""
    variant: str | None
    """The variant of the experiment; None if none was chosen."""
    headline: str | None
    """The result in one sentence; None unless the run succeeded."""
    metrics: Mapping[str, float]
    """The numbers of its materialization; empty if the run did not succeed."""
    gates: GatesVerdict | None = None
    """The verdict over all its gates; None if it has none."""


class RunChoices(NamedTuple):
    """The settings that distinguish a run from other runs of its experiment."""

    seed: Any
    options: Mapping[str, Any]
    """`stage.option`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How one stage went."""

    name: str
    outcome: Literal["succeeded", "failed", "skipped", "running"]
    started: datetime | None = None
    seconds: float | None = None
    attempts: int | None = None
    note: str | None = None
    """Why the stage was skipped or failed, or the run that its result was taken from."""


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run failed."""

    stage: str | None
    """None if the run failed outside its stages, for example because of a gate."""
    reason: str
    traceback: str | None
    unfinished: tuple[str, ...] = ()
    """What the stage had put before it failed: `metrics.loss`, `artifacts.plot`; `outputs[3:]` is from the 4th on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """Everything that is known about a run."""

    summary: RunSummary
    record: RunRecord | None
    """None if the first stage never started."""
    stages: tuple[StageTime, ...]
    metrics: Mapping[str, Any]
    """As JSON."""
    artifacts: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    failure: RunFailure | None
    gates: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be read, and why."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A number in two runs; a side is None if its run does not have it."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """B - a."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two runs side by side: all their numbers, and everything else that differs."""

    a: RunSummary
    b: RunSummary
    metrics: tuple[MetricChange, ...]
    options: tuple[Change, ...]
    """Options that differ, named `stage.option`; defaults are included."""
    experiment: tuple[Change, ...]
    """Differences of the experiment files, except in options."""
    code: tuple[Change, ...]
    """By stage: its class and the hash of its source."""
    surroundings: tuple[Change, ...]
    """Git, Python, platform, host."""
    packages: tuple[Change, ...]
    groups: tuple[GroupChange, ...] = ()
    """The groups that the `bench` stages of both compared, B's values against A's."""
    values: tuple[str, ...] | None = None
    """What `Context.differences` names; None unless values were requested."""
    trace: tuple[str, ...] | None = None
    """The lines of `diff_traces`, `-` for a and `+` for b; None unless values were requested."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and why."""


def _experiment_of(run: DagsterRun) -> str:
    if EXPERIMENT_TAG not in run.tags:
        raise CrucibleError(
            f"run {run.run_id} of job {run.job_name!r} is not a run of an experiment: it has no tag {EXPERIMENT_TAG!r}"
        )
    return run.tags[EXPERIMENT_TAG]


def statuses_of(status: RunStatus | None) -> list[DagsterRunStatus] | None:
    if status is None:
        return None
    if status not in STATUSES:
        raise CrucibleError(f"there is no status {status!r}{closest(status, STATUSES)}; there are: {listing(STATUSES)}")
    return list(STATUSES[status])


def moment_of(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


def summary_of(found: StoredRun, shown: Mapping[str, Any] | None) -> RunSummary:
    run = found.dagster_run
    started, ended = moment_of(found.start_time), moment_of(found.end_time)
    said = (shown or {}).get("headline")
    return RunSummary(
        run_id=run.run_id,
        experiment=_experiment_of(run),
        status=_STATUS_OF[run.status.value],
        created=found.create_timestamp,
        started=started,
        ended=ended,
        seconds=(ended - started).total_seconds() if started and ended else None,
        launched=launch_of(run),
        parent=run.parent_run_id,
        variant=run.tags.get(VARIANT_TAG) or None,
        headline=said.text if isinstance(said, TextMetadataValue) else None,
        metrics=dict(_numbers_in(shown or {})),
        gates=verdict_of_run(run),
    )


def row_of(summary: RunSummary) -> dict[str, Any]:
    """A run as a row: `run_id`, `started`, `status`, `variant` if it has one, and every number by its name."""
    row: dict[str, Any] = {"run_id": summary.run_id, "started": summary.started, "status": summary.status}
    if summary.variant is not None:
        row["variant"] = summary.variant
    for name, value in summary.metrics.items():
        row[name if name not in row else f"{name} (metric)"] = value
    return row


def _numbers_in(shown: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in shown.items():
        if isinstance(value, IntMetadataValue | FloatMetadataValue) and value.value is not None:
            yield name, value.value


class ContextFacts(NamedTuple):
    """What a Context says about its run."""

    stages: tuple[StageTime, ...]
    metrics: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    failure: RunFailure | None


def _facts_in(context: Context) -> ContextFacts:
    failed = next((one for one in context.trace.endings.values() if isinstance(one, StageFailed)), None)
    return ContextFacts(
        tuple(_stage_times(context)),
        to_jsonable(context.metrics),
        to_jsonable(context.artifacts),
        context.trace.decisions,
        None if failed is None else RunFailure(failed.stage, failed.reason, failed.traceback, failed.unfinished),
    )


def _stage_times(context: Context) -> Iterator[StageTime]:
    started = {event.stage: event.at for event in context.trace.events if isinstance(event, StageStarted)}
    endings = context.trace.endings
    for name in dict.fromkeys([*started, *endings]):
        match endings.get(name):
            case StageSucceeded(seconds=seconds, attempts=attempts, reused_from=reused_from):
                yield StageTime(
                    name=name,
                    outcome="succeeded",
                    started=started.get(name),
                    seconds=seconds,
                    attempts=attempts,
                    note=f"reused from run {reused_from}" if reused_from else None,
                )
            case StageFailed(seconds=seconds, attempts=attempts, reason=reason):
                yield StageTime(
                    name=name,
                    outcome="failed",
                    started=started.get(name),
                    seconds=seconds,
                    attempts=attempts,
                    note=reason,
                )
            case StageSkipped(reason=reason):
                yield StageTime(name=name, outcome="skipped", note=reason)
            case _:
                yield StageTime(name=name, outcome="running", started=started.get(name))
