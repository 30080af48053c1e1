"""Observers of a run: they get its events, progress and metrics, and cannot change its result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from numbers import Real
from time import perf_counter
from typing import Any

from crucible_core.trace import Event, Trace
from crucible_core.values.progress_update import ProgressUpdate

__all__ = ["Attempt", "Audience", "Observer", "Observers", "ProgressUpdate", "Updates", "current_attempt"]

METRICS_INTERVAL = 5.0

_log = logging.getLogger("crucible")


class Observer:
    """Gets the events of a run. By default every method does nothing; an error in one is logged, and the run continues.

    A plain function is an observer too: it is called with each event, as `on_event` is.
    """

    interval: float = 1.0
    """Minimum seconds between two progress updates of one piece of work; the first and the last are always sent."""

    def run_started(self, experiment_id: str, run_id: str) -> None:
        """Called before the first stage."""

    def on_event(self, event: Event) -> None:
        """Called with each event of the trace as it happens, in the thread that the stage runs in."""

    def on_progress(self, update: ProgressUpdate) -> None:
        """Called in the thread of the stage that does the work."""

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Called every few seconds while a stage runs, with the numbers that it put since the last call."""

    def run_ended(self, error: BaseException | None) -> None:
        """Called after the last stage and the gates; `error` is the error that ended the run, if any."""


Observers = Sequence[Observer | Callable[[Event], None]]
"""What `run_experiment(observers=...)` takes."""


class _Function(Observer):
    """A plain function that is called with each event."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        self._function = function

    def on_event(self, event: Event) -> None:
        self._function(event)

    def __repr__(self) -> str:
        return repr(self._function)


def _wants_updates(observer: Observer) -> bool:
    kind = type(observer)
    return kind.on_progress is not Observer.on_progress or kind.on_metrics is not Observer.on_metrics


class Audience:
    """The observers of a run as one: calls each of them, and logs their errors."""

    __slots__ = ("interval", "observers", "wants_updates")

    def __init__(self, observers: Observers) -> None:
        self.observers = tuple(one if isinstance(one, Observer) else _Function(one) for one in observers)
        self.wants_updates = any(map(_wants_updates, self.observers))
        """Whether any observer takes progress and metrics: if none does, they cost nothing."""
        self.interval = min((one.interval for one in self.observers if _wants_updates(one)), default=Observer.interval)

    @classmethod
    def of(cls, observers: Audience | Observers) -> Audience:
        if isinstance(observers, Audience):
            return observers
        return cls(observers) if observers else NOBODY

    def tell(self, event: Event) -> None:
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception:  # noqa: BLE001
                _log.exception("the observer %r failed on %s of stage %r", observer, event.kind, event.stage)

    @contextlib.contextmanager
    def during(self, experiment_id: str, run_id: str) -> Iterator[None]:
        """Around a run: calls the observers at its start and its end."""
        present = self._start(experiment_id, run_id)
        try:
            yield
        except BaseException as error:
            self._end(present, run_id, error)
            raise
        self._end(present, run_id, None)

    def retell(self, experiment_id: str, run_id: str, trace: Trace, error: BaseException | None) -> None:
        """Call the observers at the end of a run, with the error that ended it."""
        present = self._start(experiment_id, run_id)
        for event in trace:
            self.tell(event)
        self._end(present, run_id, error)

    def _start(self, experiment_id: str, run_id: str) -> list[Observer]:
        """The observers that were called at the start, which are to be called at the end."""
        present = []
        for observer in self.observers:
            try:
                observer.run_started(experiment_id, run_id)
                present.append(observer)
            except Exception:  # noqa: BLE001
                _log.exception("the observer %r failed at the start of run %s", observer, run_id)
        return present

    def _end(self, present: Sequence[Observer], run_id: str, error: BaseException | None) -> None:
        for observer in reversed(present):
            try:
                observer.run_ended(error)
            except Exception:  # noqa: BLE001
                _log.exception("the observer %r failed at the end of run %s", observer, run_id)


NOBODY = Audience(())


class Updates:
    """Progress and metrics of one attempt at a stage, on their way to the observers. Safe to use from any thread."""

    def __init__(self, stage: str, audience: Audience) -> None:
        self.stage = stage
        self.interval = audience.interval
        self.keys = itertools.count()
        self._observers = audience.observers
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._metrics: dict[str, float] = {}
        self._metrics_due = perf_counter() + METRICS_INTERVAL

    def progress(self, update: ProgressUpdate) -> None:
        for observer in self._observers:
            self._call(observer, observer.on_progress, update)

    def metric(self, name: str, value: Any) -> None:
        """A stage has put a metric. Those of a quick stage are not sent: its trace and result have them."""
        if type(value) not in _NUMBERS and (isinstance(value, bool) or not isinstance(value, Real)):
            return
        try:
            number = float(value)
        except Exception:  # noqa: BLE001  # too large, or a user's own number type: still a valid metric
            return
        with self._lock:
            self._metrics[name] = number
            now = perf_counter()
            if now < self._metrics_due:
                return
            self._metrics_due = now + METRICS_INTERVAL
            metrics, self._metrics = self._metrics, {}
        for observer in self._observers:
            self._call(observer, observer.on_metrics, self.stage, metrics)

    def close(self) -> None:
        """The attempt is over: later updates from its threads are dropped."""
        self._observers = ()

    def _call(self, observer: Observer, method: Callable[..., None], *arguments: Any) -> None:
        if os.getpid() != self._process:
            return  # a fork: two processes must not write to an observer's terminal or database
        try:
            method(*arguments)
        except Exception:  # noqa: BLE001
            self._observers = tuple(one for one in self._observers if one is not observer)
            _log.exception("the observer %r failed; it gets no more updates of stage %r", observer, self.stage)


_NUMBERS = frozenset({float, int})


class Attempt:
    """One attempt at a stage, while it runs: it takes the decisions, metrics and progress."""

    __slots__ = ("_audience", "heard", "run_id", "updates")

    def __init__(self, run_id: str, stage: str, audience: Audience) -> None:
        self.run_id = run_id
        self.heard: list[Event] = []
        """The decisions so far, kept for an attempt that fails and returns no Context."""
        self.updates = Updates(stage, audience) if audience.wants_updates else None
        self._audience = audience

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        self._audience.tell(event)


# Set by run_stage around the stage. A thread that the stage starts does not see it.
current_attempt: ContextVar[Attempt | None] = ContextVar("crucible_attempt", default=None)
