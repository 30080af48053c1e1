"""A step whose run is over, or whose worker has died, stops itself.

When the process that runs a job is killed, the processes of its steps live on. A run that was declared dead may also
still be running. The store refuses what such an orphan writes; this module ends the orphan. A run whose code server has
died is not an orphan: it still has the store and the database, so it goes on and reports its end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

from dagster import DagsterInstance

from crucible_dagster.dagster_internals import role_of_this_process
from crucible_dagster.processes import pool_of_this_step

__all__ = ["OrphanWatch", "watch_for_orphan"]

INTERVAL = 2.0
"""Seconds between two queries of the run's status."""
ORPHAN_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h."""


class OrphanWatch:
    """Watches over the run that a step belongs to, and stops the step if the run is over."""

    def __init__(self, instance: DagsterInstance, run_id: str) -> None:
        self._instance = instance
        self._run_id = run_id
        self._done = threading.Event()
        self._lock = threading.Lock()
        self.run_is_over = False
        self._steps_thread = threading.current_thread()
        self._pool = pool_of_this_step()

    def run(self) -> None:
        role = role_of_this_process()
        # The worker that started this process, even with a fork server between them.
        parent = multiprocessing.parent_process() if role == "step" else None
        while not self._done.is_set():
            if parent is not None and wait([parent.sentinel], timeout=INTERVAL):
                self._stop(now=True)
            elif parent is None:
                self._done.wait(INTERVAL)
            if self._pool is not None and os.getppid() != self._pool:
                self._stop(now=True)
            if not self._done.is_set() and self._is_finished():
                # A Celery process ignores signals, and its worker replaces it when it ends. A process with a role
                # belongs to this run alone.
                self._stop(now=role is not None or self._pool is not None)
                return

    def _is_finished(self) -> bool:
        # If the database is unavailable, nothing is known about the run.
        with contextlib.suppress(Exception):
            run = self._instance.get_run_by_id(self._run_id)
            return run is not None and run.is_finished
        return False

    def _stop(self, *, now: bool) -> None:
        with self._lock:
            if self._done.is_set():
                return  # a run is finished as soon as its last step is
            self.run_is_over = True
            if now:
                os._exit(ORPHAN_EXIT_CODE)
            if self._steps_thread is threading.main_thread():
                # A signal, because it interrupts sleeping and waiting; the run's caller may use this thread too.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def stop(self) -> None:
        with self._lock:
            self._done.set()


@contextlib.contextmanager
def watch_for_orphan(instance: DagsterInstance, run_id: str) -> Iterator[OrphanWatch]:
    """Watch over the run with an OrphanWatch while one of its steps is running."""
    orphan_watch = OrphanWatch(instance, run_id)
    # The storage of an ephemeral instance belongs to this process alone, and is not made for two threads.
    if not instance.is_ephemeral:
        threading.Thread(target=orphan_watch.run, name="crucible-watch", daemon=True).start()
    try:
        yield orphan_watch
    finally:
        orphan_watch.stop()
