"""The progress and the numbers of long work, as observers get them, and how they get there."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from time import perf_counter, time
from typing import Any, NamedTuple, Protocol

__all__ = ["Listeners", "Point", "ProgressUpdate", "Updates"]

METRICS_INTERVAL = 5.0
POINTS_INTERVAL = 1.0
MOST_POINTS = 1_000
"""Points that wait to be sent."""


class Point(NamedTuple):
    """One point of a series."""

    name: str
    """The metric."""
    step: int
    value: float
    at: float
    """Seconds since 1970, when it was logged."""


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The progress of one piece of work of a stage."""

    stage: str
    """The stage in the pipeline."""
    key: int
    """Distinguishes the pieces of work of one stage."""
    description: str
    """What the work is; by default the stage's name."""
    count: float
    total: float | None
    """The whole of it; None if unknown."""
    seconds: float
    """The time since the work began."""
    ended: bool = False
    """The last update, whether or not all of it was done."""

    @property
    def rate(self) -> float | None:
        """Per second; None before anything was done."""
        return self.count / self.seconds if self.count > 0 and self.seconds > 0 else None

    @property
    def remaining(self) -> float | None:
        """Seconds, at the speed so far."""
        if self.rate is None or self.total is None or self.count >= self.total or self.ended:
            return None
        return (self.total - self.count) / self.rate

    def describe(self) -> str:
        """`training: 500 of 1,000 (50 %), 12.5 per s, 40 s left`."""
        from crucible_core.values.formatting import format_duration  # noqa: PLC0415  # needed only to show it

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


class Listeners(Protocol):
    """The observers of a run: see `Audience`."""

    @property
    def wants_updates(self) -> bool: ...
    def tell(self, event: Any) -> None: ...
    @property
    def interval(self) -> float: ...
    @property
    def observers(self) -> Sequence[Any]: ...
    def note_failure(self, observer: Any, where: str, error: Exception) -> None: ...


class Updates:
    """Progress and metrics of one attempt at a stage, on their way to the observers. Safe to use from any thread."""

    def __init__(self, run_id: str, stage: str, audience: Listeners) -> None:
        self.run_id = run_id
        self.stage = stage
        self.interval = audience.interval
        self.keys = itertools.count()
        self._audience = audience
        self._observers = audience.observers
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._metrics: dict[str, float] = {}
        self._metrics_due = perf_counter() + METRICS_INTERVAL
        self._points: list[Point] = []
        self._sending = threading.RLock()

    def progress(self, update: ProgressUpdate) -> None:
        for observer in self._observers:
            self._call(observer, observer.on_progress, update)

    def metrics(self, run_id: str, values: Mapping[str, Any]) -> None:
        """A stage has put metrics into a Context of this run."""
        for name, value in values.items() if run_id == self.run_id else ():
            self.metric(name, value)

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

    def point(self, name: str, step: int, value: float) -> None:
        """A stage has logged a point of a series."""
        points, now = self._points, time()
        points.append(Point(name, step, value, now))
        if len(points) >= MOST_POINTS or now - points[0].at >= POINTS_INTERVAL:
            self.send_points()
        self.metric(name, value)

    def send_points(self, more: Sequence[Point] = ()) -> None:
        """Tell the observers of the points that wait, and then of these."""
        with self._sending:  # in order, whichever threads log them
            points, self._points = [*self._points, *more], []
            for observer in self._observers if points else ():
                self._call(observer, observer.on_points, self.stage, points)

    def close(self) -> None:
        """The attempt is over: later updates from its threads are dropped."""
        self.send_points()
        self._observers = ()

    def _call(self, observer: Any, method: Callable[..., None], *arguments: Any) -> None:
        if os.getpid() != self._process:
            return  # a fork: two processes must not write to an observer's terminal or database
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001
            self._observers = tuple(one for one in self._observers if one is not observer)
            where = f"{method.__name__}, so it gets no more updates of stage {self.stage!r}"
            self._audience.note_failure(observer, where, error)


_NUMBERS = frozenset({float, int})
