"""The daemon, of which one runs at a time: `python -m crucible_dagster.service.daemon`, with Dagster's options.

Two of Dagster's daemons launch every tick twice, and each only logs that there is another. This one first takes a lock:
in the database if that is PostgreSQL, so that it holds for all machines, else on a file in DAGSTER_HOME. A second one
stands by and takes over when the first has ended, for whatever reason. The daemon also retries runs whose code server
comes back after the run has failed; Dagster's daemon gives these up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from dagster import DagsterInstance

from crucible_dagster.dagster_internals import (
    daemon_command,
    daemons_are_well,
    postgres_url,
    retry_when_code_is_back,
)
from crucible_dagster.execution import open_instance
from crucible_dagster.service.daemon_health import sign_of_life

__all__ = ["INTERVAL", "LOCK_LOST", "DaemonLock", "lock_of", "main"]

INTERVAL = 5.0
"""Seconds between two attempts to take the lock, and between two checks that it is still held."""
LOCK_LOST = 75
"""EX_TEMPFAIL of sysexits.h: another daemon has taken over; after a restart, this one stands by."""
GRACE = 20.0
"""Seconds that a daemon that has lost the lock has to end by itself."""
# Advisory locks are shared by all programs of a database, so this is a number that no other is likely to choose.
KEY = int.from_bytes(b"crucible", "big") >> 1

_log = logging.getLogger("crucible.daemon")


class DaemonLock(Protocol):
    """A lock that only one process at a time holds, until it ends."""

    def take(self) -> bool:
        """Try to take the lock; whether this process holds it now. Raises OSError or an error of the database."""

    def close(self) -> None:
        """Release the lock."""


class FileLock:
    """A lock on a file, which the system frees when the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def take(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


class PostgresLock:
    """An advisory lock of a session, which the server frees when the connection ends."""

    def __init__(self, url: str) -> None:
        from sqlalchemy import create_engine  # noqa: PLC0415  # what Dagster's PostgreSQL storage uses
        from sqlalchemy.pool import NullPool  # noqa: PLC0415

        self._engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self._session: Any = None

    def take(self) -> bool:
        if self._session is not None:
            try:
                self._session.exec_driver_sql("SELECT 1")
            except Exception:  # noqa: BLE001  # the lock went with the connection
                self._session.invalidate()
                self._session = None
            else:
                return True
        session = self._engine.connect()
        if not session.exec_driver_sql(f"SELECT pg_try_advisory_lock({KEY})").scalar():
            session.close()
            return False
        self._session = session
        return True

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._engine.dispose()


def lock_of(instance: DagsterInstance) -> DaemonLock:
    """The lock of the instance's daemon."""
    url = postgres_url(instance)
    return FileLock(Path(instance.root_directory) / ".daemon.lock") if url is None else PostgresLock(url)


def main() -> None:
    """Run the daemon as soon as no other one is running."""
    logging.basicConfig(format="%(asctime)s - crucible - %(levelname)s - %(message)s", level=logging.INFO)
    with open_instance() as instance:
        lock = lock_of(instance)
        _wait_for(lock, instance)
        _deny_life(instance)
        watch = threading.Thread(
            target=_keep, args=(lock, instance, _end_this_process), name="crucible-daemon-lock", daemon=True
        )
        watch.start()
        retry_when_code_is_back()
        try:
            daemon_command().main(sys.argv[1:], prog_name="crucible_dagster.service.daemon")
        finally:
            _deny_life(instance)


def _wait_for(lock: DaemonLock, instance: DagsterInstance) -> None:
    said = ""
    while True:
        try:
            if lock.take():
                return
            why = "another daemon of this instance is running"
            _show_life(instance)
        except Exception as error:  # noqa: BLE001  # the driver may raise anything while the database is away
            why = f"the lock cannot be taken: {error}"
        if why != said:
            _log.info("%s; this one stands by", why)
            said = why
        time.sleep(INTERVAL)


def _keep(lock: DaemonLock, instance: DagsterInstance, end: Callable[[], None]) -> None:
    while True:
        time.sleep(INTERVAL)
        try:
            kept = lock.take()
            if kept:
                _show_life(instance)
        except Exception:  # noqa: BLE001  # while the database is away, no daemon can do anything
            kept = True
        if not kept:
            _log.error("another daemon has taken over while the database was away; this one ends")
            end()
            return


def _show_life(instance: DagsterInstance) -> None:
    if daemons_are_well(instance):
        file = sign_of_life(Path(instance.root_directory))
        file.parent.mkdir(exist_ok=True)
        file.touch()


def _deny_life(instance: DagsterInstance) -> None:
    sign_of_life(Path(instance.root_directory)).unlink(missing_ok=True)


def _end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)  # like Ctrl-C, so that the daemon finishes what it is doing
    time.sleep(GRACE)
    os._exit(LOCK_LOST)


if __name__ == "__main__":
    main()
