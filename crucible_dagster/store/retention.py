"""Removes old runs, by what Dagster knows about them: from the store alone, or from both Dagster and the store."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster import RunRecord as StoredRun

from crucible_core import CrucibleError
from crucible_dagster.store import ContextStore, StoreError
from crucible_dagster.store.collection import GRACE_SECONDS, Collected, collect_garbage
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import COLLECTED_TAG, EXPERIMENT_TAG, PINNED_TAG

__all__ = [
    "PINNED_TAG",
    "Pruned",
    "RemovedRun",
    "collect",
    "every_run",
    "identity_of",
    "pin",
    "prune",
    "remember_instance",
]

DAY = 24 * 3600.0
PAGE = 1_000
FINISHED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
NOT_FINISHED_STATUSES = tuple(status for status in DagsterRunStatus if status not in FINISHED)


def collect(
    instance: DagsterInstance,
    *,
    days: float,
    delete: bool = False,
    store: ContextStore | None = None,
    grace: float = GRACE_SECONDS,
) -> Collected:
    """Remove from the store what only runs older than `days` refer to, except pinned ones and those still running.

    For a run that Dagster no longer knows, the time of its last file counts. Runs that it never knew are kept: they
    belong to another instance with the same store. A run is also kept as long as a run that resumed it is kept.

    Raises CrucibleError if the instance knows none of the store's runs, and StoreError if the manifest of a kept run is
    damaged.
    """
    if days < 0:
        raise CrucibleError(f"runs of the last {days} days cannot be kept; give 0 or more")
    store = open_store(instance) if store is None else store
    since = time.time() - days * DAY
    # Even runs that have written nothing yet: they may be about to resume another run.
    at_work = instance.get_runs(filters=RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    kept: set[str] = set()
    known: set[str] = set()
    for run in at_work:
        _keep_with_ancestors(instance, run, kept)
    for run_id in store.runs():
        record = instance.get_run_record_by_id(run_id)
        if record is not None:
            known.add(run_id)
            run = record.dagster_run
            ended = record.end_time or record.update_timestamp.timestamp()
            if run.tags.get(PINNED_TAG) == "true" or ended >= since:
                _keep_with_ancestors(instance, run, kept)

    owners = store.instances()
    if not known and (runs := store.runs()):
        raise CrucibleError(_not_its_store(store, instance, owners, len(runs), days))
    others = owners.keys() - {identity_of(instance)}

    def keep(run_id: str, written: float) -> bool:
        return run_id in kept or (run_id not in known and (bool(others) or written >= since))

    found = _collected(store, keep, delete=delete, grace=grace)
    for run_id in known.intersection(found.removed_runs) if delete else ():
        instance.add_run_tags(run_id, {COLLECTED_TAG: "true"})  # then what is missing does not count as lost
    return found


@dataclass(frozen=True, slots=True)
class RemovedRun:
    """A run that was removed from Dagster, or would be."""

    run_id: str
    experiment: str
    status: str
    ended: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be, from Dagster and from the store."""

    runs: tuple[RemovedRun, ...]
    """Newest first."""
    kept: int
    """Number of runs that Dagster still has, including those of other jobs."""
    store: Collected


