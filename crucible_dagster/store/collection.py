"""Maintaining a store: removing what no run refers to any more, and finding what is damaged."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from crucible_core.trials.log import TRIALS
from crucible_dagster.store.errors import StoreError
from crucible_dagster.store.files import TEMPORARY
from crucible_dagster.store.lazy import PARTS
from crucible_dagster.store.manifest import Log, Manifest, read_document
from crucible_dagster.store.objects import FOLDER as OBJECTS
from crucible_dagster.store.objects import ObjectStore, Ref, digest_in, object_name, objects_in
from crucible_dagster.store.store import CLAIMS, FOLDERS, HEARTBEATS, REUSE, RUNS, ContextStore

__all__ = ["GRACE_SECONDS", "Collected", "Verified", "collect_garbage", "verify_store"]

GRACE_SECONDS = 24 * 3600.0
"""Younger files are always kept: a running step does not refer to its objects before it ends."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be."""

    kept_runs: tuple[str, ...]
    removed_runs: tuple[str, ...]
    removed_objects: int
    removed_bytes: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what is wrong with it."""

    runs: int
    objects: int
    bytes: int
    problems: tuple[str, ...]


def collect_garbage(
    store: ContextStore,
    keep: Callable[[str, float], bool],
    *,
    delete: bool = False,
    grace: float = GRACE_SECONDS,
) -> Collected:
    """Remove the runs that `keep` rejects, with their trials and folders, and every object that no kept run refers to.

    `keep` gets a run's id and the time of the last thing it wrote, in seconds since the epoch. Without `delete`
    nothing is removed. Raises StoreError if the manifest of a kept run is damaged, because then it is not known what
    it refers to.
    """
    old = time.time() - grace
    kept: list[str] = []
    removed: list[str] = []
    for run_id in store.runs():
        written = max((info.modified for info in store.files.list(f"{RUNS}/{run_id}")), default=0.0)
        (kept if written > old or keep(run_id, written) else removed).append(run_id)
    wanted = {
        digest for run_id in kept for manifest in store.manifests(run_id) for digest, _ in _objects_of(manifest, store)
    }
    gone = frozenset(removed)
    garbage = [*_unwanted_objects(store, wanted, old), *_unwanted_reuse(store, gone)]
    garbage += [*_unwanted_claims(store, gone, old), *_unwanted_trials(store, gone, old)]
    garbage += _unwanted_folders(store, gone, old)
    garbage += [(info.name, info.size) for info in store.files.list(HEARTBEATS) if info.modified < old]
    for run_id in removed:
        garbage += [(info.name, 0) for info in store.files.list(f"{RUNS}/{run_id}")]
    if delete:
        # Manifests first: if the process is killed in between, no remaining manifest refers to a removed object.
        for name, _ in sorted(garbage, key=lambda one: not one[0].startswith(f"{RUNS}/")):
            # An object that a step writes again meanwhile looks new and stays, because the step will refer to it.
            if not name.startswith(f"{OBJECTS}/") or (store.files.modified(name) or 0.0) < old:
                store.files.delete(name)
    objects = [size for name, size in garbage if name.startswith(f"{OBJECTS}/")]
    return Collected(tuple(kept), tuple(removed), len(objects), sum(objects), delete)


def verify_store(store: ContextStore) -> Verified:
    """Read every object and every manifest, and check that what they refer to exists."""
    problems: list[str] = []
    there: dict[str, int] = {}
    for info in store.files.list(OBJECTS):
        if TEMPORARY in info.name:
            continue
        digest = digest_in(info.name)
        there[digest] = info.size
        problem = store.objects.verify(digest)
        problems += [problem] if problem else []
    for run_id in store.runs():
        try:
            store.run_record(run_id)
        except StoreError as error:
            problems.append(str(error))
        for step in store.steps(run_id):
            problems += _problems_of_step(store, run_id, step, there)
    return Verified(len(store.runs()), len(there), sum(there.values()), tuple(problems))


def _problems_of_step(store: ContextStore, run_id: str, step: str, there: dict[str, int]) -> Iterator[str]:
    folder = store.step_folder(run_id, step)
    for name in store.files.children(folder):
        if name.endswith(".events") or TEMPORARY in name:
            continue
        try:
            document = read_document(store.files.read(f"{folder}/{name}"), f"{folder}/{name}")
            manifest = None if "closed_by" in document else Manifest.from_document(document)
            referred = list(_objects_of(manifest, store)) if manifest else []
        except StoreError as error:
            yield str(error)
            continue
        for digest, size in referred:
            if there.get(digest) is None:
                yield f"{object_name(digest)} is missing; {folder}/{name} refers to it"
            elif there[digest] != size:
                yield f"{object_name(digest)} has {there[digest]:,} bytes; {folder}/{name} says {size:,}"


def _objects_of(manifest: Manifest, store: ContextStore) -> Iterator[tuple[str, int]]:
    """Digest and size of every object that a manifest refers to, directly or through its logs."""
    where = f"the manifest of step {manifest.step!r} of run {manifest.run_id}"
    yield from manifest.experiment.objects
    if manifest.failure and manifest.failure["cause"]:
        yield from Ref.from_json(manifest.failure["cause"]).objects
    for part in PARTS:
        yield from _objects_of_log(manifest.parts[part], store.objects, where, reference=1)
    yield from _objects_of_log(manifest.outputs, store.objects, where, reference=0)
    yield from _objects_of_log(manifest.trace, store.objects, where, reference=None)


def _objects_of_log(log: Log, objects: ObjectStore, where: str, *, reference: int | None) -> Iterator[tuple[str, int]]:
    yield from objects_in(log.sealed)
    if reference is not None:
        for item in log.items(objects, where):
            yield from Ref.from_json(item[reference]).objects


def _unwanted_objects(store: ContextStore, wanted: set[str], old: float) -> Iterator[tuple[str, int]]:
    for info in store.files.list(OBJECTS):
        digest = digest_in(info.name)
        if digest not in wanted and info.modified < old:
            yield info.name, info.size
    for info in store.files.list(RUNS):
        if TEMPORARY in info.name and info.modified < old:
            yield info.name, info.size


def _unwanted_claims(store: ContextStore, removed: frozenset[str], old: float) -> Iterator[tuple[str, int]]:
    for info in store.files.list(CLAIMS):
        if TEMPORARY in info.name:
            if info.modified < old:
                yield info.name, info.size
            continue
        # A claim that cannot be read stays: nobody knows what it keeps from running twice.
        with contextlib.suppress(StoreError, json.JSONDecodeError):
            if read_document(store.files.read(info.name), info.name).get("run_id") in removed:
                yield info.name, info.size


def _unwanted_trials(store: ContextStore, removed: frozenset[str], old: float) -> Iterator[tuple[str, int]]:
    kept = set(store.runs()) - removed
    for info in store.files.list(TRIALS):
        if info.name.split("/")[2] not in kept and info.modified < old:
            yield info.name, info.size


def _unwanted_folders(store: ContextStore, removed: frozenset[str], old: float) -> Iterator[tuple[str, int]]:
    kept = set(store.runs()) - removed
    for info in store.files.list(FOLDERS):
        if info.name.split("/")[1] not in kept and info.modified < old:
            yield info.name, info.size


def _unwanted_reuse(store: ContextStore, removed: frozenset[str]) -> Iterable[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for info in store.files.list(REUSE):
        try:
            document = read_document(store.files.read(info.name), info.name)
        except (StoreError, json.JSONDecodeError):
            found.append((info.name, info.size))  # a look-up ignores it
            continue
        if document.get("run_id") in removed:
            found.append((info.name, info.size))
    return found
