"""History: what ran, read from Dagster's own storage; a run's numbers come from its materialization.

| what                                       | read from                                                        |
| ------------------------------------------ | ---------------------------------------------------------------- |
| a page of runs                             | the run storage, by the tag `crucible/experiment`                |
| the numbers of those that succeeded        | the materializations of the asset `crucible/<id>`                |
| which code, options, packages, commit      | the run record that the first step left in the context store     |
| everything else of one run                 | its last Context; where there is none, the run's event log       |
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    RunsFilter,
)
from dagster import (
    RunRecord as StoredRun,
)

from crucible_core import (
    Context,
    CrucibleError,
    GateResult,
)
from crucible_core.report import diff_traces, results
from crucible_core.report.document import Paragraph, Table
from crucible_core.report.html import html_of_block
from crucible_core.report.tables import FrameLibrary, frame_of
from crucible_core.report.trials_section import trial_rows
from crucible_core.trials.log import TrialLog
from crucible_core.values.messages import closest, error_text, listing, printable
from crucible_core.values.series import Series
from crucible_dagster.history.gate_results import gates_of_run
from crucible_dagster.history.record_diff import Change, changes_between, varied_options
from crucible_dagster.history.run_record import RunRecord, read_run_record
from crucible_dagster.history.summaries import (
    ContextFacts,
    MetricChange,
    RunChoices,
    RunComparison,
    RunDetails,
    RunFailure,
    RunStatus,
    RunSummary,
    StageTime,
    _experiment_of,
    _facts_in,
    moment_of,
    row_of,
    statuses_of,
    summary_of,
)
from crucible_dagster.names import dagster_name, sharing, step_name
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import EXPERIMENT_TAG, OTHER_JOB_TAG

if TYPE_CHECKING:
    from crucible_dagster.history.group_changes import GroupChange

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


PAGE = 1_000
SMALLEST_PAGE = 50
SEARCHED = ("decision", "reasoning", "alternatives", "id", "details")
EVENTS = 100  # a materialization may hold a report of 250 kB
CLOCKS = 3_600.0  # seconds by which the clocks of two machines may differ
SHORTEST_PREFIX = 4
NOT_KEPT = "Direct runs are not kept: `crucible run FILE --dagster` keeps the run"
MAX_CANDIDATES = 5


class History:
    """What ran on a Dagster instance.

    A run may be named by at least the first four characters of its id, if no other id begins with them. Nothing
    that a recorded experiment names is imported. But looking at a value of a Context may unpickle it, which imports
    its class and runs its code: trust whoever can write to the context store, or use `runs` and `metrics` only.
    """

    def __init__(self, instance: DagsterInstance, *, store: ContextStore | None = None) -> None:
        """`store` defaults to the one that the instance's runs use."""
        self._instance = instance
        self._store = open_store(instance) if store is None else store

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
        decision: str | None = None,
    ) -> tuple[RunSummary, ...]:
        """A page of runs, newest first; for the next page, pass the last run of this one as `before`.

        With `decision`, only runs that have a decision with this text in what was decided, the reason or an
        alternative; case does not matter. This reads the events of each run until the page is full.

        Raises CrucibleError if there is no such experiment, status or run.
        """
        if decision is None:
            found = self._records(experiment, status=status, since=since, limit=limit, before=before)
        else:
            text, every = decision.casefold(), self._records(experiment, status=status, since=since, before=before)
            found = list(islice((one for one in every if self._has_decided(one.dagster_run.run_id, text)), limit))
        shown = self._materializations(found)
        return tuple(summary_of(one, shown.get(one.dagster_run.run_id)) for one in found)

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
        materialization: the first 10,000 metrics, and for a comparison its findings. A run that did not succeed has
        only the three columns. A metric with the name of a column gets a suffix, as in `status (metric)`. If a variant
        was run, the row also has `variant`.

        Raises CrucibleError if there is no such experiment or status.
        """
        found = self._records(experiment, status=status, since=since, limit=limit)
        shown = self._materializations(found)
        return [row_of(summary_of(one, shown.get(one.dagster_run.run_id))) for one in found]

    def frame(
        self,
        experiment: str,
        *,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int | None = None,
        library: FrameLibrary | None = None,
    ) -> Any:
        """The rows of `metrics` as a data frame of pandas or polars; a list of dicts where neither is installed.

        Raises CrucibleError as `metrics` does, and if the requested `library` is not installed.
        """
        return frame_of(self.metrics(experiment, status=status, since=since, limit=limit), library)

    def find(self, run: str) -> str:
        """The whole id of a run, given its first four characters or more.

        Raises CrucibleError if no run of an experiment has such an id, or more than one.
        """
        if (exact := self._instance.get_run_by_id(run)) is not None:
            _experiment_of(exact)
            return run
        if len(run) < SHORTEST_PREFIX:
            raise CrucibleError(
                f"{printable(run)!r} is too short for a run id: give at least {SHORTEST_PREFIX} characters"
            )
        ids = self._instance.get_run_ids(RunsFilter(tags={EXPERIMENT_TAG: list(self.experiments())}))
        found = [one for one in ids if one.startswith(run.lower())]
        if len(found) == 1:
            return found[0]
        if not found:
            newest = f"; the newest: {', '.join(one[:8] for one in ids[:MAX_CANDIDATES])}" if ids else ""
            raise CrucibleError(
                f"no run of an experiment has an id that begins with {printable(run)!r}{newest}. {NOT_KEPT}"
            )
        more = f" and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
        raise CrucibleError(
            f"{len(found)} runs have an id that begins with {printable(run)!r}: "
            f"{', '.join(found[:MAX_CANDIDATES])}{more}; give more characters"
        )

    def record(self, run: str) -> RunRecord | None:
        """The record that the run made when it started; None if its first stage never started.

        Raises CrucibleError if there is no such run, or the record cannot be read.
        """
        text = self._store.run_record(self.find(run))
        return None if text is None else read_run_record(text)

    def settings(self, runs: Iterable[RunSummary]) -> dict[str, RunChoices]:
        """Run -> its seed, and its values of the options that differ among these runs of an experiment.

        This reads one small file of the store for each run. A run without a readable record is left out.
        """
        records: list[RunRecord] = []
        for run in runs:
            with contextlib.suppress(CrucibleError):
                text = self._store.run_record(run.run_id)
                records += [] if text is None else [read_run_record(text)]
        varied = varied_options(records)
        return {one.run_id: RunChoices(one.experiment.get("seed"), varied[one.run_id]) for one in records}

    def context(self, run: str) -> Context:
        """The run's last Context: as it stood when a stage failed, else that of the last step that finished.

        Raises CrucibleError if there is no such run, no step finished, or the Context cannot be read back.
        """
        run_id = self.find(run)
        record = self.record(run_id)
        finished, others = self._steps(run_id, record)
        for step in reversed(others):
            if (failure := self._store.load_failure(run_id, step)) is not None:
                return failure.context
        if not finished:
            raise CrucibleError(f"no step of run {run_id} has finished, so there is no Context")
        return self._store.load(run_id, finished[-1])

    def trials(self, run: str) -> list[Mapping[str, Any]]:
        """The rows of the run's trials; if the run has not gathered them, those that it has kept so far.

        Raises CrucibleError if there is no such run, or its trials cannot be read.
        """
        run_id = self.find(run)
        try:
            rows = trial_rows(self.context(run_id))
        except CrucibleError:  # no step has finished yet
            rows = []
        if rows:
            return rows
        try:
            return list(TrialLog(self._store.files, self._summary(run_id).experiment, run_id).own_rows().values())
        except OSError as error:
            raise CrucibleError(f"the trials of run {run_id} cannot be read: {error.strerror or error}") from error

    def series(self, run: str, name: str) -> Series:
        """The points that the run's stages have logged for a metric.

        Raises CrucibleError if there is no such run or series, or its last Context cannot be read.
        """
        context = self.context(run)
        found = context.metrics.get(name)
        if isinstance(found, Series):
            return found
        known = [one for one, value in context.metrics.items() if isinstance(value, Series)]
        raise CrucibleError(
            f"run {context.run_id} has no series {printable(name)!r}{closest(name, known)}; series: "
            f"{listing(known) or 'none'}"
        )

    def trials_frame(self, run: str, *, library: FrameLibrary | None = None) -> Any:
        """The rows of `trials` as a data frame of pandas or polars; a list of dicts where neither is installed.

        Raises CrucibleError as `trials` does, and if the requested `library` is not installed.
        """
        return frame_of(self.trials(run), library)

    def _repr_html_(self) -> str:
        """The newest runs, for notebooks; every text is escaped."""
        found = self.runs()
        columns = ("run", "experiment", "status", "started", "result")
        rows = tuple(
            (
                one.run_id[:8],
                one.experiment,
                one.status,
                f"{one.started:%Y-%m-%d %H:%M}" if one.started else "",
                one.headline or "",
            )
            for one in found
        )
        return html_of_block(Table(columns, rows) if found else Paragraph("no runs"))

    def run(self, run: str) -> RunDetails:
        """Everything about one run. What cannot be read is left out and named in its notes.

        Raises CrucibleError if there is no such run.
        """
        run_id = self.find(run)
        summary = self._summary(run_id)
        notes: list[str] = []
        record = self._record_or_note(run_id, notes)
        facts = self._from_context(run_id, _facts_in, notes)
        if facts is None:
            facts = ContextFacts(self._times(run_id, record), summary.metrics, {}, (), None)
        kept = {one.name: one.from_run for one in record.stages if one.from_run} if record else {}
        stages = tuple(
            replace(one, note=f"from run {kept[one.name]}") if one.name in kept else one for one in facts.stages
        )
        gates = () if summary.gates is None else gates_of_run(self._instance, run_id)
        failure = facts.failure
        if failure is None and (blocked := [f"gate {one.gate}: {one.sentence}" for one in gates if one.blocks]):
            failure = RunFailure(None, "; ".join(blocked), None)
        if failure is None and summary.status in {"failed", "canceled"}:
            failure = self._failure_outside(run_id)
        return RunDetails(
            summary=summary,
            record=record,
            stages=stages,
            metrics=facts.metrics,
            artifacts=facts.artifacts,
            decisions=facts.decisions,
            failure=failure,
            gates=gates,
            notes=tuple(dict.fromkeys(notes)),
        )

    def compare_all(self, runs: Sequence[str], *, values: bool = False) -> tuple[RunComparison, ...]:
        """Compare each further run with the first one; p-values are corrected for all comparisons together.

        Raises CrucibleError if one of the runs does not exist.
        """
        from crucible_dagster.history.group_changes import adjust_together  # noqa: PLC0415  # as below

        found = [self.compare(runs[0], other, values=values) for other in runs[1:]]
        groups = adjust_together([one.groups for one in found])
        return tuple(replace(one, groups=adjusted) for one, adjusted in zip(found, groups, strict=True))

    def gates(self, run: str) -> tuple[GateResult, ...]:
        """The results of the run's gates; empty if it has none, or if not all of its stages succeeded.

        Raises CrucibleError if there is no such run.
        """
        return gates_of_run(self._instance, self.find(run))

    def compare(self, a: str, b: str, *, values: bool = False) -> RunComparison:
        """Two runs side by side; with `values`, also which outputs, artifacts, assigns and decisions differ.

        Raises CrucibleError if one of the runs does not exist.
        """
        ids = self.find(a), self.find(b)
        notes: list[str] = []
        records = self._record_or_note(ids[0], notes), self._record_or_note(ids[1], notes)
        named = tuple(self._summary(one) for one in ids)
        numbers = [self._numbers(one, notes) for one in named]
        changed = changes_between(*records)
        groups = self._compare_groups(ids, records, notes)
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
            raise CrucibleError(f"the limit is {limit}; a page has at least one run")
        known = self.experiments()
        if experiment is not None and experiment not in known:
            raise CrucibleError(
                f"there is no run of an experiment {printable(experiment)!r}{closest(experiment, known)}; "
                f"experiments with runs: {listing(known)}"
            )
        if not known:
            return []
        # By the job's name and not by the tag: the index by job is sorted, so only one page is read. With the tag, all
        # runs would be sorted first.
        filters = RunsFilter(
            job_name=None if experiment is None else dagster_name(experiment),
            statuses=statuses_of(status),
            created_after=None if since is None else since.astimezone(UTC),
        )
        cursor = None if before is None else self.find(before)
        if experiment is None:
            return list(islice(self._tagged(filters, known, limit, cursor), limit))
        # Runs of the asset and of the variants' job have other job names, but a tag that no other run has.
        of_others = RunsFilter(
            tags={OTHER_JOB_TAG: experiment}, statuses=filters.statuses, created_after=filters.created_after
        )
        both = (self._tagged(one, [experiment], limit, cursor) for one in (filters, of_others))
        return list(islice(heapq.merge(*both, key=lambda one: -one.storage_id), limit))

    def _tagged(
        self, filters: RunsFilter, experiments: Sequence[str], limit: int | None, cursor: str | None
    ) -> Iterator[StoredRun]:
        """The runs of these experiments that pass the filters, newest first."""
        size = PAGE if limit is None else min(PAGE, max(limit, SMALLEST_PAGE))
        while True:
            page = self._instance.get_run_records(filters, limit=size, cursor=cursor)
            ours = [one for one in page if one.dagster_run.tags.get(EXPERIMENT_TAG) in experiments]
            yield from ours
            if len(page) < size:
                return
            cursor = page[-1].dagster_run.run_id
            if len(ours) < size / 10 and not filters.tags:
                # There are few of them among many other runs: sorting these is faster than reading all.
                filters = RunsFilter(
                    tags={EXPERIMENT_TAG: list(experiments)},
                    job_name=filters.job_name,
                    statuses=filters.statuses,
                    created_after=filters.created_after,
                )

    def _summary(self, run_id: str) -> RunSummary:
        (found,) = self._instance.get_run_records(RunsFilter(run_ids=[run_id]), limit=1)
        return summary_of(found, self._materializations([found]).get(run_id))

    def _materializations(self, found: Sequence[StoredRun]) -> dict[str, Mapping[str, Any]]:
        """Run -> metadata of its materialization."""
        wanted: dict[str, list[StoredRun]] = {}
        for one in found:
            if one.dagster_run.status is DagsterRunStatus.SUCCESS:
                wanted.setdefault(_experiment_of(one.dagster_run), []).append(one)
        return {run_id: shown for name, runs in wanted.items() for run_id, shown in self._shown_of(name, runs)}

    def _shown_of(self, experiment: str, runs: Sequence[StoredRun]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        # There is no look-up by run. A materialization is made while its run is running, so that time is searched.
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
        stats = self._step_stats(run_id)
        began = {step_name(one.step_key): one.status and one.status.value for one in stats}
        # An op that runs a share of another op's trials has no result of its own.
        stages = None if record is None else {one.step for one in record.stages}
        workers = {step for step in began if (of := sharing(step)) and (stages is None or of[0] in stages)}
        stats = [one for one in stats if step_name(one.step_key) not in workers]
        if record is None:
            order = [step_name(one.step_key) for one in sorted(stats, key=lambda one: one.start_time or 0)]
        else:
            order = [one.step for one in record.stages if one.step in began]
            # The step of the gates comes after the stages; it has a result even if it fails the run.
            judged = {step for step in began if step not in order and step not in workers}
            order += [step for step in judged if began[step] in {"SUCCESS", "FAILURE"}]
            began |= dict.fromkeys(judged, "SUCCESS")
        return (
            [step for step in order if began[step] == "SUCCESS"],
            [step for step in order if began[step] != "SUCCESS"],
        )

    def _step_stats(self, run_id: str) -> Sequence[Any]:
        """Only of the experiment's own steps: a run launched from the asset also has steps of asset checks."""
        stats = self._instance.get_run_step_stats(run_id)
        return [one for one in stats if step_name(one.step_key) != one.step_key] or stats

    def _times(self, run_id: str, record: RunRecord | None) -> tuple[StageTime, ...]:
        names = {one.step: one.name for one in record.stages} if record else {}
        outcomes: Mapping[str | None, Literal["succeeded", "failed", "skipped"]] = {
            "SUCCESS": "succeeded",
            "FAILURE": "failed",
            "SKIPPED": "skipped",
        }
        return tuple(
            StageTime(
                name=names.get(step_name(one.step_key), step_name(one.step_key)),
                outcome=outcomes.get(one.status and one.status.value, "running"),
                started=moment_of(one.start_time),
                seconds=one.end_time - one.start_time if one.start_time and one.end_time else None,
            )
            for one in sorted(self._step_stats(run_id), key=lambda one: one.start_time or 0)
        )

    def _record_or_note(self, run_id: str, notes: list[str]) -> RunRecord | None:
        try:
            record = self.record(run_id)
        except CrucibleError as error:
            notes.append(str(error))
            return None
        if record is None:
            notes.append(f"run {run_id} has no record: its first stage never started, or its files were removed")
        return record

    def _from_context(self, run_id: str, read: Callable[[Context], T], notes: list[str]) -> T | None:
        """The result of `read` for the run's Context; values are loaded when they are looked at."""
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

    def _compare_groups(
        self, ids: tuple[str, str], records: tuple[RunRecord | None, RunRecord | None], notes: list[str]
    ) -> tuple[GroupChange, ...]:
        # `bench` takes 0.1 s to import, and every step's process imports this module.
        from crucible_dagster.history.group_changes import RecordedBenches, compare_groups  # noqa: PLC0415

        benches = RecordedBenches(*records)

        def compared(a: Context, b: Context) -> tuple[GroupChange, ...]:
            return compare_groups(a, b, benches, names=(f"a ({ids[0][:8]})", f"b ({ids[1][:8]})"))

        if ids[0] == ids[1] or not benches.are_in_both:
            return ()
        later = self._from_context(ids[1], lambda context: context, notes)
        if later is None:
            return ()
        return self._from_context(ids[0], lambda earlier: compared(earlier, later), notes) or ()

    def _has_decided(self, run_id: str, text: str) -> bool:
        for entry in self._instance.all_logs(run_id, of_type=DagsterEventType.ASSET_OBSERVATION):
            observed = entry.asset_observation
            if observed is not None and observed.asset_key.path[-1] == "decisions":
                said = (observed.metadata[name].value for name in SEARCHED if name in observed.metadata)
                if any(text in str(one).casefold() for one in said):
                    return True
        return False

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
