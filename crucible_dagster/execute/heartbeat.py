"""The heartbeat of a run: while its process lives, a file in the context store grows.

Dagster's code server notices that the process of a run has died, if it lives itself. When the machine or the container
is lost, both are, and nobody tells the run's status. `service.launcher` looks at the heartbeats instead.

A process of its own writes them, forked from that of the run: a thread is silent for as long as a stage computes in a
library that does not let other threads run, and such a run is not dead.
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
"""Seconds between two beats, unless the instance's launcher says otherwise."""
TICK = 0.5
"""Seconds after which the process that beats has noticed that the one of the run has ended."""


def start_heartbeat(store: ContextStore, run_id: str, interval: float = INTERVAL) -> None:
    """Have the run's heart beat, once in so many seconds, until this process ends."""
    if sys.platform != "linux":  # where a process with threads cannot be forked
        arguments = (store, run_id, interval, None)
        threading.Thread(target=_beat, args=arguments, name="crucible-heartbeat", daemon=True).start()
        return
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: what the child does needs no lock of theirs
        pid = os.fork()
    if pid:
        return
    try:
        gc.disable()  # nothing of the parent is finalized here, above all no connection
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends with its parent, however long that takes to end
        _beat(store, run_id, interval, parent)
    finally:
        os._exit(0)


def _beat(store: ContextStore, run_id: str, interval: float, parent: int | None) -> None:
    due = 0.0
    while parent is None or os.getppid() == parent:
        if time.monotonic() >= due:
            due = time.monotonic() + interval
            with contextlib.suppress(Exception):  # the store is away; whoever reads it has no heartbeat of any run then
                store.beat(run_id)
        time.sleep(TICK)
