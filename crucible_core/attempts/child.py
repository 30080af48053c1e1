"""The process that stages with a time limit run in, one after another: this module is what it executes.

It is a new interpreter, not a fork: threads and locks of its parent are not copied half-way. It ends by itself when it
is no longer needed, when its parent is gone and, from a thread that does not need Python's lock, soon after a stage's
time is over.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

from crucible_core.attempts import coroutines
from crucible_core.attempts.failures import Put, put_since, shown_traceback
from crucible_core.context import Context
from crucible_core.ir.experiment import kinds_of
from crucible_core.ir.resources import resources_during
from crucible_core.observers import Audience, Observer, Point, ProgressUpdate
from crucible_core.plan import Plan, PlannedStage
from crucible_core.run_state.attempt import Attempt, current_attempt
from crucible_core.run_state.checkpoints import Kept, kept_in
from crucible_core.run_state.resources import Maker
from crucible_core.run_state.spending import SPENT
from crucible_core.trace import Event
from crucible_core.trials.shared import SharedValue, pickled
from crucible_core.values.messages import UNUSED, error_text

__all__ = ["GRACE", "Job", "Raised", "Work", "serve"]

IDLE: Final = 60.0
"""Seconds for which the process waits for another stage."""
GRACE: Final = 5.0
"""Seconds within which a stage must end after an interrupt."""


class Job(NamedTuple):
    """A stage to run, as it is sent to the process: all that may need an import is in `work`, a Work."""

    work: SharedValue
    result: Path
    """Where the arrays of the result go."""
    seconds: float
    grace: float
    environment: Mapping[str, str]
    folder: str
    path: Sequence[str]
    log_level: int
    updates_every: float | None
    """Seconds between two updates of progress, if an observer takes them."""


class Work(NamedTuple):
    """The stage and what it is given."""

    plan: Plan | None
    planned: PlannedStage
    context: Context
    folder: Any
    """The folder of the run."""
    allow_pickle: bool
    resources: Mapping[str, Maker]


class Raised(NamedTuple):
    """An exception on its way back. One that cannot be pickled has only its name and what it says."""

    error: SharedValue | None
    module: str
    name: str
    said: str
    kinds: Sequence[str]
    explains_itself: bool
    traceback: str
    put: SharedValue
    """What the stage had put into its Context: a Put."""


def serve(connection: int, stacks: int) -> None:
    """Run the stages that arrive on `connection`, a file descriptor; `stacks` is the file for the last traceback."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    parent = _Parent(Connection(connection))
    logging.getLogger().addHandler(_Forwarded(parent))
    while (job := parent.next_job()) is not None:
        try:
            reply = _run(job, parent, stacks)
        except BaseException as error:  # noqa: BLE001  # it is raised in the other process
            reply = "raised", _raised(error, Put({}, {}, []))
        parent.send(*reply)


def _run(job: Job, parent: _Parent, stacks: int) -> tuple[str, Any]:
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    sys.path[:] = job.path
    logging.getLogger().setLevel(job.log_level)
    plan, planned, context, folder, allow_pickle, resources = job.work.load()
    observer = _Told(parent) if job.updates_every is None else _ToldAll(parent, job.updates_every)
    attempt = _Attempt(parent, context, planned, Audience((observer,)))
    parent.send("begun", None)
    # If the parent cannot end this process, or is gone, it ends itself, whatever the stage does.
    faulthandler.dump_traceback_later(job.seconds + job.grace, exit=True, file=stacks)
    token = current_attempt.set(attempt)
    try:
        kept = kept_in(context.run_id, Kept(lambda: folder, allow_pickle))
        having = resources_during(context.run_id, resources)
        with plan.running() if plan is not None else contextlib.nullcontext(), kept, having:
            result = planned.stage.run(context)
            if hasattr(result, "__await__"):
                result = coroutines.finished(result)
    except BaseException as error:  # noqa: BLE001  # it is raised in the other process
        return "raised", _raised(error, put_since(context, attempt.derived))
    finally:
        current_attempt.reset(token)
        faulthandler.cancel_dump_traceback_later()
        if attempt.own_updates is not None:
            attempt.own_updates.close()
    if result is context and (attempt.derived or attempt.heard):
        logging.getLogger("crucible").warning(UNUSED, planned.name)
    try:
        return "returned", pickled(result, job.result)
    except Exception as error:
        raise TypeError(
            f"the stage runs in a process of its own, because it has a `timeout`, and what it returned cannot be sent "
            f"back: {type(error).__name__}: {error_text(error)}"
        ) from error


class _Parent:
    """The process that wants stages to be run. Safe to use from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def next_job(self) -> Job | None:
        try:
            return Job(*self._connection.recv()) if self._connection.poll(IDLE) else None
        except (EOFError, OSError):
            return None

    def send(self, kind: str, value: Any) -> None:
        with self._lock:
            self._connection.send((kind, value))


class _Attempt(Attempt):
    """Tells the parent at once what is spent, so that it counts even if this process is killed."""

    __slots__ = ("_derived", "_parent", "_spent")

    def __init__(self, parent: _Parent, context: Context, planned: PlannedStage, audience: Audience) -> None:
        self._parent = parent
        self._spent = context.metrics.get(SPENT)
        super().__init__(context.run_id, planned.name, audience, planned.safe)

    @property
    def derived(self) -> Any:
        return self._derived

    @derived.setter
    def derived(self, context: Any) -> None:
        self._derived = context
        spent = None if context is None else context.metrics.get(SPENT)
        if spent is not self._spent:
            self._spent = spent
            self._parent.send("spent", spent)


class _Told(Observer):
    """Tells the parent what happens in the stage."""

    def __init__(self, parent: _Parent) -> None:
        self._parent = parent

    def on_event(self, event: Event) -> None:
        self._parent.send("event", event)


class _ToldAll(_Told):
    def __init__(self, parent: _Parent, interval: float) -> None:
        super().__init__(parent)
        self.interval = interval

    def on_progress(self, update: ProgressUpdate) -> None:
        self._parent.send("progress", update)

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        self._parent.send("metrics", metrics)

    def on_points(self, stage: str, points: Sequence[Point]) -> None:  # noqa: ARG002
        self._parent.send("points", points)


class _Forwarded(QueueHandler):
    """Sends log lines to the parent, whose handlers take them."""

    def __init__(self, parent: _Parent) -> None:
        super().__init__(parent)  # type: ignore[arg-type]  # anything that `enqueue` understands
        self._parent = parent

    def enqueue(self, record: logging.LogRecord) -> None:
        self._parent.send("log", record)


def _raised(error: BaseException, put: Put) -> Raised:
    explains = bool(getattr(error, "explains_itself", False))
    try:
        sent: SharedValue | None = pickled(error, None)
        pickled(error, None).load()  # as the parent will: some can be pickled, but not loaded
    except Exception:  # noqa: BLE001  # whatever a user's class does here
        sent = None
    kind = type(error)
    said = error_text(error)
    names = kind.__module__, kind.__qualname__
    return Raised(sent, *names, said, kinds_of(error), explains, shown_traceback(error), _sent(put))


def _sent(put: Put) -> SharedValue:
    """As much of it as can be sent: the rest must not hide why the stage failed."""
    metrics, artifacts = ({name: one for name, one in part.items() if _can_be_sent(one)} for part in put[:2])
    return pickled(Put(metrics, artifacts, list(filter(_can_be_sent, put.outputs))), None)


def _can_be_sent(value: Any) -> bool:
    try:
        pickled(value, None)
    except Exception:  # noqa: BLE001  # whatever a user's class does here
        return False
    return True


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)  # with the processes that the stage has started
