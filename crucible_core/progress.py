"""Progress of long work inside a stage, and its metrics as they come: told to whoever watches the run, if anyone does.

```python
for batch in progress(batches, description="training"):
    ...

with progress(total=size, description="downloading") as bar:
    bar.advance(len(chunk))
```

Nobody watches `run_experiment` and tests, where this costs nothing; `crucible run` draws bars, Dagster gets log lines.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Real
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

__all__ = [
    "Progress",
    "ProgressUpdate",
    "Watch",
    "Watcher",
    "current_watch",
    "progress",
]

T = TypeVar("T")

METRICS_INTERVAL = 5.0
MAX_STRIDE = 16
QUICK = 1e-3

_log = logging.getLogger("crucible")


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """How far some work of a stage has come."""

    stage: str
    """The stage in the pipeline."""
    key: int
    """Tells the works of one stage apart."""
    description: str
    """What is done; the stage's name where nothing else was said."""
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
        from crucible_core.values.formatting import format_duration  # noqa: PLC0415  # for whoever watches only

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


class Watcher(Protocol):
    """What an observer is, too, if it wants to hear more of a running stage than the events of the trace."""

    interval: float
    """Seconds between two updates of one work, at least; its first and its last come in any case."""

    def on_progress(self, update: ProgressUpdate) -> None:
        """Called in whichever thread of the stage does the work."""

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Called with the numbers that a stage has put since the last call, while it runs and every few seconds."""


class Watch:
    """One attempt at a stage, being watched. Safe to use from the stage's own threads."""

    def __init__(self, run_id: str, stage: str, watchers: Sequence[Watcher]) -> None:
        self.run_id = run_id
        self.stage = stage
        self.interval = min(watcher.interval for watcher in watchers)
        self.keys = itertools.count()
        self._watchers = watchers
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._metrics: dict[str, float] = {}
        self._metrics_due = perf_counter() + METRICS_INTERVAL

    def tell(self, update: ProgressUpdate) -> None:
        for watcher in self._watchers:
            self._call(watcher, "on_progress", update)

    def metric(self, name: str, value: Any) -> None:
        """A stage has put a metric. Of one that is quick nobody hears: what it put is told when it has ended."""
        if type(value) not in _NUMBERS and (isinstance(value, bool) or not isinstance(value, Real)):
            return
        try:
            number = float(value)
        except Exception:  # noqa: BLE001  # too large for one, or a number of somebody's own: it is a metric all the same
            return
        with self._lock:
            self._metrics[name] = number
            now = perf_counter()
            if now < self._metrics_due:
                return
            self._metrics_due = now + METRICS_INTERVAL
            metrics, self._metrics = self._metrics, {}
        for watcher in self._watchers:
            self._call(watcher, "on_metrics", self.stage, metrics)

    def close(self) -> None:
        """The attempt is over, and what its threads and abandoned iterators still do concerns nobody."""
        self._watchers = ()

    def _call(self, watcher: Watcher, method: str, *arguments: Any) -> None:
        if os.getpid() != self._process:
            return  # a fork: what a watcher writes to, a terminal or a database, is not for two
        try:
            getattr(watcher, method)(*arguments)
        except Exception:  # noqa: BLE001
            # Who watches a run must not be able to change its result.
            self._watchers = tuple(one for one in self._watchers if one is not watcher)
            _log.exception("the observer %r failed, and is told no more of stage %r", watcher, self.stage)


_NUMBERS = frozenset({float, int})

# Set by run_stage around a stage that somebody watches. A thread that the stage starts does not see it.
current_watch: ContextVar[Watch | None] = ContextVar("crucible_watch", default=None)


class Progress(Generic[T]):
    """Made by `progress`: to be iterated over, or to be entered by `with` and advanced by hand, from any thread."""

    def __init__(self, iterable: Iterable[T] | None, total: float | None, description: str | None) -> None:
        if total is None and iterable is not None:
            total = _length(iterable)
        elif total is not None and not (isinstance(total, Real) and total >= 0):
            raise ValueError(f"the total of progress() is a number from 0, not {total!r:.80}")
        self._iterable = iterable
        self._total = None if total is None else float(total)
        self._description = description
        # In the thread that the stage runs in, which need not be the one that advances.
        self._watch = current_watch.get()
        self._lock = threading.Lock()
        self._key = -1
        self._count = 0.0
        self._began: float | None = None
        self._due = 0.0

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise TypeError(
                "progress() of nothing to iterate over is used by `with progress(...) as bar: bar.advance()`"
            )
        return iter(self._iterable) if self._watch is None else self._iterate(self._iterable)

    def _iterate(self, iterable: Iterable[T]) -> Iterator[T]:
        with self:
            # The clock may cost more than an item, so that of quick ones only every 16th looks at it.
            quick = min(QUICK, self._watch.interval / MAX_STRIDE) if self._watch else QUICK
            done, stride, last = 0, 1, perf_counter()
            try:
                for item in iterable:
                    yield item
                    done += 1
                    if done >= stride:
                        now = perf_counter()
                        stride = MAX_STRIDE if now - last < stride * quick else 1
                        last = now
                        self.advance(done)
                        done = 0
            finally:
                self._count += done

    def __enter__(self) -> Progress[T]:
        self._began = perf_counter()
        self._count = 0.0
        if self._watch is not None:
            self._key = next(self._watch.keys)
            self._due = self._began + self._watch.interval
            self._watch.tell(self._update(self._watch, self._began))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.tell(self._update(self._watch, perf_counter(), ended=True))
        self._began = None

    def advance(self, by: float = 1) -> None:
        """Some more is done."""
        if self._began is None:
            raise RuntimeError("this progress is not going on: use it by `with progress(...) as bar: bar.advance()`")
        watch = self._watch
        if watch is None:
            return
        with self._lock:
            self._count += by
            now = perf_counter()
            if now < self._due:
                return
            self._due = now + watch.interval
            update = self._update(watch, now)
        watch.tell(update)

    def _update(self, watch: Watch, now: float, *, ended: bool = False) -> ProgressUpdate:
        began = now if self._began is None else self._began
        description = self._description or watch.stage
        return ProgressUpdate(watch.stage, self._key, description, self._count, self._total, now - began, ended)


def progress(
    iterable: Iterable[T] | None = None, total: float | None = None, description: str | None = None
) -> Progress[T]:
    """The items of `iterable`, with whoever watches the run told how far the stage has come with them.

    `total` is the number of items unless given. Without an iterable, the result is entered by `with` and advanced by
    hand: `bar.advance(amount)`. An item counts when the next one is asked for.
    """
    return Progress(iterable, total, description)


def _length(iterable: Iterable[Any]) -> float | None:
    try:
        return len(iterable)  # type: ignore[arg-type]  # most have one
    except TypeError:
        return None
