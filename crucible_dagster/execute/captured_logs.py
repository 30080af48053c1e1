"""The lines that a running stage, and what it calls, writes to Python's `logging`, in Dagster's log of the run.

Dagster forwards such lines only if its instance's settings name their loggers; this needs no settings, and does not
repeat a line that Dagster has forwarded. While a stage runs, a handler of its own listens on the root logger, which all
lines reach, and on those loggers of the stage's packages that pass nothing on to it. Two things besides are changed for
that time, because a logger drops a line below its level before any handler sees it: the level of the stage's own
package loggers, if nobody has set one, and the root logger's, only for a run that asks for the DEBUG or INFO lines of
libraries.

Python's `warnings` are not captured. Their one hook, `warnings.showwarning`, belongs to the whole process, and
`warnings.catch_warnings`, in any thread, saves and restores it: a hook of a stage can be lost while the stage runs, or
come back after it. They go to stderr, as everywhere, and so to Dagster's compute logs; a program that calls
`logging.captureWarnings(True)` has them as lines of the logger `py.warnings`, which are captured as any other's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from crucible_core.values.jsonable import visible_text
from crucible_core.values.messages import as_written, cut
from crucible_core.values.redaction import scrub
from crucible_dagster.execute.compiled import RunSettings

__all__ = ["captured_logs"]

MAX_LINES = 1_000
MAX_TEXT = 10_000


@contextlib.contextmanager
def captured_logs(
    log: logging.Logger, packages: Collection[str], settings: RunSettings, secrets: Sequence[str] = ()
) -> Iterator[None]:
    """Pass what is logged while a stage runs on to `log`, which is Dagster's, with masks in the place of `secrets`.

    Of the loggers of `packages`, those of the stage, from `settings.log_level` on, and of all others from
    `settings.library_log_level` on: at most a thousand lines of either. Lines of threads that the stage started are
    among them unless another stage runs in this process at the same time. Afterwards handlers and levels are what they
    were.
    """
    step = _StepLog(log, packages, settings, secrets)
    try:
        with contextlib.ExitStack() as undone:
            undone.enter_context(_listening(step))
            for name in packages:
                undone.enter_context(_lowered(name, step.levels[True], unset=logging.NOTSET))
            # WARNING is Python's own level of the root logger: a program that sets another one means it.
            undone.enter_context(_lowered("", step.levels[False], unset=logging.WARNING))
            yield
    finally:
        step.say_what_was_left_out()


class _StepLog:
    """The log lines of one step."""

    def __init__(
        self, log: logging.Logger, packages: Collection[str], settings: RunSettings, secrets: Sequence[str]
    ) -> None:
        self.secrets = secrets
        self.packages = frozenset(packages)
        self._prefixes = tuple(f"{package}." for package in packages)
        self.levels = {True: _level(settings.log_level), False: _level(settings.library_log_level)}
        self._log = log
        self._lock = threading.Lock()
        self._lines = {True: 0, False: 0}
        self._busy = threading.local()

    def take(self, record: logging.LogRecord) -> None:
        own = f"{record.name}.".startswith(self._prefixes)
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
            self._log.handle(_for_dagster(record, self.secrets))
        finally:
            self._busy.here = False

    def say_what_was_left_out(self) -> None:
        for own, whose in ((True, "the stage's own packages"), (False, "other packages")):
            if (more := self._lines[own] - MAX_LINES) > 0:
                self._log.warning(f"{more:,} more log lines of {whose} are left out here")


# --- listening --------------------------------------------------------------------------------------------------------

_current: ContextVar[_StepLog | None] = ContextVar("crucible_step_log", default=None)
_running: list[_StepLog] = []
"""Those of all threads of this process."""


@contextlib.contextmanager
def _listening(step: _StepLog) -> Iterator[None]:
    """Have a handler on the root logger, and on those of the step's packages that pass nothing on to it."""
    handler = _StepHandler(step)
    own = map(logging.getLogger, step.packages)
    loggers = [logging.getLogger(), *(logger for logger in own if not logger.propagate)]
    token = _current.set(step)
    _running.append(step)
    try:
        for logger in loggers:
            logger.addHandler(handler)
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        _running.remove(step)
        _current.reset(token)


