"""Observers of a run: they get its events, progress and metrics, and cannot change its result."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from crucible_core.run_state.updates import Point, ProgressUpdate, Updates
from crucible_core.trace import Event
from crucible_core.values.arguments import check_callable, check_several
from crucible_core.values.messages import error_text

__all__ = ["Audience", "Observer", "Observers", "Point", "ProgressUpdate", "Updates"]

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

    def on_context(self, context: Any) -> None:
        """Called with the Context after each stage, and after the gates; that of a failed stage is `error.context`."""

    def on_points(self, stage: str, points: Sequence[Point]) -> None:
        """Called with every point that a stage logs in a series, in order: many at once, at most a second later."""

    def run_ended(self, error: BaseException | None) -> None:
        """Called after the last stage and the gates; `error` is the error that ended the run, if any."""


Observers = Sequence[Observer | Callable[[Event], None]]
"""What `run_experiment(observers=...)` takes."""


class _Function(Observer):
    """A plain function that is called with each event."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        self.function = function

    def on_event(self, event: Event) -> None:
        self.function(event)

    def __repr__(self) -> str:
        return repr(self.function)


def _as_observer(one: Observer | Callable[[Event], None]) -> Observer:
    if isinstance(one, Observer):
        return one
    check_callable("observers", one, "Observers and functions")
    return _Function(one)


def _wants_updates(observer: Observer) -> bool:
    kind = type(observer)
    own = (getattr(kind, name, None) is not getattr(Observer, name) for name in _UPDATES)
    return any(own)


_UPDATES = ("on_progress", "on_metrics", "on_points")


class Audience:
    """The observers of a run as one: calls each of them, and logs their errors."""

    __slots__ = ("failed", "interval", "observers", "wants_contexts", "wants_updates")

    def __init__(self, observers: Observers, failed: set[int] | None = None) -> None:
        """`failed` is that of the run's other audiences, if it has several."""
        self.failed = set() if failed is None else failed
        """The ids of those that have raised: the first error of each is logged."""
        self.observers = tuple(map(_as_observer, observers))
        self.wants_updates = any(map(_wants_updates, self.observers))
        """Whether any observer takes progress and metrics: if none does, they cost nothing."""
        self.wants_contexts = any(type(one).on_context is not Observer.on_context for one in self.observers)
        self.interval = min((one.interval for one in self.observers if _wants_updates(one)), default=Observer.interval)

    @classmethod
    def of(cls, observers: Audience | Observers) -> Audience:
        if isinstance(observers, Audience):
            return observers
        if not observers:
            return NOBODY
        check_several("observers", observers, "observers=[...]")
        return cls(observers)

    def tell(self, event: Event) -> None:
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001
                self.note_failure(observer, f"on_event of stage {event.stage!r}", error)

    def show(self, context: Any) -> None:
        """Pass on the Context as it is now; called if the audience `wants_contexts`."""
        for observer in self.observers:
            try:
                observer.on_context(context)
            except Exception as error:  # noqa: BLE001
                self.note_failure(observer, "on_context", error)

    def note_failure(self, observer: Observer, where: str, error: Exception) -> None:
        """Log the first error of an observer in this run, with its traceback if the logger `crucible` logs DEBUG."""
        if (key := id(getattr(observer, "function", observer))) not in self.failed:
            self.failed.add(key)
            said = "the observer %r failed in %s: %s: %s; the run goes on, and further errors of it are not logged"
            debugging = _log.isEnabledFor(logging.DEBUG)
            _log.error(said, observer, where, type(error).__name__, error_text(error), exc_info=debugging)

    def during(self, experiment_id: str, run_id: str) -> AbstractContextManager[None]:
        """Around a run: reports its start and its end. An observer that fails at the start does not hear of the end."""
        return self._during(experiment_id, run_id) if self.observers else _UNHEARD

    @contextlib.contextmanager
    def _during(self, experiment_id: str, run_id: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for observer in self.observers:
                try:
                    observer.run_started(experiment_id, run_id)
                except Exception as error:  # noqa: BLE001
                    self.note_failure(observer, "run_started", error)
                else:
                    stack.push(functools.partial(self._end, observer))
            yield

    def retell(self, context: Any, error: BaseException | None) -> None:
        """Report a run that is over by its last Context, and the error that ended it."""
        with contextlib.suppress(_Retold), self.during(context.experiment_id, context.run_id):
            for event in context.trace:
                self.tell(event)
            self.show(context)
            if error is not None:
                raise _Retold from error

    def _end(self, observer: Observer, _kind: object, error: BaseException | None, _trace: object) -> bool:
        try:
            observer.run_ended(error.__cause__ if isinstance(error, _Retold) else error)
        except Exception as raised:  # noqa: BLE001
            self.note_failure(observer, "run_ended", raised)
        return False  # an observer must not suppress what ended the run


_UNHEARD = contextlib.nullcontext()


class _Retold(Exception):  # it carries the error of a run that is over past its observers
    """Its cause is the error."""


NOBODY = Audience(())
