"""Checks of the context store: whether it is there, fits the database, and is undamaged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from dagster import DagsterRunStatus
from dagster import RunRecord as StoredRun

from crucible_core import CrucibleError
from crucible_dagster.history.run_record import read_run_record
from crucible_dagster.names import last_step, step_name
from crucible_dagster.store import ContextStore
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.files import TEMPORARY, FileInfo, LocalFiles
from crucible_dagster.store.objects import FOLDER as OBJECTS
from crucible_dagster.store.objects import digest_in
from crucible_dagster.store.retention import every_run, identity_of
from crucible_dagster.tags import COLLECTED_TAG, EXPERIMENT_TAG
from crucible_dagster.upkeep.findings import Finding, Subject

__all__ = ["drift", "missing_results", "objects", "reachable"]

SAMPLE = 200
"""How many runs' results are looked for, and how many objects are read, unless all of them are."""
SAMPLE_BYTES = 256 * 1024 * 1024
FOLDERS = 16
SHOWN = 10
AGAIN = "run the experiment again, which writes it anew, or restore a backup; `crucible store verify` lists everything"


def reachable(subject: Subject) -> Iterator[Finding]:
    """Whether the store answers."""
    store = subject.store
    assert store is not None
    if isinstance(store.files, LocalFiles) and not Path(str(store.base)).exists():
        yield Finding("note", "store", f"there is no {store.base}: the first run makes it")
        return
    try:
        store.runs()
        store.instances()
    except (OSError, CrucibleError) as error:
        yield Finding(
            "error", "store", f"{store.base} cannot be read: {error}", "see CRUCIBLE_STORE and its permissions"
        )
    except Exception as error:  # noqa: BLE001  # each file system of fsspec raises its own errors
        said = f"{store.base} cannot be reached: {type(error).__name__}: {error}"
        yield Finding("error", "store", said, "see CRUCIBLE_STORE, and the credentials and the address of its service")
    if store.files.exists(RESTORING):
        yield Finding(
            "error", "store", "a restore was not finished", "run `crucible restore` with the same folder again"
        )


RESTORING = "restoring"
"""A file that is in the store while a backup is being restored into it: `upkeep.restore`."""


def drift(subject: Subject) -> Iterator[Finding]:
    """Runs of the database whose Contexts are gone, and Contexts of runs that the database does not know."""
    instance, store = subject.opened
    kept = set(store.runs())  # before the database is queried, because a run is in the database first
    known: set[str] = set()
    gone: list[StoredRun] = []
    newest: list[StoredRun] = []
    for stored in every_run(instance):
        run = stored.dagster_run
        known.add(run.run_id)
        if run.status is not DagsterRunStatus.SUCCESS or EXPERIMENT_TAG not in run.tags:
            continue
        if run.run_id in kept:
            newest += [stored] if subject.deep or len(newest) < SAMPLE else []
        elif run.tags.get(COLLECTED_TAG) != "true":
            gone.append(stored)
    if gone:
        named = ", ".join(one.dagster_run.run_id[:8] for one in gone[:SHOWN])
        yield Finding(
            "error",
            "drift",
            f"{len(gone):,} runs succeeded and have nothing in the context store: {named}{_more(gone)}",
            "check that CRUCIBLE_STORE is the store of these runs, or restore the store. What an earlier version's "
            "`crucible store gc` removed is listed too: `crucible prune` removes old runs from both",
        )
    wrong = [said for one in newest for said in missing_results(store, one)]
    for said in wrong[:SHOWN]:
        yield Finding("error", "drift", said, AGAIN)
    unknown = sorted(kept - known)
    if unknown:
        others = store.instances().keys() - {identity_of(instance)}
        said = f"the context store has {len(unknown):,} runs that the database does not know: "
        said += ", ".join(one[:8] for one in unknown[:SHOWN]) + _more(unknown)
        if others:
            yield Finding("note", "drift", f"{said}; {len(others)} other instances use this store")
        else:
            do = "`crucible prune` removes them when they are old; after a restore, they are newer than the backup"
            yield Finding("warning", "drift", said, do)


def missing_results(store: ContextStore, stored: StoredRun) -> Iterator[str]:
    """What is wrong with the result of a successful run, according to its manifest."""
    run = stored.dagster_run
    named = f"run {run.run_id[:8]} ({run.tags.get(EXPERIMENT_TAG)})"
    try:
        text = store.run_record(run.run_id)
        if text is None:
            yield f"{named} succeeded and has no record"
            return
        last = last_step(read_run_record(text).to_experiment())
        ran = run.step_keys_to_execute
        if ran is not None and last not in map(step_name, ran):
            return
        if store.find(run.run_id, last) is None:
            yield f"{named} succeeded and has no result of its last step {last!r}"
    except CrucibleError as error:
        yield f"{named}: {error}"


def objects(subject: Subject) -> Iterator[Finding]:
    """Objects whose bytes have changed. It checks a sample, or all objects and all manifests."""
    _, store = subject.opened
    if subject.deep:
        found: Sequence[str] = verify_store(store).problems
    else:
        found = [said for one in _sample(store) if (said := store.objects.verify(digest_in(one.name))) is not None]
    for said in found[:SHOWN]:
        yield Finding("error", "objects", said, AGAIN)
    if len(found) > SHOWN:
        yield Finding("error", "objects", f"and {len(found) - SHOWN:,} more", AGAIN)


def _sample(store: ContextStore) -> Iterator[FileInfo]:
    """Some objects from some folders. Names are digests, so which folder an object is in is random."""
    folders = list(store.files.children(OBJECTS))
    random.shuffle(folders)
    left = SAMPLE_BYTES
    listed = (one for folder in folders[:FOLDERS] for one in store.files.list(f"{OBJECTS}/{folder}"))
    for one in islice((one for one in listed if TEMPORARY not in one.name), SAMPLE):
        if one.size <= left:
            left -= one.size
            yield one


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
