"""Runs a stage with a time limit in a process of its own, since only a process can be ended whatever it does.

A thread, a signal or a cancelled coroutine does not stop a loop in C. The process is kept for the next such stage, so
that its modules are imported only once; it is not kept after it had to be stopped.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from time import monotonic
from typing import Any, Final

from crucible_core.attempts import child
from crucible_core.attempts.child import Job, Raised, Work
from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.ir.resources import sent
from crucible_core.plan import Plan, PlannedStage, current_plan
from crucible_core.run_errors import StageDiedError, StageTimeoutError
from crucible_core.run_state.attempt import Attempt
from crucible_core.run_state.checkpoints import place_of
from crucible_core.run_state.resources import resources_of
from crucible_core.run_state.spending import SPENT
from crucible_core.trials.shared import pickled
from crucible_core.values.jsonable import type_name
from crucible_core.values.messages import error_text

__all__ = ["run_in_own_process"]

STARTING: Final = 60.0
"""Seconds that the process has to start, and to import the stage's modules, beyond the stage's own time."""
LONGEST_WAIT: Final = 3600.0
"""Seconds: the operating system limits what its `poll` takes."""


def run_in_own_process(planned: PlannedStage, context: Context, attempt: Attempt) -> Any:
    """What the stage returns for `context`, if it returns within the `timeout` of its definition.

    Its events, log lines, progress and metrics are those of `attempt`. If its time is over it is interrupted; if it has
    not ended some seconds later, the process is killed with all that it has started.

    Raises StageTimeoutError if the time is over, StageDiedError if the process dies by itself, CrucibleError if what
    the stage is given cannot be sent to another process, and whatever the stage raises.
    """
    seconds = planned.definition.timeout
    assert seconds is not None
    with tempfile.TemporaryDirectory(prefix="crucible-stage-", ignore_cleanup_errors=True) as folder:
        job = _job(planned, context, attempt, seconds, Path(folder))
        kind, value = _reply(context, planned.name, job, attempt)
        if kind == "raised":
            attempt.derived = value.put.load().onto(context)
            raise _error_of(value)
        return _of_this_run(value.load(), context, attempt)


def _reply(context: Context, stage: str, job: Job, attempt: Attempt) -> tuple[str, Any]:
    process = _take()
    if process is None or not process.begins(job, attempt):
        # A waiting process may have ended just now, because it had no work.
        process = _Process()
        if not process.begins(job, attempt):
            raise StageDiedError(stage, process.stop())
    try:
        reply = process.reply(attempt, job.seconds)
    except _LateError:
        error = _timed_out(process, context, stage, job, attempt)
        process.count_spending(context, attempt)
        raise error from None
    except EOFError:
        process.count_spending(context, attempt)
        raise StageDiedError(stage, process.stop()) from None
    except BaseException:
        with contextlib.suppress(EOFError, _LateError):
            _, value = process.interrupt(attempt, job.grace)
            if isinstance(value, Raised):
                attempt.derived = value.put.load().onto(context)
        process.count_spending(context, attempt)
        process.stop()
        raise
    _keep(process)
    return reply


def _job(planned: PlannedStage, context: Context, attempt: Attempt, seconds: float, folder: Path) -> Job:
    try:
        kept = place_of(context.run_id)
        resources = sent(resources_of(context.run_id).makers)
        work = Work(_portable(current_plan.get()), planned, context, kept.find(), kept.allow_pickle, resources)
        given = pickled(work, folder / "given")
    except Exception as error:
        raise CrucibleError(
            f"stage {planned.name!r} has a `timeout`, so it runs in a process of its own, and what it is given cannot "
            f"be sent there: {_culprit(context)}{type_name(error)}: {error_text(error)}; make it in the stage itself, "
            "declare a client or a connection under `resources:`, or take out the `timeout`"
        ) from error
    package = type(planned.stage).__module__.partition(".")[0]
    levels = (logging.getLogger(name).getEffectiveLevel() for name in (None, "crucible", package))
    every = None if attempt.updates is None else attempt.updates.interval
    return Job(
        given,
        folder / "result",
        seconds,
        child.GRACE,
        dict(os.environ),
        os.getcwd(),  # noqa: PTH109  # as a text
        list(sys.path),
        min(levels),
        every,
    )


def _portable(plan: Plan | None) -> Plan | None:
    """The plan, if it can be sent. It is only asked where reports go, which can be answered without it."""
    try:
        plan = plan and replace(plan, resources={})
        pickled(plan, None)
    except Exception:  # noqa: BLE001  # a stage of it that is defined in a function
        return None
    return plan


def _culprit(context: Context) -> str:
    for name, value in context.assigns.items():
        try:
            pickled(value, None)
        except Exception:  # noqa: BLE001  # whatever a user's class does here
            return f"assigns[{name!r}]: "
    return ""


def _of_this_run(result: Any, given: Context, attempt: Attempt) -> Any:
    """The Context with this process's own experiment and events in place of the copies that it holds."""
    if not isinstance(result, Context) or not result.trace.extends(given.trace):
        return result
    heard = {event: event for event in attempt.heard}
    trace = given.trace
    for event in result.trace[len(given.trace) :]:
        trace = trace.append(heard.get(event, event))
    experiment = given.experiment if result.experiment == given.experiment else result.experiment
    return result._replace(trace=trace, experiment=experiment)