def prune(
    instance: DagsterInstance,
    *,
    days: float,
    keep_last: int = 0,
    delete: bool = False,
    store: ContextStore | None = None,
    grace: float = GRACE_SECONDS,
) -> Pruned:
    """Remove runs of experiments that ended more than `days` ago: from Dagster first, then from the store.

    It keeps the newest `keep_last` runs of each experiment, pinned runs, those that are not over, those that a kept run
    resumed, and runs of other jobs. A run is removed from Dagster with its events, materializations and logs; reports
    stay. Without `delete` nothing is removed. If it is killed, the next call removes what is left in the store.

    Raises CrucibleError if the instance knows none of the store's runs, and StoreError if the manifest of a kept run is
    damaged; then nothing is removed.
    """
    if days < 0:
        raise CrucibleError(f"runs of the last {days} days cannot be kept; give 0 or more")
    store = open_store(instance) if store is None else store
    since = time.time() - days * DAY
    in_store = set(store.runs())
    known: dict[str, RemovedRun] = {}
    kept: set[str] = set()
    newest: Counter[str] = Counter()
    for stored in every_run(instance):
        run = stored.dagster_run
        experiment = run.tags.get(EXPERIMENT_TAG, "")
        ended = stored.end_time or stored.update_timestamp.timestamp()
        known[run.run_id] = RemovedRun(run.run_id, experiment, run.status.value.lower(), ended)
        newest[experiment] += run.status in FINISHED
        is_new = ended >= since or newest[experiment] <= keep_last
        if not experiment or is_new or run.status not in FINISHED or run.tags.get(PINNED_TAG) == "true":
            _keep_with_ancestors(instance, run, kept)
    owners = store.instances()
    if in_store and known.keys().isdisjoint(in_store):
        raise CrucibleError(_not_its_store(store, instance, owners, len(in_store), days))
    others = owners.keys() - {identity_of(instance)}
    removed = [one for run_id, one in known.items() if run_id not in kept]
    gone = {one.run_id for one in removed}

    def keep(run_id: str, written: float) -> bool:
        return run_id not in gone and (run_id in known or bool(others) or written >= since)

    found = _collected(store, keep, delete=False, grace=grace)
    if delete:
        for one in removed:
            instance.delete_run(one.run_id)
            with contextlib.suppress(Exception):  # stored output of stages; a failure is no reason to stop
                instance.compute_log_manager.delete_logs(prefix=[one.run_id])
        found = _collected(store, keep, delete=True, grace=grace)
    return Pruned(tuple(removed), len(known) - len(removed), found)


def every_run(instance: DagsterInstance) -> Iterator[StoredRun]:
    """The runs that Dagster has, newest first."""
    cursor: str | None = None
    while True:
        page = instance.get_run_records(RunsFilter(), limit=PAGE, cursor=cursor)
        yield from page
        if len(page) < PAGE:
            return
        cursor = page[-1].dagster_run.run_id


def _collected(store: ContextStore, keep: Callable[[str, float], bool], *, delete: bool, grace: float) -> Collected:
    try:
        return collect_garbage(store, keep, delete=delete, grace=grace)
    except StoreError as error:
        raise StoreError(
            f"nothing was removed, because it is not known which objects a run that is kept needs: {error}"
        ) from error


def pin(instance: DagsterInstance, run_id: str, *, pinned: bool = True) -> None:
    """Pin a run, so that it stays in the store regardless of its age, or unpin it."""
    instance.add_run_tags(run_id, {PINNED_TAG: "true" if pinned else "false"})


def identity_of(instance: DagsterInstance) -> str | None:
    """Dagster's id of the run storage, the same in every process that uses it; None for a storage without one."""
    find = getattr(instance.run_storage, "get_run_storage_id", None)
    return None if find is None else str(find())


def remember_instance(store: ContextStore, instance: DagsterInstance) -> None:
    """Have the store remember that it keeps runs of this instance. Raises StoreError."""
    if (identity := identity_of(instance)) is not None:
        store.add_instance(identity, instance.root_directory)


def _not_its_store(
    store: ContextStore, instance: DagsterInstance, owners: Mapping[str, str], runs: int, days: float
) -> str:
    homes = ", ".join(sorted(set(owners.values())))
    return (
        f"the context store {store.base} has {runs:,} runs, and the Dagster instance of {instance.root_directory} "
        f"knows none of them: every one that wrote nothing within {days:g} days would be removed, pinned ones too. "
        "Nothing was removed. "
        + (f"The store belongs to the instance of {homes}: set DAGSTER_HOME to that" if homes else "Set DAGSTER_HOME")
        + "; if nothing in the store is needed any more, delete it by hand"
    )


def _keep_with_ancestors(instance: DagsterInstance, run: DagsterRun | None, kept: set[str]) -> None:
    """Add to `kept` a run and those that it resumed, directly or through others."""
    while run is not None and run.run_id not in kept:
        kept.add(run.run_id)
        run = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
