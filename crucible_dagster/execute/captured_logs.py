"""The lines that a running stage, and the code it calls, writes to Python's `logging`, in Dagster's log of the run.

Dagster forwards such lines only if its instance's settings name their loggers. This needs no settings, and does not
repeat a line that Dagster has forwarded. While a stage runs, it has a handler on the root logger, which gets all lines,
and on the loggers of the stage's packages that do not propagate to the root logger. A logger drops a line below its
level before any handler sees it, so two levels are changed for that time too: that of the stage's own package loggers,
if nobody has set one, and that of the root logger, but only for a run that asks for the DEBUG or INFO lines of
libraries.

Python's `warnings` are not captured. Their only hook, `warnings.showwarning`, belongs to the whole process, and
`warnings.catch_warnings` in any thread saves and restores it. A stage's hook could be lost while the stage runs, or
come back afterwards. Warnings go to stderr as usual, and so to Dagster's compute logs. In a program that calls
`logging.captureWarnings(True)` they are lines of the logger `py.warnings`, which are captured like all others.
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
    """Pass the lines logged while a stage runs on to Dagster's `log`, with `secrets` masked.

    `packages` are those of the stage: their loggers are passed on from `settings.log_level` on, all others from
    `settings.library_log_level` on, with at most a thousand lines of each kind. Lines of threads that the stage started
    are included unless another stage runs in this process at the same time. Afterwards handlers and levels are as
    before.
    """
    step = _StepLog(log, packages, settings, secrets)
    try:
        with contextlib.ExitStack() as undone:
            undone.enter_context(_listening(step))
            for name in packages:
                undone.enter_context(_lowered(name, step.levels[True], unset=logging.NOTSET))
            # WARNING is Python's default level of the root logger: a program that sets another one does so on purpose.
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
            return  # a line that Dagster's storage logs while it stores a line
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
"""The step logs of all threads of this process."""


@contextlib.contextmanager
def _listening(step: _StepLog) -> Iterator[None]:
    """Put a handler on the root logger, and on loggers of the step's packages that do not propagate to it."""
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
    """Passes on those lines that belong to its step."""

    def __init__(self, step: _StepLog) -> None:
        super().__init__()
        self._step = step
        self._process = os.getpid()

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock of a handler: to store a line, the database may need time, and other threads should not wait
        # for that.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        # A thread that a stage started does not know its step; if several steps run, it cannot be found out.
        own = _current.get() or (_running[0] if len(_running) == 1 else None)
        # A fork of this process passes nothing on: two processes must not share Dagster's database connections.
        if own is self._step and os.getpid() == self._process:
            try:
                own.take(record)
            except Exception:  # noqa: BLE001  # like any handler: a log line must not end a stage
                self.handleError(record)
        # Python prints lines that have no handler; this handler only listens and must not silence them.
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
    """Whether no handler except those of steps gets this logger's lines."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(not isinstance(handler, _StepHandler) for handler in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True


# --- levels -----------------------------------------------------------------------------------------------------------

_levels: dict[str, tuple[int, list[int]]] = {}
"""Logger -> the level it had, and the levels that the running steps want."""
_changing = threading.Lock()


@contextlib.contextmanager
def _lowered(name: str, level: int, *, unset: int) -> Iterator[None]:
    """Let lines of this level through, unless the program has set the logger to a level other than `unset`."""
    logger = logging.getLogger(name or None)
    with _changing:
        before, wanted = _levels.get(name, (logger.level, []))
        # Never above the level in effect: others may be listening too.
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
    # If somebody has set another level meanwhile, it stays.
    if logger.level == min(wanted):
        logger.setLevel(min(left, default=before))
    if left:
        _levels[name] = before, left
    else:
        del _levels[name]


# --- lines ------------------------------------------------------------------------------------------------------------


def _for_dagster(record: logging.LogRecord, secrets: Sequence[str]) -> logging.LogRecord:
    """A copy, because Dagster's handler changes the record; the traceback goes into the text, which it keeps."""
    level = max(level for level in _LEVELS if level <= max(record.levelno, logging.DEBUG))
    changed: dict[str, Any] = {
        "msg": cut(visible_text(f"{as_written(record.name)}: {scrub(_text_of(record), secrets)}"), MAX_TEXT),
        "args": None,
        "exc_info": None,
        "exc_text": None,
        # Dagster's UI knows only these levels, and cannot show a run that has a line with another one.
        "levelno": level,
        "levelname": logging.getLevelName(level),
    }
    return logging.makeLogRecord({**record.__dict__, **changed})


def _text_of(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  # the arguments do not fit the text; logging does not raise either
        text = f"{record.msg} (its arguments do not fit: {record.args!r:.200})"
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text


_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name]
