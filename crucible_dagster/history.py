"""History: what ran, read from Dagster's own storage; the numbers of a run from its materialization.

| what                                       | read from                                                        |
| ------------------------------------------ | ---------------------------------------------------------------- |
| a page of runs                             | the run storage, by the tag `crucible/experiment`                |
| the numbers of those that succeeded        | the materializations of the asset `crucible/<id>`                |
| which code, options, packages, commit      | the run record that the first step left in the context store     |
| everything else of one run                 | its last Context; where there is none, the run's event log       |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    FloatMetadataValue,
    IntMetadataValue,
    RunsFilter,
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
    builtin_registry,
)
from crucible_core.between_runs import GroupChange, compare_groups
from crucible_core.jsonable import to_jsonable
from crucible_core.reporting import diff_traces, results
from crucible_core.stages.bench import Bench
from crucible_core.wording import closest, error_text, listing, printable
from crucible_dagster.context_store import open_store
from crucible_dagster.gate_results import GatesVerdict, gates_of_run, verdict_of_run
from crucible_dagster.names import EXPERIMENT_TAG, dagster_name
from crucible_dagster.provenance import Launch, RunRecord, launch_of, read_run_record
from crucible_dagster.record_changes import Change, changes_between
from crucible_dagster.settings import VARIANT_TAG

__all__ = [
    "Change",
    "History",
    "MetricChange",
    "RunComparison",
    "RunDetails",
    "RunFailure",
    "RunStatus",
    "RunSummary",
    "StageTime",
]

T = TypeVar("T")

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
"""By name, because Dagster adds some from version to version."""

PAGE = 1_000
SMALLEST_PAGE = 50
EVENTS = 100  # a materialization may hold a report of 250 kB
CLOCKS = 3_600.0  # seconds by which those of two machines may differ
SHORTEST_PREFIX = 4
MAX_CANDIDATES = 5


class Failed(Protocol):
    """What the store keeps of a step that failed."""

    @property
    def context(self) -> Context: ...


class Store(Protocol):
    """What History reads of the context store."""

    def load(self, run_id: str, step: str, /) -> Context: ...

    def load_failure(self, run_id: str, step: str, /) -> Failed | None: ...

    def run_record(self, run_id: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of the history."""

    run_id: str
    experiment: str
    status: RunStatus
    created: datetime
    started: datetime | None
    """None for a run that waits."""
    ended: datetime | None
    seconds: float | None
    """From start to end; of a run that goes on, None."""
    launched: Launch
    parent: str | None
    """The run that this one executes again."""
    variant: str | None
    """The variant of the experiment that it runs, if one was chosen."""
    headline: str | None
    """The result in one sentence, of a run that succeeded."""
    metrics: Mapping[str, float]
    """The numbers of its materialization, which a run that succeeded has."""
    gates: GatesVerdict | None = None
    """The verdict over all its gates, where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How one stage went."""

    name: str
    outcome: Literal["succeeded", "failed", "skipped", "running"]
    started: datetime | None = None
    seconds: float | None = None
    attempts: int | None = None
    note: str | None = None
    """Why it was skipped, or failed; the run that its result was taken from."""


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run failed."""

    stage: str | None
    """None if it failed outside its stages, as by a gate."""
    reason: str
    traceback: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetails:
    """Everything that is known of a run."""

    summary: RunSummary
    record: RunRecord | None
    """None of a run whose first stage never began."""
    stages: tuple[StageTime, ...]
    metrics: Mapping[str, Any]
    """As JSON."""
    artifacts: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    failure: RunFailure | None
    gates: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be had, and why."""


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A number of two runs; None where a run does not have it."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """B - a."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two runs side by side: all their numbers, and of everything else what is not the same."""

    a: RunSummary
    b: RunSummary
    metrics: tuple[MetricChange, ...]
    options: tuple[Change, ...]
    """Named `stage.option`, defaults included."""
    experiment: tuple[Change, ...]
    """Of the experiment files, but for options."""
    code: tuple[Change, ...]
    """By stage: its class and the hash of its source."""
    surroundings: tuple[Change, ...]
    """Git, Python, platform, host."""
    packages: tuple[Change, ...]
    groups: tuple[GroupChange, ...] = ()
    """The groups that the `bench` stages of both compared, B's values against A's."""
    values: tuple[str, ...] | None = None
    """What `Context.differences` names; None if it was not asked."""
    trace: tuple[str, ...] | None = None
    """What `diff_traces` says, `-` of a and `+` of b; None if the values were not asked for."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and why."""