class _StepHandler(logging.Handler):
    """Passes on the lines of one step, of all that reach it."""

    def __init__(self, step: _StepLog) -> None:
        super().__init__()
        self._step = step
        self._process = os.getpid()

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock of a handler: keeping a line may take the database's time, in which no other thread should
        # wait for its own.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        # A thread that a stage started does not know its step; if several run, nobody does.
        own = _current.get() or (_running[0] if len(_running) == 1 else None)
        # In a fork of this process nothing is passed on: Dagster's connections to its database are not for two.
        if own is self._step and os.getpid() == self._process:
            try:
                own.take(record)
            except Exception:  # noqa: BLE001  # as every handler: a log line must not end a stage
                self.handleError(record)
        # Python prints what no handler takes; these are here to listen, not to silence.
        last = logging.lastResort
        if last and self._step in _running[:1] and record.levelno >= last.level and _is_unheard(record.name):
            last.handle(_without_secrets(record, self._step))


def _without_secrets(record: logging.LogRecord, step: _StepLog) -> logging.LogRecord:
    """The line as it is, or a copy with masks."""
    text = _text_of(record)
    shown = scrub(text, step.secrets)
    if shown == text:
        return record
    said: dict[str, Any] = {"msg": shown, "args": None, "exc_info": None, "exc_text": None}
    return logging.makeLogRecord({**record.__dict__, **said})


def _is_unheard(name: str) -> bool:
    """Whether no handler but those of steps is told of this logger's lines."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _StepHandler) for handler in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True


# --- levels -----------------------------------------------------------------------------------------------------------

_levels: dict[str, tuple[int, list[int]]] = {}
"""Logger -> the level that it had, and those that the steps which run now want."""
_changing = threading.Lock()


@contextlib.contextmanager
def _lowered(name: str, level: int, *, unset: int) -> Iterator[None]:
    """Let lines of this level through, unless the program has set the logger's level to another one than `unset`."""
    logger = logging.getLogger(name or None)
    with _changing:
        before, wanted = _levels.get(name, (logger.level, []))
        # Never above what was in effect: others may be listening too.
        target = min(level, logger.getEffectiveLevel())
        asks = logger.level == min(wanted, default=unset)
        if asks:
            _levels[name] = before, [*wanted, target]
            logger.setLevel(min([*wanted, target]))
    try:
        yield
    finally:
        if asks:
            with _changing:
                _restore(logger, name, target)


def _restore(logger: logging.Logger, name: str, target: int) -> None:
    before, wanted = _levels[name]
    left = list(wanted)
    left.remove(target)
    # Whoever has set another level meanwhile has the last word.
    if logger.level == min(wanted):
        logger.setLevel(min(left, default=before))
    if left:
        _levels[name] = before, left
    else:
        del _levels[name]


# --- lines ------------------------------------------------------------------------------------------------------------


def _for_dagster(record: logging.LogRecord, secrets: Sequence[str]) -> logging.LogRecord:
    """A copy, because Dagster's handler rewrites what it is given; the traceback is in the text, which it keeps."""
    level = max(level for level in _LEVELS if level <= max(record.levelno, logging.DEBUG))
    changed: dict[str, Any] = {
        "msg": cut(visible_text(f"{as_written(record.name)}: {scrub(_text_of(record), secrets)}"), MAX_TEXT),
        "args": None,
        "exc_info": None,
        "exc_text": None,
        # Dagster's UI knows these levels only, and shows no run that has a line of another.
        "levelno": level,
        "levelname": logging.getLevelName(level),
    }
    return logging.makeLogRecord({**record.__dict__, **changed})


def _text_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  # arguments that do not fit, which logging forgives
        text = f"{record.msg} (its arguments do not fit: {record.args!r:.200})"
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text


_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name]
