"""The earlier runs that a gate needs, from Dagster's run storage and the context store."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter

from crucible_core import Baseline, Context, CrucibleError
from crucible_core.gates.outcome import EarlierRun
from crucible_dagster.history.gate_results import has_passed, is_judged
from crucible_dagster.history.history import History
from crucible_dagster.names import dagster_name, root_of
from crucible_dagster.store import ContextStore
from crucible_dagster.tags import EXPERIMENT_TAG, OPTIONS_TAG, OTHER_JOB_TAG, VARIANT_TAG

__all__ = ["EarlierRuns", "newest_judged_run"]

PAGE = 50
ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]


class EarlierRuns:
    """The runs before one run, of the same experiment and the same variant.

    A run and its re-executions, such as retries, count as one run. Each continues from the results of the one before,
    so a run would be compared with itself, or counted twice. The newest usable run represents all of them.
    """

    def __init__(self, instance: DagsterInstance, store: ContextStore, run: DagsterRun, step: str) -> None:
        """`step` is the last step, whose result is the result of the run."""
        self._instance = instance
        self._store = store
        self._run = run
        self._step = step
        self._history = History(instance, store=store)

    def baseline(self, baseline: Baseline) -> Sequence[EarlierRun]:
        """The runs that the baseline stands for, newest first.

        Raises CrucibleError if a pinned run does not exist, or cannot be used as a baseline.
        """
        if baseline.run is not None:
            return [self._pinned(baseline.run)]
        runs = _earlier_runs(self._instance, self._run)
        if baseline.variant is not None:
            wanted = (one for one in runs if one.tags.get(VARIANT_TAG) == baseline.variant and _succeeded(one))
        else:
            wanted = (one for one in runs if has_passed(one) and self._is_same_variant(one))
        counting = (one for one in wanted if baseline.any_options or not _is_exploratory(one))
        others = _one_of_each(counting, {root_of(self._run)})
        return [self._earlier(one.run_id) for one in islice(others, baseline.last_runs or 1)]

    def since(self, run_id: str, *, any_options: bool = False) -> Sequence[EarlierRun]:
        """The runs between that one and this one, oldest first; `any_options` includes those with changed options.

        Runs that failed a gate are included: without them, the low values would be missing.
        """
        (first,) = self._instance.get_run_records(RunsFilter(run_ids=[run_id]), limit=1)
        found = []
        for one in _earlier_runs(self._instance, self._run):
            if one.run_id == run_id:
                break
            if is_judged(one) and self._is_same_variant(one) and (any_options or not _is_exploratory(one)):
                found.append(one)
        else:
            raise CrucibleError(f"run {run_id}, of {first.create_timestamp:%Y-%m-%d %H:%M}, is not before this one")
        others = list(_one_of_each(found, {root_of(self._run), root_of(first.dagster_run)}))
        return [self._earlier(one.run_id) for one in reversed(others)]

    def _pinned(self, run: str) -> EarlierRun:
        run_id = self._history.find(run)
        if run_id == self._run.run_id:
            raise CrucibleError(f"the baseline is run {run_id}, which is this run itself")
        pinned = self._instance.get_run_by_id(run_id)
        assert pinned is not None
        ours, its = (one.tags.get(EXPERIMENT_TAG) for one in (self._run, pinned))
        if ours != its:
            raise CrucibleError(f"the baseline, run {run_id}, is one of experiment {its!r}")
        return self._earlier(run_id)

    def _is_same_variant(self, other: DagsterRun) -> bool:
        return _variant(other) == _variant(self._run)

    def _earlier(self, run_id: str) -> EarlierRun:
        return EarlierRun(run_id, functools.partial(self._context, run_id))

    def _context(self, run_id: str) -> Context:
        if self._store.find(run_id, self._step) is not None:
            return self._store.load(run_id, self._step)
        return self._history.context(run_id)  # it had another pipeline, or was resumed from another run


def _variant(run: DagsterRun) -> str:
    return run.tags.get(VARIANT_TAG, "")  # in a re-execution of a run with a variant, the tag may be empty


def _is_exploratory(run: DagsterRun) -> bool:
    return bool(run.tags.get(OPTIONS_TAG))


def _succeeded(run: DagsterRun) -> bool:
    return run.status is DagsterRunStatus.SUCCESS


def _earlier_runs(instance: DagsterInstance, run: DagsterRun) -> Iterator[DagsterRun]:
    """The runs of the same experiment that were created before this one and have ended, newest first."""
    yield from _runs_of(instance, run.tags.get(EXPERIMENT_TAG, ""), run.run_id)


def _one_of_each(runs: Iterable[DagsterRun], but: set[str]) -> Iterator[DagsterRun]:
    """The first run of each group of re-executions, except the groups in `but`."""
    known = set(but)
    for run in runs:
        if root_of(run) not in known:
            known.add(root_of(run))
            yield run


def newest_judged_run(instance: DagsterInstance, experiment: str) -> DagsterRun | None:
    """The newest run of the experiment whose stages all succeeded."""
    return next((one for one in _runs_of(instance, experiment, None) if is_judged(one)), None)


def _runs_of(instance: DagsterInstance, experiment: str, before: str | None) -> Iterator[DagsterRun]:
    # Found by the job's name, which has an index; the tag tells apart experiments with the same job name. Runs of the
    # asset and of the variants' job have other job names, but a tag that no other run has.
    of_job = RunsFilter(job_name=dagster_name(experiment), statuses=ENDED)
    of_others = RunsFilter(tags={OTHER_JOB_TAG: experiment}, statuses=ENDED)
    both = (_records(instance, filters, before) for filters in (of_job, of_others))
    for one in heapq.merge(*both, key=lambda one: -one.storage_id):
        if one.dagster_run.tags.get(EXPERIMENT_TAG) == experiment:
            yield one.dagster_run


def _records(instance: DagsterInstance, filters: RunsFilter, before: str | None) -> Iterator[RunRecord]:
    while True:
        page = instance.get_run_records(filters, limit=PAGE, cursor=before)
        yield from page
        if len(page) < PAGE:
            return
        before = page[-1].dagster_run.run_id
