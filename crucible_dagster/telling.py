"""What a running stage tells Dagster: decisions, retries, progress and metrics as they come, and log lines.

The log lines are those of Python's `logging`, from the stage and from whatever it calls, and of `warnings`. Dagster
forwards them itself only where its instance's settings name the loggers; this needs no settings, and does not tell a
line again that Dagster told already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from time import monotonic
from typing import Any, TextIO

from dagster import OpExecutionContext

from crucible_core import Decision, Event, Experiment, ProgressUpdate, StageRetried
from crucible_core.jsonable import safe_text
from crucible_core.reporting.numbers import format_number
from crucible_dagster.metadata import observation
from crucible_dagster.settings import Settings

__all__ = ["StageTeller", "captured_logs"]

INTERVAL = 5.0
"""Seconds between two lines about the progress of one work."""
FREE_LINES = 20
MAX_NAMED_METRICS = 20
MAX_LINES = 1_000
MAX_TEXT = 10_000


class StageTeller:
    """The observer of a step: what it hears becomes entries of the run's event log."""

    interval = INTERVAL

    def __init__(
        self,
        context: OpExecutionContext,
        experiment: Experiment,
        settings: Settings,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._dagster = context
        self._experiment = experiment
        self._tracing = settings.tracing
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._free = FREE_LINES

    def __call__(self, event: Event) -> None:
        if isinstance(event, Decision):
            if self._tracing:
                self._dagster.log_event(observation(self._experiment, event))
        elif isinstance(event, StageRetried):
            said = f"attempt {event.attempt} failed: {event.reason}; again in {event.delay:.1f} s"
            self._dagster.log.warning(said)

    def on_progress(self, update: ProgressUpdate) -> None:
        with self._lock:
            due = self._is_due(update, self._clock())
        if due:
            self._dagster.log.info(_cut(safe_text(update.describe())))

    def _is_due(self, update: ProgressUpdate, now: float) -> bool:
        # The first and the last of a work are told at once, unless there are many works: loops within loops.
        last = self._last.get(update.description)
        at_once = (update.ended or update.count == 0) and self._free > 0
        if not at_once and (last is None or now - last < INTERVAL):
            self._last.setdefault(update.description, now)
            return False
        self._free -= at_once
        self._last[update.description] = now
        return True

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002  # the line is the step's
        if self._tracing:
            shown = [f"{name} = {format_number(value)}" for name, value in list(metrics.items())[:MAX_NAMED_METRICS]]
            more = f", and {len(metrics) - len(shown):,} more" if len(metrics) > len(shown) else ""
            self._dagster.log.info(_cut(safe_text(f"metrics so far: {', '.join(shown)}{more}")))


@contextlib.contextmanager
def captured_logs(log: logging.Logger, packages: Collection[str], settings: Settings) -> Iterator[None]:
    """What is logged, in any thread of this process, while a stage runs goes to `log`, Dagster's, too.

    From `settings.log_level` on of the loggers of `packages`, those of the stage, and from `settings.library_log_level`
    on of all others: at most a thousand lines of either. Handlers and levels are afterwards what they were.
    """
    step = _Step(log, packages, settings)
    try:
        with _TAP.of(step):
            yield
    finally:
        step.say_what_was_left_out()


class _Step:
    """The log lines of one step."""

    def __init__(self, log: logging.Logger, packages: Collection[str], settings: Settings) -> None:
        self.packages = frozenset(packages)
        self.levels = {True: _level(settings.log_level), False: _level(settings.library_log_level)}
        self._log = log
        self._lock = threading.Lock()
        self._lines = {True: 0, False: 0}
        self._busy = threading.local()

    def take(self, record: logging.LogRecord) -> None:
        own = record.name.partition(".")[0] in self.packages
        if record.levelno < self.levels[own] or not self._log.isEnabledFor(record.levelno):
            return
        if getattr(self._busy, "here", False):
            return  # what Dagster's storage logs while it keeps a line
        with self._lock:
            self._lines[own] += 1
            if self._lines[own] > MAX_LINES:
                return
        self._busy.here = True
        try:
            self._log.handle(_for_dagster(record))
        finally:
            self._busy.here = False

    def say_what_was_left_out(self) -> None:
        for own, whose in ((True, "the stage's own packages"), (False, "other packages")):
            if (more := self._lines[own] - MAX_LINES) > 0:
                self._log.warning(f"{more:,} more log lines of {whose} are left out here")


class _Tap(logging.Handler):
    """On the root logger while at least one step of this process is captured; one for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._installing = threading.Lock()
        self._steps: list[_Step] = []
        self._process = os.getpid()
        self._lowered: dict[str, tuple[int, int]] = {}
        self._shown: Callable[..., None] | None = None

    def createLock(self) -> None:  # noqa: N802  # its name in logging
        # Keeping a line may take the database's time, in which no other thread should wait for its own.
        self.lock = None

    @contextlib.contextmanager
    def of(self, step: _Step) -> Iterator[None]:
        token = _current_step.set(step)
        with self._installing:
            self._steps.append(step)
            if len(self._steps) == 1:
                self._install()
            for name in step.packages:
                self._lower(name, step.levels[True])
            self._lower("", step.levels[False])
        try:
            yield
        finally:
            _current_step.reset(token)
            with self._installing:
                self._steps.remove(step)
                if not self._steps:
                    self._remove()

    def emit(self, record: logging.LogRecord) -> None:
        step = self._step()
        if step is not None:
            try:
                step.take(record)
            except Exception:  # noqa: BLE001  # as every handler: a log line must not end a stage
                self.handleError(record)
        if len(logging.getLogger().handlers) == 1 and logging.lastResort and record.levelno >= logging.lastResort.level:
            # Python prints what no handler takes; this one is here to listen, not to silence.
            logging.lastResort.handle(record)

    def _step(self) -> _Step | None:
        if os.getpid() != self._process:
            return None  # a fork of this process: Dagster's connections to its database are not for two
        # A thread that the stage started does not know its step; where several run, nobody does.
        own = _current_step.get()
        if own is not None:
            return own
        steps = self._steps
        return steps[0] if len(steps) == 1 else None

    def _install(self) -> None:
        self._process = os.getpid()
        logging.getLogger().addHandler(self)
        self._shown = warnings.showwarning
        warnings.showwarning = self._show_warning

    def _remove(self) -> None:
        logging.getLogger().removeHandler(self)
        # Whoever has changed these since has the last word.
        if self._shown is not None and warnings.showwarning == self._show_warning:
            warnings.showwarning = self._shown
        for name, (before, made) in self._lowered.items():
            if logging.getLogger(name or None).level == made:
                logging.getLogger(name or None).setLevel(before)
        self._lowered.clear()

    def _lower(self, name: str, level: int) -> None:
        """Let lines of this level through where nobody has said that they should not be."""
        logger = logging.getLogger(name or None)
        unsaid = logger.level in ({logging.NOTSET} if name else {logging.WARNING})
        if logger.getEffectiveLevel() > level and (unsaid or name in self._lowered):
            before = self._lowered.get(name, (logger.level, 0))[0]
            self._lowered[name] = (before, level)
            logger.setLevel(level)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        assert self._shown is not None
        step = self._step()
        if step is not None and file is None and self._shown.__module__ != "logging":
            said = f"{category.__name__}: {message} ({filename}:{lineno})"
            record = logging.LogRecord("py.warnings", logging.WARNING, filename, lineno, said, None, None)
            with contextlib.suppress(Exception):
                step.take(record)
        self._shown(message, category, filename, lineno, file, line)


_TAP = _Tap()
_current_step: ContextVar[_Step | None] = ContextVar("crucible_step_logs", default=None)


def _for_dagster(record: logging.LogRecord) -> logging.LogRecord:
    """A copy, because Dagster's handler rewrites what it is given; the traceback is in the text, which it keeps."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  # arguments that do not fit, which logging forgives
        text = f"{record.msg} (its arguments do not fit: {record.args!r:.200})"
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    level = max(level for level in _LEVELS if level <= max(record.levelno, logging.DEBUG))
    changed: dict[str, Any] = {
        "msg": _cut(safe_text(f"{record.name}: {text}")),
        "args": None,
        "exc_info": None,
        "exc_text": None,
        # Dagster's UI knows these levels only, and shows no run that has a line of another.
        "levelno": level,
        "levelname": logging.getLevelName(level),
    }
    return logging.makeLogRecord({**record.__dict__, **changed})


_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT:,} more characters)"
