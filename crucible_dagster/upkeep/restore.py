"""Putting a backup back: the context store first, then the database, which makes its runs known.

During a restore, a file in the store names the backup. After a kill, the same command with the same backup starts
again, no matter what is there. The database is replaced in one transaction; on SQLite, file by file, the runs last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from crucible_core import CrucibleError
from crucible_core.trials.log import TRIALS
from crucible_dagster.dagster_internals import SqliteFolders, postgres_url, sqlite_folders
from crucible_dagster.service.daemon import lock_of
from crucible_dagster.store import ContextStore, StoreError
from crucible_dagster.store.collection import collect_garbage
from crucible_dagster.store.files import BLOCK
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import NOT_FINISHED_STATUSES, identity_of
from crucible_dagster.store.store import CLAIMS, FOLDERS, HEARTBEATS, INSTANCES, REUSE, RUNS
from crucible_dagster.upkeep.backup import DATABASE, STORE, Backup, checksums_of, read_backup
from crucible_dagster.upkeep.databases import kind_of, put_back_postgres, put_back_sqlite
from crucible_dagster.upkeep.store_checks import RESTORING

__all__ = ["Restored", "restore"]

ENDS = {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}
BEGUN = {DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING}
DAY = 86_400.0
WHY = "This instance was restored from a backup, and the run had not ended when that was made."


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    backup: Backup
    runs: int
    """Number of runs in the database now."""
    in_flight: tuple[str, ...]
    """Runs that had begun but not ended when the backup was made; they are now marked as failed."""
    waiting: tuple[str, ...]
    """Runs that had not begun; they are now marked as cancelled."""


def restore(folder: Path, open_instance: Callable[[], DagsterInstance], *, replace: bool = False) -> Restored:
    """Put the backup in `folder` back into the instance that is opened, and into its store.

    First, everything in the backup is read and compared with its checksum. With `replace`, the instance's runs are
    replaced by those of the backup. Raises CrucibleError for a backup that is damaged or of another kind of database,
    a running daemon, existing runs without `replace`, or a store that other instances use.
    """
    backup = read_backup(folder)
    sums = checksums_of(folder, backup)
    with contextlib.ExitStack() as stack:
        with open_instance() as instance:
            store = open_store(instance)
            if kind_of(instance) != backup.database:
                raise CrucibleError(
                    f"the backup in {folder} is of {backup.database}, and the instance of {instance.root_directory} is "
                    f"on {kind_of(instance)}: set DAGSTER_HOME to one on {backup.database}"
                )
            url, files = postgres_url(instance), sqlite_folders(instance.root_directory)
            _alone(instance, stack)
            _check_empty(instance, store, backup, replace=replace)
            store.files.write(RESTORING, [backup.identity.encode()])
            _put_back_store(store, folder, [name.partition("/")[2] for name in sums if name.startswith(f"{STORE}/")])
        if url is not None:
            put_back_postgres(folder / DATABASE, url)
        elif files is not None:
            put_back_sqlite(folder / DATABASE, files)
        with open_instance() as instance:
            in_flight, waiting = _end_unfinished(instance)
            _forget_later_runs(instance, store, files)
            runs = instance.get_runs_count()
        store.files.delete(RESTORING)
    return Restored(backup, runs, in_flight, waiting)


def _alone(instance: DagsterInstance, stack: contextlib.ExitStack) -> None:
    lock = lock_of(instance)
    stack.callback(lock.close)
    if not lock.take():
        raise CrucibleError(
            f"a daemon of the instance of {instance.root_directory} is running: stop it, and every other service, first"
        )


def _check_empty(instance: DagsterInstance, store: ContextStore, backup: Backup, *, replace: bool) -> None:
    others = store.instances().keys() - {identity_of(instance)}
    runs, kept = instance.get_runs_count(), len(store.runs())
    with contextlib.suppress(FileNotFoundError):
        if store.files.read(RESTORING).decode() == backup.identity:
            return  # the same restore was begun before
    if replace and others and kept:
        homes = ", ".join(sorted({store.instances()[one] for one in others}))
        raise CrucibleError(
            f"the context store {store.base} also has runs of {homes}: they would be lost; restore into another store"
        )
    if (runs or kept) and not replace:
        raise CrucibleError(
            f"the instance of {instance.root_directory} has {runs:,} runs, and the context store {store.base} has "
            f"{kept:,}: restore into an empty one, or use --replace, which loses them"
        )


def _put_back_store(store: ContextStore, folder: Path, names: list[str]) -> None:
    wanted = {*names, RESTORING}
    # Objects that are not in the backup do no harm: the garbage collection removes them.
    for place in (RUNS, CLAIMS, REUSE, TRIALS, FOLDERS, HEARTBEATS, INSTANCES):
        for info in store.files.list(place):
            if info.name not in wanted:
                store.files.delete(info.name)
    for name in sorted(names, key=lambda one: one.startswith(f"{RUNS}/")):  # manifests after what they refer to
        store.files.write(name, _blocks(folder / STORE / name))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _end_unfinished(instance: DagsterInstance) -> tuple[tuple[str, ...], tuple[str, ...]]:
    in_flight, waiting = list[str](), list[str]()
    for run in instance.get_runs(RunsFilter(statuses=list(NOT_FINISHED_STATUSES))):
        if _had_ended(instance, run):
            continue
        if run.status in BEGUN:
            in_flight.append(run.run_id)
            instance.report_run_failed(run, WHY)
        else:
            waiting.append(run.run_id)
            instance.report_run_canceled(run, WHY)
    return tuple(in_flight), tuple(waiting)


def _had_ended(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Whether a run had ended: Dagster stores that event before the status, and the copy may be from in between."""
    for entry in instance.all_logs(run.run_id, of_type=ENDS):
        if entry.dagster_event is not None:
            instance.run_storage.handle_run_event(run.run_id, entry.dagster_event)
            return True
    return False


def _forget_later_runs(instance: DagsterInstance, store: ContextStore, files: SqliteFolders | None) -> None:
    """Remove what was written by runs launched after the runs database was copied, above all their claims."""
    known = set(instance.get_run_ids())
    for path in () if files is None else files.events.glob("*.db"):
        if path.stem not in {"index", *known}:
            instance.event_log_storage.delete_events(path.stem)
            path.unlink()
    if store.instances().keys() - {identity_of(instance)}:
        return  # it is not known which of the runs belong to another instance
    with contextlib.suppress(StoreError):  # for what was damaged when it was copied; `crucible doctor` reports it
        collect_garbage(store, lambda run_id, _: run_id in known, delete=True, grace=-DAY)
