"""A copy of an instance's database and of its context store in one folder, made while runs go on.

| file of the folder    | what it is                                                                      |
| --------------------- | ------------------------------------------------------------------------------- |
| `database/`           | `pg_dump`'s archive, or the SQLite files                                        |
| `store/`              | the files of the context store, under their names there                         |
| `checksums.sha256`    | the SHA-256 of each, as `sha256sum --check` reads it                            |
| `backup.json`         | what was copied, with which versions; written last: without it, it is no backup |

The database is copied first. It says which runs have ended; their results were in the store by then, so the later copy
of the store has them all. Objects are copied after the manifests that refer to them, so that the copy has those too.
Nothing may be removed from the store meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from crucible_core import CrucibleError
from crucible_dagster.store import ContextStore
from crucible_dagster.store.files import BLOCK, TEMPORARY
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.objects import FOLDER as OBJECTS
from crucible_dagster.store.objects import digest_in
from crucible_dagster.store.store import HEARTBEATS, RUNS
from crucible_dagster.upkeep.databases import Kind, copy_database, kind_of

__all__ = ["CHECKSUMS", "DATABASE", "STORE", "Backup", "back_up", "checksums_of", "read_backup"]

FORMAT = 1
MANIFEST, CHECKSUMS, DATABASE, STORE = "backup.json", "checksums.sha256", "database", "store"
PASSES = 20
PACKAGES = ("crucible-dagster", "dagster", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup folder contains."""

    made: str
    """When its database was copied, in UTC (ISO 8601)."""
    database: Kind
    store: str
    """Where the store was."""
    runs: int
    """Number of runs of which the copy of the store has something."""
    files: int
    bytes: int
    versions: Mapping[str, str]
    identity: str
    """The SHA-256 of the checksums."""
    damaged: tuple[str, ...] = ()
    """Objects that were already damaged in the store."""


def back_up(instance: DagsterInstance, folder: Path) -> Backup:
    """Copy the database and then the context store into `folder`, which is created for its owner alone.

    Raises CrucibleError if the folder is not empty, the database cannot be copied, or something was removed from the
    store meanwhile.
    """
    kind, store = kind_of(instance), open_store(instance)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CrucibleError(f"{folder} is not empty: name an empty folder, or one that does not exist")
        made = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / DATABASE).mkdir(mode=0o700)
        copy_database(instance, folder / DATABASE)
        sums = {f"{DATABASE}/{name}": _digest(path) for name, path in _files(folder / DATABASE)}
        copied = _copy_store(store, folder / STORE)
        sums |= {f"{STORE}/{name}": digest for name, digest in copied.items()}
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
        (folder / CHECKSUMS).write_text(text, encoding="utf-8")
        found = Backup(
            made,
            kind,
            str(store.base),
            len({name.split("/")[1] for name in copied if name.startswith(f"{RUNS}/")}),
            len(sums),
            sum((folder / name).stat().st_size for name in sums),
            {name: version(name) for name in PACKAGES},
            hashlib.sha256(text.encode()).hexdigest(),
            tuple(
                name for name, digest in copied.items() if name.startswith(f"{OBJECTS}/") and digest_in(name) != digest
            ),
        )
        os.sync()  # so that everything named in the manifest is on the disk
        document = {"format": FORMAT, **{name: getattr(found, name) for name in Backup.__slots__}}
        (folder / MANIFEST).write_text(json.dumps(document, indent=2), encoding="utf-8")
    except OSError as error:
        raise CrucibleError(f"the backup in {folder} cannot be finished: {error}") from error
    return found


def read_backup(folder: Path) -> Backup:
    """Read what the backup contains. Raises CrucibleError if it is not a backup, unfinished, or of another format."""
    try:
        document: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CrucibleError(f"{folder} is not a backup, or was not finished: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CrucibleError(f"{folder / MANIFEST} cannot be read: {error}") from error
    if document.get("format") != FORMAT:
        raise CrucibleError(
            f"the backup in {folder} has format {document.get('format')}, and this version of crucible reads format "
            f"{FORMAT}; upgrade crucible-dagster"
        )
    try:
        found = {name: document[name] for name in Backup.__slots__}
        return Backup(**{**found, "damaged": tuple(found["damaged"])})
    except (LookupError, TypeError) as error:
        raise CrucibleError(f"{folder / MANIFEST} is damaged: {error!r}") from error


def checksums_of(folder: Path, backup: Backup) -> dict[str, str]:
    """Name -> SHA-256 of each file, after reading and checking all of them. Raises CrucibleError if one differs."""
    try:
        text = (folder / CHECKSUMS).read_text(encoding="utf-8")
        if hashlib.sha256(text.encode()).hexdigest() != backup.identity:
            raise CrucibleError(f"{folder / CHECKSUMS} is damaged; nothing was restored")
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
        wrong = [name for name, digest in sums.items() if not _is_inside(name) or _digest(folder / name) != digest]
    except OSError as error:
        raise CrucibleError(f"the backup in {folder} is damaged, and nothing was restored: {error}") from error
    if wrong:
        raise CrucibleError(
            f"the backup in {folder} is damaged, and nothing was restored: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5:,} more" if len(wrong) > 5 else "")
        )
    return sums


def _is_inside(name: str) -> bool:
    """Whether the name is that of a file in the backup, and not somewhere else."""
    return name.startswith((f"{DATABASE}/", f"{STORE}/")) and ".." not in name.split("/")


def _copy_store(store: ContextStore, folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file that was copied."""
    copied: dict[str, str] = {}
    for wanted in (lambda name: not name.startswith(f"{OBJECTS}/"), lambda name: name.startswith(f"{OBJECTS}/")):
        for _ in range(PASSES):
            missed = False
            for info in store.files.list(""):
                if info.name in copied or not wanted(info.name) or not _is_kept(info.name):
                    continue
                try:
                    copied[info.name] = _copy(store.files.blocks(info.name), folder / info.name)
                except FileNotFoundError:
                    if info.name.startswith((f"{OBJECTS}/", f"{RUNS}/")):
                        raise CrucibleError(
                            f"{info.name} was removed from the context store while it was copied: make the backup "
                            "again, and do not run `crucible store gc` or `crucible prune` meanwhile"
                        ) from None
                    missed = True  # files of trials, which were merged into fewer files
            if not missed:
                break
    return copied


def _is_kept(name: str) -> bool:
    # A file that is being written will appear under its own name; and heartbeats mean nothing after a restore.
    return TEMPORARY not in name and not name.startswith(f"{HEARTBEATS}/")


def _copy(blocks: Iterator[bytes], target: Path) -> str:
    hashed, first = hashlib.sha256(), next(blocks, b"")  # read first: if the source is gone, no file is created
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as stream:
        while first:
            hashed.update(first)
            stream.write(first)
            first = next(blocks, b"")
    return hashed.hexdigest()


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            hashed.update(block)
    return hashed.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path
