"""Who hears of a run, and how: observers, told of events, progress and metrics, which cannot change a result."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real
from time import perf_counter
from typing import Any

from crucible_core.trace import Event, Trace

__all__ = ["Attempt", "Audience", "Observer", "Observers", "ProgressUpdate", "Updates", "current_attempt"]

METRICS_INTERVAL = 5.0

_log = logging.getLogger("crucible")


class Observer:
    """Hears of a run. Every method does nothing until it is overridden; what one raises is logged, and the run goes on.

    A plain function is an observer too: it is called with each event, as `on_event` is.
    """

    interval: float = 1.0
    """Seconds between two progress updates of one piece of work, at least; the first and the last always come."""

    def run_started(self, experiment_id: str, run_id: str) -> None:
        """Called before the first stage."""

    def on_event(self, event: Event) -> None:
        """Called with each event of the trace as it happens, in the thread that the stage runs in."""

    def on_progress(self, update: ProgressUpdate) -> None:
        """Called in whichever thread of the stage does the work."""

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Called every few seconds while a stage runs, with the numbers that it has put since the last call."""

    def run_ended(self, error: BaseException | None) -> None:
        """Called after the last stage and the gates; `error` is what ended the run, if something did."""


Observers = Sequence[Observer | Callable[[Event], None]]
"""What `run_experiment(observers=...)` takes."""


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """How far some work of a stage has come."""

    stage: str
    """The stage in the pipeline."""
    key: int
    """Tells the works of one stage apart."""
    description: str
    """What is done; by default the stage's name."""
    count: float
    total: float | None
    """None where nobody knows."""
    seconds: float
    """Since the work began."""
    ended: bool = False
    """Nothing follows, whether or not all of it was done."""

    @property
    def rate(self) -> float | None:
        """Per second; None before anything was done."""
        return self.count / self.seconds if self.count > 0 and self.seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds, if it goes on as it went so far."""
        if self.rate is None or self.total is None or self.count >= self.total or self.ended:
            return None
        return (self.total - self.count) / self.rate

    def describe(self) -> str:
        """`training: 500 of 1,000 (50 %), 12.5 per s, 40 s left`."""
        from crucible_core.values.formatting import format_duration  # noqa: PLC0415  # for who shows it only

        said = [_number(self.count)]
        if self.total is not None:
            part = f" ({100 * self.count / self.total:.0f} %)" if self.total else ""
            said = [f"{_number(self.count)} of {_number(self.total)}{part}"]
        if self.rate is not None:
            said.append(f"{self.rate:,.3g} per s" if self.rate < 100 else f"{self.rate:,.0f} per s")
        if self.remaining is not None:
            said.append(f"{format_duration(self.remaining)} left")
        elif self.ended:
            said.append(f"in {format_duration(self.seconds)}")
        return f"{self.description}: {', '.join(said)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


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
    """The observers of a run, made once: tells all of them, and logs what one raises."""

    __slots__ = ("interval", "observers", "wants_updates")

    def __init__(self, observers: Observers) -> None:
        self.observers = tuple(one if isinstance(one, Observer) else _Function(one) for one in observers)
        self.wants_updates = any(map(_wants_updates, self.observers))
        """Whether somebody hears of progress and metrics: if nobody does, they cost nothing."""
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
        """Around a run: tells of its start and its end."""
        present = self._start(experiment_id, run_id)
        try:
            yield
        except BaseException as error:
            self._end(present, run_id, error)
            raise
        self._end(present, run_id, None)

    def retell(self, experiment_id: str, run_id: str, trace: Trace, error: BaseException | None) -> None:
        """Tell of a run that is over, and of the error that ended it."""
        present = self._start(experiment_id, run_id)
        for event in trace:
            self.tell(event)
        self._end(present, run_id, error)

    def _start(self, experiment_id: str, run_id: str) -> list[Observer]:
        """Those that heard of the start, who are to hear of the end."""
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
        """A stage has put a metric. What a quick stage puts is not told here: its trace and result have it."""
        if type(value) not in _NUMBERS and (isinstance(value, bool) or not isinstance(value, Real)):
            return
        try:
            number = float(value)
        except Exception:  # noqa: BLE001  # too large, or a number of somebody's own: it is a metric all the same
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
            return  # a fork: what an observer writes to, a terminal or a database, is not for two
        try:
            method(*arguments)
        except Exception:  # noqa: BLE001
            self._observers = tuple(one for one in self._observers if one is not observer)
            _log.exception("the observer %r failed; it gets no more updates of stage %r", observer, self.stage)


_NUMBERS = frozenset({float, int})


class Attempt:
    """One attempt at a stage, while it runs: what its decisions, metrics and progress reach."""

    __slots__ = ("_audience", "heard", "run_id", "updates")

    def __init__(self, run_id: str, stage: str, audience: Audience) -> None:
        self.run_id = run_id
        self.heard: list[Event] = []
        """The decisions so far: what is left of them when the attempt fails and returns no Context."""
        self.updates = Updates(stage, audience) if audience.wants_updates else None
        self._audience = audience

    def hear(self, event: Event) -> None:
        self.heard.append(event)
        self._audience.tell(event)


# Set by run_stage around the stage. A thread that the stage starts does not see it.
current_attempt: ContextVar[Attempt | None] = ContextVar("crucible_attempt", default=None)
