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
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

from crucible_core.values.jsonable import safe_text
from crucible_core.values.messages import cut
from crucible_dagster.execute.compiled import Settings

__all__ = ["captured_logs"]

MAX_LINES = 1_000
MAX_TEXT = 10_000


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
        "msg": cut(safe_text(f"{record.name}: {text}"), MAX_TEXT),
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