class History:
    """What ran on a Dagster instance.

    A run may be named by the first characters of its id, four at least, where they are those of no other run. Reading a
    Context back may unpickle: trust whoever can write to the context store, or use `runs` and `metrics` only.
    """

    def __init__(self, instance: DagsterInstance, *, store: Store | None = None) -> None:
        """`store` is the one that the instance's runs use unless given."""
        self._instance = instance
        self._store: Store = open_store(instance) if store is None else store

    def experiments(self) -> tuple[str, ...]:
        """The experiments that have runs."""
        return tuple(sorted(dict(self._instance.get_run_tags([EXPERIMENT_TAG])).get(EXPERIMENT_TAG, ())))

    def runs(
        self,
        experiment: str | None = None,
        *,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int = 20,
        before: str | None = None,
    ) -> tuple[RunSummary, ...]:
        """A page of runs, newest first; the next one is that `before` the last run of this one.

        Raises CrucibleError if there is no such experiment, status or run.
        """
        found = self._records(experiment, status=status, since=since, limit=limit, before=before)
        shown = self._materializations(found)
        return tuple(_summary(one, shown.get(one.dagster_run.run_id)) for one in found)

    def metrics(
        self,
        experiment: str,
        *,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """One row per run, newest first: `run_id`, `started`, `status`, and every number under its dotted name.

        `pandas.DataFrame(history.metrics("digits"))` is the table. The numbers are those of the run's
        materialization: the first 10,000 metrics, and of a comparison its findings. A run that did not succeed has
        none, and its row only the three columns; a metric with one of their names is called `status (metric)`. The row
        of a run of a variant of the experiment has it as `variant` too.

        Raises CrucibleError if there is no such experiment or status.
        """
        rows = []
        found = self._records(experiment, status=status, since=since, limit=limit)
        shown = self._materializations(found)
        for one in found:
            summary = _summary(one, shown.get(one.dagster_run.run_id))
            row: dict[str, Any] = {"run_id": summary.run_id, "started": summary.started, "status": summary.status}
            if summary.variant is not None:
                row["variant"] = summary.variant
            for name, value in summary.metrics.items():
                row[name if name not in row else f"{name} (metric)"] = value
            rows.append(row)
        return rows

    def find(self, run: str) -> str:
        """The whole id of a run, of its first four characters or more.

        Raises CrucibleError if there is no such run of an experiment, or more than one.
        """
        if (exact := self._instance.get_run_by_id(run)) is not None:
            _experiment_of(exact)
            return run
        if len(run) < SHORTEST_PREFIX:
            raise CrucibleError(
                f"{printable(run)!r} is too short for a run id: give {SHORTEST_PREFIX} characters at least"
            )
        ids = self._instance.get_run_ids(RunsFilter(tags={EXPERIMENT_TAG: list(self.experiments())}))
        found = [one for one in ids if one.startswith(run.lower())]
        if len(found) == 1:
            return found[0]
        if not found:
            newest = f"; the newest: {', '.join(one[:8] for one in ids[:MAX_CANDIDATES])}" if ids else ""
            raise CrucibleError(f"no run of an experiment has an id that begins with {printable(run)!r}{newest}")
        more = f" and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
        raise CrucibleError(
            f"{len(found)} runs have an id that begins with {printable(run)!r}: "
            f"{', '.join(found[:MAX_CANDIDATES])}{more}; give more characters"
        )

    def record(self, run: str) -> RunRecord | None:
        """What was recorded when the run began; None if its first stage never did.

        Raises CrucibleError if there is no such run, or the record cannot be read.
        """
        text = self._store.run_record(self.find(run))
        return None if text is None else read_run_record(text)

    def context(self, run: str) -> Context:
        """The run's last Context: as it stood when a stage failed, else that of the last step that finished.

        Raises CrucibleError if there is no such run, no step finished, or the Context cannot be read back.
        """
        run_id = self.find(run)
        record = self.record(run_id)
        if record is not None and record.source is not None:
            _find_modules_beside(record.source)
        finished, others = self._steps(run_id, record)
        for step in reversed(others):
            if (failure := self._store.load_failure(run_id, step)) is not None:
                return failure.context
        if not finished:
            raise CrucibleError(f"no step of run {run_id} has finished, so there is no Context")
        return self._store.load(run_id, finished[-1])

    def run(self, run: str) -> RunDetails:
        """Everything about one run. What cannot be read is left out and named in its notes.

        Raises CrucibleError if there is no such run.
        """
        run_id = self.find(run)
        summary = self._summary(run_id)
        notes: list[str] = []
        record = self._record_or_note(run_id, notes)
        told = self._from_context(run_id, _told, notes)
        if told is None:
            told = _Told(self._times(run_id, record), summary.metrics, {}, (), None)
        gates = () if summary.gates is None else gates_of_run(self._instance, run_id)
        failure = told.failure
        if failure is None and (blocked := [f"gate {one.gate}: {one.sentence}" for one in gates if one.blocks]):
            failure = RunFailure(None, "; ".join(blocked), None)
        if failure is None and summary.status in {"failed", "canceled"}:
            failure = self._failure_outside(run_id)
        return RunDetails(
            summary=summary,
            record=record,
            stages=told.stages,
            metrics=told.metrics,
            artifacts=told.artifacts,
            decisions=told.decisions,
            failure=failure,
            gates=gates,
            notes=tuple(notes),
        )

    def gates(self, run: str) -> tuple[GateResult, ...]:
        """The results of the run's gates; none of a run whose stages did not all succeed, or without gates.

        Raises CrucibleError if there is no such run.
        """
        return gates_of_run(self._instance, self.find(run))

    def compare(self, a: str, b: str, *, values: bool = False) -> RunComparison:
        """Two runs side by side; with `values`, also which outputs, artifacts, assigns and decisions are not the same.

        Raises CrucibleError if one of the runs does not exist.
        """
        ids = self.find(a), self.find(b)
        notes: list[str] = []
        records = self._record_or_note(ids[0], notes), self._record_or_note(ids[1], notes)
        named = tuple(self._summary(one) for one in ids)
        numbers = [self._numbers(one, notes) for one in named]
        changed = changes_between(*records)
        groups = self._compare_groups(ids, notes) if all(map(_has_bench, records)) else ()
        differ: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        if values and (other := self._from_context(ids[1], lambda context: context, notes)) is not None:
            differ = self._from_context(
                ids[0], lambda context: (context.differences(other), diff_traces(context.trace, other.trace)), notes
            )
        return RunComparison(
            a=named[0],
            b=named[1],
            metrics=tuple(
                MetricChange(name, numbers[0].get(name), numbers[1].get(name))
                for name in dict.fromkeys([*numbers[0], *numbers[1]])
            ),
            options=changed.options,
            experiment=changed.experiment,
            code=changed.code,
            surroundings=changed.surroundings,
            packages=changed.packages,
            groups=groups,
            values=None if differ is None else differ[0],
            trace=None if differ is None else differ[1],
            notes=tuple(dict.fromkeys(notes)),
        )

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _records(
        self,
        experiment: str | None,
        *,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[StoredRun]:
        if limit is not None and limit < 1:
            raise CrucibleError(f"the limit is {limit}; a page has one run at least")
        known = self.experiments()
        if experiment is not None and experiment not in known:
            raise CrucibleError(
                f"there is no run of an experiment {printable(experiment)!r}{closest(experiment, known)}; "
                f"experiments with runs: {listing(known)}"
            )
        if not known:
            return []
        # By the job's name and not by the tag: the index by job has its runs in order, so that a page is all that is
        # read; the runs of a tag would all be sorted first.
        filters = RunsFilter(
            job_name=None if experiment is None else dagster_name(experiment),
            statuses=_statuses(status),
            created_after=None if since is None else since.astimezone(UTC),
        )
        cursor = None if before is None else self.find(before)
        return list(islice(self._tagged(filters, known if experiment is None else [experiment], limit, cursor), limit))

    def _tagged(
        self, filters: RunsFilter, experiments: Sequence[str], limit: int | None, cursor: str | None
    ) -> Iterator[StoredRun]:
        """The runs of these experiments among those that the filters let through, newest first."""
        size = PAGE if limit is None else min(PAGE, max(limit, SMALLEST_PAGE))
        while True:
            page = self._instance.get_run_records(filters, limit=size, cursor=cursor)
            ours = [one for one in page if one.dagster_run.tags.get(EXPERIMENT_TAG) in experiments]
            yield from ours
            if len(page) < size:
                return
            cursor = page[-1].dagster_run.run_id
            if len(ours) < size / 10:
                # They are few among the runs of others: looking through those would take longer than sorting these.
                filters = RunsFilter(
                    tags={EXPERIMENT_TAG: list(experiments)},
                    job_name=filters.job_name,
                    statuses=filters.statuses,
                    created_after=filters.created_after,
                )

    def _summary(self, run_id: str) -> RunSummary:
        (found,) = self._instance.get_run_records(RunsFilter(run_ids=[run_id]), limit=1)
        return _summary(found, self._materializations([found]).get(run_id))

    def _materializations(self, found: Sequence[StoredRun]) -> dict[str, Mapping[str, Any]]:
        """Run -> metadata of its materialization."""
        wanted: dict[str, list[StoredRun]] = {}
        for one in found:
            if one.dagster_run.status is DagsterRunStatus.SUCCESS:
                wanted.setdefault(_experiment_of(one.dagster_run), []).append(one)
        return {run_id: shown for name, runs in wanted.items() for run_id, shown in self._shown_of(name, runs)}

    def _shown_of(self, experiment: str, runs: Sequence[StoredRun]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        # There is no looking up by run: it is made while the run goes on, so those of that time are looked through.
        missing = {one.dagster_run.run_id for one in runs}
        window = AssetRecordsFilter(
            AssetKey(["crucible", dagster_name(experiment)]),
            after_timestamp=min(one.create_timestamp.timestamp() for one in runs) - CLOCKS,
            before_timestamp=max(one.end_time or one.update_timestamp.timestamp() for one in runs) + CLOCKS,
        )
        cursor, more = None, True
        while missing and more:
            page = self._instance.fetch_materializations(window, limit=min(EVENTS, len(missing) + 5), cursor=cursor)
            cursor, more = page.cursor, page.has_more
            for one in page.records:
                materialization = one.asset_materialization
                if one.run_id in missing and materialization is not None:
                    missing.remove(one.run_id)
                    yield one.run_id, materialization.metadata

    # --- one run ------------------------------------------------------------------------------------------------------

    def _steps(self, run_id: str, record: RunRecord | None) -> tuple[list[str], list[str]]:
        """The steps that finished, and the others that began, both in order."""
        stats = self._instance.get_run_step_stats(run_id)
        began = {one.step_key: one.status and one.status.value for one in stats}
        if record is None:
            order = [one.step_key for one in sorted(stats, key=lambda one: one.start_time or 0)]
        else:
            order = [one.step for one in record.stages if one.step in began]
            # Behind the stages come the gates, whose step has a result also where it fails the run.
            judged = {step for step in began if step not in order}
            order += [step for step in judged if began[step] in {"SUCCESS", "FAILURE"}]
            began |= dict.fromkeys(judged, "SUCCESS")
        return (
            [step for step in order if began[step] == "SUCCESS"],
            [step for step in order if began[step] != "SUCCESS"],
        )

    def _times(self, run_id: str, record: RunRecord | None) -> tuple[StageTime, ...]:
        names = {one.step: one.name for one in record.stages} if record else {}
        outcomes: Mapping[str | None, Literal["succeeded", "failed", "skipped"]] = {
            "SUCCESS": "succeeded",
            "FAILURE": "failed",
            "SKIPPED": "skipped",
        }
        return tuple(
            StageTime(
                name=names.get(one.step_key, one.step_key),
                outcome=outcomes.get(one.status and one.status.value, "running"),
                started=_moment(one.start_time),
                seconds=one.end_time - one.start_time if one.start_time and one.end_time else None,
            )
            for one in sorted(self._instance.get_run_step_stats(run_id), key=lambda one: one.start_time or 0)
        )

    def _record_or_note(self, run_id: str, notes: list[str]) -> RunRecord | None:
        try:
            record = self.record(run_id)
        except CrucibleError as error:
            notes.append(str(error))
            return None
        if record is None:
            notes.append(f"run {run_id} has no record: its first stage never began, or its files were removed")
        return record

    def _from_context(self, run_id: str, read: Callable[[Context], T], notes: list[str]) -> T | None:
        """What `read` makes of the run's Context, whose values are loaded when they are looked at."""
        try:
            return read(self.context(run_id))
        except CrucibleError as error:
            notes.append(str(error))
        except Exception as error:  # noqa: BLE001  # unpickling runs the user's code
            reason = f"{type(error).__name__}: {error_text(error)}"
            notes.append(f"the Context of run {run_id} cannot be read back: {reason}")
        return None

    def _numbers(self, run: RunSummary, notes: list[str]) -> Mapping[str, float]:
        if run.metrics:
            return run.metrics
        return self._from_context(run.run_id, lambda context: dict(results(context)), notes) or {}

    def _compare_groups(self, ids: tuple[str, str], notes: list[str]) -> tuple[GroupChange, ...]:
        def compared(a: Context, b: Context) -> tuple[GroupChange, ...]:
            return compare_groups(a, b, builtin_registry(), names=(f"a ({ids[0][:8]})", f"b ({ids[1][:8]})"))

        if ids[0] == ids[1]:
            return ()
        later = self._from_context(ids[1], lambda context: context, notes)
        if later is None:
            return ()
        return self._from_context(ids[0], lambda earlier: compared(earlier, later), notes) or ()

    def _failure_outside(self, run_id: str) -> RunFailure | None:
        kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}
        for entry in self._instance.all_logs(run_id, of_type=kinds):
            event_data = entry.dagster_event and entry.dagster_event.event_specific_data
            error = getattr(event_data, "error", None)
            if error is not None:
                return RunFailure(None, error.message.strip(), error.to_string())
            if entry.dagster_event is not None and entry.dagster_event.message:
                return RunFailure(None, entry.dagster_event.message, None)
        return None


def _experiment_of(run: DagsterRun) -> str:
    if EXPERIMENT_TAG not in run.tags:
        raise CrucibleError(
            f"run {run.run_id} of job {run.job_name!r} is no run of an experiment: it has no tag {EXPERIMENT_TAG!r}"
        )
    return run.tags[EXPERIMENT_TAG]


def _statuses(status: RunStatus | None) -> list[DagsterRunStatus] | None:
    if status is None:
        return None
    if status not in STATUSES:
        raise CrucibleError(f"there is no status {status!r}{closest(status, STATUSES)}; there are: {listing(STATUSES)}")
    return list(STATUSES[status])


def _moment(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


def _summary(found: StoredRun, shown: Mapping[str, Any] | None) -> RunSummary:
    run = found.dagster_run
    started, ended = _moment(found.start_time), _moment(found.end_time)
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


def _numbers_in(shown: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in shown.items():
        if isinstance(value, IntMetadataValue | FloatMetadataValue) and value.value is not None:
            yield name, value.value


def _find_modules_beside(source: str) -> None:
    # As where the run took place: what its stages put into the Context may be of classes defined there.
    folder = str(Path(source).parent)
    if folder not in sys.path:
        sys.path.append(folder)


class _Told(NamedTuple):
    """What a Context tells of its run."""

    stages: tuple[StageTime, ...]
    metrics: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    decisions: tuple[Decision, ...]
    failure: RunFailure | None


def _told(context: Context) -> _Told:
    failed = next((one for one in context.trace.endings.values() if isinstance(one, StageFailed)), None)
    return _Told(
        tuple(_stage_times(context)),
        to_jsonable(context.metrics),
        to_jsonable(context.artifacts),
        context.trace.decisions,
        None if failed is None else RunFailure(failed.stage, failed.reason, failed.traceback),
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


def _has_bench(record: RunRecord | None) -> bool:
    return record is not None and any(stage.stage == f"{Bench.__module__}:{Bench.__name__}" for stage in record.stages)
