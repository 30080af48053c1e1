"""The heartbeat of a run: while its process lives, a file in the context store grows.

Dagster's code server notices that the process of a run has died, if it is alive itself. If the machine or the container
is lost, both are gone, and nobody updates the run's status. So `service.launcher` looks at the heartbeats.

A separate process writes them, forked from that of the run. A thread would be silent while a stage computes in a
library that does not let other threads run, but such a run is not dead.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import warnings

from crucible_dagster.store import ContextStore

__all__ = ["INTERVAL", "start_heartbeat"]

INTERVAL = 5.0
"""Seconds between two heartbeats, unless the instance's launcher sets another value."""
TICK = 0.5
"""Seconds after which the heartbeat process notices that the process of the run has ended."""


def start_heartbeat(store: ContextStore, run_id: str, interval: float = INTERVAL) -> None:
    """Write a heartbeat for the run every `interval` seconds, until this process ends."""
    if sys.platform != "linux":  # there, a process with threads cannot be forked safely
        arguments = (store, run_id, interval, None)
        threading.Thread(target=_beat, args=arguments, name="crucible-heartbeat", daemon=True).start()
        return
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the child needs none of their locks
        pid = os.fork()
    if pid:
        return
    try:
        gc.disable()  # so that no object of the parent is finalized here, above all no connection
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends when its parent does, no matter how long that takes
        _beat(store, run_id, interval, parent)
    finally:
        os._exit(0)


def _beat(store: ContextStore, run_id: str, interval: float, parent: int | None) -> None:
    due = 0.0
    while parent is None or os.getppid() == parent:
        if time.monotonic() >= due:
            due = time.monotonic() + interval
            with contextlib.suppress(Exception):  # the store is away; then its readers see no heartbeat of any run
                store.beat(run_id)
        time.sleep(TICK)