def _error_of(raised: Raised) -> BaseException:
    if raised.error is not None:
        error: BaseException = raised.error.load()
    else:
        named = {"__module__": raised.module, "__qualname__": raised.name}
        kind = type(raised.name.rpartition(".")[2], (CrucibleError,), named)
        error = kind(raised.said)
        vars(error)["kinds"] = raised.kinds
        if raised.explains_itself:
            vars(error)["explains_itself"] = True
    vars(error)["shown_traceback"] = raised.traceback
    return error


def _timed_out(process: _Process, context: Context, stage: str, job: Job, attempt: Attempt) -> StageTimeoutError:
    """The error for a stage whose time is over and whose process is gone."""
    try:
        _, value = process.interrupt(attempt, job.grace)
    except (EOFError, _LateError):
        value = None
    process.stop()
    if isinstance(value, Raised):
        attempt.derived = value.put.load().onto(context)
    error = StageTimeoutError(stage, job.seconds, killed=value is None)
    where = value.traceback if isinstance(value, Raised) else process.last_stack
    vars(error)["shown_traceback"] = where and f"{where.rstrip()}\n\n{type_name(error)}: {error}\n"
    return error


class _LateError(Exception):
    """The process did not answer in time."""


class _Process:
    """A process that runs stages."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.output = _output()
        self.last_stack = ""
        """The stack at which it ended itself because the stage's time was over; set when it was stopped."""
        self._spent: Any = None
        """What the run has spent, as the stage last reported it."""
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        self._connection, theirs = Pipe()
        descriptors = theirs.fileno(), self._stacks.fileno()
        program = f"import sys; sys.path[:] = {sys.path!r}; from {child.__name__} import serve; serve{descriptors}"
        self._popen = subprocess.Popen(  # noqa: S603  # this interpreter, with a program of this module's own
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C in a terminal is this process's to pass on
        )
        theirs.close()

    def begins(self, job: Job, attempt: Attempt) -> bool:
        """Whether the process has received and imported the stage: the stage's time begins now."""
        self._spent = None
        try:
            self._connection.send(tuple(job))
            kind, value = self.reply(attempt, job.seconds + STARTING)
        except (EOFError, OSError):
            self.stop()
            return False
        except BaseException:
            self.stop()
            raise
        if kind == "raised":
            self.stop()
            raise _error_of(value)
        return True

    def reply(self, attempt: Attempt, seconds: float) -> tuple[str, Any]:
        """The next message that is not for an observer or a log. Raises _LateError or EOFError."""
        end = monotonic() + seconds
        while True:
            left = end - monotonic()
            if not self._connection.poll(max(0.0, min(left, LONGEST_WAIT))):
                if left <= LONGEST_WAIT:
                    raise _LateError
                continue
            try:
                kind, value = self._connection.recv()
            except OSError as error:  # reset by its death
                raise EOFError from error
            match kind:
                case "event":
                    attempt.hear(value)
                case "progress" | "metrics" | "points":
                    _update(attempt, kind, value)
                case "spent":
                    self._spent = value
                case "log":
                    if (logger := logging.getLogger(value.name)).isEnabledFor(value.levelno):
                        logger.handle(value)
                case _:
                    return kind, value

    def count_spending(self, context: Context, attempt: Attempt) -> None:
        """What a stage has spent counts even if its process could not send what it had put."""
        if attempt.derived is None and self._spent is not None:
            attempt.derived = context._replace(metrics=context.metrics.put(SPENT, self._spent))

    def interrupt(self, attempt: Attempt, grace: float) -> tuple[str, Any]:
        """As Ctrl-C does: it raises KeyboardInterrupt in the stage, or CancelledError in its coroutine."""
        self._signal(signal.SIGINT)
        return self.reply(attempt, grace + 1)

    def stop(self) -> int:
        """Kill it, with the processes that the stage has started. Returns its exit code."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(0.1)  # its own exit code, if it is dying
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        code = self._popen.wait()
        self.last_stack = self._last_stack()
        self._stacks.close()
        return code

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def _last_stack(self) -> str:
        # The main thread is the last of those that are written.
        self._stacks.seek(0)
        written = self._stacks.read().decode(errors="replace")
        lines = written.rpartition("most recent call first):\n")[2].splitlines()
        theirs = [line for line in lines if os.path.dirname(child.__file__) not in line and '"<string>"' not in line]  # noqa: PTH120
        return "\n".join(["Traceback (most recent call last):", *reversed(theirs)]) if theirs else ""

    def _signal(self, number: int) -> None:
        if self.is_alive:
            self._popen.send_signal(number)


def _update(attempt: Attempt, kind: str, value: Any) -> None:
    if attempt.updates is None:
        return
    if kind == "progress":
        attempt.updates.progress(value)
    elif kind == "points":
        attempt.updates.send_points(value)
    else:
        for name, number in value.items():
            attempt.updates.metric(name, number)


_waiting: list[_Process] = []
_lock = threading.Lock()


def _take() -> _Process | None:
    """A process that waits for work and whose output goes where this one's does."""
    output = _output()
    with _lock:
        for process in list(_waiting):
            if process.owner != os.getpid():
                _waiting.remove(process)  # a process of the one that this is a fork of
            elif not process.is_alive or process.output != output:
                _waiting.remove(process)
                process.stop()
            else:
                _waiting.remove(process)
                return process
    return None


def _keep(process: _Process) -> None:
    with _lock:
        _waiting.append(process)


@atexit.register
def _stop_all() -> None:
    for process in _waiting:
        if process.owner == os.getpid():
            process.stop()


def _output() -> tuple[tuple[int, int] | None, ...]:
    """What this process writes its output to, which a process that it starts inherits."""
    return tuple(map(_file, (1, 2)))


def _file(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
